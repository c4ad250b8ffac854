//! A body that is recorded while it is sent, and sent a second time from the recording.
//!
//! First and second copy share one [`ReplayBuffer`]: the unread rest of the body, and a recording of what was read from
//! it. The first copy reads each frame from the body, records it, and passes it on. If the API rejects the token, the
//! second copy *takes over*: it gets the recording and the unread rest. So it sends the whole body, no matter how much
//! the first copy has sent. The first copy then ends in an error, because a truncated upload must not look complete.
//! The take-over wakes the first copy's task, because the body knows only that task's waker.
//!
//! If the recording exceeds its limit or the body fails, the recording is dropped and the first copy goes on alone.
//! There is no second copy then. If the response is not a rejection, [`Saved`] is dropped, and with it the recording.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::{fmt, mem};

use bytes::{Buf, Bytes};
use http::{Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::replay::buffered::recording::{Recording, Segment};
use crate::replay::choice::{Replay, with_body};

mod recording;

type Step = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// Records a streaming body while it is sent, and sends it again.
///
/// Frames are sent as they arrive. The recording is kept until the response arrives. It takes no more memory than
/// [`new`](Buffered::new) allows. A body that needs more is sent once, and its 401 is returned. An empty body costs
/// nothing. The second send has the same bytes and trailers; its data frames may be cut at other places.
///
/// The inner service gets a [`ReplayBody`]. If a client takes one body type only, [`wrap`](Buffered::wrap) makes that:
///
/// ```
/// use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
/// use tower_bearer::{BearerLayer, TokenCache, replay::{Buffered, ReplayBody}};
/// # type Upload = http_body_util::Full<bytes::Bytes>;
///
/// let record = Buffered::new(1024 * 1024).wrap(|body: ReplayBody<Upload>| UnsyncBoxBody::new(body));
/// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.replay(record);
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Buffered<W = Unwrapped> {
    limit: usize,
    wrap: W,
}

/// The [`Buffered`] choice that gives the inner service the [`ReplayBody`] itself.
#[derive(Clone, Copy, Debug)]
pub struct Unwrapped;

/// Converts a [`ReplayBody`] into the body type that the client takes.
pub trait Wrap<B> {
    /// What the client takes.
    type Body;

    /// Wraps one copy.
    fn wrap(&self, body: ReplayBody<B>) -> Self::Body;
}

pin_project! {
    /// One copy of a body that [`Buffered`] records.
    ///
    /// Its data and trailers are those of the body. The second copy may join data frames. When the second copy takes
    /// over, the first ends in an error.
    pub struct ReplayBody<B> {
        #[pin]
        part: Part<B>,
    }
}

pin_project! {
    #[project = PartProject]
    enum Part<B> {
        /// Sent once, even if the response is a rejection.
        Only { #[pin] body: B },
        First { buffer: Arc<Mutex<ReplayBuffer<B>>> },
        Second { segments: VecDeque<Segment>, rest: Option<Pin<Box<B>>>, sized: bool },
    }
}

/// The request for the second send. An empty body has no buffer.
pub struct Saved<B>(Request<Option<Arc<Mutex<ReplayBuffer<B>>>>>);

/// The state that first and second copy share.
///
/// Locks: the body is polled, and asked for its size, while the lock is held, because either copy may own it. All other
/// code of the user runs without the lock: cloning, waking and dropping wakers, and dropping what was recorded.
///
/// Invariant: the copies contend for the lock only at the take-over, which waits for at most one poll of the body. So
/// the body, and the wakers that it uses while it is polled, must not call [`Replay::second`] for their own request.
struct ReplayBuffer<B> {
    /// The unread rest; `None` after the second copy took over.
    body: Option<Pin<Box<B>>>,
    /// Whether the body knew its size before it was read. If not, the second copy must not know it either: HTTP/1.1
    /// sends no trailers after a body of known length.
    sized: bool,
    /// A body is not polled again after its end.
    ended: bool,
    /// What was read; `None` if it exceeds the limit, the body failed, or there will be no second copy.
    recording: Option<Recording>,
    /// The waker of the first copy's task.
    waker: Option<Waker>,
}

/// The values that a poll of the first copy replaces. They are dropped after the lock is released.
struct Replaced {
    /// The clone of the task's waker before, and the waker that it replaces after.
    waker: Option<Waker>,
    recording: Option<Recording>,
}

/// The error of the first copy after the second has taken over.
#[derive(Debug)]
struct Superseded;

// === impl Buffered ===

impl Buffered {
    /// Records bodies for which `limit` bytes of memory are enough.
    ///
    /// Other bodies are sent once.
    /// The limit covers what the recording of one body holds:
    ///
    /// - Data frames of less than 4 KiB are copied one after the other into chunks. Each counts its length, and the
    ///   buffer that it is a slice of is not kept. Empty frames are not recorded.
    /// - Larger data frames are shared with the first send, not copied. Each counts its length. If such a frame is a
    ///   slice of a still larger buffer, that buffer stays allocated and is not counted, because `Bytes` does not tell
    ///   its size.
    /// - Trailers are copied. Each counts its name, its value and about 100 bytes.
    /// - Each piece after the first counts another 160 bytes. A piece is a larger frame, a trailers frame, or the small
    ///   frames between two of those, in chunks of up to 4 KiB.
    ///
    /// The unused end of the last chunk, less than 4 KiB, is not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit, wrap: Unwrapped }
    }

    /// Converts the body to the type that the client takes.
    ///
    /// Pass `tonic::body::Body::new`, `reqwest::Body::wrap` or `axum::body::Body::new`, for example.
    #[must_use]
    pub fn wrap<W>(self, wrap: W) -> Buffered<W> {
        Buffered { limit: self.limit, wrap }
    }
}

impl<B, W> Replay<B> for Buffered<W>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
    W: Wrap<B> + Clone + Send + 'static,
    W::Body: Send,
{
    type Body = W::Body;
    type Saved = Saved<B>;

    fn pass_through(&self, request: Request<B>) -> Request<W::Body> {
        request.map(|body| self.wrap.wrap(ReplayBody { part: Part::Only { body } }))
    }

    fn prepare(&self, request: Request<B>) -> (Request<W::Body>, Option<Saved<B>>) {
        if request.body().is_end_stream() {
            let saved = Saved(with_body(&request, None));
            return (self.pass_through(request), Some(saved));
        }
        // The body is known to be too long: do not start a recording that would be dropped.
        let size = request.body().size_hint();
        if size.lower() > self.limit as u64 {
            return (self.pass_through(request), None);
        }
        let (head, body) = request.into_parts();
        let buffer = Arc::new(Mutex::new(ReplayBuffer {
            body: Some(Box::pin(body)),
            sized: size.exact().is_some(),
            ended: false,
            recording: Some(Recording::new(self.limit)),
            waker: None,
        }));
        let part = Part::First { buffer: Arc::clone(&buffer) };
        let saved = Saved(Request::from_parts(head.clone(), Some(buffer)));
        (Request::from_parts(head, self.wrap.wrap(ReplayBody { part })), Some(saved))
    }

    fn can_replay(&self, Saved(saved): &Saved<B>) -> bool {
        saved.body().as_ref().is_none_or(|buffer| lock(buffer).recording.is_some())
    }

    fn target<'a>(&self, saved: &'a Saved<B>) -> (&'a Method, &'a Uri) {
        (saved.0.method(), saved.0.uri())
    }

    fn replay(&self, Saved(saved): Saved<B>) -> Option<Request<W::Body>> {
        let (head, buffer) = saved.into_parts();
        let part = match buffer {
            Some(buffer) => take_over(&buffer)?,
            None => Part::Second { segments: VecDeque::new(), rest: None, sized: true },
        };
        Some(Request::from_parts(head, self.wrap.wrap(ReplayBody { part })))
    }
}

