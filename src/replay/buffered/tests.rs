use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof};
use proptest::proptest;
use tower::BoxError;

use crate::replay::buffered::recording::{HEADER, SEGMENT, SHARED_FROM};
use crate::replay::{Buffered, Replay, ReplayBody};

type Step = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A body that goes through prepared steps: frames, pauses, an error. Panics when polled after its end.
struct Scripted {
    steps: VecDeque<Step>,
    ended: bool,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step {
        assert!(!self.ended, "polled after its end");
        let step = self.steps.pop_front().unwrap_or(Poll::Ready(None));
        match &step {
            Poll::Pending => cx.waker().wake_by_ref(),
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(_) => {}
        }
        step
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(
            self.steps
                .iter()
                .map(|step| match step {
                    Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.len() as u64),
                    _ => 0,
                })
                .sum(),
        );
        hint
    }
}

fn body(steps: impl IntoIterator<Item = Step>) -> Scripted {
    Scripted { steps: steps.into_iter().collect(), ended: false }
}

fn data(text: &'static str) -> Step {
    Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
}

fn trailers() -> Step {
    let mut trailers = HeaderMap::new();
    trailers.append("x-sum", "1".parse().unwrap());
    trailers.append("x-sum", "2".parse().unwrap());
    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
}

/// The next frame as text; pauses are polled through.
fn next<B: Body<Data = Bytes, Error = BoxError>>(body: &mut Pin<Box<B>>) -> String {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Pending => {}
            Poll::Ready(None) => return "end".into(),
            Poll::Ready(Some(Err(error))) => return format!("error: {error}"),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => return String::from_utf8(data.to_vec()).unwrap(),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    return trailers
                        .iter()
                        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
                        .collect();
                }
            },
        }
    }
}

fn all<B: Body<Data = Bytes, Error = BoxError>>(mut body: Pin<Box<B>>) -> Vec<String> {
    let mut frames = Vec::new();
    loop {
        let frame = next(&mut body);
        let last = frame == "end" || frame.starts_with("error");
        frames.push(frame);
        if last {
            return frames;
        }
    }
}

fn steps() -> [Step; 5] {
    [data("one"), Poll::Pending, data("two"), data("three"), trailers()]
}

const WHOLE: [&str; 5] = ["one", "two", "three", "x-sum=1x-sum=2", "end"];

#[test]
fn the_second_copy_is_whole_and_the_first_fails_after_any_number_of_frames() {
    for read in 0..=5 {
        let record = Buffered::new(1000);
        let (first, saved) = record.prepare(Request::new(body(steps())));
        let mut first = Box::pin(first);
        let seen: Vec<_> = (0..read).map(|_| next(&mut first)).collect();
        assert_eq!(seen, WHOLE[..read]);
        let second = record.replay(saved.unwrap()).unwrap();
        // The first copy never ends without an error, unless it had ended before.
        let rest = next(&mut first);
        assert_eq!(rest == "end", read == 5, "after {read} frames: {rest}");
        assert!(read == 5 || rest.contains("is sent a second time"), "{rest}");
        assert_eq!(all(Box::pin(second)).concat(), WHOLE.concat(), "after {read} frames");
        assert_eq!(next(&mut first), rest);
    }
}

#[test]
fn a_body_at_the_limit_is_sent_twice_and_a_longer_one_once() {
    let size = "onetwothree".len() + SEGMENT + 2 * (HEADER + "x-sum1".len());
    for (limit, twice) in [(size, true), (size - 1, false)] {
        let record = Buffered::new(limit);
        let (first, saved) = record.prepare(Request::new(body(steps())));
        assert_eq!(all(Box::pin(first)), WHOLE, "the first copy continues, with or without a recording");
        assert_eq!(record.replay(saved.unwrap()).is_some(), twice, "limit {limit}");
    }
}

#[test]
fn a_body_known_to_be_too_long_is_not_recorded() {
    let (first, saved) = Buffered::new(10).prepare(Request::new(body(steps())));
    assert!(saved.is_none());
    assert_eq!(all(Box::pin(first)), WHOLE);
}

#[test]
fn after_an_error_of_the_body_there_is_no_second_copy() {
    let record = Buffered::new(100);
    let (first, saved) = record.prepare(Request::new(body([data("one"), Poll::Ready(Some(Err("cut".into())))])));
    assert_eq!(all(Box::pin(first)), ["one", "error: cut"]);
    assert!(record.replay(saved.unwrap()).is_none());
}

