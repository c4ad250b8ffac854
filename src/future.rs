//! The response future: it polls the inner service's future, or waits for a token.
//!
//! It has two main states:
//! - `Sent` contains the inner future, unboxed. A request that finds a usable token and is not rejected never leaves
//!   it.
//! - `Pending` is a boxed async block, which waits for a token and a ready service. Then it returns the request to
//!   send, and the state is `Sent` again. It is boxed, because it is rare and would make every future larger.
//!
//! A rejected request is sent a second and last time. An [`Attempt`] says which of the two sends it is, and what the
//! retry needs.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Buf;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::sync::OwnedSemaphorePermit;
use tower::{BoxError, Service};

use crate::cache::{Freshness, Reader, Rejected, Rejection, Snapshot, SnapshotSource, TokenCache, Usable};
use crate::cache_choice::PerRequest;
use crate::clock::{self, Clock};
use crate::error::Error;
use crate::origin::Origins;
use crate::rejection::{RejectionPolicy, allows_replay};
use crate::replay::Replay;
use crate::schedule::Sign;
use crate::token::{SessionId, Token, TokenId};
use crate::trailers::SentToken;

/// The inner service's bounds: a tower HTTP client that is `Clone`.
///
/// It is implemented for every `Service<http::Request<B>, Response = http::Response<A>>` that is
/// `Clone + Send + 'static`, whose future is `Send`, and whose error converts into a boxed error. Generic code needs no
/// other bound:
///
/// ```
/// use http::Request;
/// use tower::{BoxError, ServiceExt};
/// use tower_bearer::{Bearer, InnerService};
///
/// async fn status<S: InnerService<String>>(api: Bearer<S>) -> Result<u16, BoxError> {
///     let request = Request::get("https://api.example.com/").body(String::new())?;
///     Ok(api.oneshot(request).await?.status().as_u16())
/// }
/// ```
pub trait InnerService<B>:
    Service<
        Request<B>,
        Response = Response<<Self as InnerService<B>>::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResponseBody: Body + Send + 'static;
}

impl<S, B, A> InnerService<B> for S
where
    S: Service<Request<B>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    A: Body + Send + 'static,
{
    type ResponseBody = A;
}

pin_project! {
    /// The future of [`Bearer`](crate::Bearer).
    pub struct ResponseFuture<S, B, R>
    where
        S: Service<Request<R::Body>>,
        R: Replay<B>,
    {
        #[pin]
        state: State<S, B, R>,
    }
}

