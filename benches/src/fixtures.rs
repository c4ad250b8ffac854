//! The request, and inner services that simulate a client: they take the request, drop it and answer at once.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Service};

pub type Body = Full<Bytes>;

/// The origin of the layers.
pub const ORIGIN: &str = "https://api.example.com";

/// A client, with or without a layer.
pub trait Client: Service<Request<Body>, Response = Response<Body>, Error: std::fmt::Debug> + Clone {}
impl<S: Service<Request<Body>, Response = Response<Body>, Error: std::fmt::Debug> + Clone> Client for S {}

/// A token of 1000 characters, which is typical of a JWT.
pub fn token() -> String {
    "mF_9.B5f-4".repeat(100)
}

const HEADERS: [(&str, &str); 6] = [
    // There is no `Host`, because the client adds it. A request that has one pays for the comparison with the URI.
    ("accept-language", "en"),
    ("accept", "application/json"),
    ("user-agent", "benches/0.0.0"),
    ("accept-encoding", "gzip, br"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("content-type", "application/json"),
];

/// A request with this number of headers, to [`ORIGIN`].
pub fn request(headers: usize) -> Request<Body> {
    request_to(ORIGIN, headers)
}

/// The same to another origin, or to the same in another spelling.
pub fn request_to(origin: &str, headers: usize) -> Request<Body> {
    let request = Request::post(format!("{origin}/v1/things/42?expand=all"));
    let request = HEADERS[..headers].iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::from(r#"{"name":"thing"}"#)).expect("a request")
}

/// A client whose future is `WORDS` words large.
#[derive(Clone, Copy, Debug)]
pub struct Inner<const WORDS: usize> {
    /// Whether the request is leaked, so that dropping it does not count. The drop costs more than the layers do.
    pub leaks: bool,
}

/// A client like hyper-util's and reqwest's, which box their futures: one word or two.
pub const SMALL: Inner<1> = Inner { leaks: false };
/// A stack of unboxed layers.
pub const LARGE: Inner<17> = Inner { leaks: false };

/// A client with the size and the clone cost of hyper-util's client, which it contains and never calls. Its future has
/// two words, as hyper-util's boxed future has.
#[derive(Clone)]
pub struct ClientSized {
    client: legacy::Client<HttpConnector, Body>,
    inner: Inner<2>,
}

impl ClientSized {
    pub fn new(leaks: bool) -> Self {
        Self { client: legacy::Client::builder(TokioExecutor::new()).build_http(), inner: Inner { leaks } }
    }
}

impl Service<Request<Body>> for ClientSized {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Answer<2>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Body>) -> Answer<2> {
        std::hint::black_box(&self.client);
        self.inner.call(request)
    }
}

/// A client whose first answer is a delayed 401, and whose later answers are immediate.
#[derive(Clone)]
pub struct Rejecting {
    client: ClientSized,
    calls: Arc<AtomicUsize>,
}

impl Rejecting {
    pub fn new() -> Self {
        Self { client: ClientSized::new(true), calls: Arc::default() }
    }
}

impl Default for Rejecting {
    fn default() -> Self {
        Self::new()
    }
}

impl Service<Request<Body>> for Rejecting {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Rejected;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Body>) -> Rejected {
        std::hint::black_box(&self.client);
        std::mem::forget(request);
        let first = self.calls.fetch_add(1, Ordering::Relaxed) == 0;
        Rejected { first, is_on_its_way: first }
    }
}

/// The future of [`Rejecting`].
pub struct Rejected {
    first: bool,
    is_on_its_way: bool,
}

impl Future for Rejected {
    type Output = Result<Response<Body>, BoxError>;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.is_on_its_way) {
            return Poll::Pending;
        }
        let mut response = Response::new(Body::default());
        if self.first {
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
            let challenge = r#"Bearer realm="api", error="invalid_token", error_description="The token expired""#;
            response.headers_mut().insert(WWW_AUTHENTICATE, http::HeaderValue::from_static(challenge));
        }
        Poll::Ready(Ok(response))
    }
}

/// The future of [`Inner`].
pub struct Answer<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Service<Request<Body>> for Inner<WORDS> {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Answer<WORDS>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Body>) -> Answer<WORDS> {
        if self.leaks {
            std::mem::forget(request);
        }
        Answer([200; WORDS])
    }
}

impl<const WORDS: usize> Future for Answer<WORDS> {
    type Output = Result<Response<Body>, BoxError>;

    #[inline(never)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = http::StatusCode::from_u16(std::hint::black_box(self.0[0] as u16)).expect("a status");
        Poll::Ready(Ok(response))
    }
}

/// Makes one call as an executor does: polls it ready, calls it, and polls until the answer arrives.
#[inline(never)]
pub fn call<S: Client>(service: &mut S, request: Request<Body>) -> Response<Body> {
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    let mut future = pin!(service.call(request));
    match future.as_mut().poll(&mut context) {
        Poll::Ready(answer) => answer.expect("an answer"),
        Poll::Pending => panic!("answers at once"),
    }
}

/// Makes one call through a clone of the service.
#[inline(never)]
pub fn call_cloned<S: Client>(service: &S, request: Request<Body>) -> Response<Body> {
    call(&mut service.clone(), request)
}
