//! The slow path: on one runtime, on two, and over a service with a single permit that issuer and API share. A deadlock
//! makes the test time out.

use std::future::pending;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::replay::Never;
use tower_bearer::testing::Answer;
use tower_bearer::{Error, FetchContext, Phase, Token, TokenSource};

use crate::stack::{Body, Harness, get, login};

const CALLERS: usize = 48;
/// The delay of the issuer, during which other callers join the fetch.
const SLOW: Duration = Duration::from_millis(5);
/// A scenario that takes this long is deadlocked.
const DEADLOCKED: Duration = Duration::from_secs(60);

/// The runtimes of the callers.
#[derive(Clone)]
struct Callers {
    first: Handle,
    second: Handle,
}

impl Callers {
    /// Sends `count` requests at the same time, half of them on each runtime.
    async fn call(&self, harness: &Harness, count: usize) -> Vec<Result<Response<Body>, BoxError>> {
        let calls: Vec<JoinHandle<_>> = (0..count)
            .map(|n| {
                let runtime = if n % 2 == 0 { &self.first } else { &self.second };
                runtime.spawn(harness.client().oneshot(get(&format!("/{n}"))))
            })
            .collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.expect("the caller does not panic"));
        }
        answers
    }
}

fn statuses(answers: Vec<Result<Response<Body>, BoxError>>) -> Vec<StatusCode> {
    answers.into_iter().map(|answer| answer.expect("an answer").status()).collect()
}

fn on_one_runtime(harness: Harness, scenario: impl AsyncFnOnce(Harness, Callers)) {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let callers = Callers { first: Handle::current(), second: Handle::current() };
        tokio::time::timeout(DEADLOCKED, scenario(harness, callers)).await.expect("no deadlock");
    });
}

fn on_two_runtimes(harness: Harness, scenario: impl AsyncFnOnce(Harness, Callers)) {
    let (send, receive) = mpsc::channel();
    // This runtime is driven until the process ends. The tests do not wait for it.
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        send.send(runtime.handle().clone()).expect("the test waits");
        runtime.block_on(pending::<()>());
    });
    let second = receive.recv().expect("the other runtime starts");
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let callers = Callers { first: Handle::current(), second };
        tokio::time::timeout(DEADLOCKED, scenario(harness, callers)).await.expect("no deadlock");
    });
}

fn single_permit() -> Harness {
    Harness::over(|network| BoxCloneService::new(ConcurrencyLimit::new(network, 1)))
}

macro_rules! everywhere {
    ($($scenario:ident),* $(,)?) => {$(
        mod $scenario {
            #[test]
            fn on_one_runtime() {
                super::on_one_runtime(super::Harness::new(), super::$scenario);
            }

            #[test]
            fn over_a_single_permit() {
                super::on_one_runtime(super::single_permit(), super::$scenario);
            }

            #[test]
            fn with_callers_on_two_runtimes() {
                super::on_two_runtimes(super::Harness::new(), super::$scenario);
            }

            #[test]
            fn with_callers_on_two_runtimes_over_a_single_permit() {
                super::on_two_runtimes(super::single_permit(), super::$scenario);
            }
        }
    )*};
}

everywhere! {
    the_first_requests_wait_for_one_token,
    no_expired_token_is_sent,
    requests_do_not_wait_while_a_due_token_is_refreshed,
    rejected_requests_are_retried_after_one_refresh,
    a_late_rejection_is_retried_without_a_refresh,
    a_request_is_sent_at_most_twice,
    without_a_new_token_the_rejection_is_returned,
    without_a_token_the_request_fails_and_is_not_sent,
    a_dropped_request_does_not_end_the_fetch,
    without_replay_the_rejection_is_returned_and_the_token_replaced,
    a_token_that_expired_during_its_fetch_is_not_sent,
}

async fn the_first_requests_wait_for_one_token(harness: Harness, callers: Callers) {
    harness.issuer.delay(SLOW);
    let answers = statuses(callers.call(&harness, CALLERS).await);
    assert_eq!(answers, [StatusCode::OK; CALLERS]);
    assert_eq!((harness.issuer.calls().total(), harness.issuer.calls().most_at_once()), (1, 1));
    assert_eq!((harness.api.without_token(), harness.api.rejected()), (0, 0));
}

async fn no_expired_token_is_sent(harness: Harness, callers: Callers) {
    harness.cache.get().await.expect("a token");
    let first = harness.issuer.ledger().newest().expect("a token");
    harness.clock.advance(Duration::from_secs(3600));
    harness.issuer.delay(SLOW);
    assert_eq!(statuses(callers.call(&harness, CALLERS).await), [StatusCode::OK; CALLERS]);
    assert_eq!(harness.issuer.calls().total(), 2);
    let sent_old =
        harness.api.requests().iter().any(|request| request.headers["authorization"] == format!("Bearer {first}"));
    assert!(!sent_old, "a request was sent with the expired token");
}

async fn requests_do_not_wait_while_a_due_token_is_refreshed(harness: Harness, callers: Callers) {
    harness.cache.get().await.expect("a token");
    harness.clock.advance(Duration::from_secs(3590));
    assert_eq!(harness.cache.status().phase, Some(Phase::Due));
    // The refresh fails. A request that waited for it would fail, too.
    harness.issuer.queue(Answer::raw(503, "the issuer is down"));
    assert_eq!(statuses(callers.call(&harness, CALLERS).await), [StatusCode::OK; CALLERS]);
    assert_eq!(harness.issuer.calls().total(), 2, "one refresh, whose failure is remembered");
}

