//! An issuer and an API behind one client that panics unless it was polled ready, in paused time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::oauth2::{self, ClientCredentialsGrant};
use tower_bearer::testing::{Api, TokenServer};
use tower_bearer::{Bearer, BearerLayer, TokenCache};

pub(crate) const API: &str = "https://api.example.com";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) type Body = Full<Bytes>;
/// The service inside the layer.
pub(crate) type Client = BoxCloneService<Request<Body>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

pub(crate) struct Harness {
    pub(crate) issuer: TokenServer,
    pub(crate) api: Api,
    pub(crate) cache: TokenCache,
    inner: Client,
}

/// Sends requests to the issuer or to the API, by their host. Panics if the called instance was not polled ready; each
/// clone has to be polled itself.
pub(crate) struct Network {
    issuer: TokenServer,
    api: Api,
    ready: bool,
}

// === impl Harness ===

impl Harness {
    pub(crate) fn new() -> Self {
        Self::over(|network| network)
    }

    /// A harness whose requests and token calls use this stack.
    pub(crate) fn over<S, A>(stack: impl FnOnce(Network) -> S) -> Self
    where
        S: Service<Request<Body>, Response = Response<A>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        A: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let issuer = TokenServer::new();
        let api = Api::new(issuer.ledger());
        let inner = boxed(stack(Network { issuer: issuer.clone(), api: api.clone(), ready: false }));
        let login = ClientCredentialsGrant::builder(
            &oauth2::Issuer::new(inner.clone()).token_endpoint("https://auth.example.com/token"),
            "app",
            "secret",
        )
        .build();
        Self { issuer, api, cache: TokenCache::new(login.expect("a login")), inner }
    }

    /// A harness whose requests use this stack, and whose token calls do not.
    pub(crate) fn over_requests<S, A>(stack: impl FnOnce(Network) -> S) -> Self
    where
        S: Service<Request<Body>, Response = Response<A>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        A: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let harness = Self::new();
        Self { inner: boxed(stack(harness.network())), ..harness }
    }

    /// The network, for stacks with another request body.
    pub(crate) fn network(&self) -> Network {
        Network { issuer: self.issuer.clone(), api: self.api.clone(), ready: false }
    }

    pub(crate) fn layer(&self) -> BearerLayer {
        BearerLayer::new(self.cache.clone(), [API]).expect("an origin")
    }

    pub(crate) fn client(&self) -> Bearer<Client> {
        self.layer().layer(self.inner())
    }

    pub(crate) fn inner(&self) -> Client {
        self.inner.clone()
    }

    /// Fetches a token, and waits until it is so old that a rejection counts.
    pub(crate) async fn with_old_token(&self) {
        self.cache.get().await.expect("a token");
        tokio::time::advance(2 * SECOND).await;
    }

    /// Does the same, and revokes the token.
    pub(crate) async fn with_revoked_token(&self) {
        self.with_old_token().await;
        self.issuer.ledger().revoke_all();
    }

    /// The values of a header in all requests to the API.
    pub(crate) fn sent(&self, header: &str) -> Vec<String> {
        let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
        self.api.requests().iter().filter_map(|request| request.headers.get(header).map(text)).collect()
    }
}

/// Boxes the inner service.
pub(crate) fn boxed<S, A>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<A>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    A: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let with_boxed_body = |response: Response<A>| response.map(|body| UnsyncBoxBody::new(body.map_err(Into::into)));
    BoxCloneService::new(service.map_response(with_boxed_body).map_err(Into::into))
}

pub(crate) fn get() -> Request<Body> {
    Request::get(format!("{API}/me")).body(Body::default()).expect("a request")
}

/// Lets other tasks run as far as they can without time passing.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Checks that requests succeed, that a due token is replaced in the background, and that a rejected request is
/// retried. [`Network`] checks readiness.
pub(crate) async fn works<S, A>(harness: &Harness, mut client: S)
where
    S: Service<Request<Body>, Response = Response<A>, Error: Into<BoxError>>,
{
    let mut status = async || {
        let ready = client.ready().await.map_err(Into::into).expect("ready");
        ready.call(get()).await.map_err(Into::into).expect("an answer").status()
    };
    assert_eq!(status().await, StatusCode::OK, "the first request waits for a token");

    tokio::time::advance(3590 * SECOND).await;
    assert_eq!(status().await, StatusCode::OK, "a due token is still used");
    // A rate limit makes the token call wait for its turn.
    tokio::time::sleep(SECOND).await;
    assert_eq!(harness.cache.status().generation, 2, "and replaced in the background");

    // Wait so long that the previous token is not used instead.
    tokio::time::advance(31 * SECOND).await;
    harness.issuer.ledger().revoke_all();
    assert_eq!(status().await, StatusCode::OK, "a rejected request is retried");
    let tokens = harness.sent("authorization");
    assert_eq!(tokens, ["1", "1", "2", "3"].map(|number| format!("Bearer token-{number}")));
    assert_eq!(harness.issuer.calls().most_at_once(), 1);
}

// === impl Network ===

impl Clone for Network {
    fn clone(&self) -> Self {
        Self { issuer: self.issuer.clone(), api: self.api.clone(), ready: false }
    }
}

impl<B> Service<Request<B>> for Network
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        let (issuer, api) = (self.issuer.clone(), self.api.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let request = Request::from_parts(head, Body::new(body));
            if request.uri().host() == Some("auth.example.com") {
                issuer.oneshot(request).await
            } else {
                api.oneshot(request).await
            }
        })
    }
}
