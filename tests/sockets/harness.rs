//! An issuer in memory, a cache with a token, and clients for the layer.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Uri};
use http_body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tower::{BoxError, Service, ServiceExt, service_fn};
use tower_bearer::oauth2::{self, ClientCredentialsGrant};
use tower_bearer::testing::{ManualClock, TokenServer, TokenState};
use tower_bearer::{BearerLayer, Origin, TokenCache};

/// The issuer, the clock and the cache of a test.
#[derive(Clone)]
pub(crate) struct Harness {
    pub(crate) cache: TokenCache,
    issuer: TokenServer,
    clock: ManualClock,
    /// Token calls hold a read lock.
    gate: Arc<RwLock<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// A connector that resolves names to servers on loopback, with any scheme.
#[derive(Clone)]
pub(crate) struct Names(Arc<HashMap<String, SocketAddr>>);

// === impl Harness ===

impl Harness {
    /// A harness with `token-1` in the cache.
    pub(crate) async fn new() -> Self {
        let issuer = TokenServer::new();
        let gate = Arc::new(RwLock::new(()));
        let network = service_fn({
            let (issuer, gate) = (issuer.clone(), Arc::clone(&gate));
            move |request| {
                let (issuer, gate) = (issuer.clone(), Arc::clone(&gate));
                async move {
                    let _open = gate.read().await;
                    issuer.oneshot(request).await
                }
            }
        });
        let login = ClientCredentialsGrant::builder(
            &oauth2::Issuer::new(network).token_endpoint("https://auth.example.com/token"),
            "app",
            "secret",
        )
        .build();
        let clock = ManualClock::new();
        let cache = TokenCache::builder(login.expect("a login")).clock(clock.clone()).build().unwrap();
        cache.get().await.expect("a token");
        Self { cache, issuer, clock, gate }
    }

    /// A harness with `token-1` in the cache, which is revoked.
    pub(crate) async fn revoked() -> Self {
        let harness = Self::new().await;
        harness.revoke();
        harness
    }

    /// Revokes all tokens. Advances the clock, so that a rejection counts, and that the pause after earlier rejections
    /// is over.
    pub(crate) fn revoke(&self) {
        self.issuer.ledger().revoke_all();
        self.clock.advance(Duration::from_secs(15));
    }

    /// Whether an API accepts the token of a request.
    pub(crate) fn accepts(&self, headers: &HeaderMap) -> bool {
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        token.is_some_and(|token| self.issuer.ledger().state_of(token) == TokenState::Live)
    }

    /// Makes token calls wait until the returned guard is dropped.
    pub(crate) async fn hold_the_issuer(&self) -> impl Sized + use<> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// The number of token calls.
    pub(crate) fn fetched(&self) -> usize {
        self.issuer.calls().total()
    }

    pub(crate) fn layer(&self, origin: &str) -> BearerLayer {
        BearerLayer::new(self.cache.clone(), [Origin::allow_insecure(origin).expect("an origin")]).expect("an origin")
    }
}

// === impl Protocol ===

impl Protocol {
    pub(crate) const BOTH: [Self; 2] = [Self::Http1, Self::Http2];

    /// A client that keeps at most one idle connection.
    pub(crate) fn client<B>(self) -> Client<HttpConnector, B>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).http2_only(self == Self::Http2).build_http()
    }
}

// === impl Names ===

impl Names {
    /// Maps origins, as in the URLs of requests, to addresses.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = (&'a str, SocketAddr)>) -> Self {
        Self(Arc::new(names.into_iter().map(|(name, address)| (name.to_owned(), address)).collect()))
    }

    pub(crate) fn client<B>(self) -> Client<Self, B>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        Client::builder(TokioExecutor::new()).build(self)
    }
}

impl Service<Uri> for Names {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let name = format!("{}://{}", uri.scheme().expect("a scheme"), uri.authority().expect("a host"));
        let address = self.0.get(&name).copied();
        Box::pin(async move {
            let address = address.ok_or_else(|| io::Error::other(format!("unknown name: {name}")))?;
            TcpStream::connect(address).await.map(TokioIo::new)
        })
    }
}
