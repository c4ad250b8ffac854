//! azure_core: the policy of its HTTP pipeline.
//!
//! It requires `https://` and matches no origin. After a 401 it forgets the token; sending again needs a callback. Five
//! minutes before the end it fetches under the write lock, so a token that lives for less is fetched for each request.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::http::headers::{AUTHORIZATION, Headers};
use azure_core::http::policies::auth::BearerTokenAuthorizationPolicy;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Context, Method, Request, StatusCode};
use azure_core::time::OffsetDateTime;
use tower::BoxError;

use crate::issuer::Issuer;
use crate::peer::{self, Peer};

#[derive(Clone)]
pub struct Azure {
    policy: BearerTokenAuthorizationPolicy,
    api: [Arc<dyn Policy>; 1],
    issuer: Issuer,
}

#[derive(Debug)]
struct Credential(Issuer);

#[derive(Debug)]
struct Api(Issuer);

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        let grant = self.0.answer().await;
        Ok(AccessToken::new(grant.access_token, OffsetDateTime::now_utc() + grant.lifetime))
    }
}

#[async_trait]
impl Policy for Api {
    async fn send(&self, _: &Context, request: &mut Request, _: &[Arc<dyn Policy>]) -> PolicyResult {
        self.0.evaluate(|| request.headers().get_optional_str(&AUTHORIZATION).map(str::as_bytes));
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, Headers::new(), ""))
    }
}

impl Peer for Azure {
    const NAME: &'static str = "azure_core, `BearerTokenAuthorizationPolicy`";
    const CRATE: &'static str = "azure_core";
    const NOTE: &'static str = "no origin check; forgets a rejected token; margin fixed at 5 min, fetches under the lock. Fed by its `TokenCredential` trait";
    type Request = Request;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let policy =
            BearerTokenAuthorizationPolicy::new(Arc::new(Credential(issuer)), ["https://api.example.com/.default"]);
        Ok(Self { policy, api: [Arc::new(Api(issuer))], issuer })
    }

    fn request() -> Request {
        let (parts, _) = peer::request().into_parts();
        let mut request = Request::new(parts.uri.to_string().parse().expect("a URL"), Method::Post);
        for (name, value) in &parts.headers {
            request.insert_header(name.as_str().to_owned(), value.to_str().expect("text").to_owned());
        }
        request.set_body(r#"{"name":"thing"}"#);
        request
    }

    async fn send(&mut self, mut request: Request) -> Result<(), BoxError> {
        self.policy.send(&Context::default(), &mut request, &self.api).await?;
        self.issuer.finish(request);
        Ok(())
    }
}
