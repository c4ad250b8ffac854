//! An API and its issuer behind one HTTP/2 connection in memory, with hyper's client and server, in paused time.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{self, ClientCredentialsGrant};
use tower_bearer::testing::{Collected, TokenServer, TokenState};

use crate::common::{SECOND, settle, until};
use crate::requests::{Body, get, layer, respond, token};

const ISSUER: &str = "auth.example.com";
const TOKEN_URL: &str = "https://auth.example.com/token";

pub(crate) type Client = BoxCloneService<Request<Body>, Response<Incoming>, BoxError>;
pub(crate) type Outcome = Result<Response<Incoming>, BoxError>;

pub(crate) struct Connection {
    pub(crate) issuer: TokenServer,
    /// The client with the layer.
    pub(crate) client: Client,
    /// The number of requests that the API has rejected.
    rejected: Arc<AtomicUsize>,
    /// The issuer does not answer until this is closed.
    issuer_gate: Arc<Semaphore>,
}

impl Connection {
    /// A connection to an API that rejects the token in the cache with pages of this size. The token is so old that the
    /// rejection counts. The issuer does not answer until [`open`](Self::open). `/public` needs no token.
    pub(crate) async fn rejecting_with(page: usize) -> Self {
        let (issuer, rejected) = (TokenServer::new(), Arc::new(AtomicUsize::new(0)));
        let issuer_gate = Arc::new(Semaphore::new(1));
        let network = connect(page, &issuer, &rejected, &issuer_gate).await;
        let source = ClientCredentialsGrant::builder(
            &oauth2::Issuer::new(network.clone()).token_endpoint(TOKEN_URL),
            "app",
            "secret",
        )
        .build()
        .expect("a source");
        let cache = TokenCache::new(source);
        cache.get().await.expect("a token");
        tokio::time::sleep(3 * SECOND).await;
        issuer.ledger().revoke_all();
        issuer_gate.forget_permits(1);
        Self { issuer, client: BoxCloneService::new(layer(&cache).layer(network)), rejected, issuer_gate }
    }

    /// Sends this many requests at the same time, and waits until the API has rejected each.
    pub(crate) async fn reject(&self, count: usize) -> JoinSet<Outcome> {
        let calls = (0..count).map(|number| self.client.clone().oneshot(get(&format!("/{number}")))).collect();
        until(|| self.rejected.load(Ordering::SeqCst) == count).await;
        settle().await;
        calls
    }

    /// Makes the issuer answer.
    pub(crate) fn open(&self) {
        self.issuer_gate.close();
    }
}

/// Connects to the API and the issuer.
async fn connect(
    page: usize,
    issuer: &TokenServer,
    rejected: &Arc<AtomicUsize>,
    issuer_gate: &Arc<Semaphore>,
) -> Client {
    let (issuer, rejected, issuer_gate) = (issuer.clone(), Arc::clone(rejected), Arc::clone(issuer_gate));
    let (near, far) = tokio::io::duplex(1024 * 1024);
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (issuer, rejected, issuer_gate) = (issuer.clone(), Arc::clone(&rejected), Arc::clone(&issuer_gate));
        async move {
            if request.uri().host() == Some(ISSUER) {
                let _open = issuer_gate.acquire().await;
                return Ok::<_, Infallible>(Collected::new(issuer).oneshot(request).await.expect("an answer"));
            }
            let path = request.uri().path();
            if path == "/public" || issuer.ledger().state_of(&token(request.headers())) == TokenState::Live {
                return Ok(respond(200, Body::from("welcome")));
            }
            let mut response = respond(401, Body::from(vec![b'x'; page]));
            response.headers_mut().insert("x-path", path.parse().expect("a header value"));
            rejected.fetch_add(1, Ordering::SeqCst);
            Ok(response)
        }
    });
    let serving = server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), answer);
    tokio::spawn(serving);
    let handshake = client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near));
    let (sender, connection) = handshake.await.expect("a connection");
    tokio::spawn(connection);
    BoxCloneService::new(service_fn(move |request: Request<Body>| {
        let mut sender = sender.clone();
        async move {
            sender.ready().await?;
            Ok(sender.send_request(request).await?)
        }
    }))
}

/// The statuses of the responses.
pub(crate) fn statuses(outcomes: Vec<Outcome>) -> Vec<StatusCode> {
    outcomes.into_iter().map(|outcome| outcome.expect("a response").status()).collect()
}