pin_project! {
    #[project = Project]
    enum State<S, B, R>
    where
        S: Service<Request<R::Body>>,
        R: Replay<B>,
    {
        Sent { #[pin] response: S::Future, attempt: Option<Attempt<S, RetryState<R, R::Saved>>> },
        Pending { step: Pending<S, B, R> },
        Failed { error: Option<Error> },
    }
}

type Pending<S, B, R> = Pin<Box<dyn Future<Output = Result<Step<S, B, R>, BoxError>> + Send>>;

/// The result of a wait.
#[expect(clippy::large_enum_variant, reason = "lives for one poll, and a box would be an allocation for each wait")]
enum Step<S, B, R>
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
{
    /// The future sends the request, which has its token, with a service that is ready.
    Send { ready: S, request: Request<R::Body>, attempt: Option<Attempt<S, RetryState<R, R::Saved>>> },
    /// The caller gets this response.
    Return(S::Response),
}

/// The configuration of one layer, shared by its services and their requests.
///
/// It has its own cache lines, because each request writes its reference count.
#[repr(align(128))]
pub(crate) struct LayerConfig<S> {
    /// The cache of the requests. If each has its own, this is a placeholder, which [`with_cache`](Self::with_cache)
    /// replaces for each request.
    pub(crate) cache: TokenCache,
    /// Chooses the cache of each request. If it is set, `cache` is a placeholder that never has a token.
    pub(crate) per_request: Option<PerRequest>,
    pub(crate) origins: Origins,
    pub(crate) rejection: RejectionPolicy,
    pub(crate) template: Arc<Template<S>>,
}

/// The inner service that the layer wrapped. It is never polled. A request that waits or is retried clones it.
///
/// The mutex makes a service that is not `Sync` shareable. The service's `clone` is user code that runs while it is
/// locked. If that panics, the mutex is poisoned, but the service has not changed.
pub(crate) struct Template<S>(Mutex<S>);

/// The state of a request that was sent with the layer's token.
pub(crate) struct Attempt<S, T> {
    pub(crate) config: Arc<LayerConfig<S>>,
    /// The token of the request.
    pub(crate) token: TokenId,
    pub(crate) stage: Stage<T>,
}

/// Which send of a request it is.
pub(crate) enum Stage<T> {
    /// The first. `retry` is `None` if the request cannot be sent twice.
    First { retry: Option<T> },
    /// The second and last, after a rejection.
    Second,
}

/// The replay and its saved request, from which a retry is built.
pub(crate) struct RetryState<R, K> {
    pub(crate) replay: R,
    pub(crate) saved: K,
}

/// A rejected response while its request waits for a new token.
enum Waiting<A> {
    /// The response is kept, because its body is small.
    Held { response: Response<A>, _permit: Option<OwnedSemaphorePermit> },
    /// The body was read or dropped, so that it blocks no connection and no HTTP/2 flow-control window.
    Dropped(Response<()>),
}

/// How many bytes of a rejected response are read so that its connection can be reused, and for how long.
const DRAIN_LIMIT: (usize, Duration) = (64 * 1024, Duration::from_millis(50));
/// How many frames of it are read. Without this limit, an always ready body of empty frames would never let a timer
/// run.
const DRAIN_FRAMES: usize = 256;

// === impl Attempt ===

impl<S, T> Attempt<S, T> {
    /// Whether the response has to be evaluated.
    #[inline]
    fn needs_evaluation<A>(&self, response: &Response<A>) -> bool {
        self.config.rejection.may_reject(response) || matches!(self.stage, Stage::Second)
    }
}

// === impl RetryState ===

impl<R, K> RetryState<R, K> {
    /// Builds the request of the retry.
    ///
    /// # Errors
    /// Returns an error if its body was not completely saved.
    fn request<B>(self, cache: &TokenCache, rejected: TokenId) -> Result<Request<R::Body>, Error>
    where
        R: Replay<B, Saved = K>,
    {
        self.replay.replay(self.saved).ok_or_else(|| {
            cache
                .telemetry()
                .returned_unauthorized(rejected.generation, Some("its body was too long to be kept, or failed"));
            Error::not_replayed()
        })
    }
}

// === impl LayerConfig ===

impl<S> SnapshotSource for LayerConfig<S> {
    fn snapshot(&self) -> &ArcSwap<Snapshot> {
        self.cache.snapshot()
    }

    fn clock(&self) -> &Clock {
        self.cache.clock()
    }
}

impl<S> LayerConfig<S> {
    /// The same configuration for one request, with that request's cache.
    pub(crate) fn with_cache(&self, cache: TokenCache) -> Self {
        Self {
            cache,
            per_request: None,
            origins: self.origins.clone(),
            rejection: self.rejection.clone(),
            template: Arc::clone(&self.template),
        }
    }
}

impl<S: Clone> Clone for LayerConfig<S> {
    fn clone(&self) -> Self {
        Self {
            per_request: self.per_request.clone(),
            template: Arc::new(Template::new(self.template.service())),
            ..self.with_cache(self.cache.clone())
        }
    }
}

impl<S> fmt::Debug for LayerConfig<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerConfig")
            .field("cache", &self.cache)
            .field("origins", &self.origins)
            .field("rejection", &self.rejection)
            .finish_non_exhaustive()
    }
}

