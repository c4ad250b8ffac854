//! object_store: the credential provider that its Azure store calls for each request, with a client secret.
//!
//! It can be used without the store, and its HTTP client can be replaced. It represents AWS and GCP as well, because
//! they use the same token cache. The adapter formats the header as the crate's own authorizer does. It matches no
//! origin (the store has one), and does nothing about a 401. Five minutes before the end it fetches under the write
//! lock, at most ten times a second.

use async_trait::async_trait;
use benches::fixtures::Body;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use object_store::ClientOptions;
use object_store::azure::{AzureCredential, AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};
use tower::{BoxError, Service};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request};

#[derive(Clone)]
pub struct ObjectStore {
    credentials: AzureCredentialProvider,
    api: Wire,
}

#[derive(Debug)]
struct Http(Issuer);

impl HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Self(self.0)))
    }
}

#[async_trait]
impl HttpService for Http {
    async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Ok(Response::new(self.0.answer_json().await.to_string().into()))
    }
}

impl Peer for ObjectStore {
    const NAME: &'static str = "object_store, the credentials of its Azure store";
    const CRATE: &'static str = "object_store";
    const NOTE: &'static str =
        "nothing about a 401; margin fixed at 5 min, fetches under the lock. Fed by its `HttpConnector` trait";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let store = MicrosoftAzureBuilder::new()
            .with_account("account")
            .with_container_name("container")
            .with_client_secret_authorization("my-app", "secret", "tenant")
            .with_http_connector(Http(issuer))
            .build()?;
        Ok(Self { credentials: store.credentials().clone(), api: Wire::to(issuer) })
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, mut request: Request<Body>) -> Result<(), BoxError> {
        let credential = self.credentials.get_credential().await?;
        let AzureCredential::BearerToken(token) = &*credential else { return Err("another credential".into()) };
        request.headers_mut().append(AUTHORIZATION, HeaderValue::from_str(format!("Bearer {token}").as_str())?);
        self.api.call(request).await?;
        Ok(())
    }
}
