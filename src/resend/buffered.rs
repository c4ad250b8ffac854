//! A body recorded while it goes out, for a second send.
//!
//! # The story
//! First and second copy share one [`ReplayBuffer`]: the body as it is still unread, and the frames that were read from
//! it.
//! The first copy takes each frame from the body and leaves a copy in the buffer. When the request is refused the second
//! copy *takes over*: it gets the recorded frames and the unread body, so it sends all of it, wherever the first had
//! come to. What is left of the first ends in an error, never in a clean end: a truncated upload must not look complete.
//! Its task is woken for that, since its waker lay with the body.
//!
//! Past the limit the recording is dropped and the first copy goes on alone; then there is no second. The same after an
//! error of the body. When the answer is no refusal [`Saved`] is dropped, and with it the recording.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::resend::{Resend, with_body};

/// Records a streaming body while it goes out, up to a limit, and sends it again from the recording.
///
/// Nothing waits for the whole body: frames go out as they come, and a copy of each is kept until the answer is there.
/// `Bytes` frames are copied by reference. A body longer than the limit is sent once, and its 401 is handed back. An empty
/// body costs nothing.
///
/// The service beneath gets a [`ReplayBody`] body. A client that takes one body type only gets that from
/// [`wrap`](Buffered::wrap):
///
/// ```
/// use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
/// use tower_bearer::{BearerLayer, TokenCache, resend::{Buffered, ReplayBody}};
/// # type Upload = http_body_util::Full<bytes::Bytes>;
///
/// let record = Buffered::new(1024 * 1024).wrap(|body: ReplayBody<Upload>| UnsyncBoxBody::new(body));
/// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.resend(record);
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Buffered<W = Unwrapped> {
    limit: usize,
    wrap: W,
}

/// The [`Buffered`] choice that hands [`ReplayBody`] inward as it is.
#[derive(Clone, Copy, Debug)]
pub struct Unwrapped;

/// How [`Buffered`] turns a [`ReplayBody`] body into the one its client takes.
pub trait Wrap<B> {
    /// What the client takes.
    type Body;

    /// Wraps one copy.
    fn wrap(&self, body: ReplayBody<B>) -> Self::Body;
}

pin_project! {
    /// One copy of a body that [`Buffered`] records.
    ///
    /// Its frames are those of the body, their data as [`Bytes`]. A copy whose place the second send has taken ends in an
    /// error.
    pub struct ReplayBody<B> {
        #[pin]
        part: Part<B>,
    }
}

