//! Nobody waits beside a usable token, none is served beyond its end, whatever its life and the clocks (promises 2, 3,
//! 10, 11, 12).

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

/// Asks every 10 ms for a minute of tokio's time.
async fn ask_for_a_minute(cache: &TokenCache) {
    for _ in 0..6000 {
        let _ = cache.get().await;
        sleep(10 * MILLI).await;
    }
}

// === fresh, due, expired ===

#[tokio::test(start_paused = true)]
async fn a_due_token_is_served_at_once_while_a_slow_refresh_runs_beside() {
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
async fn each_part_of_a_life_is_seen_by_a_service_that_is_kept_and_by_one_cloned_for_each_request() {
    for cloned in [false, true] {
        let script = Script::living(100 * SECOND);
        let layer = BearerLayer::new(TokenCache::new(script.clone()), ["https://api.example.com"]).unwrap();
        let mut kept = layer.layer(service_fn(|request: Request<String>| {
            let sent = request.headers()[AUTHORIZATION].to_str().unwrap().to_owned();
            ready(Ok::<_, BoxError>(Response::new(sent)))
        }));
        // Due between 75 and 80 s after it was asked for, expired after 90. Several at once: what is found is believed.
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
async fn an_expired_token_is_waited_out() {
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
async fn a_token_that_expires_during_its_refresh_is_waited_out_by_the_same_fetch() {
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
async fn nothing_is_fetched_while_nobody_asks() {
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

// === lives of all lengths ===

#[tokio::test(start_paused = true)]
async fn lives_of_every_length_and_margins_of_every_size_have_three_phases() {
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
async fn a_margin_longer_than_the_life_does_not_fetch_on_every_call() {
    let script = Script::living(20 * SECOND);
    let cache =
        TokenCache::builder(script.clone()).refresh_policy(RefreshPolicy::new().margin(5 * MINUTE)).build().unwrap();
    ask_for_a_minute(&cache).await;
    assert!((4..=9).contains(&script.calls()), "{} fetches for 20 s tokens", script.calls());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_life_is_a_failure_with_pauses_and_no_loop() {
    let script = Script::living(Duration::ZERO);
    let cache = TokenCache::new(script.clone());
    let error = cache.get().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("dead on arrival"), "{error}");
    ask_for_a_minute(&cache).await;
    assert!((5..=12).contains(&script.calls()), "{} fetches", script.calls());
    assert!(cache.peek().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_shortly_before_its_end_causes_no_loop() {
    // The issuer keeps a token until its very end, and only then makes another.
    let start = Instant::now();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let cache = TokenCache::new(move |_: FetchContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        let left = (20 * SECOND).saturating_sub(start.elapsed());
        async move {
            match left {
                Duration::ZERO => Ok::<_, Error>(Token::new("next")?.with_lifetime(HOUR)),
                left => Ok(Token::new("same")?.with_lifetime(left)),
            }
        }
    });
    ask_for_a_minute(&cache).await;
    assert_eq!(text(cache.get().await), "next");
    let calls = calls.load(Ordering::SeqCst);
    assert!((3..60).contains(&calls), "{calls} fetches");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_stays_in_service_as_the_same() {
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
async fn the_same_token_with_a_longer_life_keeps_its_generation() {
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

// === from when life counts ===

#[tokio::test(start_paused = true)]
async fn life_counts_from_before_the_token_was_asked_for() {
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
async fn an_answer_that_took_longer_than_the_token_lives_is_a_failure() {
    let script = Script::living(10 * SECOND);
    script.delay(10 * SECOND);
    let cache = TokenCache::new(script.clone());
    let error = cache.get().await.unwrap_err();
    assert!(error.to_string().contains("the answer took 10"), "{error}");
    cache.get().await.unwrap_err();
    assert_eq!(script.calls(), 1);
}

// === clocks that lie ===

#[tokio::test(start_paused = true)]
async fn a_token_ends_while_the_machine_sleeps_or_the_wall_clock_jumps_ahead() {
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
async fn a_wall_clock_set_back_makes_no_token_live_longer() {
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
async fn a_pause_ends_while_the_machine_sleeps_and_is_not_prolonged_by_a_clock_set_back() {
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
async fn a_fleet_becomes_due_at_many_moments_and_the_dice_fall_once_per_token() {
    let clock = ManualClock::new();
    let script = Script::living(1000 * SECOND);
    let fleet: Vec<_> =
        (0..200).map(|_| TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap()).collect();
    for cache in &fleet {
        cache.get().await.unwrap();
    }
    // Due between 1.25 and 1 margin of 200 s before the end.
    clock.advance(750 * SECOND);
    let mut due = 0;
    let mut most_at_once = 0;
    for _ in 0..50 {
        let looks = [(); 3].map(|()| fleet.iter().filter(|cache| cache.status().phase == Some(Phase::Due)).count());
        assert!(looks.iter().all(|look| *look == looks[0]), "rolled more than once: {looks:?}");
        most_at_once = most_at_once.max(looks[0].checked_sub(due).expect("who was due stays due"));
        due = looks[0];
        clock.advance(SECOND);
    }
    let all = fleet.iter().all(|cache| cache.status().phase == Some(Phase::Due));
    assert!(all && most_at_once < 20, "{most_at_once} of 200 within one second of 50");
}

// === when it is due ===

#[tokio::test(start_paused = true)]
async fn a_token_is_due_when_its_issuer_says_so_and_no_later_than_its_margin() {
    // What the issuer says, and when at the earliest and at the latest the token of an hour is due.
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
async fn finding_the_same_token_when_it_was_due_to_look_is_no_failure() {
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
