//! Layers of tower whose effect depends on their side.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::buffer::Buffer;
use tower::limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer, RateLimit, rate::Rate};
use tower::load_shed::{LoadShed, error::Overloaded};
use tower::retry::{Policy, Retry};
use tower::timeout::{Timeout, error::Elapsed};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::testing::Answer;
use tower_bearer::{BearerLayer, Error, TokenCache};

use crate::both_sides::balanced;
use crate::harness::{API, Body, Harness, SECOND, get, settle};

#[tokio::test(start_paused = true)]
async fn an_inner_timeout_bounds_each_send_and_not_the_wait_for_a_token() {
    let harness = Harness::over_requests(|network| Timeout::new(network, SECOND));
    harness.issuer.delay(10 * SECOND);
    let answer = harness.client().oneshot(get()).await.expect("the wait is not bounded");
    assert_eq!(answer.status(), StatusCode::OK);
    harness.api.delay(2 * SECOND);
    let error = harness.client().oneshot(get()).await.expect_err("the send is bounded");
    assert!(error.is::<Elapsed>());
}

#[tokio::test(start_paused = true)]
async fn each_send_has_its_own_deadline_with_an_inner_timeout() {
    let harness = Harness::over_requests(|network| Timeout::new(network, 3 * SECOND));
    harness.with_revoked_token().await;
    harness.api.delay(2 * SECOND);
    assert_eq!(harness.client().oneshot(get()).await.expect("two sends").status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_outer_timeout_bounds_the_wait_and_ends_no_fetch() {
    let harness = Harness::new();
    harness.issuer.delay(10 * SECOND);
    let client = Timeout::new(harness.client(), SECOND);
    assert!(client.clone().oneshot(get()).await.expect_err("too long").is::<Elapsed>());
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(client.oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.issuer.calls().total(), 1, "the first fetch returned the token");
}

/// A request that needs no token of the layer.
fn with_own_credentials() -> Request<Body> {
    Request::get(API).header("authorization", "Basic eA==").body(Body::default()).expect("a request")
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_token_takes_no_permit_of_an_inner_limit() {
    let harness = Harness::over_requests(|network| ConcurrencyLimit::new(network, 1));
    harness.issuer.delay(10 * SECOND);
    let waiting = tokio::spawn(harness.client().oneshot(get()));
    settle().await;
    let mut other = harness.client();
    let began = Instant::now();
    let ready = tokio::time::timeout(60 * SECOND, other.ready()).await.expect("the permit is free");
    ready.expect("a permit").call(with_own_credentials()).await.expect("an answer");
    assert_eq!(Instant::now(), began, "it did not wait for the permit");
    assert_eq!(waiting.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_token_takes_a_permit_of_an_outer_limit() {
    let harness = Harness::new();
    harness.issuer.delay(10 * SECOND);
    let client = ConcurrencyLimit::new(harness.client(), 1);
    let waiting = tokio::spawn(client.clone().oneshot(get()));
    settle().await;
    let began = Instant::now();
    client.oneshot(with_own_credentials()).await.expect("an answer");
    assert!(began.elapsed() >= 10 * SECOND, "it waited for the token of the other request");
    assert_eq!(waiting.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
}

/// A limit that the issuer's client shares belongs inside the layer. Outside it, the request that waits for a token
/// holds the permit that the token call needs, and fails at the fetch deadline.
#[tokio::test(start_paused = true)]
async fn an_outer_limit_that_the_issuers_client_shares_makes_the_request_fail() {
    let harness = Harness::new();
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::new(Semaphore::new(1)));
    let source = {
        let issuer = limit.layer(harness.issuer.clone());
        let login = tower_bearer::oauth2::ClientCredentialsGrant::builder(
            &tower_bearer::oauth2::Issuer::new(issuer).token_endpoint("https://auth.example.com/token"),
            "app",
            "secret",
        )
        .build();
        login.expect("a login")
    };
    let bearer = BearerLayer::new(TokenCache::new(source), [API]).expect("an origin").layer(harness.api.clone());
    let error = limit.layer(bearer).oneshot(get()).await.expect_err("the one permit is taken");
    assert!(Error::find(&*error).expect("the layer's error").is_transient());
    assert_eq!(harness.issuer.calls().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outer_load_shed_sheds_if_the_inner_service_is_not_ready() {
    let harness = Harness::over_requests(|network| ConcurrencyLimit::new(network, 1));
    harness.with_old_token().await;
    let mut busy = harness.client();
    busy.ready().await.expect("a permit");
    let error = LoadShed::new(busy.clone()).oneshot(get()).await.expect_err("too much");
    assert!(error.is::<Overloaded>());
}

/// Load shedding belongs outside: inside, the second send is shed, too, and a request that could wait fails.
#[tokio::test(start_paused = true)]
async fn an_inner_load_shed_sheds_the_second_send() {
    let permits = Arc::new(Semaphore::new(1));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
    let harness = Harness::over_requests(|network| LoadShed::new(limit.layer(network)));
    harness.with_revoked_token().await;
    harness.issuer.delay(SECOND);
    let rejected = tokio::spawn(harness.client().oneshot(get()));
    settle().await;
    let _others = permits.acquire().await.expect("a permit: the rejected request holds none");
    let error = rejected.await.expect("no panic").expect_err("shed");
    assert!(error.is::<Overloaded>());
}

/// Retries answers of this status at once, at most three times, and counts the answers that it sees.
#[derive(Clone)]
struct Retries {
    status: StatusCode,
    remaining: usize,
    seen: Arc<AtomicUsize>,
}

impl Retries {
    fn of(status: StatusCode) -> Self {
        Self { status, remaining: 3, seen: Arc::default() }
    }
}

impl<A> Policy<Request<Body>, Response<A>, BoxError> for Retries {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, answer: &mut Result<Response<A>, BoxError>) -> Option<Ready<()>> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.remaining == 0 || answer.as_ref().is_ok_and(|answer| answer.status() != self.status) {
            return None;
        }
        self.remaining -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn an_outer_retry_sends_a_new_request_and_does_not_see_retried_rejections() {
    let (harness, policy) = (Harness::new(), Retries::of(StatusCode::SERVICE_UNAVAILABLE));
    harness.with_revoked_token().await;
    harness.api.queue(Answer::raw(503, ""));
    let client = Retry::new(policy.clone(), harness.client());
    assert_eq!(client.oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.sent("authorization"), ["1", "1", "2"].map(|number| format!("Bearer token-{number}")));
    assert_eq!(policy.seen.load(Ordering::SeqCst), 2, "the 503 and the final answer, but no 401");
}

/// A retry belongs outside: inside, each attempt has the token of the first.
#[tokio::test(start_paused = true)]
async fn an_inner_retry_repeats_the_token_and_sees_every_rejection() {
    let policy = Retries::of(StatusCode::SERVICE_UNAVAILABLE);
    let harness = Harness::over_requests(|network| Retry::new(policy.clone(), network));
    harness.with_revoked_token().await;
    harness.api.queue(Answer::raw(503, ""));
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.sent("authorization"), ["1", "1", "2"].map(|number| format!("Bearer token-{number}")));
    assert_eq!(policy.seen.load(Ordering::SeqCst), 3, "the 503, the 401 and the final answer");
}

/// The policy of an inner retry must not retry a 401.
#[tokio::test(start_paused = true)]
async fn an_inner_retry_of_a_401_repeats_the_rejected_token() {
    let harness = Harness::over_requests(|network| Retry::new(Retries::of(StatusCode::UNAUTHORIZED), network));
    harness.with_revoked_token().await;
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.sent("authorization"), ["1", "1", "1", "1", "2"].map(|number| format!("Bearer token-{number}")));
}

#[tokio::test(start_paused = true)]
async fn an_inner_rate_limit_counts_each_send_and_an_outer_one_each_request() {
    let rate = || Rate::new(1, 10 * SECOND);
    let harness = Harness::over_requests(|network| Buffer::new(RateLimit::new(network, rate()), 1));
    harness.with_revoked_token().await;
    let began = Instant::now();
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert!(began.elapsed() >= 10 * SECOND, "the second send waited for its turn");

    let harness = Harness::new();
    harness.with_revoked_token().await;
    let began = Instant::now();
    let client = RateLimit::new(harness.client(), rate());
    assert_eq!(client.oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_second_send_through_an_inner_balancer_may_go_to_another_endpoint() {
    let harness = Harness::over_requests(|network| {
        let endpoint = |name| {
            ServiceExt::<Request<Body>>::map_request(network.clone(), move |mut request: Request<Body>| {
                request.headers_mut().insert("x-endpoint", HeaderValue::from_static(name));
                request
            })
        };
        Buffer::new(balanced(endpoint("one"), endpoint("two")), 1)
    });
    // The balancer chooses at random. In so many rounds the two sends differ at least once.
    for _ in 0..64 {
        harness.with_revoked_token().await;
        assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
        // Wait for the next window of the rejection budget.
        tokio::time::advance(60 * SECOND).await;
    }
    let endpoints = harness.sent("x-endpoint");
    assert_eq!(endpoints.len(), 128);
    assert!(endpoints.chunks(2).any(|sends| sends[0] != sends[1]), "{endpoints:?}");
}
