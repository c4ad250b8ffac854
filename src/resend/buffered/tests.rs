use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::BoxError;

use crate::resend::{Buffered, ReplayBody, Resend};

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
fn wherever_the_first_copy_had_come_to_the_second_is_whole_and_the_first_ends_in_an_error() {
    for read in 0..=5 {
        let record = Buffered::new(100);
        let (first, saved) = record.first(Request::new(body(steps())));
        let mut first = Box::pin(first);
        let seen: Vec<_> = (0..read).map(|_| next(&mut first)).collect();
        assert_eq!(seen, WHOLE[..read]);
        let second = record.second(saved.unwrap()).unwrap();
        // The first, polled before, between and after: never a clean end, unless it had come to that.
        let rest = next(&mut first);
        assert_eq!(rest == "end", read == 5, "after {read} frames: {rest}");
        assert!(read == 5 || rest.contains("goes out a second time"), "{rest}");
        assert_eq!(all(Box::pin(second)), WHOLE, "after {read} frames");
        assert_eq!(next(&mut first), rest);
    }
}

#[test]
fn a_body_at_the_limit_goes_twice_and_one_byte_more_goes_once() {
    let size = "onetwothree".len() + 2 * "x-sum1".len();
    for (limit, twice) in [(size, true), (size - 1, false)] {
        let record = Buffered::new(limit);
        let (first, saved) = record.first(Request::new(body(steps())));
        assert_eq!(all(Box::pin(first)), WHOLE, "the first goes on whatever is recorded");
        assert_eq!(record.second(saved.unwrap()).is_some(), twice, "limit {limit}");
    }
}

#[test]
fn a_body_known_to_be_too_long_is_not_recorded() {
    let (first, saved) = Buffered::new(10).first(Request::new(body(steps())));
    assert!(saved.is_none());
    assert_eq!(all(Box::pin(first)), WHOLE);
}

#[test]
fn after_an_error_of_the_body_there_is_no_second() {
    let record = Buffered::new(100);
    let (first, saved) = record.first(Request::new(body([data("one"), Poll::Ready(Some(Err("cut".into())))])));
    assert_eq!(all(Box::pin(first)), ["one", "error: cut"]);
    assert!(record.second(saved.unwrap()).is_none());
}

#[test]
fn an_error_after_the_taking_over_is_the_second_copys() {
    let record = Buffered::new(100);
    let (first, saved) = record.first(Request::new(body([data("one"), Poll::Ready(Some(Err("cut".into())))])));
    let mut first = Box::pin(first);
    assert_eq!(next(&mut first), "one");
    assert_eq!(all(Box::pin(record.second(saved.unwrap()).unwrap())), ["one", "error: cut"]);
}

#[test]
fn an_empty_body_is_not_recorded_and_goes_twice() {
    let record = Buffered::new(0);
    let (first, saved) = record.first(Request::new(Full::<Bytes>::default()));
    assert!(first.is_end_stream() && first.size_hint().exact() == Some(0));
    let second = record.second(saved.unwrap()).unwrap();
    assert!(second.is_end_stream() && second.size_hint().exact() == Some(0));
    assert_eq!(all(Box::pin(second)), ["end"]);
}

#[test]
fn both_copies_know_their_size() {
    let record = Buffered::new(100);
    let (first, saved) = record.first(Request::new(Full::new(Bytes::from_static(b"whole"))));
    let mut first = Box::pin(first);
    assert_eq!(first.size_hint().exact(), Some(5));
    assert_eq!(next(&mut first), "whole");
    let mut second = Box::pin(record.second(saved.unwrap()).unwrap());
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(5), false));
    assert_eq!(next(&mut second), "whole");
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(0), true));
}

#[test]
fn the_task_of_the_first_copy_is_woken_to_see_its_end() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    /// Pending for ever, and forgets who asked.
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
    let (first, saved) = record.first(Request::new(Silent));
    let mut first = Box::pin(first);
    let waker = Waker::from(Arc::clone(&count));
    assert!(first.as_mut().poll_frame(&mut Context::from_waker(&waker)).is_pending());
    let _second = record.second(saved.unwrap()).unwrap();
    assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(next(&mut first).starts_with("error"));
}

#[test]
fn once_the_answer_is_there_nothing_more_is_recorded() {
    let kept = Bytes::from(vec![b'x'; 64]);
    let frame = || Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
    let (first, saved) = Buffered::new(1000).first(Request::new(body([frame(), frame(), frame()])));
    let mut first = Box::pin(first);
    next(&mut first);
    drop(saved);
    next(&mut first);
    // Ours, and the one still in the script: the recorded first and the second are gone.
    assert!(!kept.is_unique());
    next(&mut first);
    assert!(kept.is_unique(), "nothing holds the data any more");
}

#[test]
fn a_wrapped_copy_has_the_type_its_client_takes() {
    let record = Buffered::new(100).wrap(|body: ReplayBody<Scripted>| body.boxed_unsync());
    let (first, saved) = record.first(Request::new(body(steps())));
    drop(first);
    assert_eq!(all(Box::pin(record.second(saved.unwrap()).unwrap())), WHOLE);
}

proptest::proptest! {
    #[test]
    fn whatever_the_frames_and_wherever_the_cut_both_sends_carry_the_same(
        frames in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..20), 0..20),
        cut in 0..25_usize,
    ) {
        let steps = || frames.iter().map(|frame| Poll::Ready(Some(Ok(Frame::data(Bytes::from(frame.clone()))))));
        let record = Buffered::new(1000);
        let (first, saved) = record.first(Request::new(body(steps())));
        let mut first = Box::pin(first);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..cut.min(frames.len()) {
            let _ = first.as_mut().poll_frame(&mut cx);
        }
        let second = record.second(saved.unwrap()).unwrap();
        let Poll::Ready(Ok(whole)) = std::pin::pin!(second.collect()).poll(&mut cx) else { panic!("all there") };
        proptest::prop_assert_eq!(whole.to_bytes(), frames.concat());
    }
}