async fn rejected_requests_are_retried_after_one_refresh(harness: Harness, callers: Callers) {
    let token = harness.with_old_token().await;
    harness.issuer.ledger().revoke(token.access_token());
    harness.issuer.delay(SLOW);
    assert_eq!(statuses(callers.call(&harness, CALLERS).await), [StatusCode::OK; CALLERS]);
    assert_eq!((harness.issuer.calls().total(), harness.issuer.calls().most_at_once()), (2, 1));
    assert!(harness.api.rejected() >= 1);
    assert_eq!(harness.api.accepted(), CALLERS);
}

async fn a_late_rejection_is_retried_without_a_refresh(harness: Harness, callers: Callers) {
    harness.cache.get().await.expect("a token");
    harness.api.queue(Answer::json(401, serde_json::json!({})).after(Duration::from_millis(50)));
    let late = callers.second.spawn(harness.client().oneshot(get("/late")));
    while harness.api.calls().total() == 0 {
        tokio::task::yield_now().await;
    }
    // The source does not use the network, because the late request may hold its only permit.
    let newer = tower_bearer::Token::new("newer").expect("a token");
    harness.issuer.ledger().issue("newer", Duration::from_secs(3600));
    let source = move |_| std::future::ready(Ok::<_, Error>(newer.clone()));
    let replaced = harness.cache.get().await.expect("a token");
    harness.cache.set_source(source);
    assert!(harness.cache.get().await.expect("a token").generation() > replaced.generation());
    assert_eq!(late.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.cache.status().generation, replaced.generation() + 1, "the late rejection refreshed nothing");
    let sent: Vec<_> = harness.api.requests().iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(sent, [replaced.header_value().clone(), "Bearer newer".parse().expect("a header")]);
}

async fn a_request_is_sent_at_most_twice(harness: Harness, callers: Callers) {
    harness.with_old_token().await;
    harness.api.reject_all(true);
    assert_eq!(statuses(callers.call(&harness, 1).await), [StatusCode::UNAUTHORIZED]);
    assert_eq!(harness.api.calls().total(), 2);
    assert_eq!(harness.issuer.calls().total(), 2, "one for each token sent");
}

async fn without_a_new_token_the_rejection_is_returned(harness: Harness, callers: Callers) {
    harness.with_old_token().await;
    harness.issuer.fail(Some(Answer::raw(503, "<h1>away</h1>")));
    let rejection =
        Answer::raw(401, "the API's own words").header("www-authenticate", "Bearer error=\"invalid_token\"");
    harness.api.queue(rejection);
    let answer = callers.call(&harness, 1).await.remove(0).expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let error = answer.extensions().get::<Error>().expect("the layer's error in the API's answer");
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
    assert_eq!(body, "the API's own words");
    // The token is suspect, but the next request still uses it.
    assert!(harness.cache.status().suspect);
    assert_eq!(statuses(callers.call(&harness, 2).await), [StatusCode::OK; 2]);
}

async fn without_a_token_the_request_fails_and_is_not_sent(harness: Harness, callers: Callers) {
    harness.issuer.fail(Some(Answer::oauth_error(401, "invalid_client")));
    for answer in callers.call(&harness, CALLERS).await {
        let error = answer.expect_err("there is no token");
        assert!(Error::find(&*error).expect("the layer's error").is_denied());
    }
    assert_eq!(harness.issuer.calls().total(), 1, "the failure is remembered");
    assert_eq!(harness.api.calls().total(), 0);
}

async fn a_dropped_request_does_not_end_the_fetch(harness: Harness, callers: Callers) {
    let (gate, answered) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let login = Arc::new(login(&harness.network));
    harness.cache.set_source({
        let (gate, answered) = (Arc::clone(&gate), Arc::clone(&answered));
        move |context| {
            let (login, gate, answered) = (Arc::clone(&login), Arc::clone(&gate), Arc::clone(&answered));
            async move {
                let answer = login.fetch(context).await;
                answered.notify_one();
                let _open = gate.acquire().await;
                answer
            }
        }
    });
    let dropped = callers.second.spawn(harness.client().oneshot(get("/")));
    answered.notified().await;
    dropped.abort();
    assert!(dropped.await.expect_err("it was dropped").is_cancelled());
    let (answers, ()) = tokio::join!(callers.call(&harness, 2), async { gate.close() });
    assert_eq!(statuses(answers), [StatusCode::OK; 2]);
    assert_eq!(harness.issuer.calls().total(), 1, "the fetch of the dropped request returned the token");
}

async fn without_replay_the_rejection_is_returned_and_the_token_replaced(harness: Harness, callers: Callers) {
    let token = harness.with_old_token().await;
    harness.issuer.ledger().revoke(token.access_token());
    let client = harness.layer().replay(Never).layer(harness.network.clone());
    let answer = callers.second.spawn(client.oneshot(get("/"))).await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.api.calls().total(), 1);
    while harness.cache.status().generation == 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(harness.issuer.calls().total(), 2);
}

async fn a_token_that_expired_during_its_fetch_is_not_sent(harness: Harness, callers: Callers) {
    let clock = harness.clock.clone();
    harness.cache.set_source(move |_: FetchContext| {
        // The answer takes a minute by this clock.
        clock.advance(Duration::from_secs(60));
        async { Token::new("t").map(|token| token.with_lifetime(Duration::from_secs(60))) }
    });
    let waiting = callers.second.spawn(harness.client().oneshot(get("/")));
    let error = waiting.await.expect("no panic").expect_err("there is no usable token");
    assert!(Error::find(&*error).expect("the layer's error").is_transient());
    assert_eq!(harness.api.calls().total(), 0);
}
