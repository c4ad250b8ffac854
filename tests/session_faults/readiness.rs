//! A request that does not reach the inner service, or not yet, releases the readiness that it reserved.

use http::{Request, Response};
use tokio_test::{assert_pending, assert_ready, task};
use tower::limit::ConcurrencyLimit;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::TokenCache;
use tower_bearer::testing::ManualClock;

use crate::common::{HOUR, MINUTE, Script, settle};
use crate::crossed_sessions::sign_out;
use crate::requests::{Body, get, layer, respond};

/// An inner service with a concurrency limit of one.
fn one_at_a_time() -> ConcurrencyLimit<
    impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static,
> {
    ConcurrencyLimit::new(service_fn(async |_: Request<Body>| Ok::<_, BoxError>(respond(200, Body::default()))), 1)
}

/// Checks that the request fails, and that a clone of its client is ready while the client is kept.
async fn releases_permit(what: &str, cache: &TokenCache, request: Request<Body>) {
    let mut client = layer(cache).layer(one_at_a_time());
    client.ready().await.expect("a permit");
    let clones = [client.clone(), client.clone()];
    let mut failing = Some(client.call(request));
    for mut clone in clones {
        assert_ready!(task::spawn(ServiceExt::<Request<Body>>::ready(&mut clone)).poll(), "{what}").expect("ready");
        // The second clone is polled after the request has failed.
        if let Some(failing) = failing.take() {
            drop(clone);
            failing.await.expect_err(what);
        }
    }
}

fn to(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::default()).expect("a request")
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_uri_names_no_host_releases_its_permit() {
    releases_permit("no host", &TokenCache::new(Script::new()), to("/relative")).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_uri_has_userinfo_releases_its_permit() {
    releases_permit("userinfo", &TokenCache::new(Script::new()), to("https://ann:secret@api.example.com/")).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_with_an_invalid_uri_releases_its_permit_even_with_a_token_in_the_cache() {
    let cache = TokenCache::new(Script::new());
    cache.get().await.expect("a token");
    releases_permit("no host", &cache, to("/relative")).await;
    releases_permit("userinfo", &cache, to("https://ann:secret@api.example.com/")).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gets_no_token_releases_its_permit() {
    let script = Script::new();
    script.deny(1);
    releases_permit("denied", &TokenCache::new(script), get("/")).await;
    let closed = TokenCache::new(Script::new());
    closed.shutdown().await;
    releases_permit("shut down", &closed, get("/")).await;
    let ended = TokenCache::new(Script::new());
    sign_out(&ended).await;
    releases_permit("signed out", &ended, get("/")).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_while_it_waits_holds_no_permit() {
    let script = Script::new();
    let _gate = script.hold();
    let mut client = layer(&TokenCache::new(script)).layer(one_at_a_time());
    client.ready().await.expect("a permit");
    let mut clone = client.clone();
    let mut waiting = task::spawn(client.call(get("/")));
    assert_pending!(waiting.poll());
    drop(waiting);
    assert_ready!(task::spawn(ServiceExt::<Request<Body>>::ready(&mut clone)).poll()).expect("ready");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_next_token_releases_its_permit() {
    let (script, clock) = (Script::living(MINUTE), ManualClock::new());
    let first = script.hold();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    let inner = one_at_a_time();
    let mut other = inner.clone();
    let mut waiting = task::spawn(layer(&cache).layer(inner.clone()).oneshot(get("/")));
    assert_pending!(waiting.poll());
    script.called(1).await;
    other.ready().await.expect("the permit");
    let second = script.hold();
    first.open();
    settle().await;
    assert_pending!(waiting.poll(), "it has a token, and waits for the permit");
    clock.advance(HOUR);
    drop(other);
    assert_pending!(waiting.poll(), "the permit is free, and its token has expired");
    script.called(2).await;
    assert_pending!(waiting.poll(), "it waits for the next token");
    let mut other = inner;
    assert_ready!(task::spawn(other.ready()).poll(), "the permit is free meanwhile").expect("ready");
    drop(other);
    second.open();
    assert_eq!(waiting.await.expect("a response").status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_request_holds_no_permit_while_it_waits_for_the_next_token() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    tokio::time::sleep(MINUTE).await;
    let _gate = script.hold();
    let rejecting = service_fn(async |_: Request<Body>| Ok::<_, BoxError>(respond(401, Body::default())));
    let inner = ConcurrencyLimit::new(rejecting, 1);
    let mut waiting = task::spawn(layer(&cache).layer(inner.clone()).oneshot(get("/")));
    assert_pending!(waiting.poll());
    script.called(2).await;
    let mut other = inner;
    assert_ready!(task::spawn(other.ready()).poll()).expect("ready");
}
