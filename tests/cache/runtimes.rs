//! Runtimes that end, stall or are missing strand no caller (promise 8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_ready, task};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, Token, TokenCache};

use crate::common::{SECOND, Script, paused_runtime, settle, text, until};

fn spawn_get_on(runtime: &Runtime, cache: &TokenCache) -> JoinHandle<Result<Token, Error>> {
    let cache = cache.clone();
    runtime.spawn(async move { cache.get().await })
}

// === runtimes that end ===

#[test]
fn if_the_fetching_runtime_ends_waiters_on_another_get_a_token_from_a_new_fetch() {
    let script = Script::new();
    script.hold();
    let cache = TokenCache::new(script.clone());
    let ending = paused_runtime();
    spawn_get_on(&ending, &cache);
    ending.block_on(script.called(1));
    let elsewhere = paused_runtime();
    let mut waiters = elsewhere.block_on(async {
        let mut waiters = JoinSet::new();
        for _ in 0..10 {
            let cache = cache.clone();
            waiters.spawn(async move { cache.get().await });
        }
        settle().await;
        waiters
    });
    assert_eq!(script.calls(), 1);
    script.stop_holding();
    drop(ending);
    let status = cache.status();
    assert!(status.last_failure.is_none() && status.next_attempt_in.is_none() && !status.fetching);
    elsewhere.block_on(async {
        let start = Instant::now();
        while let Some(answer) = waiters.join_next().await {
            assert_eq!(text(answer.unwrap()), "t2");
        }
        assert_eq!(start.elapsed().as_millis(), 0);
    });
    assert_eq!((script.calls(), script.most_at_once()), (2, 1));
}

#[test]
fn a_runtime_that_ends_while_saving_loses_no_refresh_token() {
    let script = Script::new().rotating();
    let saving = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&saving);
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |_| {
            let first = !seen.swap(true, Ordering::SeqCst);
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Error>(())
            }
        })
        .build()
        .unwrap();
    let ending = paused_runtime();
    spawn_get_on(&ending, &cache);
    ending.block_on(until(|| saving.load(Ordering::SeqCst)));
    assert!(cache.peek().is_none());
    drop(ending);
    assert_eq!(text(paused_runtime().block_on(cache.get())), "t2");
    assert_eq!(script.last_refresh_token().as_deref(), Some("r1"));
}

#[test]
fn a_caller_on_a_runtime_that_was_shut_down_gets_an_error_that_is_not_remembered() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let ending = paused_runtime();
    let handle = ending.handle().clone();
    ending.shutdown_background();
    {
        let _inside = handle.enter();
        let error = assert_ready!(task::spawn(cache.get()).poll()).unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("shut down"), "{error}");
    }
    assert!(cache.status().last_failure.is_none() && !cache.status().fetching);
    assert_eq!(text(paused_runtime().block_on(cache.get())), "t1");
}

// === runtimes that stall ===

/// A cache with a manual clock whose first fetch hangs on a runtime that is not driven.
fn stalled(script: &Script) -> (TokenCache, ManualClock, crate::common::Gate, Runtime) {
    let gate = script.hold();
    let clock = ManualClock::new();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    let stalled = paused_runtime();
    spawn_get_on(&stalled, &cache);
    stalled.block_on(script.called(1));
    script.stop_holding();
    (cache, clock, gate, stalled)
}

#[test]
fn waiters_for_a_stalled_runtime_time_out_at_their_own_deadline() {
    let script = Script::new();
    let (cache, _clock, _gate, _stalled) = stalled(&script);
    paused_runtime().block_on(async {
        let start = Instant::now();
        assert!(cache.get().await.unwrap_err().is_timeout());
        assert_eq!(start.elapsed().as_secs(), 30);
    });
    assert_eq!(script.calls(), 1);
}

