//! On a tokio runtime without timers a fetch is an error, and does not panic.

use http::Request;
use tokio::runtime::{Builder, Runtime};
use tokio_test::{assert_pending, task};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::{Error, TokenCache};

use crate::common::{Script, paused_runtime, text};
use crate::requests::{Body, get, layer, respond};

fn without_timers() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

#[test]
fn without_timers_a_caller_gets_an_error() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let outcomes = without_timers().block_on(async { [cache.get().await, cache.refresh().await] });
    for error in outcomes.map(Result::unwrap_err) {
        assert!(!error.is_transient() && error.to_string().contains("tokio"), "{error}");
    }
    assert_eq!(script.calls(), 0);
    assert!(cache.status().last_failure.is_none() && !cache.status().fetching);
    assert_eq!(text(paused_runtime().block_on(cache.get())), "t1", "another runtime fetches it");
}

#[test]
fn without_timers_a_caller_cannot_wait_for_a_fetch_on_another_runtime() {
    let script = Script::new();
    let _gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let other = paused_runtime();
    let caller = cache.clone();
    other.spawn(async move { caller.get().await });
    other.block_on(script.called(1));
    let error = without_timers().block_on(cache.get()).unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("tokio"), "{error}");
}

#[test]
fn without_timers_a_usable_token_is_served_and_the_session_can_end() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let token = paused_runtime().block_on(cache.get()).expect("a token");
    without_timers().block_on(async {
        assert_eq!(text(cache.get().await), "t1");
        cache.report_rejected(&token).await.expect_err("nothing is fetched on this runtime");
        cache.shutdown().await;
        cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("nothing to revoke");
    });
    assert_eq!(script.calls(), 1);
}

#[test]
fn without_timers_keep_warm_waits_and_does_not_panic() {
    let cache = TokenCache::new(Script::new());
    let without_timers = without_timers();
    let _inside = without_timers.enter();
    let mut warm = task::spawn(cache.keep_warm());
    assert_pending!(warm.poll());
}

#[test]
fn without_timers_a_rejected_response_is_returned() {
    let fetched = TokenCache::new(Script::new());
    paused_runtime().block_on(fetched.get()).expect("a token");
    // One token was just published, and the other may be of any age.
    for cache in [fetched, TokenCache::fixed("fixed").expect("a token")] {
        let rejecting = service_fn(async |_: Request<Body>| Ok::<_, BoxError>(respond(401, Body::from("expired"))));
        let request = layer(&cache).layer(rejecting).oneshot(get("/"));
        let response = without_timers().block_on(request).expect("a response");
        assert_eq!(response.status(), 401);
        assert!(response.extensions().get::<Error>().is_some(), "the reason");
    }
}