pin_project! {
    #[project = PartProject]
    enum Part<B> {
        /// Sent once, whatever is answered.
        Only { #[pin] body: B },
        First { buffer: Arc<Mutex<ReplayBuffer<B>>> },
        Second { frames: VecDeque<Frame<Bytes>>, rest: Option<Pin<Box<B>>> },
    }
}

/// What the second send is made from; no buffer for an empty body.
pub struct Saved<B>(Request<Option<Arc<Mutex<ReplayBuffer<B>>>>>);

/// What first and second copy share.
struct ReplayBuffer<B> {
    /// The unread rest; `None` after the second copy took over.
    body: Option<Pin<Box<B>>>,
    /// A body is not polled again after its end.
    ended: bool,
    /// What was read; `None` when it got too long, the body failed, or nobody will ask for it.
    frames: Option<VecDeque<Frame<Bytes>>>,
    /// How many more bytes may be recorded.
    remaining: usize,
    /// Of the first copy's task.
    waker: Option<Waker>,
}

/// The first copy's end, once the second has taken over.
#[derive(Debug)]
struct Superseded;

// === impl Buffered ===

impl Buffered {
    /// Records up to `limit` bytes of data and trailers; a longer body is sent once.
    pub fn new(limit: usize) -> Self {
        Self { limit, wrap: Unwrapped }
    }

    /// Hands the body inward in another type: `tonic::body::Body::new`, `reqwest::Body::wrap`, `axum::body::Body::new`.
    #[must_use]
    pub fn wrap<W>(self, wrap: W) -> Buffered<W> {
        Buffered { limit: self.limit, wrap }
    }
}

impl<B, W> Resend<B> for Buffered<W>
where
    B: Body,
    B::Error: Into<BoxError>,
    W: Wrap<B>,
{
    type Body = W::Body;
    type Spare = Saved<B>;

    fn once(&self, request: Request<B>) -> Request<W::Body> {
        request.map(|body| self.wrap.wrap(ReplayBody { part: Part::Only { body } }))
    }

    fn first(&self, request: Request<B>) -> (Request<W::Body>, Option<Saved<B>>) {
        if request.body().is_end_stream() {
            let saved = Saved(with_body(&request, None));
            return (self.once(request), Some(saved));
        }
        // Known to be too long: no recording that is thrown away half-way.
        if request.body().size_hint().lower() > self.limit as u64 {
            return (self.once(request), None);
        }
        let (head, body) = request.into_parts();
        let body = Some(Box::pin(body));
        let buffer =
            ReplayBuffer { body, ended: false, frames: Some(VecDeque::new()), remaining: self.limit, waker: None };
        let buffer = Arc::new(Mutex::new(buffer));
        let part = Part::First { buffer: Arc::clone(&buffer) };
        let saved = Saved(Request::from_parts(head.clone(), Some(buffer)));
        (Request::from_parts(head, self.wrap.wrap(ReplayBody { part })), Some(saved))
    }

    fn second(&self, Saved(saved): Saved<B>) -> Option<Request<W::Body>> {
        let (head, buffer) = saved.into_parts();
        let (frames, rest) = match buffer {
            Some(buffer) => lock(&buffer).take_over()?,
            None => (VecDeque::new(), None),
        };
        Some(Request::from_parts(head, self.wrap.wrap(ReplayBody { part: Part::Second { frames, rest } })))
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

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().part.project() {
            PartProject::Only { body } => body.poll_frame(cx).map(|frame| frame.map(flat)),
            PartProject::First { buffer } => {
                // Alone: the answer is there, and nobody will ask for a second copy.
                let alone = Arc::strong_count(buffer) == 1;
                lock(buffer).poll_first(cx, alone)
            }
            PartProject::Second { frames, rest } => match (frames.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                (None, Some(rest)) => rest.as_mut().poll_frame(cx).map(|frame| frame.map(flat)),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.part {
            Part::Only { body } => body.is_end_stream(),
            Part::First { buffer } => lock(buffer).body.as_ref().is_some_and(|body| body.is_end_stream()),
            Part::Second { frames, rest } => frames.is_empty() && rest.as_ref().is_none_or(|rest| rest.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.part {
            Part::Only { body } => body.size_hint(),
            Part::First { buffer } => lock(buffer).body.as_ref().map_or_else(SizeHint::new, |body| body.size_hint()),
            Part::Second { frames, rest } => {
                let recorded: u64 = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
                let rest = rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(recorded.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(recorded)) {
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
    fn poll_first(&mut self, cx: &mut Context<'_>, alone: bool) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(body) = &mut self.body else { return Poll::Ready(Some(Err(Superseded.into()))) };
        if alone {
            self.frames = None;
        }
        let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let frame = frame.map(flat);
        match &frame {
            Some(Ok(frame)) => self.record(frame),
            Some(Err(_)) => self.frames = None,
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn record(&mut self, frame: &Frame<Bytes>) {
        let Some(frames) = &mut self.frames else { return };
        let (copy, size) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => (Frame::data(data.clone()), data.len()),
            (None, Some(trailers)) => {
                let size = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                (Frame::trailers(trailers.clone()), size)
            }
            // A kind of frame that is not known yet cannot be copied.
            (None, None) => return self.frames = None,
        };
        match self.remaining.checked_sub(size) {
            Some(remaining) => {
                self.remaining = remaining;
                frames.push_back(copy);
            }
            None => self.frames = None,
        }
    }

    /// The recording and the unread rest, for the second copy; `None` where there is no recording.
    #[expect(clippy::type_complexity, reason = "the two parts of a copy")]
    fn take_over(&mut self) -> Option<(VecDeque<Frame<Bytes>>, Option<Pin<Box<B>>>)> {
        let frames = self.frames.take()?;
        let rest = self.body.take().filter(|_| !self.ended);
        if let Some(first) = self.waker.take() {
            first.wake();
        }
        Some((frames, rest))
    }
}

/// The frame with its data in one piece.
fn flat<D: Buf, E: Into<BoxError>>(frame: Result<Frame<D>, E>) -> Result<Frame<Bytes>, BoxError> {
    frame.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))).map_err(Into::into)
}

fn lock<B>(buffer: &Mutex<ReplayBuffer<B>>) -> MutexGuard<'_, ReplayBuffer<B>> {
    // A body that panicked is not read again: its panic ends the send, and the recording with it.
    buffer.lock().unwrap_or_else(|poisoned| {
        let mut buffer = poisoned.into_inner();
        buffer.frames = None;
        buffer
    })
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this copy of the body was cut off: its request was refused, and goes out a second time")
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
