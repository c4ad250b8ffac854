//! There is one fetch at a time, it does not depend on its callers, and every waiter gets an answer (promises 6 to 8).

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_bearer::{Error, FetchContext, Token, TokenCache};

use crate::common::{MINUTE, SECOND, Script, runtime, settle, text, threaded_runtime, until};

// === one at a time ===

#[test]
fn a_thousand_callers_on_two_runtimes_cause_one_fetch() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let runtimes = [threaded_runtime(), threaded_runtime()];
    let arrived = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for number in 0..1000 {
        let (cache, arrived) = (cache.clone(), Arc::clone(&arrived));
        callers.push(runtimes[number % 2].spawn(async move {
            let mut get = Box::pin(async move { cache.get().await });
            let pending = poll_fn(|cx| Poll::Ready(get.as_mut().poll(cx).is_pending())).await;
            assert!(pending);
            arrived.fetch_add(1, Ordering::SeqCst);
            get.await
        }));
    }
    runtime().block_on(async {
        until(|| arrived.load(Ordering::SeqCst) == 1000).await;
        gate.open();
        for caller in callers {
            assert_eq!(text(caller.await.unwrap()), "t1");
        }
    });
    assert_eq!((script.calls(), script.most_at_once()), (1, 1));
}

#[test]
fn callers_that_lose_the_race_do_not_fetch_again() {
    // The issuer answers at once, so the first caller's fetch may complete before the others join it.
    const RACERS: usize = 4;
    for _ in 0..300 {
        let script = Script::new();
        let cache = TokenCache::new(script.clone());
        let start = Barrier::new(RACERS);
        thread::scope(|scope| {
            for _ in 0..RACERS {
                scope.spawn(|| {
                    let runtime = runtime();
                    start.wait();
                    assert_eq!(text(runtime.block_on(cache.get())), "t1");
                });
            }
        });
        assert_eq!(script.calls(), 1);
    }
}

#[test]
fn two_fetches_are_never_in_flight_at_the_same_time() {
    // Every call of `refresh` joins a fetch or starts one. Some of them fail.
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let runtime = threaded_runtime();
    for round in 0..50 {
        script.fail(round % 3);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let cache = cache.clone();
                runtime.spawn(async move { cache.refresh().await })
            })
            .collect();
        for caller in callers {
            let _ = runtime.block_on(caller).unwrap();
        }
    }
    assert_eq!(script.most_at_once(), 1);
}

// === callers that stop waiting ===

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_does_not_end_the_fetch() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let mut first = tokio_test::task::spawn(cache.get());
    let mut second = tokio_test::task::spawn(cache.get());
    assert!(first.poll().is_pending());
    assert!(second.poll().is_pending());
    drop(first);
    gate.open();
    assert_eq!(text(second.await), "t1");
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_fetch_continues_if_every_waiter_is_dropped() {
    let script = Script::living(100 * SECOND).rotating();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let cache = cache.clone();
        callers.spawn(async move { cache.get().await });
    }
    script.called(1).await;
    callers.shutdown().await;
    gate.open();
    until(|| cache.peek().is_some()).await;
    assert_eq!(text(cache.get().await), "t1");
    sleep(100 * SECOND).await;
    assert_eq!(text(cache.get().await), "t2");
    assert_eq!(script.last_refresh_token().as_deref(), Some("r1"));
}

#[tokio::test(start_paused = true)]
async fn a_short_timeout_ends_the_wait_and_not_the_fetch() {
    let script = Script::new().rotating();
    script.delay(10 * SECOND);
    let cache = TokenCache::new(script.clone());
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(50), cache.get()).await.is_err());
    }
    sleep(10 * SECOND).await;
    assert_eq!(cache.peek().unwrap().access_token(), "t1");
    assert_eq!(script.calls(), 1);
    cache.refresh().await.unwrap();
    assert_eq!(script.last_refresh_token().as_deref(), Some("r1"));
}

// === every waiter gets an answer ===

/// Tests that ten callers get an error if the first call of the source panics, and a token after the pause.
async fn panics_are_errors<F, T>(source: F)
where
    F: Fn(usize) -> T + Send + Sync + 'static,
    T: Future<Output = Result<Token, Error>> + Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let cache = TokenCache::new(move |_: FetchContext| source(counted.fetch_add(1, Ordering::SeqCst) + 1));
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let cache = cache.clone();
        callers.spawn(async move { cache.get().await });
    }
    for answer in callers.join_all().await {
        let error = answer.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("panicked"), "{error}");
    }
    let status = cache.status();
    assert!(status.next_attempt_in.is_some() && !status.fetching && status.last_failure.is_some());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    sleep(SECOND).await;
    assert_eq!(text(cache.get().await), "t2");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_when_called_is_an_error_for_all_waiters() {
    panics_are_errors(|number| {
        assert_ne!(number, 1, "a panic of the test");
        async move { Token::new(format!("t{number}")) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_before_its_first_await_is_an_error_for_all_waiters() {
    panics_are_errors(async |number| {
        assert_ne!(number, 1, "a panic of the test");
        Token::new(format!("t{number}"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_after_an_await_is_an_error_for_all_waiters() {
    panics_are_errors(async |number| {
        sleep(SECOND).await;
        assert_ne!(number, 1, "a panic of the test");
        Token::new(format!("t{number}"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_one_fetch_and_one_remembered_failure() {
    let script = Script::new();
    script.hold();
    let cache = TokenCache::new(script.clone());
    let early = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get().await }
    });
    sleep(10 * SECOND).await;
    // The fetch times out before this caller does.
    let late = cache.get().await;
    assert!(early.await.unwrap().unwrap_err().is_timeout());
    assert!(late.unwrap_err().is_timeout());
    settle().await;
    assert_eq!(script.calls(), 1);
    assert!(cache.status().last_failure.is_some_and(|error| error.is_timeout()));
    assert!(cache.status().next_attempt_in.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_takes_long_but_not_too_long_is_waited_for() {
    let script = Script::new();
    script.delay(29 * SECOND);
    let cache = TokenCache::new(script.clone());
    assert_eq!(text(timeout(MINUTE, cache.get()).await.unwrap()), "t1");
}
