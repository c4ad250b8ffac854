//! The layer as a middleware of `reqwest-middleware`.
//!
//! # Algorithm
//! A middleware borrows the rest of its chain for one request, and a layer owns its inner service. So the inner service
//! is one that owns only the end of a channel. It sends a request into the channel and waits for the response. The
//! middleware polls the layer until a request arrives, runs the rest of the chain, and sends the response back. So
//! every promise of the layer holds here, and none is implemented twice.

use std::fmt;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use reqwest::Body;
use reqwest_middleware::{Error, Middleware, Next, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::{BearerLayer, Replay};

use crate::reqwest_0_13::{TryClone, convert_response, same_origin_redirects};

/// A `reqwest-middleware` that puts a bearer token on requests, as [`BearerLayer`] does.
///
/// A rejected request goes through the middlewares after this one twice.
///
/// ```
/// use tower_bearer::{BearerLayer, TokenCache};
/// use tower_bearer_reqwest::BearerMiddleware;
///
/// # fn main() -> Result<(), tower::BoxError> {
/// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?;
/// let client = BearerMiddleware::client_builder(reqwest::Client::builder())?
///     .with(BearerMiddleware::new(layer))
///     .build();
/// # Ok(()) }
/// ```
///
/// A client that was built elsewhere leaks the token if its redirect policy is reqwest's default: see
/// [`client_builder`](Self::client_builder).
///
/// # Errors
/// - The errors of the middlewares after it, and of reqwest, are unchanged.
/// - If there is no token to send, [`tower_bearer::Error::find`] finds the cause in the `reqwest_middleware::Error`,
///   and in the errors of `reqwest-retry` outside this middleware.
/// - If the request's own timeout ends during the wait for a token, the error is a `reqwest::Error` whose `is_timeout`
///   is true. Its `is_body` is true as well, because reqwest has no public constructor for a timeout.
///
/// # Timeouts
/// The wait for a token counts against the timeout that `RequestBuilder::timeout` sets, and each send has the remaining
/// time. A middleware cannot read the timeout of the client (`ClientBuilder::timeout`), which bounds each send and not
/// the wait. Set it on the requests as well, or put `tokio::time::timeout` around the call.
#[derive(Clone, Debug)]
pub struct BearerMiddleware<R = TryClone> {
    layer: BearerLayer<R>,
}

/// A service that represents the rest of the chain, which cannot be owned.
#[derive(Clone)]
struct RestOfChain(mpsc::UnboundedSender<Call>);

/// A request for the rest of the chain, and the sender of its response.
type Call = (reqwest::Request, oneshot::Sender<Result<reqwest::Response>>);

/// Wraps the layer's error. `reqwest_middleware::Error` and the errors of `reqwest-retry` are transparent: their
/// `source` skips the error that they wrap. So the layer's error has to be a source.
#[derive(Debug)]
struct LayerError(BoxError);

/// A request's own timeout.
struct Timeout {
    url: reqwest::Url,
    timeout: Duration,
    /// Completes when the timeout ends.
    expired: Pin<Box<Sleep>>,
}

/// A body that fails, because only a body converts another error into a `reqwest::Error`.
struct FailingBody(Option<io::Error>);

// === impl BearerMiddleware ===

impl BearerMiddleware {
    /// Creates the middleware that does what `layer` does, with [`TryClone`].
    ///
    /// If the API rejects the token, a body in memory is sent again, and a stream is not. reqwest's multipart forms are
    /// streams; with [`with_replay`](Self::with_replay) they can be sent again.
    pub fn new<R>(layer: BearerLayer<R>) -> Self {
        Self::with_replay(layer.replay(TryClone))
    }

    /// Starts a chain over a client that follows redirects within one origin only.
    ///
    /// It replaces the redirect policy of `builder` by [`same_origin_redirects`], because the layer cannot match the
    /// origin of a redirect that the client follows. reqwest up to 0.13 puts the `Authorization` header back at the
    /// second cross-origin redirect, which leaks the token. If another client follows one, each such response causes an
    /// `ERROR` event, `cross_origin_response`.
    ///
    /// # Errors
    /// Returns an error if reqwest's `ClientBuilder::build` does.
    pub fn client_builder(builder: reqwest::ClientBuilder) -> reqwest::Result<reqwest_middleware::ClientBuilder> {
        Ok(reqwest_middleware::ClientBuilder::new(builder.redirect(same_origin_redirects()).build()?))
    }
}

impl<R> BearerMiddleware<R> {
    /// Creates the middleware with the layer's own replay choice.
    ///
    /// `Buffered::new(limit).wrap(reqwest::Body::wrap)`, for example, records streams and multipart forms, and sends
    /// them again.
    pub fn with_replay(layer: BearerLayer<R>) -> Self {
        Self { layer }
    }
}

#[async_trait::async_trait]
impl<R> Middleware for BearerMiddleware<R>
where
    R: Replay<Body, Body = Body, Saved: Send> + Clone + Send + Sync + 'static,
{
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<reqwest::Response> {
        let mut timeout = Timeout::of(&request);
        let (calls, mut received) = mpsc::unbounded_channel();
        let mut layered = pin!(self.layer.layer(RestOfChain(calls)).oneshot(request.try_into()?));
        loop {
            let (mut request, answer) = tokio::select! {
                biased;
                response = &mut layered => return response.map(Into::into).map_err(unboxed),
                error = expired(&mut timeout) => return Err(error),
                Some(call) = received.recv() => call,
            };
            if let Some(timeout) = &timeout {
                *request.timeout_mut() = Some(timeout.remaining());
            }
            // The layer waits only for this response, so it need not be polled meanwhile.
            let _ = answer.send(next.clone().run(request, extensions).await);
        }
    }
}

/// Returns an error of the chain unchanged, and wraps an error of the layer.
fn unboxed(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(of_chain) => *of_chain,
        Err(of_layer) => Error::middleware(LayerError(of_layer)),
    }
}

