//! An issuer and an API behind one client, as two hosts of one network.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceExt};
use tower_bearer::oauth2::{self, ClientCredentialsGrant};
use tower_bearer::testing::{Api, ManualClock, TokenServer};
use tower_bearer::{BearerLayer, Token, TokenCache};

pub(crate) type Body = Full<Bytes>;
pub(crate) type Client = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

pub(crate) const API: &str = "https://api.example.com";
const TOKEN_URL: &str = "https://auth.example.com/token";

/// The fakes, the clock, the cache and the client of a test.
#[derive(Clone)]
pub(crate) struct Harness {
    pub(crate) issuer: TokenServer,
    pub(crate) api: Api,
    pub(crate) clock: ManualClock,
    pub(crate) cache: TokenCache,
    /// The inner service of the layer. It also sends the token calls.
    pub(crate) network: Client,
}

/// Sends requests to the issuer or to the API, by their host.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) issuer: TokenServer,
    pub(crate) api: Api,
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

impl Harness {
    pub(crate) fn new() -> Self {
        Self::over(BoxCloneService::new)
    }

    /// A harness whose network is inside these layers.
    pub(crate) fn over(layers: impl FnOnce(Network) -> Client) -> Self {
        let issuer = TokenServer::new();
        let api = Api::new(issuer.ledger());
        let network = layers(Network { issuer: issuer.clone(), api: api.clone() });
        let clock = ManualClock::new();
        let cache = TokenCache::builder(login(&network)).clock(clock.clone()).build().unwrap();
        Self { issuer, api, clock, cache, network }
    }

    /// Fetches a token, and waits until it is so old that a rejection counts.
    pub(crate) async fn with_old_token(&self) -> Token {
        let token = self.cache.get().await.expect("a token");
        self.clock.advance(Duration::from_secs(2));
        token
    }

    pub(crate) fn layer(&self) -> BearerLayer {
        BearerLayer::new(self.cache.clone(), [API]).expect("an origin")
    }

    /// The client with the layer.
    pub(crate) fn client(&self) -> Client {
        BoxCloneService::new(tower::Layer::layer(&self.layer(), self.network.clone()))
    }
}

/// A source whose token calls go over this network.
pub(crate) fn login(network: &Client) -> ClientCredentialsGrant {
    ClientCredentialsGrant::builder(&oauth2::Issuer::new(network.clone()).token_endpoint(TOKEN_URL), "app", "secret")
        .build()
        .expect("a login")
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("{API}{path}")).body(Body::default()).expect("a request")
}
