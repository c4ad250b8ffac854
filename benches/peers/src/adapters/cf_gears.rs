//! cf-gears-toolkit-auth: tower layers of its own, over a token that a task of its own fetches with its own HTTP
//! client.
//!
//! They match no origin. `BearerAuthLayer` replaces a caller's own `Authorization` and does nothing about a 401.
//! `BearerAuthAutoRefreshLayer` sends again after a 401, at most one fetch in 15 minutes for that.

use benches::fixtures::Body;
use http::Request;
use toolkit_auth::{BearerAuthAutoRefreshLayer, BearerAuthLayer, OAuthClientConfig, SecretString, TokenProvider};
use toolkit_http::{HttpClientConfig, HttpError, TransportSecurity};
use tower::{BoxError, Layer};

use crate::issuer::Issuer;
use crate::peer::{Fails, Peer, Wire, request, through};

type Service<L> = <L as Layer<Wire<Toolkit>>>::Service;

/// Its layers go over its own client only.
struct Toolkit;

impl Fails for Toolkit {
    type Error = HttpError;
}

#[derive(Clone)]
pub struct CfGears(Service<BearerAuthLayer>);

#[derive(Clone)]
pub struct CfGearsAutoRefresh(Service<BearerAuthAutoRefreshLayer>);

fn provider(issuer: Issuer) -> Result<TokenProvider, BoxError> {
    let mut http = HttpClientConfig::default();
    http.transport = TransportSecurity::AllowInsecureHttp;
    let config = OAuthClientConfig {
        token_endpoint: Some(format!("http://{}/token", issuer.serve()?).parse()?),
        client_id: "my-app".into(),
        client_secret: SecretString::new("secret"),
        http_config: Some(http),
        ..OAuthClientConfig::default()
    };
    Ok(TokenProvider::new(config)?)
}

impl Peer for CfGears {
    const NAME: &'static str = "cf-gears-toolkit-auth, `BearerAuthLayer`";
    const CRATE: &'static str = "cf-gears-toolkit-auth";
    const NOTE: &'static str = "no origin check, nothing about a 401. Fed by a loopback endpoint";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        Ok(Self(BearerAuthLayer::new(provider(issuer)?).layer(Wire::to(issuer))))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        Ok(through(&mut self.0, request).await?)
    }
}

impl Peer for CfGearsAutoRefresh {
    const NAME: &'static str = "cf-gears-toolkit-auth, `BearerAuthAutoRefreshLayer`";
    const CRATE: &'static str = "cf-gears-toolkit-auth";
    const NOTE: &'static str = "no origin check; sends again after a 401. Fed by a loopback endpoint";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        Ok(Self(BearerAuthAutoRefreshLayer::new(provider(issuer)?).layer(Wire::to(issuer))))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        Ok(through(&mut self.0, request).await?)
    }
}
