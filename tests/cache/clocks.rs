//! With any lifetime and any clock, no caller waits while a token is usable, and no token is served after its end.
//!
//! These are the promises 2, 3, 10, 11 and 12.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_ready, task};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, Error, FetchContext, MAX_LIFETIME, Phase, Reason, RefreshPolicy, Token, TokenCache};

use crate::common::{HOUR, MINUTE, SECOND, Script, settle, text, until};

const MILLI: Duration = Duration::from_millis(1);

fn cache(script: &Script) -> (TokenCache, ManualClock) {
    let clock = ManualClock::new();
    (TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap(), clock)
}

/// Calls `get` every 10 ms for a minute of tokio's time.
async fn get_for_a_minute(cache: &TokenCache) {
    for _ in 0..6000 {
        let _ = cache.get().await;
        sleep(10 * MILLI).await;
    }
}

// === fresh, due, expired ===

#[tokio::test(start_paused = true)]
async fn a_due_token_is_served_at_once_during_a_slow_refresh() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    let gate = script.hold();
    clock.advance(81 * SECOND);
    assert_eq!(cache.status().phase, Some(Phase::Due));
    for _ in 0..100 {
        assert_eq!(text(assert_ready!(task::spawn(cache.get()).poll())), "t1");
        settle().await;
    }
    assert_eq!((script.calls(), script.last_context().reason()), (2, Reason::Due));
    gate.open();
    until(|| cache.status().generation == 2).await;
    assert_eq!(text(assert_ready!(task::spawn(cache.get()).poll())), "t2");
}

