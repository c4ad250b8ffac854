//! `keep_warm` keeps a token fresh without requests while a clone of the cache exists (promise 25).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower_bearer::testing::ManualClock;
use tower_bearer::{FetchContext, Reason, Token, TokenCache};

use crate::common::{HOUR, SECOND, Script, settle};

#[tokio::test(start_paused = true)]
async fn a_token_is_fetched_before_the_first_call() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    tokio::spawn(cache.keep_warm());
    settle().await;
    assert_eq!(cache.peek().unwrap().access_token(), "t1");
    sleep(HOUR / 2).await;
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_token_is_refreshed_when_due_and_always_usable() {
    let script = Script::living(100 * SECOND);
    let cache = TokenCache::new(script.clone());
    tokio::spawn(cache.keep_warm());
    settle().await;
    for _ in 0..1000 {
        assert!(cache.peek().is_some());
        sleep(SECOND).await;
    }
    // Each token is due between 75 and 80 s.
    assert!((13..=14).contains(&script.calls()), "{}", script.calls());
    assert_eq!(script.last_context().reason(), Reason::Due);
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_for_an_issuer_that_is_slow_compared_to_the_lifetime() {
    let script = Script::living(5 * SECOND);
    script.delay(SECOND);
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    for _ in 0..1000 {
        sleep(SECOND / 20).await;
        let asked = Instant::now();
        cache.get().await.unwrap();
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_is_retried_after_its_pause_and_not_before() {
    let script = Script::new();
    script.deny(2);
    let cache = TokenCache::new(script.clone());
    tokio::spawn(cache.keep_warm());
    // The pauses are 30 s and 60 s.
    for (wait, calls) in [(1, 1), (28, 1), (2, 2), (58, 2), (2, 3)] {
        sleep(Duration::from_secs(wait)).await;
        settle().await;
        assert_eq!(script.calls(), calls, "after {wait} s more");
    }
    assert!(cache.peek().is_some());
}

#[tokio::test(start_paused = true)]
async fn two_keep_warm_tasks_and_callers_share_one_fetch() {
    let script = Script::living(100 * SECOND);
    script.delay(SECOND);
    let cache = TokenCache::new(script.clone());
    tokio::spawn(cache.keep_warm());
    tokio::spawn(cache.clone().keep_warm());
    cache.get().await.unwrap();
    assert_eq!(script.calls(), 1);
    sleep(85 * SECOND).await;
    assert_eq!((script.calls(), script.most_at_once()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_is_noticed_within_ten_seconds() {
    let (script, clock) = (Script::new(), ManualClock::new());
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    tokio::spawn(cache.keep_warm());
    settle().await;
    clock.sleep(HOUR);
    sleep(11 * SECOND).await;
    assert_eq!(cache.peek().unwrap().access_token(), "t2");
}

#[tokio::test(start_paused = true)]
async fn a_new_source_is_fetched_from_at_once() {
    let cache = TokenCache::new(Script::new());
    tokio::spawn(cache.keep_warm());
    settle().await;
    let new = Script::new();
    cache.set_source(new.clone());
    settle().await;
    assert_eq!((new.calls(), cache.status().generation), (1, 2));
}

// === the end of keep_warm ===

#[tokio::test(start_paused = true)]
async fn keep_warm_keeps_nothing_alive_and_ends_with_the_last_clone() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let cache = TokenCache::new(move |_: FetchContext| {
        let _held = Arc::clone(&held);
        async { Token::new("t") }
    });
    let clone = cache.clone();
    let warm = tokio::spawn(cache.keep_warm());
    settle().await;
    drop(cache);
    settle().await;
    assert!(!warm.is_finished());
    let start = Instant::now();
    drop(clone);
    assert_eq!(Arc::strong_count(&alive), 1);
    warm.await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn keep_warm_ends_after_the_fetch_in_flight_if_the_last_clone_is_dropped() {
    let script = Script::living(Duration::ZERO);
    script.delay(3 * SECOND);
    let cache = TokenCache::new(script.clone());
    let start = Instant::now();
    let warm = tokio::spawn(cache.keep_warm());
    settle().await;
    drop(cache);
    warm.await.unwrap();
    assert_eq!((start.elapsed().as_secs(), script.calls()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn keep_warm_ends_at_shutdown() {
    let script = Script::living(100 * SECOND);
    let cache = TokenCache::new(script.clone());
    let warm = tokio::spawn(cache.keep_warm());
    settle().await;
    cache.shutdown().await;
    timeout(SECOND, warm).await.expect("it ends").unwrap();
    timeout(SECOND, cache.keep_warm()).await.expect("it does not begin");
    sleep(HOUR).await;
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_keep_warm_does_not_end_the_fetch_in_flight() {
    let script = Script::new();
    script.delay(SECOND);
    let cache = TokenCache::new(script.clone());
    assert!(timeout(SECOND / 2, cache.keep_warm()).await.is_err());
    sleep(SECOND).await;
    assert!(cache.peek().is_some());
}

#[test]
fn keep_warm_waits_without_a_runtime_and_does_not_panic() {
    let cache = TokenCache::new(Script::new());
    let mut warm = task::spawn(cache.keep_warm());
    assert_pending!(warm.poll());
    drop(cache);
    assert!(warm.is_woken());
    assert_ready!(warm.poll());
}