impl<S> Template<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Mutex::new(service))
    }

    /// A clone of the service, which is not ready yet.
    pub(crate) fn service(&self) -> S
    where
        S: Clone,
    {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl ResponseFuture ===

impl<S, B, R> ResponseFuture<S, B, R>
where
    S: InnerService<R::Body>,
    R: Replay<B>,
    B: Send + 'static,
{
    pub(crate) fn sent(response: S::Future, attempt: Option<Attempt<S, RetryState<R, R::Saved>>>) -> Self {
        Self { state: State::Sent { response, attempt } }
    }

    /// Sends the request unchanged, and does not evaluate the response.
    pub(crate) fn passed_through(inner: &mut S, replay: &R, request: Request<B>) -> Self {
        Self::sent(inner.call(replay.pass_through(request)), None)
    }

    pub(crate) fn waiting(config: Arc<LayerConfig<S>>, session: SessionId, replay: R, request: Request<B>) -> Self {
        Self { state: State::Pending { step: wait(config, session, replay, request) } }
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { state: State::Failed { error: Some(error) } }
    }

    /// Evaluates a response that may be a rejection. Starts the retry if it is one.
    #[cold]
    fn evaluate(
        mut self: Pin<&mut Self>,
        response: Response<S::ResponseBody>,
        cx: &mut Context<'_>,
    ) -> Poll<<Self as Future>::Output> {
        let Project::Sent { attempt: sent, .. } = self.as_mut().project().state.project() else {
            unreachable!("it was sent")
        };
        let Some(Attempt { config, token, stage }) = sent else { return Poll::Ready(Ok(response)) };
        let (mut response, sign) = config.rejection.classify(response, &config.origins);
        if sign.is_none() && config.rejection.has_trailers(&response) {
            response.extensions_mut().insert(SentToken { cache: config.cache.clone(), token: *token });
        }
        let Stage::First { retry } = stage else {
            config.cache.retried(*token, sign);
            return Poll::Ready(Ok(response));
        };
        let Some(sign) = sign else { return Poll::Ready(Ok(response)) };
        let rejected = Rejected { sign: Some(sign), headers: Some(response.headers()) };
        // If the client followed a redirect, the API that redirected has processed the request.
        let is_redirected =
            |retry: &RetryState<R, R::Saved>| !allows_replay(retry.replay.target(&retry.saved), &response);
        let may_be_processed = retry.as_ref().is_some_and(is_redirected);
        let can_replay =
            |retry: &mut RetryState<R, R::Saved>| !may_be_processed && retry.replay.can_replay(&retry.saved);
        let Some(retry) = retry.take_if(can_replay) else {
            let over_budget =
                config.cache.replace_in_background(*token, rejected).is_err_and(|error| error.is_over_budget());
            let why = if may_be_processed {
                "a redirect was followed, and its method is not safe"
            } else {
                "its body cannot be sent twice"
            };
            config.cache.telemetry().returned_unauthorized(token.generation, (!over_budget).then_some(why));
            return Poll::Ready(Ok(response));
        };
        let (config, token) = (Arc::clone(config), *token);
        let rejection = config.cache.reject(token, rejected);
        let Some((mut ready, new)) = ready_at_once(&config, token, rejection, response.body(), cx) else {
            let step = retry_with_new_token(config, token, retry, rejection, sign, response);
            // This drops the first inner future, which may hold resources of the inner service.
            self.as_mut().project().state.set(State::Pending { step });
            return self.poll(cx);
        };
        let mut request = match retry.request(&config.cache, token) {
            Ok(request) => request,
            Err(error) => return Poll::Ready(Waiting::Held { response, _permit: None }.with_error(error)),
        };
        let attempt = second_send(config, token, request.headers_mut(), new.value, new.token);
        self.as_mut().project().state.set(State::Sent { response: ready.call(request), attempt: Some(attempt) });
        self.poll(cx)
    }

    /// Polls the states in which no request is in flight.
    #[cold]
    fn poll_pending(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let step = match self.as_mut().project().state.project() {
            Project::Pending { step } => ready!(step.as_mut().poll(cx))?,
            Project::Failed { error } => {
                return Poll::Ready(Err(error.take().expect("polled after completion").into()));
            }
            Project::Sent { .. } => unreachable!("nothing was sent"),
        };
        match step {
            Step::Send { mut ready, request, attempt } => {
                let response = ready.call(request);
                self.as_mut().project().state.set(State::Sent { response, attempt });
                self.poll(cx)
            }
            Step::Return(response) => Poll::Ready(Ok(response)),
        }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: InnerService<R::Body>,
    R: Replay<B>,
    B: Send + 'static,
{
    type Output = Result<Response<S::ResponseBody>, BoxError>;

    // Inlined into the outer future, which saves one move of the response.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.as_mut().project().state.project() {
            Project::Sent { response, attempt } => {
                let result = ready!(response.poll(cx)).map_err(Into::into);
                // Nearly every response returns here, without a move.
                match (&result, attempt) {
                    (Ok(response), Some(attempt)) if attempt.needs_evaluation(response) => {}
                    _ => return Poll::Ready(result),
                }
                result
            }
            Project::Pending { .. } | Project::Failed { .. } => return self.poll_pending(cx),
        };
        self.evaluate(result?, cx)
    }
}

impl<S, B, R> fmt::Debug for ResponseFuture<S, B, R>
where
    S: Service<Request<R::Body>>,
    R: Replay<B>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === the waits ===

/// Waits for a token of the session in which the request began, and prepares the first send.
fn wait<S, B, R>(config: Arc<LayerConfig<S>>, session: SessionId, replay: R, request: Request<B>) -> Pending<S, B, R>
where
    S: InnerService<R::Body>,
    R: Replay<B>,
    B: Send + 'static,
{
    // An async block, because an async function would store its arguments twice.
    Box::pin(async move {
        config.cache.get_in(session).await?;
        let (ready, token) = ready_with_token(&config, session).await?;
        let (mut request, saved) = replay.prepare(request);
        request.headers_mut().insert(AUTHORIZATION, token.header_value().clone());
        let stage = Stage::First { retry: saved.map(|saved| RetryState { replay, saved }) };
        Ok(Step::Send { ready, request, attempt: Some(Attempt { config, token: token.id(), stage }) })
    })
}

/// A ready service and a token with which a rejected request can be retried at once.
///
/// Returns `None` if the retry has to wait for a newer token, the rest of the response, or the inner service.
fn ready_at_once<S, B, A: Body>(
    config: &Arc<LayerConfig<S>>,
    token: TokenId,
    rejection: Rejection,
    response: &A,
    cx: &mut Context<'_>,
) -> Option<(S, Usable)>
where
    S: Service<B> + Clone,
{
    let is_replaced = matches!(rejection, Rejection::Superseded | Rejection::Fallback { .. });
    if !is_replaced || !response.is_end_stream() {
        return None;
    }
    let mut ready = config.template.service();
    let Poll::Ready(Ok(())) = ready.poll_ready(cx) else { return None };
    let new = Reader::new(Arc::clone(config)).usable()?;
    (new.token.session == token.session && new.freshness != Freshness::Due).then_some((ready, new))
}

/// Waits for the token that replaces the rejected one, and prepares the retry. If the API rejects the retry too, the
/// caller gets that response, and the cache records that the replacement did not help.
fn retry_with_new_token<S, B, R>(
    config: Arc<LayerConfig<S>>,
    token: TokenId,
    retry: RetryState<R, R::Saved>,
    rejection: Rejection,
    sign: Sign,
    response: Response<S::ResponseBody>,
) -> Pending<S, B, R>
where
    S: InnerService<R::Body>,
    R: Replay<B>,
    B: Send + 'static,
{
    Box::pin(async move {
        let cache = &config.cache;
        let replacement = cache.replacement(token, Some(sign), rejection);
        let (waiting, replaced) = while_waiting(cache, response, replacement).await;
        if let Err(error) = replaced {
            // If the budget is exhausted, the cache emits one event for all requests.
            cache
                .telemetry()
                .returned_unauthorized(token.generation, (!error.is_over_budget()).then_some("there is no new token"));
            return waiting.with_error(error).map(Step::Return);
        }
        let mut request = match retry.request(cache, token) {
            Ok(request) => request,
            Err(error) => return waiting.with_error(error).map(Step::Return),
        };
        if let Waiting::Held { response, .. } = waiting {
            drain(response.into_body()).await;
        }
        let (ready, new) = ready_with_token(&config, token.session).await?;
        let attempt = second_send(config, token, request.headers_mut(), new.header_value().clone(), new.id());
        Ok(Step::Send { ready, request, attempt: Some(attempt) })
    })
}

/// Puts the new token on the retry, which is the last send of a request.
fn second_send<S, T>(
    config: Arc<LayerConfig<S>>,
    rejected: TokenId,
    headers: &mut HeaderMap,
    value: HeaderValue,
    token: TokenId,
) -> Attempt<S, T> {
    headers.insert(AUTHORIZATION, value);
    config.cache.telemetry().retried(rejected.generation, token.generation);
    Attempt { config, token, stage: Stage::Second }
}

/// Waits until the service is ready and there is a token of this session.
///
/// If the token expired meanwhile, the ready service is dropped before the wait for the next token, because a waiting
/// request must not hold a permit or a connection.
async fn ready_with_token<S, B>(config: &LayerConfig<S>, session: SessionId) -> Result<(S, Token), BoxError>
where
    S: Service<B, Error: Into<BoxError>> + Clone,
{
    loop {
        let mut ready = config.template.service();
        poll_fn(|cx| ready.poll_ready(cx)).await.map_err(Into::into)?;
        if let Some(token) = config.cache.peek_in(session)? {
            return Ok((ready, token));
        }
        drop(ready);
        config.cache.get_in(session).await?;
    }
}

// === rejected responses ===

/// Waits for a new token.
///
/// The token call may need the connection or the HTTP/2 flow-control window of the rejected response. So the response
/// is kept only if its body is small and few other responses are kept. Otherwise its body is read or dropped.
async fn while_waiting<A: Body, T>(
    cache: &TokenCache,
    response: Response<A>,
    wait: impl Future<Output = T>,
) -> (Waiting<A>, T) {
    let body = response.body();
    let size = if body.is_end_stream() { Some(0) } else { body.size_hint().upper() };
    let permit = match size {
        Some(0) => Some(None),
        Some(size) => cache.reserve_unread(size).map(Some),
        None => None,
    };
    if let Some(permit) = permit {
        let result = wait.await;
        return (Waiting::Held { response, _permit: permit }, result);
    }
    let (head, body) = response.into_parts();
    let (mut drained, mut wait) = (pin!(drain(body)), pin!(wait));
    let (mut is_drained, mut waited) = (false, None);
    let result = poll_fn(|cx| {
        // The wait is polled first, because it starts the refresh.
        if waited.is_none()
            && let Poll::Ready(result) = wait.as_mut().poll(cx)
        {
            waited = Some(result);
        }
        is_drained = is_drained || drained.as_mut().poll(cx).is_ready();
        if is_drained { waited.take().map_or(Poll::Pending, Poll::Ready) } else { Poll::Pending }
    })
    .await;
    (Waiting::Dropped(Response::from_parts(head, ())), result)
}

impl<A> Waiting<A> {
    /// The caller's result: the response with the error in its extensions, or the error with the response's head.
    fn with_error(self, error: Error) -> Result<Response<A>, BoxError> {
        match self {
            Self::Held { mut response, .. } => {
                response.extensions_mut().insert(error);
                Ok(response)
            }
            Self::Dropped(head) => Err(error.with_rejected_response(head).into()),
        }
    }
}

/// Reads the rest of a rejected response, up to [`DRAIN_LIMIT`], so that its connection can be reused.
async fn drain<A: Body>(body: A) {
    if body.is_end_stream() {
        return;
    }
    let (limit, longest) = DRAIN_LIMIT;
    let read = async {
        let mut body = pin!(body);
        let mut seen = 0;
        for _ in 0..DRAIN_FRAMES {
            let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else { return };
            seen += frame.data_ref().map_or(0, Buf::remaining);
            if seen > limit {
                return;
            }
        }
    };
    // Without timers the body is dropped unread, because no deadline would limit the reading.
    if let Ok(read) = clock::timeout(longest, read) {
        let _ = read.await;
        // The client's own tasks return the connection to its pool, and need a turn to do so.
        tokio::task::yield_now().await;
    }
}
