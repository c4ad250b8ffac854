//! `keep_warm` is woken when a fetch has completed, and not before, so that it notices a token that expired meanwhile.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;
use tokio::time::sleep;
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, Token, TokenCache};

use crate::common::{HOUR, SECOND, Script};

/// A `keep_warm` that is polled within its wake-up once, 10 s later by the clock, as by the quickest possible thread.
struct Quick {
    keep_warm: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
    clock: ManualClock,
    armed: AtomicBool,
    woken: Notify,
}

impl Quick {
    fn poll(self: &Arc<Self>) {
        let mut keep_warm = self.keep_warm.lock().expect("no panic");
        let ended = keep_warm.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))));
        assert_eq!(ended, Poll::Pending);
    }
}

impl Wake for Quick {
    fn wake(self: Arc<Self>) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.clock.advance(10 * SECOND);
            self.poll();
        } else {
            self.woken.notify_one();
        }
    }
}

/// Tests that the first fetch is followed by another if its result has expired when `keep_warm` is woken.
async fn fetches_again_at_once_after(first: Result<Token, Error>) {
    let (script, clock) = (Script::living(HOUR), ManualClock::new());
    script.queue(first);
    let gate = script.hold();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    let keep_warm = Mutex::new(Box::pin(cache.keep_warm()) as Pin<Box<_>>);
    let quick = Arc::new(Quick { keep_warm, clock, armed: AtomicBool::new(false), woken: Notify::new() });
    quick.poll();
    script.called(1).await;
    script.stop_holding();
    quick.armed.store(true, Ordering::SeqCst);
    let woken = Arc::clone(&quick);
    tokio::spawn(async move {
        loop {
            woken.woken.notified().await;
            woken.poll();
        }
    });
    gate.open();
    sleep(5 * SECOND).await;
    assert!(!quick.armed.load(Ordering::SeqCst), "it was woken");
    assert_eq!(script.calls(), 2, "it fetches, because there is no token");
    assert!(cache.peek().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_while_its_fetch_completes_is_replaced_at_once() {
    fetches_again_at_once_after(Token::new("short").map(|token| token.with_lifetime(SECOND))).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_while_its_fetch_completes_is_followed_by_a_fetch_at_once() {
    fetches_again_at_once_after(Err(Error::transient("the issuer is down"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_without_lifetime_is_replaced_after_its_pause() {
    fetches_again_at_once_after(Token::new("dead").map(|token| token.with_lifetime(std::time::Duration::ZERO))).await;
}
