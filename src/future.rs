//! The response: on its way, or put off until there is a token.
//!
//! A request that finds a usable token and is not refused never leaves the first state, which holds the inner future as
//! it is. Everything else is rare and slow: a boxed async block that reads as prose and ends where a request can go out,
//! in the first state again. So what waits is no larger than what it waits for.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::cache::TokenCache;
use crate::clock;
use crate::error::Error;
use crate::origin::Origins;
use crate::refusal::Refusal;
use crate::resend::Resend;
use crate::token::Token;

pin_project! {
    /// The future of [`Bearer`](crate::Bearer).
    pub struct ResponseFuture<S, B, R, A>
    where
        S: Service<Request<R::Body>>,
        R: Resend<B>,
    {
        #[pin]
        state: State<S, B, R, A>,
    }
}

pin_project! {
    #[project = Project]
    enum State<S, B, R, A>
    where
        S: Service<Request<R::Body>>,
        R: Resend<B>,
    {
        Sent { #[pin] response: S::Future, sent: Option<Sent<S, R, R::Spare>> },
        PutOff { next: PutOff<S, B, R, A> },
        Failed { error: Option<Error> },
    }
}

type PutOff<S, B, R, A> = Pin<Box<dyn Future<Output = Result<Next<S, B, R, A>, BoxError>> + Send>>;

/// What comes after a wait.
enum Next<S, B, R, A>
where
    R: Resend<B>,
{
    /// A request with its token on, and a service that is ready for it.
    Send {
        ready: S,
        request: Request<R::Body>,
        sent: Option<Sent<S, R, R::Spare>>,
    },
    HandBack(Response<A>),
}

/// What one layer decides by, shared by its services and their requests. On cache lines of its own: its count is written
/// with each request.
#[derive(Clone, Debug)]
#[repr(align(128))]
pub(crate) struct Rules {
    pub(crate) cache: TokenCache,
    pub(crate) origins: Origins,
    pub(crate) refusal: Refusal,
}

/// What a request with our token leaves behind.
pub(crate) struct Sent<S, R, K> {
    pub(crate) rules: Arc<Rules>,
    /// The token it was sent with.
    pub(crate) generation: u64,
    pub(crate) again: Option<Again<S, R, K>>,
}

/// What a second send needs.
pub(crate) struct Again<S, R, K> {
    pub(crate) service: S,
    pub(crate) resend: R,
    pub(crate) spare: K,
}

/// How much of a refused response is read so that its connection can be used again, and for how long.
const CHEAP: (usize, Duration) = (64 * 1024, Duration::from_millis(50));

// === impl ResponseFuture ===

impl<S, B, R, A> ResponseFuture<S, B, R, A>
where
    S: Service<Request<R::Body>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Resend<B> + Clone + Send + 'static,
    R::Body: Send,
    R::Spare: Send + 'static,
    B: Send + 'static,
    A: Body + Send + 'static,
{
    pub(crate) fn sent(response: S::Future, sent: Option<Sent<S, R, R::Spare>>) -> Self {
        Self { state: State::Sent { response, sent } }
    }

    /// There is something to judge in the response.
    #[cold]
    fn judge(mut self: Pin<&mut Self>, response: Response<A>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let Project::Sent { sent, .. } = self.as_mut().project().state.project() else { unreachable!("it was sent") };
        let Some(Sent { rules, generation, again }) = sent.take() else { return Poll::Ready(Ok(response)) };
        let (response, refused) = rules.refusal.judge(response, &rules.origins);
        if !refused {
            return Poll::Ready(Ok(response));
        }
        let Some(again) = again else {
            hand_back(&rules, generation);
            return Poll::Ready(Ok(response));
        };
        let next = go_again(rules, generation, again, response);
        // The first future goes here, and with it what it holds of the service beneath.
        self.as_mut().project().state.set(State::PutOff { next });
        self.poll(cx)
    }

    /// There is no response yet to wait for.
    #[cold]
    fn go_on(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let next = match self.as_mut().project().state.project() {
            Project::PutOff { next } => ready!(next.as_mut().poll(cx))?,
            Project::Failed { error } => {
                return Poll::Ready(Err(error.take().expect("polled after completion").into()));
            }
            Project::Sent { .. } => unreachable!("nothing was sent"),
        };
        match next {
            Next::Send { mut ready, request, sent } => {
                let response = ready.call(request);
                self.as_mut().project().state.set(State::Sent { response, sent });
                self.poll(cx)
            }
            Next::HandBack(response) => Poll::Ready(Ok(response)),
        }
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { state: State::Failed { error: Some(error) } }
    }

    pub(crate) fn waiting(rules: Arc<Rules>, service: S, resend: R, request: Request<B>) -> Self {
        Self { state: State::PutOff { next: wait(rules, service, resend, request) } }
    }
}

impl<S, B, R, A> Future for ResponseFuture<S, B, R, A>
where
    S: Service<Request<R::Body>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Resend<B> + Clone + Send + 'static,
    R::Body: Send,
    R::Spare: Send + 'static,
    B: Send + 'static,
    A: Body + Send + 'static,
{
    type Output = Result<Response<A>, BoxError>;

    // Into the future around it, so that the response is moved once less.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.as_mut().project().state.project() {
            Project::Sent { response, sent } => {
                let answer = ready!(response.poll(cx)).map_err(Into::into);
                // Nearly every response is told apart here, where it lies.
                match (&answer, sent) {
                    (Ok(response), Some(sent)) if sent.rules.refusal.concerns(response) => {}
                    _ => return Poll::Ready(answer),
                }
                answer
            }
            Project::PutOff { .. } | Project::Failed { .. } => return self.go_on(cx),
        };
        self.judge(answer?, cx)
    }
}