impl<W> fmt::Debug for Buffered<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<B> Wrap<B> for Unwrapped {
    type Body = ReplayBody<B>;

    fn wrap(&self, body: ReplayBody<B>) -> ReplayBody<B> {
        body
    }
}

impl<B, T, F: Fn(ReplayBody<B>) -> T> Wrap<B> for F {
    type Body = T;

    fn wrap(&self, body: ReplayBody<B>) -> T {
        self(body)
    }
}

// === impl ReplayBody ===

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step {
        match self.project().part.project() {
            PartProject::Only { body } => body.poll_frame(cx).map(|frame| frame.map(flat)),
            PartProject::First { buffer } => {
                // If the response has arrived, `Saved` is gone, and there will be no second copy.
                let alone = Arc::strong_count(buffer) == 1;
                let mut replaced = Replaced { waker: Some(cx.waker().clone()), recording: None };
                let frame = lock(buffer).poll_first(cx, alone, &mut replaced);
                drop(replaced);
                frame
            }
            PartProject::Second { segments, rest, .. } => match (segments.pop_front(), rest) {
                (Some(segment), _) => Poll::Ready(Some(Ok(segment.into()))),
                (None, Some(rest)) => rest.as_mut().poll_frame(cx).map(|frame| frame.map(flat)),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.part {
            Part::Only { body } => body.is_end_stream(),
            Part::First { buffer } => lock(buffer).body.as_ref().is_some_and(|body| body.is_end_stream()),
            Part::Second { segments, rest, .. } => {
                segments.is_empty() && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.part {
            Part::Only { body } => body.size_hint(),
            Part::First { buffer } => lock(buffer).body.as_ref().map_or_else(SizeHint::new, |body| body.size_hint()),
            Part::Second { segments, rest, sized } => {
                let recorded: u64 = segments.iter().map(|segment| segment.data_len() as u64).sum();
                let rest = rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(recorded.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(recorded)).filter(|_| *sized) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

// === impl ReplayBuffer ===

impl<B> ReplayBuffer<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_first(&mut self, cx: &mut Context<'_>, alone: bool, replaced: &mut Replaced) -> Step {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(body) = &mut self.body else { return Poll::Ready(Some(Err(Superseded.into()))) };
        if alone {
            replaced.recording = self.recording.take();
        }
        let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
            mem::swap(&mut self.waker, &mut replaced.waker);
            return Poll::Pending;
        };
        let frame = frame.map(flat);
        let recorded = match (&frame, &mut self.recording) {
            (Some(Ok(frame)), Some(recording)) => recording.push(frame),
            (Some(Err(_)), Some(_)) => None,
            _ => Some(()),
        };
        if recorded.is_none() {
            replaced.recording = self.recording.take();
        }
        self.ended = frame.is_none();
        Poll::Ready(frame)
    }
}

/// Makes the second copy from the recording and the unread rest. Returns `None` if there is no recording.
fn take_over<B>(buffer: &Mutex<ReplayBuffer<B>>) -> Option<Part<B>> {
    // A poll that panicked poisons the lock. That body is not sent again.
    let mut shared = buffer.lock().ok()?;
    let recording = shared.recording.take()?;
    // A body that has ended stays, because dropping it is user code, too.
    let rest = if shared.ended { None } else { shared.body.take() };
    let (sized, first) = (shared.sized, shared.waker.take());
    drop(shared);
    if let Some(first) = first {
        first.wake();
    }
    Some(Part::Second { segments: recording.into_segments(), rest, sized })
}

/// Joins the data of the frame.
fn flat<D: Buf, E: Into<BoxError>>(frame: Result<Frame<D>, E>) -> Result<Frame<Bytes>, BoxError> {
    frame.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))).map_err(Into::into)
}

fn lock<B>(buffer: &Mutex<ReplayBuffer<B>>) -> MutexGuard<'_, ReplayBuffer<B>> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this copy of the body was superseded, because its request was rejected and is sent a second time")
    }
}

impl std::error::Error for Superseded {}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Saved<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
