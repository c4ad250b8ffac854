//! `Buffered` runs no code of wakers or recorded data while it holds its lock, because that code may use the copies.
#![allow(unsafe_code, reason = "only a raw waker can run code when it is cloned")]

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use tower::BoxError;
use tower_bearer::replay::{Buffered, Replay, ReplayBody};

const LIMIT: usize = 8192;

type Step = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A body that returns these frames, and then stays pending and never wakes.
struct Frames(std::vec::IntoIter<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Step {
        self.0.next().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

/// Both copies of a body. Wakers and recorded data use them from within.
#[derive(Default)]
struct Copies {
    first: Mutex<Option<Pin<Box<ReplayBody<Frames>>>>>,
    /// Makes the second copy. Returns whether that was possible.
    second: Mutex<Option<Box<dyn FnOnce() -> bool + Send>>>,
    calls: AtomicUsize,
}

impl Copies {
    fn of(self: &Arc<Self>, frames: Vec<Bytes>) {
        let record = Buffered::new(LIMIT);
        let (first, saved) = record.prepare(Request::new(Frames(frames.into_iter())));
        *self.first.lock().expect("no panic") = Some(Box::pin(first.into_body()));
        let second = move || record.replay(saved.expect("the length is not known")).is_some();
        *self.second.lock().expect("no panic") = Some(Box::new(second));
    }

    fn poll(&self, waker: &Waker) -> Step {
        let mut first = self.first.lock().expect("no panic");
        first.as_mut().expect("a first copy").as_mut().poll_frame(&mut Context::from_waker(waker))
    }

    fn second(&self) -> Option<bool> {
        let second = self.second.lock().expect("no panic").take();
        second.map(|second| second())
    }

    /// Uses the first copy unless it is being polled, and makes the second copy unless there was one.
    fn use_both(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first.try_lock() {
            let first = first.as_mut().expect("a first copy");
            let _ = (first.size_hint(), first.is_end_stream());
            let _ = first.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
        }
        self.second();
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The function of a waker that uses the copies.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Clone,
    Wake,
    Drop,
}

struct Hook {
    on: On,
    copies: Arc<Copies>,
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |hook| {
        called(hook, On::Clone);
        RawWaker::new(hook, &VTABLE)
    },
    |hook| called(hook, On::Wake),
    |hook| called(hook, On::Wake),
    |hook| called(hook, On::Drop),
);

fn called(hook: *const (), on: On) {
    // SAFETY: `waker` leaks the hook, so the reference is valid for ever.
    let hook = unsafe { &*hook.cast::<Hook>() };
    if hook.on == on {
        hook.copies.use_both();
    }
}

/// A waker that is never dropped. Its clones are.
fn waker(on: On, copies: &Arc<Copies>) -> &'static Waker {
    let hook: &'static Hook = Box::leak(Box::new(Hook { on, copies: Arc::clone(copies) }));
    // SAFETY: the hook is `Sync`, and each function of the table takes it as it is here.
    Box::leak(Box::new(unsafe { Waker::new(std::ptr::from_ref(hook).cast(), &VTABLE) }))
}

/// Panics if the test deadlocks.
fn without_deadlock(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(()).expect("the test waits");
    });
    if finished.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("deadlock");
    }
    thread.join().expect("no panic");
}

fn is_superseded(step: &Step) -> bool {
    matches!(step, Poll::Ready(Some(Err(error))) if error.to_string().contains("superseded"))
}

#[test]
fn a_waker_may_use_the_copies_when_it_is_cloned() {
    without_deadlock(|| {
        let copies = Arc::<Copies>::default();
        copies.of(Vec::new());
        assert!(is_superseded(&copies.poll(waker(On::Clone, &copies))));
        assert!(copies.calls() > 0);
    });
}

#[test]
fn a_waker_may_use_the_copies_when_it_is_woken() {
    without_deadlock(|| {
        let copies = Arc::<Copies>::default();
        copies.of(Vec::new());
        assert!(copies.poll(waker(On::Wake, &copies)).is_pending());
        assert_eq!((copies.calls(), copies.second(), copies.calls()), (0, Some(true), 1));
        assert!(is_superseded(&copies.poll(Waker::noop())));
    });
}

#[test]
fn a_waker_may_use_the_copies_when_it_is_dropped() {
    without_deadlock(|| {
        let copies = Arc::<Copies>::default();
        copies.of(Vec::new());
        assert!(copies.poll(waker(On::Drop, &copies)).is_pending());
        assert_eq!(copies.calls(), 0);
        assert!(copies.poll(Waker::noop()).is_pending());
        assert_eq!(copies.calls(), 1);
        assert!(is_superseded(&copies.poll(Waker::noop())));
    });
}

#[test]
fn recorded_data_may_use_the_copies_when_it_is_dropped() {
    struct Owner(Arc<Copies>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &[b'x'; LIMIT]
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.use_both();
        }
    }
    without_deadlock(|| {
        let copies = Arc::<Copies>::default();
        copies.of(vec![Bytes::from_owner(Owner(Arc::clone(&copies))), Bytes::from_static(b"past the limit")]);
        drop(copies.poll(Waker::noop()));
        assert_eq!(copies.calls(), 0);
        assert!(copies.poll(Waker::noop()).is_ready());
        assert_eq!((copies.calls(), copies.second()), (1, None));
    });
}