#[test]
fn after_a_panic_of_the_body_there_is_no_second_copy() {
    struct Panics;
    impl Body for Panics {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Step {
            panic!("the body panics")
        }
    }
    let record = Buffered::new(100);
    let (first, saved) = record.prepare(Request::new(Panics));
    let mut first = Box::pin(first);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next(&mut first))).unwrap_err();
    assert!(record.replay(saved.unwrap()).is_none());
}

#[test]
fn the_second_copy_gets_an_error_after_the_take_over() {
    let record = Buffered::new(100);
    let (first, saved) = record.prepare(Request::new(body([data("one"), Poll::Ready(Some(Err("cut".into())))])));
    let mut first = Box::pin(first);
    assert_eq!(next(&mut first), "one");
    assert_eq!(all(Box::pin(record.replay(saved.unwrap()).unwrap())), ["one", "error: cut"]);
}

#[test]
fn an_empty_body_is_not_recorded_and_is_sent_twice() {
    let record = Buffered::new(0);
    let (first, saved) = record.prepare(Request::new(Full::<Bytes>::default()));
    assert!(first.is_end_stream() && first.size_hint().exact() == Some(0));
    let second = record.replay(saved.unwrap()).unwrap();
    assert!(second.is_end_stream() && second.size_hint().exact() == Some(0));
    assert_eq!(all(Box::pin(second)), ["end"]);
}

#[test]
fn both_copies_know_their_size() {
    let record = Buffered::new(100);
    let (first, saved) = record.prepare(Request::new(Full::new(Bytes::from_static(b"whole"))));
    let mut first = Box::pin(first);
    assert_eq!(first.size_hint().exact(), Some(5));
    assert_eq!(next(&mut first), "whole");
    let mut second = Box::pin(record.replay(saved.unwrap()).unwrap());
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(5), false));
    assert_eq!(next(&mut second), "whole");
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(0), true));
}

#[test]
fn a_size_that_the_first_copy_did_not_know_is_not_known_to_the_second_either() {
    for read in 0..=6 {
        let record = Buffered::new(1000);
        let (first, saved) = record.prepare(Request::new(body(steps())));
        let mut first = Box::pin(first);
        assert_eq!(first.size_hint().exact(), None);
        (0..read).for_each(|_| drop(next(&mut first)));
        let second = record.replay(saved.unwrap()).unwrap();
        assert_eq!(second.size_hint().exact(), None, "after {read} frames");
        assert_eq!(second.size_hint().lower(), "onetwothree".len() as u64);
    }
}

#[test]
fn the_take_over_wakes_the_task_of_the_first_copy() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    /// A body that stays pending and keeps no waker.
    struct Silent;
    impl Body for Silent {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Step {
            Poll::Pending
        }
    }
    let count = Arc::new(Count(0.into()));
    let record = Buffered::new(100);
    let (first, saved) = record.prepare(Request::new(Silent));
    let mut first = Box::pin(first);
    let waker = Waker::from(Arc::clone(&count));
    assert!(first.as_mut().poll_frame(&mut Context::from_waker(&waker)).is_pending());
    let _second = record.replay(saved.unwrap()).unwrap();
    assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(next(&mut first).starts_with("error"));
}

#[test]
fn recording_stops_when_the_response_arrives() {
    let kept = Bytes::from(vec![b'x'; SHARED_FROM]);
    let frame = || Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
    let (first, saved) = Buffered::new(100_000).prepare(Request::new(body([frame(), frame(), frame()])));
    let mut first = Box::pin(first);
    next(&mut first);
    drop(saved);
    next(&mut first);
    // Two handles are left: this test's and the script's. The recording and the second copy have none.
    assert!(!kept.is_unique());
    next(&mut first);
    assert!(kept.is_unique(), "only the test holds the data");
}

#[test]
fn a_wrapped_copy_has_the_type_its_client_takes() {
    let record = Buffered::new(100).wrap(|body: ReplayBody<Scripted>| body.boxed_unsync());
    let (first, saved) = record.prepare(Request::new(body(steps())));
    drop(first);
    assert_eq!(all(Box::pin(record.replay(saved.unwrap()).unwrap())), WHOLE);
}

