//! The next session, and requests of the previous one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, task};
use tower::limit::ConcurrencyLimit;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::replay::Never;
use tower_bearer::{BearerLayer, Error, NoToken, Token, TokenCache};

use crate::common::{HOUR, MINUTE, Script, settle, text};
use crate::{Revoked, sign_out};

#[tokio::test(start_paused = true)]
async fn another_source_starts_another_session() {
    let cache = TokenCache::new(Script::new().rotating());
    cache.get().await.unwrap();
    Revoked::default().sign_out(&cache).await.unwrap();
    let next = Script::new().rotating();
    cache.set_source(next.clone());
    assert!(!cache.status().signed_out);
    let token = cache.get().await.unwrap();
    assert_eq!((token.access_token(), token.generation()), ("t1", 2));
    assert!(next.last_context().replaced().is_none(), "nothing of the old session");
    let revoked = Revoked::default();
    cache.refresh().await.unwrap();
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r2"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_starts_while_a_sign_out_waits_is_kept_and_the_sign_out_fails() {
    let script = Script::new().rotating();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let mut waiter = task::spawn(cache.get());
    assert_pending!(waiter.poll());
    script.called(1).await;
    let mut signing_out = task::spawn(sign_out(&cache));
    assert_pending!(signing_out.poll());
    let mut said = task::spawn(cache.sign_out(async |_| -> Result<(), Error> { panic!("not of this session") }));
    assert_pending!(said.poll());
    drop(signing_out);
    cache.set_source(Script::new().rotating());
    let error = assert_ready!(said.poll()).unwrap_err();
    assert!(error.to_string().contains("another session began") && !error.is_signed_out(), "{error}");
    assert!(waiter.await.unwrap_err().is_signed_out());
    assert_eq!(text(cache.get().await), "t1");
    gate.open();
    settle().await;
    assert!(!cache.status().signed_out && cache.peek().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_starts_while_the_old_one_is_revoked_is_kept() {
    let cache = TokenCache::new(Script::new().rotating());
    cache.get().await.unwrap();
    let next = Script::living(MINUTE);
    let begin = async |_| {
        cache.set_source(next.clone());
        cache.get().await.map(drop)
    };
    cache.sign_out(begin).await.unwrap();
    assert_eq!(cache.get().await.unwrap().lifetime(), MINUTE);
    cache.refresh().await.unwrap();
    assert_eq!(next.calls(), 2, "its source is still there");
}

#[tokio::test(start_paused = true)]
async fn keep_warm_fetches_nothing_until_the_next_session_and_then_at_once() {
    let script = Script::living(MINUTE);
    let cache = TokenCache::new(script.clone());
    tokio::spawn(cache.keep_warm());
    script.called(1).await;
    settle().await;
    sign_out(&cache).await;
    sleep(HOUR).await;
    assert_eq!(script.calls(), 1);
    let next = Script::new();
    cache.set_source(next.clone());
    settle().await;
    assert_eq!(next.calls(), 1);
}

// === requests ===

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn after_a_sign_out_requests_fail_unless_they_need_no_token() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let api = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap().layer(tower::service_fn(
        move |request: Request<Full<Bytes>>| {
            log.lock().unwrap().push(request.uri().to_string());
            async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())) }
        },
    ));
    api.clone().oneshot(get("https://api.example.com/1")).await.unwrap();
    sign_out(&cache).await;
    let error = api.clone().oneshot(get("https://api.example.com/2")).await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_signed_out(), "{error}");
    api.clone().oneshot(get("https://elsewhere.example.com/3")).await.unwrap();
    let mut without = get("https://api.example.com/4");
    without.extensions_mut().insert(NoToken);
    api.clone().oneshot(without).await.unwrap();
    cache.set_source(script);
    api.oneshot(get("https://api.example.com/5")).await.unwrap();
    let paths: Vec<_> = sent.lock().unwrap().iter().map(|url| url.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(paths, ["1", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_rejected_because_its_session_ended_gets_its_401() {
    for another_begins in [false, true] {
        let (script, next) = (Script::new(), Script::new());
        let cache = TokenCache::new(script.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, ending, follower) = (Arc::clone(&calls), cache.clone(), next.clone());
        let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap();
        let api = layer.layer(tower::service_fn(move |_: Request<Full<Bytes>>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let (cache, next) = (ending.clone(), follower.clone());
            async move {
                sign_out(&cache).await;
                if another_begins {
                    cache.set_source(next);
                    cache.get().await?;
                }
                let rejected = Response::builder().status(401).body(Full::<Bytes>::default());
                Ok::<_, BoxError>(rejected.unwrap())
            }
        }));
        let response = api.oneshot(get("https://api.example.com/")).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.extensions().get::<Error>().unwrap().is_signed_out());
        assert_eq!((calls.load(Ordering::SeqCst), script.calls()), (1, 1), "it is not retried as another person");
        assert_eq!(next.calls(), usize::from(another_begins), "it does not reject the token of the next session");
    }
}

/// An API that rejects the first request, and counts them all.
fn rejecting_once(
    calls: &Arc<AtomicUsize>,
) -> impl Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ 'static {
    let counted = Arc::clone(calls);
    tower::service_fn(move |_: Request<Full<Bytes>>| {
        let status = if counted.fetch_add(1, Ordering::SeqCst) == 0 { 401 } else { 200 };
        let answer = Response::builder().status(status).body(Full::<Bytes>::default()).unwrap();
        std::future::ready(Ok::<_, BoxError>(answer))
    })
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_session_ends_while_its_young_token_is_rejected_gets_its_401() {
    for another_begins in [false, true] {
        let cache = TokenCache::new(Script::new());
        let calls = Arc::default();
        let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap();
        cache.get().await.unwrap();
        let mut request = task::spawn(layer.layer(rejecting_once(&calls)).oneshot(get("https://api.example.com/")));
        assert_pending!(request.poll(), "rejected with a token that is too young");
        sign_out(&cache).await;
        if another_begins {
            cache.set_source(Script::new());
            cache.get().await.unwrap();
        }
        let response = request.await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.extensions().get::<Error>().unwrap().is_signed_out());
        assert_eq!(calls.load(Ordering::SeqCst), 1, "it is not retried as another person");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_session_ends_while_it_waits_for_its_client_is_not_retried_as_another_person() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let calls = Arc::default();
    let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap();
    let one_at_a_time = ConcurrencyLimit::new(rejecting_once(&calls), 1);
    cache.get().await.unwrap();
    sleep(MINUTE).await;
    let mut request = task::spawn(layer.layer(one_at_a_time.clone()).oneshot(get("https://api.example.com/")));
    assert_pending!(request.poll(), "rejected, and waits for the next token");
    let mut other = one_at_a_time;
    other.ready().await.unwrap();
    script.called(2).await;
    settle().await;
    assert_pending!(request.poll(), "waits for the client");
    sign_out(&cache).await;
    cache.set_source(Script::new());
    cache.get().await.unwrap();
    drop(other);
    let error = request.await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_signed_out(), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_old_session_is_not_replaced_by_one_of_the_new() {
    let cache = TokenCache::new(Script::new());
    let old = cache.get().await.unwrap();
    sign_out(&cache).await;
    let next = Script::new();
    cache.set_source(next.clone());
    let new = cache.get().await.unwrap();
    assert!(cache.report_rejected(&old).await.unwrap_err().is_signed_out());
    assert_eq!(text(cache.report_rejected(&new).await), "t2", "a token of the new session is replaced");
    let handmade = Token::new("handmade").unwrap();
    assert_eq!(
        text(cache.report_rejected(&handmade).await),
        "t2",
        "a token that was not published belongs to no session"
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiter_does_not_get_a_token_of_the_next_session() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let mut waiter = task::spawn(cache.get());
    assert_pending!(waiter.poll());
    script.called(1).await;
    assert_pending!(task::spawn(sign_out(&cache)).poll());
    cache.set_source(Script::new());
    assert!(waiter.await.unwrap_err().is_signed_out());
    gate.open();
    assert_eq!(text(cache.get().await), "t1");
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_the_old_token_causes_no_fetch_in_the_next_session() {
    let (cache, next) = (TokenCache::new(Script::new()), Script::new());
    let (ending, follower) = (cache.clone(), next.clone());
    let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap().replay(Never);
    let api = layer.layer(tower::service_fn(move |_: Request<Full<Bytes>>| {
        let (cache, next) = (ending.clone(), follower.clone());
        async move {
            sign_out(&cache).await;
            cache.set_source(next);
            Ok::<_, BoxError>(Response::builder().status(401).body(Full::<Bytes>::default()).unwrap())
        }
    }));
    assert_eq!(api.oneshot(get("https://api.example.com/")).await.unwrap().status(), 401);
    settle().await;
    assert_eq!(next.calls(), 0);
}
