//! What happens off the fast path, in every place it can happen: on one runtime, over a service with a single permit
//! that issuer and API share, and with callers on two runtimes. A deadlock shows as a timeout.

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
/// Long enough for others to gather at the same fetch; nothing waits for it to pass.
const SLOW: Duration = Duration::from_millis(5);
/// No scenario takes this long: what does is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Where the callers run.
#[derive(Clone)]
struct Callers {
    here: Handle,
    there: Handle,
}

impl Callers {
    /// `count` callers at once, half of them on each runtime.
    async fn call(&self, harness: &Harness, count: usize) -> Vec<Result<Response<Body>, BoxError>> {
        let calls: Vec<JoinHandle<_>> = (0..count)
            .map(|n| {
                let runtime = if n % 2 == 0 { &self.here } else { &self.there };
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
        let callers = Callers { here: Handle::current(), there: Handle::current() };
        tokio::time::timeout(STUCK, scenario(harness, callers)).await.expect("nothing is stuck");
    });
}

fn on_two_runtimes(harness: Harness, scenario: impl AsyncFnOnce(Harness, Callers)) {
    let (send, receive) = mpsc::channel();
    // Driven until the process ends; the tests do not wait for it.
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        send.send(runtime.handle().clone()).expect("the test waits");
        runtime.block_on(pending::<()>());
    });
    let there = receive.recv().expect("the other runtime starts");
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let callers = Callers { here: Handle::current(), there };
        tokio::time::timeout(STUCK, scenario(harness, callers)).await.expect("nothing is stuck");
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
    requests_go_on_while_a_due_token_is_refreshed,
    rejected_requests_go_again_after_one_refresh,
    a_late_rejection_goes_again_without_a_refresh,
    a_request_is_sent_at_most_twice,
    without_a_new_token_the_rejection_is_handed_back,
    without_any_token_the_request_fails_and_is_not_sent,
    a_dropped_request_leaves_the_fetch_running,
    a_body_that_cannot_go_twice_is_handed_back_and_the_token_replaced,
    a_token_that_is_dead_on_arrival_is_not_sent,
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
    assert!(!sent_old, "a request left with the expired token");
}

async fn requests_go_on_while_a_due_token_is_refreshed(harness: Harness, callers: Callers) {
    harness.cache.get().await.expect("a token");
    harness.clock.advance(Duration::from_secs(3590));
    assert_eq!(harness.cache.status().phase, Some(Phase::Due));
    // The issuer is silent: whoever waited for it would be stuck. It holds no permit that the API needs.
    harness.issuer.queue(Answer::raw(503, "the issuer is away"));
    assert_eq!(statuses(callers.call(&harness, CALLERS).await), [StatusCode::OK; CALLERS]);
    assert_eq!(harness.issuer.calls().total(), 2, "one refresh beside, whose failure is remembered");
}

async fn rejected_requests_go_again_after_one_refresh(harness: Harness, callers: Callers) {
    let token = harness.settled().await;
    harness.issuer.ledger().revoke(token.access_token());
    harness.issuer.delay(SLOW);
    assert_eq!(statuses(callers.call(&harness, CALLERS).await), [StatusCode::OK; CALLERS]);
    assert_eq!((harness.issuer.calls().total(), harness.issuer.calls().most_at_once()), (2, 1));
    assert!(harness.api.rejected() >= 1);
    assert_eq!(harness.api.accepted(), CALLERS);
}

async fn a_late_rejection_goes_again_without_a_refresh(harness: Harness, callers: Callers) {
    harness.cache.get().await.expect("a token");
    harness.api.queue(Answer::json(401, serde_json::json!({})).after(Duration::from_millis(50)));
    let late = callers.there.spawn(harness.client().oneshot(get("/late")));
    while harness.api.calls().total() == 0 {
        tokio::task::yield_now().await;
    }
    // Another way to the issuer: the network's only permit may lie with the late request.
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
    harness.settled().await;
    harness.api.reject_all(true);
    assert_eq!(statuses(callers.call(&harness, 1).await), [StatusCode::UNAUTHORIZED]);
    assert_eq!(harness.api.calls().total(), 2);
    assert_eq!(harness.issuer.calls().total(), 2, "one for each token sent");
}

async fn without_a_new_token_the_rejection_is_handed_back(harness: Harness, callers: Callers) {
    harness.settled().await;
    harness.issuer.fail(Some(Answer::raw(503, "<h1>away</h1>")));
    let rejection =
        Answer::raw(401, "the API's own words").header("www-authenticate", "Bearer error=\"invalid_token\"");
    harness.api.queue(rejection);
    let answer = callers.call(&harness, 1).await.remove(0).expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let error = answer.extensions().get::<Error>().expect("our error beside the API's answer");
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
    assert_eq!(body, "the API's own words");
    // Suspect, not destroyed: the next request goes out with it.
    assert!(harness.cache.status().suspect);
    assert_eq!(statuses(callers.call(&harness, 2).await), [StatusCode::OK; 2]);
}

async fn without_any_token_the_request_fails_and_is_not_sent(harness: Harness, callers: Callers) {
    harness.issuer.fail(Some(Answer::oauth_error(401, "invalid_client")));
    for answer in callers.call(&harness, CALLERS).await {
        let error = answer.expect_err("there is no token");
        assert!(Error::find(&*error).expect("our error").is_denied());
    }
    assert_eq!(harness.issuer.calls().total(), 1, "the failure is remembered");
    assert_eq!(harness.api.calls().total(), 0);
}

async fn a_dropped_request_leaves_the_fetch_running(harness: Harness, callers: Callers) {
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
    let impatient = callers.there.spawn(harness.client().oneshot(get("/")));
    answered.notified().await;
    impatient.abort();
    assert!(impatient.await.expect_err("it was dropped").is_cancelled());
    let (answers, ()) = tokio::join!(callers.call(&harness, 2), async { gate.close() });
    assert_eq!(statuses(answers), [StatusCode::OK; 2]);
    assert_eq!(harness.issuer.calls().total(), 1, "the dropped request's fetch brought the token");
}

async fn a_body_that_cannot_go_twice_is_handed_back_and_the_token_replaced(harness: Harness, callers: Callers) {
    let token = harness.settled().await;
    harness.issuer.ledger().revoke(token.access_token());
    let client = harness.layer().replay(Never).layer(harness.network.clone());
    let answer = callers.there.spawn(client.oneshot(get("/"))).await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.api.calls().total(), 1);
    while harness.cache.status().generation == 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(harness.issuer.calls().total(), 2);
}

async fn a_token_that_is_dead_on_arrival_is_not_sent(harness: Harness, callers: Callers) {
    let clock = harness.clock.clone();
    harness.cache.set_source(move |_: FetchContext| {
        // The answer takes a minute by this clock.
        clock.advance(Duration::from_secs(60));
        async { Token::new("t").map(|token| token.with_lifetime(Duration::from_secs(60))) }
    });
    let waiting = callers.there.spawn(harness.client().oneshot(get("/")));
    let error = waiting.await.expect("no panic").expect_err("no usable token came");
    assert!(Error::find(&*error).expect("our error").is_transient());
    assert_eq!(harness.api.calls().total(), 0);
}
