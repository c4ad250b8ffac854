//! The compared layers, each over a given client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::runtime::Builder;
use tokio::sync::Mutex;
use tower::retry::{Policy, Retry};
use tower::{BoxError, Layer, Service};
use tower_bearer::replay::{CloneBody, Never};
use tower_bearer::{Bearer, BearerLayer, Token, TokenCache};
use tower_http::auth::{AddAuthorization, AddAuthorizationLayer};

use crate::fixtures::{Body, ORIGIN, token};

/// The baseline: tower-http's static header.
pub fn added<S>(inner: S) -> AddAuthorization<S> {
    AddAuthorizationLayer::bearer(&token()).layer(inner)
}

/// Sends twice without this crate: tower's retry keeps a copy of the request.
pub fn retried<S: Clone>(inner: S) -> Retry<Again, AddAuthorization<S>> {
    Retry::new(Again, added(inner))
}

/// The README's configuration without a second send.
pub fn never<S: Clone>(inner: S) -> Bearer<S, Never> {
    never_at(ORIGIN, inner)
}

/// The same, for another origin.
pub fn never_at<S: Clone>(origin: &str, inner: S) -> Bearer<S, Never> {
    filled(|cache| named(&cache, origin).replay(Never).layer(inner))
}

/// The README's configuration.
pub fn twice<S: Clone>(inner: S) -> Bearer<S, CloneBody> {
    twice_at(ORIGIN, inner)
}

/// The same, for another origin.
pub fn twice_at<S: Clone>(origin: &str, inner: S) -> Bearer<S, CloneBody> {
    filled(|cache| named(&cache, origin).layer(inner))
}

/// The layer without a match of the origin.
pub fn anywhere<S: Clone>(inner: S) -> Bearer<S, Never> {
    filled(|cache| BearerLayer::any_https_origin(cache).replay(Never).layer(inner))
}

/// The README's configuration.
pub fn named(cache: &TokenCache, origin: &str) -> BearerLayer {
    BearerLayer::new(cache.clone(), [origin]).expect("an origin")
}

/// A cache whose tokens live for an hour.
pub fn cache() -> TokenCache {
    TokenCache::new(async |_| Token::new(token()))
}

/// A service over a cache that then fetches its token. The service is built first, as in every program.
fn filled<S, R>(build: impl FnOnce(TokenCache) -> Bearer<S, R>) -> Bearer<S, R> {
    let cache = cache();
    let service = build(cache.clone());
    fetch(&cache);
    service
}

/// Fetches a token, the first or the next.
pub fn fetch(cache: &TokenCache) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(cache.refresh()).expect("a token");
}

/// A retry policy that sends a request again after a 401.
#[derive(Clone, Copy, Debug)]
pub struct Again;

impl<E> Policy<Request<Body>, Response<Body>, E> for Again {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, answer: &mut Result<Response<Body>, E>) -> Option<Self::Future> {
        let rejected = answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED);
        rejected.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

/// A typical hand-written client: the token's text is behind an async lock, and each request formats the header.
pub fn by_hand<S>(inner: S) -> ByHand<S> {
    ByHand { inner, token: Arc::new(Mutex::new(token())) }
}

/// See [`by_hand`].
#[derive(Clone, Debug)]
pub struct ByHand<S> {
    inner: S,
    token: Arc<Mutex<String>>,
}

impl<S> Service<Request<Body>> for ByHand<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let later = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, later);
        let token = Arc::clone(&self.token);
        Box::pin(async move {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.lock().await))?;
            request.headers_mut().insert(AUTHORIZATION, value);
            inner.call(request).await
        })
    }
}