/// The description of a frame: the length of its data, or its trailers.
#[derive(Clone, Debug)]
enum Made {
    Data(usize),
    Trailers(Vec<(&'static str, bool, String)>),
}

impl Made {
    /// The frame, with data that depends on its position.
    fn frame(&self, place: usize) -> Frame<Bytes> {
        match self {
            Self::Data(size) => Frame::data((0..*size).map(|byte| (byte + 31 * place) as u8).collect()),
            Self::Trailers(headers) => {
                let mut trailers = HeaderMap::new();
                for (name, sensitive, value) in headers {
                    let mut value: HeaderValue = value.parse().unwrap();
                    value.set_sensitive(*sensitive);
                    trailers.append(*name, value);
                }
                Frame::trailers(trailers)
            }
        }
    }
}

fn frames() -> impl Strategy<Value = Vec<Made>> {
    let size =
        prop_oneof![Just(0), 1..20_usize, 200..300_usize, SHARED_FROM - 2..SHARED_FROM + 2, Just(3 * SHARED_FROM)];
    let header = (prop_oneof![Just("etag"), Just("x-sum"), Just("x-count")], any::<bool>(), "[ -~]{0,9}[!-~]");
    let trailers = proptest::collection::vec(header, 0..9).prop_map(Made::Trailers);
    proptest::collection::vec(prop_oneof![4 => size.prop_map(Made::Data), 1 => trailers], 0..20)
}

/// The data between trailers in one piece, and the trailers with their sensitive values marked.
fn content(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Vec<Result<Vec<u8>, String>> {
    let mut content = vec![Ok(Vec::new())];
    for frame in frames {
        match frame.into_data() {
            Ok(data) => {
                let Some(Ok(last)) = content.last_mut() else { panic!("data comes last") };
                last.extend(data);
            }
            Err(frame) => content.extend([Err(format!("{:?}", frame.into_trailers().unwrap())), Ok(Vec::new())]),
        }
    }
    content
}

fn collect(body: ReplayBody<Scripted>) -> Vec<Frame<Bytes>> {
    let (mut body, mut frames) = (Box::pin(body), Vec::new());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
        frames.push(frame.unwrap());
    }
    frames
}

proptest! {
    #[test]
    fn the_second_copy_has_the_same_bytes_and_trailers_at_any_take_over(made in frames(), cut in 0..25_usize) {
        let frames = || made.iter().enumerate().map(|(place, made)| made.frame(place));
        let record = Buffered::new(usize::MAX);
        let (first, saved) = record.prepare(Request::new(body(frames().map(|frame| Poll::Ready(Some(Ok(frame)))))));
        let mut first = Box::pin(first);
        let mut cx = Context::from_waker(Waker::noop());
        for place in 0..cut.min(made.len() + 1) {
            let Poll::Ready(frame) = first.as_mut().poll_frame(&mut cx) else { panic!("a frame or the end") };
            prop_assert_eq!(content(frame.map(Result::unwrap)), content(frames().nth(place)));
        }
        let second = record.replay(saved.unwrap()).unwrap();
        let size = second.size_hint();
        let seen = collect(second.into_body());
        let bytes = seen.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        prop_assert!(size.lower() <= bytes && size.upper().is_none_or(|upper| bytes <= upper), "{:?} of {}", size, bytes);
        prop_assert_eq!(content(seen), content(frames()));
    }

    #[test]
    fn a_body_past_the_limit_has_no_second_copy(made in frames(), limit in 0..50_000_usize) {
        let frames = || made.iter().enumerate().map(|(place, made)| made.frame(place));
        let record = Buffered::new(limit);
        let (first, saved) = record.prepare(Request::new(body(frames().map(|frame| Poll::Ready(Some(Ok(frame)))))));
        prop_assert_eq!(content(collect(first.into_body())), content(frames()));
        let bytes: usize = made.iter().map(|made| if let Made::Data(size) = made { *size } else { 0 }).sum();
        match saved.and_then(|saved| record.replay(saved)) {
            Some(second) => {
                prop_assert!(bytes <= limit);
                prop_assert_eq!(content(collect(second.into_body())), content(frames()));
            }
            None => prop_assert!(bytes + (SEGMENT + 9 * (HEADER + 20)) * made.len() + bytes / 16 > limit),
        }
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_figures_in_the_documentation_hold() {
    assert_eq!((SHARED_FROM, SEGMENT, HEADER), (4096, 160, 104));
}
