//! The rejection of a token that was just published does not count, because it may not have reached the whole API.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::replay::Never;
use tower_bearer::testing::ManualClock;
use tower_bearer::{RefreshPolicy, Token, TokenCache};

use crate::common::{MINUTE, SECOND, Script, settle};
use crate::requests::{Body, get, layer, respond, token};

#[tokio::test(start_paused = true)]
async fn an_early_rejection_without_replay_uses_no_budget() {
    let (script, clock) = (Script::new(), ManualClock::new());
    let settings = RefreshPolicy::new().rejection_budget(1, MINUTE);
    let cache = TokenCache::builder(script.clone()).refresh_policy(settings).clock(clock.clone()).build().unwrap();
    cache.get().await.expect("a token");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let client = layer(&cache).replay(Never).layer(service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, BoxError>(respond(401, Body::default())))
    }));
    let rejected = async || {
        let response = client.clone().oneshot(get("/")).await.expect("a response");
        assert_eq!(response.status(), 401);
        settle().await;
    };
    for _ in 0..20 {
        rejected().await;
        clock.advance(Duration::from_millis(95));
    }
    assert_eq!((script.calls(), cache.status().suspect), (1, false), "within two seconds");
    // The whole budget is left, so the token is replaced when it is old enough.
    clock.advance(2 * SECOND);
    rejected().await;
    assert_eq!((script.calls(), cache.status().generation), (2, 2));
    clock.advance(31 * SECOND);
    rejected().await;
    assert_eq!((script.calls(), calls.load(Ordering::SeqCst)), (2, 22), "the budget is exhausted");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_with_a_longer_lifetime_keeps_its_age() {
    let (script, clock) = (Script::new(), ManualClock::new());
    let lives = |seconds: u32| Token::new("same").map(|token| token.with_lifetime(seconds * SECOND));
    script.queue(lives(100));
    script.queue(lives(200));
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    cache.get().await.expect("a token");
    clock.advance(50 * SECOND);
    let token_again = cache.refresh().await.expect("the same token");
    assert_eq!((token_again.generation(), token_again.lifetime()), (1, 200 * SECOND));
    let (sent, rejected) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let log = Arc::clone(&sent);
    let client = layer(&cache).layer(service_fn(move |request: Request<Body>| {
        log.lock().expect("no panic").push(token(request.headers()));
        let status = if rejected.swap(true, Ordering::SeqCst) { 200 } else { 401 };
        std::future::ready(Ok::<_, BoxError>(respond(status, Body::default())))
    }));
    let began = Instant::now();
    assert_eq!(client.oneshot(get("/")).await.expect("a response").status(), 200);
    assert_eq!(*sent.lock().expect("no panic"), ["same", "t3"], "the API knows the token, and rejects it");
    assert_eq!(began.elapsed(), Duration::ZERO);
}
