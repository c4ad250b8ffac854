//! yup-oauth2: an authenticator that returns tokens by scope, over a hyper client.
//!
//! The caller formats the header, matches origins and handles a 401. A minute before the end, and without a token, each
//! caller makes its own fetch.

use benches::fixtures::Body;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Service};
use yup_oauth2::authenticator::Authenticator;
use yup_oauth2::external_account::{CredentialSource, ExternalAccountSecret, UrlCredentialSourceFormat};
use yup_oauth2::{CustomHyperClientBuilder, ExternalAccountAuthenticator};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request};

#[derive(Clone)]
pub struct Yup {
    authenticator: Authenticator<HttpConnector>,
    api: Wire,
}

impl Peer for Yup {
    const NAME: &'static str = "yup-oauth2";
    const CRATE: &'static str = "yup-oauth2";
    const NOTE: &'static str = "no origin check, nothing about a 401, each caller fetches for itself; margin fixed at 1 min. Fed by a loopback endpoint (an external account)";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let address = issuer.serve()?;
        let secret = ExternalAccountSecret {
            audience: "my-app".into(),
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt".into(),
            service_account_impersonation_url: None,
            token_url: format!("http://{address}/token"),
            credential_source: CredentialSource::Url {
                url: format!("http://{address}/subject"),
                headers: None,
                format: UrlCredentialSourceFormat::Text,
            },
            key_type: "external_account".into(),
        };
        let client = CustomHyperClientBuilder::from(Client::builder(TokioExecutor::new()).build_http());
        let authenticator = ExternalAccountAuthenticator::with_client(secret, client).build().await?;
        Ok(Self { authenticator, api: Wire::to(issuer) })
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, mut request: Request<Body>) -> Result<(), BoxError> {
        let token = self.authenticator.token(&["https://api.example.com/things"]).await?;
        let text = token.token().ok_or("no access token")?;
        let mut value = HeaderValue::from_str(&format!("Bearer {text}"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        self.api.call(request).await?;
        Ok(())
    }
}
