//! An issuer in memory, an API on a socket, and a cache with a token.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use loopback::Server;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::service_fn;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Api, ManualClock, TokenServer, TokenState};
use tower_bearer::{BearerLayer, TokenCache};

pub(crate) struct Harness {
    pub(crate) issuer: TokenServer,
    pub(crate) api: Api,
    /// The server of the API.
    pub(crate) server: Server,
    pub(crate) cache: TokenCache,
}

impl Harness {
    /// A cache with `token-1`, which the API accepts.
    pub(crate) async fn new() -> Self {
        let issuer = TokenServer::new();
        let api = Api::new(issuer.ledger());
        let server = Server::fake(api.clone()).await;
        let login = ClientCredentialsGrant::builder(
            &Issuer::new(issuer.clone()).token_endpoint("https://auth.example.com/token"),
            "app",
            "secret",
        )
        .build();
        let clock = ManualClock::new();
        let cache = TokenCache::builder(login.expect("a login")).clock(clock.clone()).build().unwrap();
        cache.get().await.expect("a token");
        // The token is then old enough for a rejection to count.
        clock.advance(Duration::from_secs(2));
        Self { issuer, api, server, cache }
    }

    /// A cache with `token-1`, which the API no longer accepts.
    pub(crate) async fn revoked() -> Self {
        let harness = Self::new().await;
        harness.issuer.ledger().revoke_all();
        harness
    }

    /// A layer for this API.
    pub(crate) fn layer(&self) -> BearerLayer {
        self.layer_for(self.server.origin())
    }

    pub(crate) fn layer_for(&self, origin: &str) -> BearerLayer {
        let origin = tower_bearer::Origin::allow_insecure(origin).expect("an origin");
        BearerLayer::new(self.cache.clone(), [origin]).expect("an origin")
    }

    /// Whether an API accepts the token of a request.
    pub(crate) fn accepts(&self) -> impl Fn(&HeaderMap) -> bool + Clone + Send + 'static {
        let ledger = self.issuer.ledger();
        move |headers| {
            let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
            token.is_some_and(|token| ledger.state_of(token) == TokenState::Live)
        }
    }

    /// The bodies that the API got.
    pub(crate) fn uploads(&self) -> Vec<Bytes> {
        self.api.requests().into_iter().map(|request| request.body).collect()
    }
}

/// The sender of a body's frames. The body ends when it is dropped.
pub(crate) type Frames = UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// A server that answers every request with a body of frames that the test sends.
pub(crate) async fn streaming() -> (Server, Frames) {
    let (frames, body) = unbounded_channel();
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let answer = service_fn(move |_: Request<_>| {
        let body = body.lock().expect("no panic").take().expect("one request");
        async move { Ok::<_, Infallible>(Response::new(StreamBody::new(received(body)))) }
    });
    (Server::start(answer).await, frames)
}

/// A server that sends back each frame as it reads it.
pub(crate) async fn echo() -> Server {
    let echo = |request: Request<_>| async move { Ok::<_, Infallible>(Response::new(request.into_body())) };
    Server::start(service_fn(echo)).await
}

/// A server that rejects tokens that `accepts` rejects, and never answers other requests.
pub(crate) async fn silent(accepts: impl Fn(&HeaderMap) -> bool + Clone + Send + 'static) -> Server {
    Server::start(service_fn(move |request: Request<_>| {
        let accepted = accepts(request.headers());
        async move {
            if accepted {
                pending::<()>().await;
            }
            let rejected = Response::builder().status(401).body(Empty::<Bytes>::new());
            Ok::<_, Infallible>(rejected.expect("an answer"))
        }
    }))
    .await
}

/// The items of a channel as a stream.
pub(crate) fn received<T: Send>(channel: UnboundedReceiver<T>) -> impl futures_core::Stream<Item = T> + Send + Sync {
    tokio_stream::wrappers::UnboundedReceiverStream::new(channel)
}