#[test]
fn a_waiter_starts_another_fetch_if_the_stalled_one_is_overdue() {
    let script = Script::new();
    script.hold();
    // This test uses tokio's clock. The waiter comes before the fetch is overdue, and takes over when it is.
    let cache = TokenCache::new(script.clone());
    let stalled = paused_runtime();
    spawn_get_on(&stalled, &cache);
    stalled.block_on(script.called(1));
    script.stop_holding();
    paused_runtime().block_on(async {
        sleep(20 * SECOND).await;
        let start = Instant::now();
        assert_eq!(text(cache.get().await), "t2");
        assert!((10..12).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    });
}

#[test]
fn a_late_token_is_discarded_if_a_newer_fetch_has_completed() {
    let script = Script::new().rotating();
    let (cache, clock, gate, stalled) = stalled(&script);
    clock.advance(40 * SECOND);
    let elsewhere = paused_runtime();
    assert_eq!(text(elsewhere.block_on(cache.get())), "t2");
    gate.open();
    stalled.block_on(until(|| script.finished() == 2));
    stalled.block_on(settle());
    assert_eq!((cache.peek().unwrap().access_token(), cache.status().generation), ("t2", 1));
    elsewhere.block_on(cache.refresh()).unwrap();
    assert_eq!(script.last_refresh_token().as_deref(), Some("r2"));
}

#[test]
fn a_late_token_is_used_while_the_newer_fetch_is_in_flight() {
    let script = Script::new();
    let (cache, clock, gate, stalled) = stalled(&script);
    clock.advance(40 * SECOND);
    let second = script.hold();
    let elsewhere = paused_runtime();
    let waiter = spawn_get_on(&elsewhere, &cache);
    elsewhere.block_on(script.called(2));
    gate.open();
    stalled.block_on(until(|| cache.peek().is_some()));
    assert_eq!(cache.peek().unwrap().access_token(), "t1");
    assert!(cache.status().fetching, "the newer one goes on");
    second.open();
    assert_eq!(text(elsewhere.block_on(waiter).unwrap()), "t2");
    assert_eq!(cache.peek().unwrap().access_token(), "t2");
}

/// Tests that the late failure of a stalled fetch is not remembered after the fetch was replaced.
fn late_failure_is_forgotten(prepare: impl FnOnce(&Script)) {
    let script = Script::new();
    prepare(&script);
    let (cache, clock, gate, stalled) = stalled(&script);
    clock.advance(40 * SECOND);
    let second = script.hold();
    let elsewhere = paused_runtime();
    let waiter = spawn_get_on(&elsewhere, &cache);
    elsewhere.block_on(script.called(2));
    gate.open();
    stalled.block_on(until(|| script.finished() == 1));
    stalled.block_on(settle());
    assert!(cache.status().last_failure.is_none() && cache.status().next_attempt_in.is_none());
    second.open();
    elsewhere.block_on(waiter).unwrap().unwrap();
    assert!(cache.status().last_failure.is_none());
}

#[test]
fn a_late_failure_of_a_replaced_fetch_is_not_remembered() {
    late_failure_is_forgotten(|script| script.fail(1));
}

#[test]
fn an_expired_token_of_a_replaced_fetch_is_not_remembered_as_a_failure() {
    late_failure_is_forgotten(|script| script.queue(Token::new("old").map(|token| token.with_lifetime(10 * SECOND))));
}

// === no runtime ===

#[test]
fn a_fetch_without_a_runtime_is_an_error_and_not_a_panic() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    for answer in [task::spawn(cache.get()).poll(), task::spawn(cache.refresh()).poll()] {
        let error = assert_ready!(answer).unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("tokio runtime"), "{error}");
    }
    assert_eq!(script.calls(), 0);
    assert!(cache.status().last_failure.is_none() && !cache.status().fetching);
    assert_eq!(text(paused_runtime().block_on(cache.get())), "t1");
}

#[test]
fn a_caller_without_a_runtime_cannot_wait_for_a_fetch_on_another() {
    let script = Script::new();
    let (cache, ..) = stalled(&script);
    let error = assert_ready!(task::spawn(cache.get()).poll()).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

#[test]
fn a_usable_token_is_served_without_a_runtime_even_when_due() {
    let script = Script::living(100 * SECOND);
    let clock = ManualClock::new();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    paused_runtime().block_on(cache.get()).unwrap();
    for _ in 0..2 {
        assert_eq!(text(assert_ready!(task::spawn(cache.get()).poll())), "t1");
        clock.advance(90 * SECOND);
    }
    assert!(assert_ready!(task::spawn(cache.get()).poll()).is_err(), "it has expired by now");
    assert_eq!(script.calls(), 1);
}

#[test]
fn callers_without_a_runtime_get_the_remembered_error() {
    let script = Script::new();
    script.fail(1);
    let cache = TokenCache::builder(script.clone()).clock(ManualClock::new()).build().unwrap();
    paused_runtime().block_on(cache.get()).unwrap_err();
    let error = assert_ready!(task::spawn(cache.get()).poll()).unwrap_err();
    assert!(error.is_transient(), "the remembered failure: {error}");
    assert_ready!(task::spawn(cache.shutdown()).poll());
    assert!(assert_ready!(task::spawn(cache.get()).poll()).unwrap_err().is_closed());
}
