//! huskarl: an authorizer that returns headers, as its `cached_client` example uses it.
//!
//! The caller adds the headers and passes each response to the authorizer. The caller also matches origins and retries
//! after a 401. A refresh ahead of the end delays the one caller that makes it.

use std::sync::Arc;

use benches::fixtures::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use huskarl::authorizer::HttpAuthorizer;
use huskarl::cache::{GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache};
use huskarl::core::Error;
use huskarl::core::client_auth::ClientSecret;
use huskarl::core::http::{HttpClient, HttpResponse, Idempotency};
use huskarl::core::platform::MaybeSendBoxFuture;
use huskarl::core::secrets::{ProvidedSecret, SecretString};
use huskarl::grant::client_credentials::{ClientCredentialsGrant, ClientCredentialsGrantParameters};
use tower::{BoxError, Service};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request};

#[derive(Clone)]
pub struct Huskarl {
    authorizer: Arc<HttpAuthorizer>,
    api: Wire,
}

struct Http(Issuer);

impl HttpClient for Http {
    fn execute(&self, _: Request<Bytes>, _: Idempotency) -> MaybeSendBoxFuture<'_, Result<HttpResponse, Error>> {
        Box::pin(async {
            let body = self.0.answer_json().await.to_string().into();
            Ok(HttpResponse { status: StatusCode::OK, headers: HeaderMap::new(), body })
        })
    }
}

impl Peer for Huskarl {
    const NAME: &'static str = "huskarl";
    const CRATE: &'static str = "huskarl";
    const NOTE: &'static str =
        "no origin check; forgets a rejected token, the caller sends again. Fed by its `HttpClient` trait";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let grant = ClientCredentialsGrant::builder()
            .client_id("my-app")
            .client_auth(ClientSecret::new(ProvidedSecret::new(SecretString::new("secret"))))
            .http_client(Http(issuer))
            .token_endpoint("https://auth.example.com/token".parse()?)
            .build();
        let source = GrantTokenSource::builder()
            .grant(grant)
            .grant_parameters(ClientCredentialsGrantParameters::builder().build())
            .refresh_store(InMemoryRefreshTokenStore::default())
            .build();
        let cache = InMemoryTokenCache::builder().source(source).build();
        let authorizer = Arc::new(HttpAuthorizer::builder().cache(cache).build());
        Ok(Self { authorizer, api: Wire::to(issuer) })
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, mut request: Request<Body>) -> Result<(), BoxError> {
        let uri = request.uri().clone();
        let headers = self.authorizer.get_headers(request.method(), &uri).await?;
        request.headers_mut().extend(headers);
        let response = self.api.call(request).await?;
        self.authorizer.process_response(&uri, response.headers());
        Ok(())
    }
}
