//! The cache remembers a failure, but not for ever (promise 9).

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_test::{assert_ready, task};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, FetchContext, Phase, Token, TokenCache};

use crate::common::{MINUTE, SECOND, Script, settle, text};

const MILLI: Duration = Duration::from_millis(1);

fn cache(script: &Script) -> (TokenCache, ManualClock) {
    let clock = ManualClock::new();
    (TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap(), clock)
}

/// Makes one call, which fails. Returns the pause after it.
async fn pause_after_failure(cache: &TokenCache) -> Duration {
    cache.get().await.unwrap_err();
    cache.status().next_attempt_in.expect("a pause")
}

// === one call, one error ===

#[tokio::test(start_paused = true)]
async fn twenty_callers_of_a_failing_issuer_cause_one_call_and_get_its_error() {
    let script = Script::new();
    script.fail(20);
    let (cache, _clock) = cache(&script);
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let cache = cache.clone();
        callers.spawn(async move { cache.get().await });
    }
    for answer in callers.join_all().await {
        let error = answer.unwrap_err();
        assert!(error.is_transient() && format!("{error:?}").contains("the issuer is down"), "{error:?}");
    }
    for _ in 0..20 {
        let error = assert_ready!(task::spawn(cache.get()).poll(), "the remembered error comes at once").unwrap_err();
        assert!(format!("{error:?}").contains("the issuer is down"), "{error:?}");
    }
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_call_after_the_pause_fetches_and_no_earlier_one() {
    let script = Script::new();
    script.fail(1);
    let (cache, clock) = cache(&script);
    let pause = pause_after_failure(&cache).await;
    clock.advance(pause - MILLI);
    cache.get().await.unwrap_err();
    assert_eq!(cache.status().next_attempt_in, Some(MILLI));
    assert_eq!(script.calls(), 1);
    clock.advance(MILLI);
    settle().await;
    assert_eq!((script.calls(), cache.status().next_attempt_in), (1, None));
    assert_eq!(text(cache.get().await), "t2");
    assert!(cache.status().last_failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn any_error_type_of_a_closure_is_kept_as_the_source() {
    let cache = TokenCache::new(async |_: FetchContext| Err::<Token, _>(io::Error::other("the vault is sealed")));
    let error = cache.get().await.unwrap_err();
    assert!(error.is_transient() && !error.is_denied());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the vault is sealed");
}

// === the length of the pause ===

#[tokio::test(start_paused = true)]
async fn the_backoff_doubles_from_half_a_second_to_30_s_with_jitter() {
    let script = Script::new();
    script.fail(40);
    let (cache, clock) = cache(&script);
    let mut whole = 500 * MILLI;
    for _ in 0..40 {
        let pause = pause_after_failure(&cache).await;
        assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        whole = (whole * 2).min(30 * SECOND);
        clock.advance(pause);
    }
    assert_eq!(script.calls(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_success_resets_the_backoff() {
    let script = Script::new();
    script.fail(6);
    script.queue(Token::new("dead").map(|token| token.with_lifetime(MINUTE)));
    script.fail(1);
    let (cache, clock) = cache(&script);
    for _ in 0..6 {
        let pause = pause_after_failure(&cache).await;
        clock.advance(pause);
    }
    cache.get().await.unwrap();
    clock.advance(MINUTE);
    assert!(pause_after_failure(&cache).await <= 500 * MILLI);
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_a_denial_doubles_from_30_s_to_15_min() {
    let script = Script::new();
    script.deny(8);
    let (cache, clock) = cache(&script);
    for seconds in [30, 60, 120, 240, 480, 900, 900, 900] {
        let pause = pause_after_failure(&cache).await;
        assert_eq!(pause.as_secs(), seconds);
        assert!(assert_ready!(task::spawn(cache.get()).poll()).unwrap_err().is_denied());
        clock.advance(pause);
    }
    assert_eq!(script.calls(), 8);
    assert_eq!(text(cache.get().await), "t9");
}

#[tokio::test(start_paused = true)]
async fn retry_after_lengthens_a_backoff_up_to_5_min_and_never_shortens_it() {
    let cases = [
        (7 * SECOND, 7 * SECOND, 7 * SECOND),
        (Duration::ZERO, 250 * MILLI, 500 * MILLI),
        (60 * MINUTE, 5 * MINUTE, 5 * MINUTE),
    ];
    for (asked, least, most) in cases {
        let script = Script::new();
        script.queue(Err(Error::transient("429").with_retry_after(asked)));
        let pause = pause_after_failure(&cache(&script).0).await;
        assert!(least <= pause && pause <= most, "{asked:?}: {pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_lengthens_the_pause_after_a_denial_and_never_shortens_it() {
    let cases = [(SECOND, 30 * SECOND), (100 * SECOND, 100 * SECOND), (60 * MINUTE, 5 * MINUTE)];
    for (asked, kept) in cases {
        let script = Script::new();
        script.queue(Err(Error::denied("locked").with_retry_after(asked)));
        assert_eq!(pause_after_failure(&cache(&script).0).await, kept);
    }
}

// === failures while a token is usable ===

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_served_while_its_refresh_fails_and_no_pause_exceeds_it() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    script.fail(100);
    clock.advance(81 * SECOND);
    let mut attempts = 0;
    while cache.status().phase == Some(Phase::Due) {
        let before = script.calls();
        for _ in 0..20 {
            assert_eq!(text(assert_ready!(task::spawn(cache.get()).poll())), "t1");
            settle().await;
        }
        assert_eq!(script.calls(), before + 1);
        let status = cache.status();
        let (pause, remaining) = (status.next_attempt_in.unwrap(), status.usable_for.unwrap());
        assert!(pause <= remaining.max(100 * MILLI), "{pause:?} with {remaining:?} remaining");
        clock.advance(pause);
        attempts += 1;
    }
    assert!((4..60).contains(&attempts), "{attempts} attempts in 14 s");
    // There is an attempt at the token's end, and callers get its error.
    assert!(cache.get().await.unwrap_err().is_transient());
    assert_eq!(script.calls(), attempts + 2);
}

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_served_after_a_denied_refresh() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    script.deny(1);
    clock.advance(81 * SECOND);
    cache.get().await.unwrap();
    settle().await;
    assert!(cache.status().last_failure.unwrap().is_denied());
    clock.advance(13 * SECOND);
    assert_eq!(text(cache.get().await), "t1");
    clock.advance(2 * SECOND);
    assert!(cache.get().await.unwrap_err().is_denied(), "expired, and the pause is not over");
    clock.advance(30 * SECOND);
    assert_eq!(text(cache.get().await), "t3");
}

// === the end of a pause ===

#[tokio::test(start_paused = true)]
async fn refresh_fetches_during_the_pause_and_its_token_ends_the_pause() {
    let script = Script::new();
    script.deny(2);
    let (cache, _clock) = cache(&script);
    cache.get().await.unwrap_err();
    assert!(cache.refresh().await.unwrap_err().is_denied());
    assert_eq!(script.calls(), 2);
    assert_eq!(text(cache.refresh().await), "t3");
    assert!(cache.status().last_failure.is_none() && cache.status().next_attempt_in.is_none());
    assert_eq!(text(cache.get().await), "t3");
}

#[tokio::test(start_paused = true)]
async fn new_credentials_end_the_pause() {
    let script = Script::new();
    script.deny(1);
    let (cache, _clock) = cache(&script);
    cache.get().await.unwrap_err();
    cache.set_source(Script::new());
    assert!(cache.status().last_failure.is_none() && cache.status().next_attempt_in.is_none());
    assert_eq!(text(cache.get().await), "t1");
    assert_eq!(script.calls(), 1);
}
