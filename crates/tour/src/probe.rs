//! A service between the layer and the client, which sees every send and every response.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tower::Service;
use tower_bearer::testing::{Ledger, TokenState};

use crate::HttpClient;

/// Forwards requests unchanged and counts.
#[derive(Clone)]
pub(crate) struct Probe {
    http: HttpClient,
    seen: Arc<Seen>,
}

pub(crate) struct Seen {
    ledger: Ledger,
    expired_tokens: AtomicU64,
    rejected: AtomicU64,
}

/// A request extension that counts how often its request is sent. The second send carries a clone of the extensions,
/// and so the same counter.
#[derive(Clone, Default)]
pub(crate) struct Sends(Arc<AtomicU64>);

impl Probe {
    pub(crate) fn new(http: HttpClient, ledger: Ledger) -> Self {
        let seen = Seen { ledger, expired_tokens: AtomicU64::new(0), rejected: AtomicU64::new(0) };
        Self { http, seen: Arc::new(seen) }
    }

    /// Requests that carried an expired token. The issuer's ledger decides at the time of the send, because a token may
    /// expire before the request reaches the API.
    pub(crate) fn expired_tokens(&self) -> u64 {
        self.seen.expired_tokens.load(Relaxed)
    }

    /// Responses with status 401. The layer receives all of them, and the caller few or none.
    pub(crate) fn rejected(&self) -> u64 {
        self.seen.rejected.load(Relaxed)
    }
}

impl Sends {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Service<Request<Full<Bytes>>> for Probe {
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, legacy::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        if let Some(Sends(count)) = request.extensions().get() {
            count.fetch_add(1, Relaxed);
        }
        if token(request.headers()).is_some_and(|token| self.seen.ledger.state_of(token) == TokenState::Expired) {
            self.seen.expired_tokens.fetch_add(1, Relaxed);
        }
        let (response, seen) = (self.http.call(request), Arc::clone(&self.seen));
        Box::pin(async move {
            let response = response.await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                seen.rejected.fetch_add(1, Relaxed);
            }
            Ok(response)
        })
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
