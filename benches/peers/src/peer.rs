//! The trait of a peer: it sends one request with a token to an API that answers at once.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use benches::fixtures::{self, Answer, Body, Inner};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tokio::runtime::Handle;
use tower::{BoxError, Service};

use crate::issuer::Issuer;

/// A peer, in the smallest adapter that puts its token on a request.
pub trait Peer: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// The crate whose version is shown.
    const CRATE: &'static str;
    /// What tower-bearer does and this peer does not, and how the peer gets its tokens.
    const NOTE: &'static str;
    /// Whether its constructor waits for the first token, so that no request finds an empty cache.
    const FETCHES_AT_START: bool = false;
    /// Whether it has no fetch, so that only the hot path can be compared.
    const STATIC: bool = false;
    /// Whether it puts a token on its requests.
    const SENDS_TOKEN: bool = true;

    /// The type of its requests.
    type Request: Send + 'static;

    fn start(issuer: Issuer) -> impl Future<Output = Result<Self, BoxError>> + Send;

    fn request() -> Self::Request;

    fn send(&mut self, request: Self::Request) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// The request of the benchmarks.
pub fn request() -> Request<Body> {
    fixtures::request(4)
}

/// Makes one call as an executor does, on a thread that entered a runtime. Without contention it is polled once.
///
/// # Errors
/// Returns the errors of the peer.
#[inline(never)]
pub fn call<P: Peer>(peer: &mut P, request: P::Request) -> Result<(), BoxError> {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(peer.send(request));
    match future.as_mut().poll(&mut context) {
        Poll::Ready(outcome) => outcome,
        // Another thread holds the lock.
        Poll::Pending => Handle::current().block_on(future),
    }
}

/// Sends a request through a tower service.
///
/// # Errors
/// Returns the errors of the service.
pub async fn through<S, E>(service: &mut S, request: Request<Body>) -> Result<(), E>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E>,
{
    poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await?;
    Ok(())
}

/// The error type that a layer requires of the inner service, which never fails here. A type parameter for the error
/// would be simpler, but because of rust-lang/rust#110338 the compiler does not see that such futures are `Send`.
pub trait Fails: 'static {
    type Error;
}

/// The error type that most layers accept.
#[derive(Debug)]
pub struct Boxed;

impl Fails for Boxed {
    type Error = BoxError;
}

/// The API as a tower service: that of the other benchmarks, and it evaluates the token.
#[derive(Debug)]
pub struct Wire<F = Boxed> {
    issuer: Issuer,
    fails: PhantomData<fn() -> F>,
}

/// See [`Wire`].
pub struct Answered<F> {
    answer: Answer<1>,
    fails: PhantomData<fn() -> F>,
}

// === impl Wire ===

impl<F> Wire<F> {
    pub fn to(issuer: Issuer) -> Self {
        Self { issuer, fails: PhantomData }
    }
}

impl<F> Clone for Wire<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Wire<F> {}

impl<F: Fails> Service<Request<Body>> for Wire<F> {
    type Response = Response<Body>;
    type Error = F::Error;
    type Future = Answered<F>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), F::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answered<F> {
        self.issuer.evaluate(|| request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes));
        let answer = Inner { leaks: self.issuer.leaks() }.call(request);
        Answered { answer, fails: PhantomData }
    }
}

impl<F: Fails> Future for Answered<F> {
    type Output = Result<Response<Body>, F::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| Ok(answer.expect("an answer")))
    }
}