impl<S, B, R, A> fmt::Debug for ResponseFuture<S, B, R, A>
where
    S: Service<Request<R::Body>>,
    R: Resend<B>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === the waits ===

/// There is no usable token: waits for one.
fn wait<S, B, R, A>(rules: Arc<Rules>, service: S, resend: R, request: Request<B>) -> PutOff<S, B, R, A>
where
    S: Service<Request<R::Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    R: Resend<B> + Send + 'static,
    R::Body: Send,
    R::Spare: Send,
    B: Send + 'static,
    A: 'static,
{
    // A block, because a function's arguments would be held twice.
    Box::pin(async move {
        rules.cache.get().await?;
        let (ready, token) = ready_with_token(&rules.cache, service.clone()).await?;
        let (mut request, spare) = resend.first(request);
        request.headers_mut().insert(AUTHORIZATION, token.header_value().clone());
        let again = spare.map(|spare| Again { service, resend, spare });
        let sent = Some(Sent { rules, generation: token.generation(), again });
        Ok(Next::Send { ready, request, sent })
    })
}

/// The request cannot go again; the next one shall have a better token.
#[cold]
fn hand_back(rules: &Rules, refused: u64) {
    rules.cache.telemetry().handed_back(refused, "its body cannot be sent twice");
    rules.cache.replace_beside(refused);
}

/// The token was refused: waits for the one after it, and sends the request a second and last time. A second refusal marks
/// nothing and is the caller's.
fn go_again<S, B, R, A>(
    rules: Arc<Rules>,
    refused: u64,
    again: Again<S, R, R::Spare>,
    mut response: Response<A>,
) -> PutOff<S, B, R, A>
where
    S: Service<Request<R::Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    R: Resend<B> + Send + 'static,
    R::Body: Send,
    R::Spare: Send + 'static,
    B: 'static,
    A: Body + Send + 'static,
{
    Box::pin(async move {
        if let Err(error) = rules.cache.replace_or_settle(refused).await {
            rules.cache.telemetry().handed_back(refused, "there is no new token");
            response.extensions_mut().insert(error);
            return Ok(Next::HandBack(response));
        }
        let Some(mut request) = again.resend.second(again.spare) else {
            rules.cache.telemetry().handed_back(refused, "its body was too long to be kept, or failed");
            return Ok(Next::HandBack(response));
        };
        drain(response.into_body()).await;
        let (ready, token) = ready_with_token(&rules.cache, again.service).await?;
        // Another session may have begun while the service was not ready.
        rules.cache.check_session(refused)?;
        request.headers_mut().insert(AUTHORIZATION, token.header_value().clone());
        rules.cache.telemetry().sent_again(refused, token.generation());
        Ok(Next::Send { ready, request, sent: None })
    })
}

/// Waits until the service is ready. Where the token expired meanwhile, the readiness goes back before the wait for the
/// next.
async fn ready_with_token<S, B>(cache: &TokenCache, service: S) -> Result<(S, Token), BoxError>
where
    S: Service<B, Error: Into<BoxError>> + Clone,
{
    loop {
        let mut ready = service.clone();
        poll_fn(|cx| ready.poll_ready(cx)).await.map_err(Into::into)?;
        if let Some(token) = cache.peek() {
            return Ok((ready, token));
        }
        drop(ready);
        cache.get().await?;
    }
}

/// Reads what is left of a refused response where that is cheap, so that its connection can be used again.
async fn drain<A: Body>(body: A) {
    // Without a runtime there is no timer to bound the reading.
    if body.is_end_stream() || !clock::has_runtime() {
        return;
    }
    let (most, longest) = CHEAP;
    let read = async {
        let mut body = pin!(body);
        let mut seen = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            seen += frame.data_ref().map_or(0, Buf::remaining);
            if seen > most {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(longest, read).await;
    // The client's own tasks learn of the end after us, and give the connection back only then.
    tokio::task::yield_now().await;
}