// === impl LayerError ===

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to authorize the request (the cause is this error's source)")
    }
}

impl std::error::Error for LayerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

// === impl Timeout ===

impl Timeout {
    /// `None` if the request has no timeout of its own.
    fn of(request: &reqwest::Request) -> Option<Self> {
        let timeout = *request.timeout()?;
        Some(Self { url: request.url().clone(), timeout, expired: Box::pin(sleep(timeout)) })
    }

    fn remaining(&self) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "tokio's clock is the one that reqwest's timeouts use")]
        self.expired.deadline().saturating_duration_since(Instant::now())
    }

    async fn error(&self) -> Error {
        let waited = format!("the request's timeout of {:?} ended during the wait for a bearer token", self.timeout);
        let error = io::Error::new(io::ErrorKind::TimedOut, waited);
        match Body::wrap(FailingBody(Some(error))).frame().await {
            Some(Err(error)) => Error::Reqwest(error.with_url(self.url.clone())),
            _ => unreachable!("the body fails"),
        }
    }
}

/// Waits until the request's timeout ends, if it has one.
async fn expired(timeout: &mut Option<Timeout>) -> Error {
    match timeout {
        Some(timeout) => {
            timeout.expired.as_mut().await;
            timeout.error().await
        }
        None => pending().await,
    }
}

// === impl FailingBody ===

impl http_body::Body for FailingBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}

// === impl RestOfChain ===

impl Service<Request<Body>> for RestOfChain {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let calls = self.0.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let request = reqwest::Request::try_from(request)?;
            let url = request.url().clone();
            // The middleware's own future holds both ends, and outlives this one.
            calls.send((request, answer)).expect("the middleware receives");
            let response = answered.await.expect("the middleware answers")?;
            Ok(convert_response(&url, response))
        })
    }
}
