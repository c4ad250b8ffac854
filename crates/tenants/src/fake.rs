//! An issuer whose tokens name their tenant, and an API that compares them with the tenant of the request.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use tower::Service;
use tower_bearer::{Error, Token};

/// The tenant's name.
pub(crate) type Key = Arc<str>;

pub(crate) const API: &str = "https://api.example.com";
/// The length of a token in bytes, which is that of a small JWT.
pub(crate) const TOKEN_LENGTH: usize = 512;

#[derive(Clone)]
pub(crate) struct Issuer(Arc<Calls>);

struct Calls {
    takes: Duration,
    made: AtomicUsize,
    in_progress: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// An API that answers 200 if the token names the request's tenant, and 401 if it does not.
#[derive(Clone, Default)]
pub(crate) struct Api {
    wrong_token: Arc<AtomicUsize>,
}

/// The key of this number.
pub(crate) fn key(number: usize) -> Key {
    format!("tenant-{number:08}").into()
}

impl Issuer {
    /// `takes` is the duration of a token call.
    pub(crate) fn new(takes: Duration) -> Self {
        let [made, in_progress, most_at_once] = [const { AtomicUsize::new(0) }; 3];
        Self(Arc::new(Calls { takes, made, in_progress, most_at_once }))
    }

    pub(crate) async fn grant(self, key: Key) -> Result<Token, Error> {
        let calls = &self.0;
        calls.made.fetch_add(1, Ordering::Relaxed);
        let at_once = calls.in_progress.fetch_add(1, Ordering::Relaxed) + 1;
        calls.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        match calls.takes {
            Duration::ZERO => tokio::task::yield_now().await,
            takes => tokio::time::sleep(takes).await,
        }
        calls.in_progress.fetch_sub(1, Ordering::Relaxed);
        let head = format!("{key}.");
        Token::new(format!("{head}{:x<1$}", "", TOKEN_LENGTH - head.len()))
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.made.load(Ordering::Relaxed)
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.0.most_at_once.load(Ordering::Relaxed)
    }
}

impl Api {
    pub(crate) fn wrong_token(&self) -> usize {
        self.wrong_token.load(Ordering::Relaxed)
    }
}

impl Service<Request<String>> for Api {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let tenant = request.extensions().get::<Key>().expect("the request names its tenant");
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let mut response = Response::new(String::new());
        if token.and_then(|token| token.split('.').next()) != Some(&**tenant) {
            self.wrong_token.fetch_add(1, Ordering::Relaxed);
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        ready(Ok(response))
    }
}