#[tokio::test(start_paused = true)]
async fn kept_and_cloned_services_see_each_phase() {
    for cloned in [false, true] {
        let script = Script::living(100 * SECOND);
        let layer = BearerLayer::new(TokenCache::new(script.clone()), ["https://api.example.com"]).unwrap();
        let mut kept = layer.layer(service_fn(|request: Request<String>| {
            let sent = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
            ready(Ok::<_, BoxError>(Response::new(sent)))
        }));
        // The token is due between 75 and 80 s after it was requested, and expired after 90 s. Several requests at the
        // same time use the cached check.
        for (later, requests, sent, calls) in
            [(0, 2, "t1", 1), (70, 3, "t1", 1), (15, 1, "t1", 2), (0, 3, "t2", 2), (70, 3, "t2", 2), (25, 3, "t3", 3)]
        {
            sleep(SECOND * later).await;
            for _ in 0..requests {
                let request = Request::get("https://api.example.com/").body(String::new()).unwrap();
                let answer = if cloned { kept.clone().oneshot(request).await } else { kept.call(request).await };
                assert_eq!(answer.unwrap().into_body(), format!("Bearer {sent}"), "cloned: {cloned}");
            }
            settle().await;
            assert_eq!(script.calls(), calls, "cloned: {cloned}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_if_the_token_has_expired() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    let gate = script.hold();
    clock.advance(95 * SECOND);
    assert!(cache.peek().is_none());
    let mut caller = task::spawn(cache.get());
    assert!(caller.poll().is_pending());
    settle().await;
    assert!(caller.poll().is_pending());
    gate.open();
    assert_eq!(text(caller.await), "t2");
    assert_eq!(script.last_context().reason(), Reason::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_caller_joins_the_refresh_if_the_token_expires_during_it() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    let gate = script.hold();
    clock.advance(94 * SECOND);
    assert_eq!(text(cache.get().await), "t1");
    clock.advance(2 * SECOND);
    let mut caller = task::spawn(cache.get());
    assert!(caller.poll().is_pending());
    gate.open();
    assert_eq!(text(caller.await), "t2");
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_without_a_caller() {
    let script = Script::living(MINUTE);
    let cache = TokenCache::new(script.clone());
    sleep(HOUR).await;
    assert_eq!(script.calls(), 0);
    cache.get().await.unwrap();
    sleep(HOUR).await;
    let _ = (cache.peek(), cache.status());
    settle().await;
    assert_eq!(script.calls(), 1);
}

// === lifetimes ===

#[tokio::test(start_paused = true)]
async fn every_lifetime_and_margin_has_three_phases() {
    let lives = [1, 2, 9, 60, 300, 3600, 86_400, 10 * 365 * 86_400].map(Duration::from_secs);
    let settings =
        [RefreshPolicy::new(), RefreshPolicy::new().margin(5 * MINUTE), RefreshPolicy::new().margin(Duration::ZERO)];
    for life in lives.into_iter().chain([MAX_LIFETIME]) {
        for settings in settings {
            let (script, clock) = (Script::living(life), ManualClock::new());
            let cache =
                TokenCache::builder(script.clone()).refresh_policy(settings).clock(clock.clone()).build().unwrap();
            cache.get().await.unwrap();
            let expired = life - (life / 10).min(5 * SECOND);
            assert_eq!(cache.status().usable_for, Some(expired));
            let steps =
                [(life * 3 / 8 - MILLI, Phase::Fresh), (expired - MILLI, Phase::Due), (expired, Phase::Expired)];
            let mut now = Duration::ZERO;
            for (at, phase) in steps {
                clock.advance(at - now);
                now = at;
                assert_eq!(cache.status().phase, Some(phase), "{at:?} of {life:?} with {settings:?}");
                assert_eq!(cache.peek().is_some(), phase != Phase::Expired);
            }
            assert_eq!(script.calls(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_margin_longer_than_the_lifetime_does_not_fetch_at_every_call() {
    let script = Script::living(20 * SECOND);
    let cache =
        TokenCache::builder(script.clone()).refresh_policy(RefreshPolicy::new().margin(5 * MINUTE)).build().unwrap();
    get_for_a_minute(&cache).await;
    assert!((4..=9).contains(&script.calls()), "{} fetches for 20 s tokens", script.calls());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_lifetime_is_a_failure_with_a_backoff() {
    let script = Script::living(Duration::ZERO);
    let cache = TokenCache::new(script.clone());
    let error = cache.get().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("expired when it arrived"), "{error}");
    get_for_a_minute(&cache).await;
    assert!((5..=12).contains(&script.calls()), "{} fetches", script.calls());
    assert!(cache.peek().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_near_its_end_causes_no_loop() {
    // The issuer returns the same token until its end.
    let start = Instant::now();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let cache = TokenCache::new(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        let remaining = (20 * SECOND).saturating_sub(start.elapsed());
        async move {
            match remaining {
                Duration::ZERO => Ok::<_, Error>(Token::new("next")?.with_lifetime(HOUR)),
                remaining => Ok(Token::new("same")?.with_lifetime(remaining)),
            }
        }
    });
    get_for_a_minute(&cache).await;
    assert_eq!(text(cache.get().await), "next");
    let calls = calls.load(Ordering::SeqCst);
    assert!((3..60).contains(&calls), "{calls} fetches");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_still_served_with_its_generation() {
    let script = Script::new();
    for life in [100, 19] {
        script.queue(Token::new("same").map(|token| token.with_lifetime(life * SECOND)));
    }
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    clock.advance(81 * SECOND);
    for _ in 0..10 {
        assert_eq!(text(cache.get().await), "same");
        settle().await;
    }
    let status = cache.status();
    assert_eq!((script.calls(), status.generation, status.usable_for), (2, 1, Some(14 * SECOND)));
    assert!(status.last_failure.unwrap().to_string().contains("the same token again"));
}

#[tokio::test(start_paused = true)]
async fn the_same_token_with_a_longer_lifetime_keeps_its_generation() {
    let script = Script::new();
    for _ in 0..2 {
        script.queue(Token::new("same").map(|token| token.with_lifetime(100 * SECOND)));
    }
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    clock.advance(81 * SECOND);
    cache.get().await.unwrap();
    until(|| cache.status().usable_for == Some(95 * SECOND)).await;
    assert_eq!((script.calls(), cache.status().generation), (2, 1));
    assert!(cache.status().last_failure.is_none());
}

// === the start of a lifetime ===

#[tokio::test(start_paused = true)]
async fn the_lifetime_starts_before_the_request() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    let gate = script.hold();
    let mut caller = task::spawn(cache.get());
    assert!(caller.poll().is_pending());
    script.called(1).await;
    clock.advance(20 * SECOND);
    gate.open();
    caller.await.unwrap();
    assert_eq!(cache.status().usable_for, Some(75 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_longer_than_the_lifetime_is_a_failure() {
    let script = Script::living(10 * SECOND);
    script.delay(10 * SECOND);
    let cache = TokenCache::new(script.clone());
    let error = cache.get().await.unwrap_err();
    assert!(error.to_string().contains("the answer took 10"), "{error}");
    cache.get().await.unwrap_err();
    assert_eq!(script.calls(), 1);
}

// === suspended machines and wall clocks that jump ===

#[tokio::test(start_paused = true)]
async fn a_token_expires_while_the_machine_is_suspended() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    clock.sleep(94 * SECOND);
    assert_eq!(cache.status().phase, Some(Phase::Due));
    clock.sleep(SECOND);
    assert!(cache.peek().is_none());
    assert_eq!(text(cache.get().await), "t2");
}

#[tokio::test(start_paused = true)]
async fn setting_the_wall_clock_back_does_not_extend_a_token() {
    let script = Script::living(100 * SECOND);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap();
    clock.set_back(HOUR);
    assert_eq!(cache.status().usable_for, Some(95 * SECOND));
    clock.advance(95 * SECOND);
    assert!(cache.peek().is_none());
    assert_eq!(text(cache.get().await), "t2");
    clock.set_back(HOUR);
    assert_eq!(text(cache.get().await), "t2");
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_ends_while_the_machine_is_suspended_and_is_not_extended_by_a_clock_set_back() {
    let script = Script::new();
    script.deny(2);
    let (cache, clock) = cache(&script);
    cache.get().await.unwrap_err();
    clock.sleep(30 * SECOND);
    cache.get().await.unwrap_err();
    assert_eq!(script.calls(), 2);
    clock.set_back(HOUR);
    clock.advance(MINUTE);
    assert_eq!(text(cache.get().await), "t3");
}

// === fleets ===

#[tokio::test(start_paused = true)]
async fn a_fleet_is_due_at_different_times_with_one_jitter_per_token() {
    let clock = ManualClock::new();
    let script = Script::living(1000 * SECOND);
    let fleet: Vec<_> =
        (0..200).map(|_| TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap()).collect();
    for cache in &fleet {
        cache.get().await.unwrap();
    }
    // Each token is due between 1.25 and 1 margin of 200 s before its end.
    clock.advance(750 * SECOND);
    let mut due = 0;
    let mut most_at_once = 0;
    for _ in 0..50 {
        let counts = [(); 3].map(|()| fleet.iter().filter(|cache| cache.status().phase == Some(Phase::Due)).count());
        assert!(counts.iter().all(|count| *count == counts[0]), "jitter was drawn more than once: {counts:?}");
        most_at_once = most_at_once.max(counts[0].checked_sub(due).expect("a due token stays due"));
        due = counts[0];
        clock.advance(SECOND);
    }
    let all = fleet.iter().all(|cache| cache.status().phase == Some(Phase::Due));
    assert!(all && most_at_once < 20, "{most_at_once} of 200 within one second of 50");
}

// === when it is due ===

#[tokio::test(start_paused = true)]
async fn a_token_is_due_at_the_issuers_refresh_in_or_at_its_margin() {
    // The issuer's `refresh_in`, and the earliest and the latest time at which a token of an hour is due.
    for (refresh_in, earliest, latest) in [(10 * MINUTE, 9 * MINUTE, 10 * MINUTE), (2 * HOUR, 53 * MINUTE, 55 * MINUTE)]
    {
        let script = Script::new();
        let token = Token::new("t").unwrap().with_lifetime(HOUR).with_refresh_in(refresh_in);
        script.queue(Ok(token));
        let (cache, clock) = cache(&script);
        cache.get().await.unwrap();
        clock.advance(earliest - SECOND);
        assert_eq!(cache.status().phase, Some(Phase::Fresh), "{refresh_in:?}");
        clock.advance(latest - earliest + SECOND);
        assert_eq!(cache.status().phase, Some(Phase::Due), "{refresh_in:?}");
        assert!(cache.status().usable_for > Some(4 * MINUTE));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_token_at_refresh_in_is_not_a_failure() {
    let script = Script::new();
    for _ in 0..3 {
        script.queue(Token::new("same").map(|token| token.with_lifetime(HOUR).with_refresh_in(MINUTE)));
    }
    let (cache, clock) = cache(&script);
    for calls in 1..=3 {
        cache.get().await.unwrap();
        until(|| script.calls() == calls && !cache.status().fetching).await;
        let status = cache.status();
        assert_eq!((status.generation, status.phase), (1, Some(Phase::Fresh)));
        assert!(status.last_failure.is_none(), "{:?}", status.last_failure);
        clock.advance(MINUTE);
    }
}
