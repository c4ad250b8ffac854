//! The issuer and its API, and the issuer's counts of the fleet's calls.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Service};
use tower_bearer::testing::MeshyDbServer;

use crate::LIFETIME;

pub(crate) const ACCOUNT: &str = "acme";
pub(crate) const PUBLIC_KEY: &str = "public-key";
pub(crate) const USER: &str = "ann";
pub(crate) const PASSWORD: &str = "secret";

/// How long a token call takes.
const CALL_TIME: Duration = Duration::from_millis(100);
/// How long a used refresh token still gets its new pair, if processes are killed.
const REUSE_GRACE: Duration = Duration::from_secs(10);

type Answering = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send>>;

#[derive(Clone)]
pub(crate) struct Issuer {
    server: MeshyDbServer,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    logins: usize,
    refresh_tokens: HashSet<String>,
    repeated: usize,
}

impl Issuer {
    /// With `grace`, a used refresh token still gets its new pair for a while.
    pub(crate) fn new(grace: bool) -> Self {
        let server = MeshyDbServer::new(ACCOUNT, PUBLIC_KEY).user(USER, PASSWORD);
        server.lifetime(LIFETIME);
        server.delay(CALL_TIME);
        if grace {
            server.reuse_grace(REUSE_GRACE);
        }
        Self { server, seen: Arc::default() }
    }

    fn see(&self, form: &[u8]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match form_urlencoded::parse(form).find(|(name, _)| name == "refresh_token") {
            None => seen.logins += 1,
            Some((_, token)) => seen.repeated += usize::from(!seen.refresh_tokens.insert(token.into_owned())),
        }
    }

    pub(crate) fn token_calls(&self) -> usize {
        self.server.token_calls().total()
    }

    pub(crate) fn max_concurrent_token_calls(&self) -> usize {
        self.server.token_calls().most_at_once()
    }

    /// How many token calls presented a refresh token that had been presented before.
    pub(crate) fn repeated(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).repeated
    }

    /// How often the session was lost: a used refresh token ended it, or a process logged in again.
    pub(crate) fn logged_out(&self) -> usize {
        let logins = self.seen.lock().unwrap_or_else(PoisonError::into_inner).logins;
        self.server.reuses().max(logins.saturating_sub(1))
    }
}

impl Service<Request<Full<Bytes>>> for Issuer {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.server.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Answering {
        let mut issuer = self.clone();
        Box::pin(async move {
            if !request.uri().path().ends_with("/connect/token") {
                return issuer.server.call(request).await;
            }
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            issuer.see(&body);
            issuer.server.call(Request::from_parts(head, Full::from(body))).await
        })
    }
}
