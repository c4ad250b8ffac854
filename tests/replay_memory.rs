//! The recording of `Buffered` takes no more memory than its limit, with frames of any size.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one counts and forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::{Body, Frame};
use tower::BoxError;
use tower_bearer::replay::{Buffered, Replay};

const LIMIT: usize = 256 * 1024;
/// The memory that the limit does not cover: the unused end of the last chunk (less than 4 KiB), the shared state, and
/// the body.
const SLACK: usize = 5 * 1024;
/// The buffer that small slices are cut from.
const LARGE: usize = 64 * 1024;

struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().wrapping_add(layout.size());
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        // SAFETY: the caller keeps the contract of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A body that makes each frame when it is polled.
struct Made<F> {
    made: usize,
    count: usize,
    make: F,
}

impl<F: Fn(usize) -> Frame<Bytes> + Unpin> Body for Made<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.made == self.count {
            return Poll::Ready(None);
        }
        self.made += 1;
        Poll::Ready(Some(Ok((self.make)(self.made - 1))))
    }
}

/// Reads a body to its end, and drops its frames. Returns the number of bytes of its data and of its trailers.
fn read<B: Body<Data = Bytes, Error = BoxError>>(body: B, mut after_each: impl FnMut()) -> (usize, usize) {
    let mut body = std::pin::pin!(body);
    let (mut data, mut trailers) = (0, 0);
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
        let frame = frame.expect("a frame");
        data += frame.data_ref().map_or(0, Bytes::len);
        let headers = frame.trailers_ref().into_iter().flatten();
        trailers += headers.map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        drop(frame);
        after_each();
    }
    (data, trailers)
}

struct Measured {
    /// The most memory that was held between two frames.
    held: usize,
    /// The most memory that was held at any time, including the frame that was just made.
    peak: usize,
    /// Whether there is a second copy.
    twice: bool,
}

fn measure(count: usize, make: impl Fn(usize) -> Frame<Bytes> + Unpin + Send + 'static) -> Measured {
    let record = Buffered::new(LIMIT);
    let request = Request::new(Made { made: 0, count, make });
    let before = LIVE.get();
    PEAK.set(before);
    let mut held = 0;
    let (first, saved) = record.prepare(request);
    let sent = read(first.into_body(), || held = held.max(LIVE.get().saturating_sub(before)));
    let peak = PEAK.get() - before;
    let second = record.replay(saved.expect("the length is not known"));
    let twice = second.is_some();
    if let Some(second) = second {
        assert_eq!(read(second.into_body(), || {}), sent, "the second copy has the same length");
    }
    assert!(held <= LIMIT + SLACK, "{held} bytes are held with a limit of {LIMIT}");
    Measured { held, peak, twice }
}

fn data(size: usize) -> Frame<Bytes> {
    Frame::data(vec![b'x'; size].into())
}

/// `size` bytes of a buffer that is much larger.
fn slice(size: usize) -> Bytes {
    Bytes::from(vec![b'x'; LARGE]).split_to(size)
}

#[test]
fn frames_of_one_byte_take_little_more_than_their_bytes() {
    let most = measure(LIMIT * 9 / 10, |_| data(1));
    assert!(most.twice && most.held >= LIMIT * 9 / 10, "{} bytes are held", most.held);
    assert!(most.peak <= LIMIT + SLACK, "{} bytes at the peak", most.peak);
    assert!(!measure(2 * LIMIT, |_| data(1)).twice);
}

#[test]
fn empty_frames_take_nothing() {
    let empty = measure(1_000_000, |_| data(0));
    assert!(empty.twice && empty.held <= SLACK, "{} bytes are held", empty.held);
}

#[test]
fn a_small_slice_does_not_keep_its_buffer_allocated() {
    let slices = measure(500, |_| Frame::data(slice(100)));
    assert!(slices.twice && slices.held <= 50_000 + 2 * SLACK, "{} bytes are held", slices.held);
}

#[test]
fn alternating_small_and_large_frames_stay_below_the_limit() {
    let alternating = |count| measure(count, |place| data(if place % 2 == 0 { 1 } else { 4096 }));
    for count in [100, 116, 1000] {
        let frames = alternating(count);
        assert_eq!(frames.twice, count < 1000, "{count} frames");
        assert!(frames.peak <= LIMIT + SLACK + 4096, "{} bytes at the peak", frames.peak);
    }
}

#[test]
fn a_large_frame_is_shared_and_not_copied() {
    let frame = Bytes::from(vec![b'x'; LIMIT]);
    let before = LIVE.get();
    let sent = frame.clone();
    let shared = measure(1, move |_| Frame::data(sent.clone()));
    assert!(shared.twice && shared.peak <= SLACK, "{} bytes at the peak", shared.peak);
    assert!(LIVE.get() - before <= SLACK);
}

/// Trailers whose values are slices of a larger buffer, in a map with a large capacity.
fn trailers(headers: usize, place: usize) -> Frame<Bytes> {
    let mut map = HeaderMap::with_capacity(20_000);
    for header in 0..headers {
        let name: HeaderName = format!("x-{place}-{}", header / 2).parse().expect("a name");
        map.append(name, HeaderValue::from_maybe_shared(slice(10)).expect("a value"));
    }
    Frame::trailers(map)
}

#[test]
fn trailers_count_their_names_their_values_and_their_bookkeeping() {
    // There is one map of many headers.
    assert!(measure(1, |place| trailers(1500, place)).twice);
    assert!(!measure(1, |place| trailers(3000, place)).twice);
    // There are many maps of few headers, or of none.
    assert!(measure(100, |place| trailers(2, place)).twice);
    assert!(!measure(1000, |place| trailers(2, place)).twice);
    assert!(!measure(10_000, |_| Frame::trailers(HeaderMap::new())).twice);
}
