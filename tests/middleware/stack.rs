//! An issuer and an API behind one client, as two hosts of one network.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceExt};
use tower_bearer::oauth2::ClientCredentials;
use tower_bearer::testing::{Api, Issuer, ManualClock};
use tower_bearer::{BearerLayer, Refresh, TokenCache};

pub type Body = Full<Bytes>;
pub type Client = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

pub const API: &str = "https://api.example.com";
const TOKEN_URL: &str = "https://auth.example.com/token";

/// Everything a test talks to.
#[derive(Clone)]
pub struct World {
    pub issuer: Issuer,
    pub api: Api,
    pub clock: ManualClock,
    pub cache: TokenCache,
    /// What lies beneath the layer, and carries the token calls too.
    pub network: Client,
}

/// Sends what is meant for the issuer to the issuer, and the rest to the API.
#[derive(Clone)]
pub struct Network {
    pub issuer: Issuer,
    pub api: Api,
}

impl Service<Request<Body>> for Network {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().host() == Some("auth.example.com") {
            Box::pin(self.issuer.clone().oneshot(request))
        } else {
            Box::pin(self.api.clone().oneshot(request))
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self::over(BoxCloneService::new)
    }

    /// A world whose network lies beneath `limits`.
    pub fn over(limits: impl FnOnce(Network) -> Client) -> Self {
        let issuer = Issuer::new();
        let api = Api::new(issuer.ledger());
        let network = limits(Network { issuer: issuer.clone(), api: api.clone() });
        let login = ClientCredentials::new(network.clone(), TOKEN_URL, "app", "secret").expect("a login");
        let clock = ManualClock::new();
        let cache = TokenCache::with_clock(login, Refresh::new(), clock.clone());
        Self { issuer, api, clock, cache, network }
    }

    pub fn layer(&self) -> BearerLayer {
        BearerLayer::new(self.cache.clone(), [API]).expect("an origin")
    }

    /// The layered client most tests use.
    pub fn client(&self) -> Client {
        BoxCloneService::new(tower::Layer::layer(&self.layer(), self.network.clone()))
    }
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(format!("{API}{path}")).body(Body::default()).expect("a request")
}
