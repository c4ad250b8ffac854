//! The pause after a failed fetch, and its effect on the rejection budget.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, TokenCache};

use crate::common::{HOUR, MINUTE, SECOND, Script, text};

const MILLISECOND: Duration = Duration::from_millis(1);

fn asks_to_wait(wait: Duration) -> Error {
    Error::transient("too many requests").with_retry_after(wait)
}

/// A cache with a clock that does not advance, and without a token.
fn failing() -> (Script, TokenCache) {
    let script = Script::new();
    let cache = TokenCache::builder(script.clone()).clock(ManualClock::new()).build().unwrap();
    (script, cache)
}

/// The pause after a fetch that fails with this error.
async fn pause(script: &Script, cache: &TokenCache, error: Error) -> Duration {
    script.queue(Err(error));
    cache.refresh().await.expect_err("queued");
    cache.status().next_attempt_in.expect("a pause")
}

// === Retry-After ===

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_zero_leaves_the_ordinary_backoff() {
    let script = Script::new();
    (0..1000).for_each(|_| script.queue(Err(asks_to_wait(Duration::ZERO))));
    let cache = TokenCache::new(script.clone());
    let began = Instant::now();
    while began.elapsed() < MINUTE {
        cache.get().await.expect_err("queued");
        sleep(10 * MILLISECOND).await;
    }
    // The pauses are 0.25 to 0.5 s, 0.5 to 1 s and so on, and at most 30 s.
    assert!((6..=10).contains(&script.calls()), "{} calls", script.calls());
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_after_does_not_shorten_a_pause_that_has_grown() {
    let (script, cache) = failing();
    for _ in 0..6 {
        pause(&script, &cache, Error::transient("the issuer is down")).await;
    }
    let paused = pause(&script, &cache, asks_to_wait(SECOND)).await;
    assert!(paused >= 15 * SECOND, "{paused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_lengthens_the_pause_to_five_minutes_at_most() {
    for (asked, expected) in [(100 * SECOND, 100 * SECOND), (HOUR, 5 * MINUTE)] {
        let (script, cache) = failing();
        assert_eq!(pause(&script, &cache, asks_to_wait(asked)).await, expected);
    }
}

// === streaks ===

#[tokio::test(start_paused = true)]
async fn denials_and_other_failures_have_separate_streaks() {
    let (script, cache) = failing();
    for _ in 0..5 {
        pause(&script, &cache, Error::transient("the issuer is down")).await;
    }
    let first = pause(&script, &cache, Error::denied("wrong password")).await;
    assert_eq!(first, 30 * SECOND, "the first denial");
    assert_eq!(pause(&script, &cache, Error::denied("wrong password")).await, MINUTE, "the second");
    let first = pause(&script, &cache, Error::transient("the issuer is down")).await;
    assert!(first <= 500 * MILLISECOND, "the first failure after denials: {first:?}");
}

// === the budget of rejections ===

#[tokio::test(start_paused = true)]
async fn rejections_during_a_pause_use_no_budget() {
    let (script, clock) = (Script::new(), ManualClock::new());
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    let mut token = cache.get().await.expect("a token");
    script.fail(1);
    for _ in 0..20 {
        cache.report_rejected(&token).await.expect_err("the failure, and its pause");
    }
    assert_eq!(script.calls(), 2);
    clock.advance(SECOND);
    // One of five refreshes is used.
    for number in 3..=6 {
        let outcome = cache.report_rejected(&token).await;
        token = outcome.clone().unwrap_or(token);
        assert_eq!(text(outcome), format!("t{number}"));
    }
    cache.report_rejected(&token).await.expect_err("the budget is exhausted");
    assert_eq!(script.calls(), 6);
}
