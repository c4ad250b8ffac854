//! [`TokenCache::report_rejected`] rejects only that token, which is served until it is replaced (promises 14 and 16).

use tokio::task::JoinSet;
use tokio_test::{assert_ready, task};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Reason, Token, TokenCache};

use crate::common::{SECOND, Script, paused_runtime, settle, text};

#[tokio::test(start_paused = true)]
async fn a_thousand_rejections_of_one_token_wait_for_one_fetch() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let token = cache.get().await.unwrap();
    let gate = script.hold();
    let mut callers = JoinSet::new();
    for number in 0..1000 {
        let (cache, token) = (cache.clone(), token.clone());
        callers.spawn(async move { cache.report_rejected(&token).await });
        if number % 100 == 0 {
            settle().await;
        }
    }
    settle().await;
    assert!(callers.try_join_next().is_none(), "all wait");
    gate.open();
    for answer in callers.join_all().await {
        assert_eq!(text(answer), "t2");
    }
    assert_eq!((script.calls(), script.last_context().reason()), (2, Reason::Rejected));
    assert_eq!(script.last_context().replaced().unwrap().access_token(), "t1");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_suspect_and_served_until_it_is_replaced() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let token = cache.get().await.unwrap();
    let gate = script.hold();
    let mut rejection = task::spawn(cache.report_rejected(&token));
    assert!(rejection.poll().is_pending());
    assert!(cache.status().suspect);
    for _ in 0..10 {
        assert_eq!(text(assert_ready!(task::spawn(cache.get()).poll())), "t1");
        settle().await;
    }
    gate.open();
    assert_eq!(text(rejection.await), "t2");
    assert!(!cache.status().suspect);
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_if_the_report_is_dropped() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let token = cache.get().await.unwrap();
    assert!(task::spawn(cache.report_rejected(&token)).poll().is_pending());
    settle().await;
    assert_eq!(cache.peek().unwrap().access_token(), "t2");
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_token_gets_the_newer_one_without_a_fetch() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let old = cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    for _ in 0..20 {
        assert_eq!(text(assert_ready!(task::spawn(cache.report_rejected(&old)).poll())), "t2");
        settle().await;
    }
    assert_eq!(script.calls(), 2);
    assert!(!cache.status().suspect);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_does_not_wait_for_a_refresh_in_flight() {
    let script = Script::living(100 * SECOND);
    let clock = ManualClock::new();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    let old = cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    script.hold();
    clock.advance(85 * SECOND);
    cache.get().await.unwrap();
    script.called(3).await;
    assert_eq!(text(assert_ready!(task::spawn(cache.report_rejected(&old)).poll())), "t2");
}

#[test]
fn a_late_rejection_gets_the_newer_token_without_a_runtime() {
    let cache = TokenCache::new(Script::new());
    let old = paused_runtime().block_on(async {
        let old = cache.get().await.unwrap();
        cache.refresh().await.unwrap();
        old
    });
    assert_eq!(text(assert_ready!(task::spawn(cache.report_rejected(&old)).poll())), "t2");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_during_the_refresh_of_a_due_token_joins_it() {
    let script = Script::living(100 * SECOND);
    let clock = ManualClock::new();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    cache.get().await.unwrap();
    let gate = script.hold();
    clock.advance(85 * SECOND);
    let token = cache.get().await.unwrap();
    let mut rejection = task::spawn(cache.report_rejected(&token));
    assert!(rejection.poll().is_pending());
    gate.open();
    assert_eq!(text(rejection.await), "t2");
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_returns_the_rejected_token_again_causes_an_error_and_no_loop() {
    let script = Script::new();
    for _ in 0..3 {
        script.queue(Token::new("same"));
    }
    let cache = TokenCache::builder(script.clone()).clock(ManualClock::new()).build().unwrap();
    let token = cache.get().await.unwrap();
    for _ in 0..10 {
        let error = cache.report_rejected(&token).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("an API has rejected"), "{error}");
    }
    assert_eq!(script.calls(), 2);
    assert_eq!(text(cache.get().await), "same");
    assert!(cache.status().suspect);
}

#[tokio::test(start_paused = true)]
async fn rejections_during_the_pause_after_a_failure_get_its_error_and_keep_the_token() {
    let script = Script::new();
    let cache = TokenCache::builder(script.clone()).clock(ManualClock::new()).build().unwrap();
    let token = cache.get().await.unwrap();
    script.fail(5);
    for _ in 0..5 {
        assert!(cache.report_rejected(&token).await.unwrap_err().is_transient());
    }
    assert_eq!(script.calls(), 2);
    assert_eq!(text(cache.get().await), "t1");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_cache_rejects_nothing_here() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    let other = TokenCache::new(Script::new());
    for _ in 0..5 {
        other.refresh().await.unwrap();
    }
    let foreign = other.get().await.unwrap();
    assert_eq!(foreign.generation(), 5);
    assert_eq!(text(cache.report_rejected(&foreign).await), "t1");
    assert!(script.calls() == 1 && !cache.status().suspect);
}
