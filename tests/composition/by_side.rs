//! Layers of tower whose side decides what they do.

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
async fn a_timeout_beneath_bounds_each_send_and_not_the_wait_for_a_token() {
    let harness = Harness::over_requests(|network| Timeout::new(network, SECOND));
    harness.issuer.delay(10 * SECOND);
    let answer = harness.client().oneshot(get()).await.expect("the wait is not bounded");
    assert_eq!(answer.status(), StatusCode::OK);
    harness.api.delay(2 * SECOND);
    let error = harness.client().oneshot(get()).await.expect_err("the send is");
    assert!(error.is::<Elapsed>());
}

#[tokio::test(start_paused = true)]
async fn each_send_has_its_own_time_under_a_timeout_beneath() {
    let harness = Harness::over_requests(|network| Timeout::new(network, 3 * SECOND));
    harness.revoked().await;
    harness.api.delay(2 * SECOND);
    assert_eq!(harness.client().oneshot(get()).await.expect("two sends").status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_above_bounds_the_wait_and_ends_no_fetch() {
    let harness = Harness::new();
    harness.issuer.delay(10 * SECOND);
    let client = Timeout::new(harness.client(), SECOND);
    assert!(client.clone().oneshot(get()).await.expect_err("too long").is::<Elapsed>());
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(client.oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.issuer.calls().total(), 1, "the fetch that was waited for brought the token");
}

/// Needs no token of ours.
fn with_own_credentials() -> Request<Body> {
    Request::get(API).header("authorization", "Basic eA==").body(Body::default()).expect("a request")
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_token_takes_no_permit_of_a_limit_beneath() {
    let harness = Harness::over_requests(|network| ConcurrencyLimit::new(network, 1));
    harness.issuer.delay(10 * SECOND);
    let waiting = tokio::spawn(harness.client().oneshot(get()));
    settle().await;
    let mut other = harness.client();
    let began = Instant::now();
    let ready = tokio::time::timeout(60 * SECOND, other.ready()).await.expect("nobody holds the permit for long");
    ready.expect("a permit").call(with_own_credentials()).await.expect("an answer");
    assert_eq!(Instant::now(), began, "the permit was free");
    assert_eq!(waiting.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_limit_above_is_filled_by_a_request_that_waits_for_a_token() {
    let harness = Harness::new();
    harness.issuer.delay(10 * SECOND);
    let client = ConcurrencyLimit::new(harness.client(), 1);
    let waiting = tokio::spawn(client.clone().oneshot(get()));
    settle().await;
    let began = Instant::now();
    client.oneshot(with_own_credentials()).await.expect("an answer");
    assert!(began.elapsed() >= 10 * SECOND, "it has waited for another's token");
    assert_eq!(waiting.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
}

/// Why a limit that the issuer's client shares belongs beneath us: above, the request that waits for a token holds the
/// permit that the token call needs. It ends with the fetch's deadline.
#[tokio::test(start_paused = true)]
async fn a_limit_above_that_the_issuers_client_shares_lets_the_request_fail() {
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
    assert!(Error::find(&*error).expect("our error").is_transient());
    assert_eq!(harness.issuer.calls().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn load_is_shed_above_where_the_service_beneath_is_not_ready() {
    let harness = Harness::over_requests(|network| ConcurrencyLimit::new(network, 1));
    harness.settled().await;
    let mut busy = harness.client();
    busy.ready().await.expect("a permit");
    let error = LoadShed::new(busy.clone()).oneshot(get()).await.expect_err("too much");
    assert!(error.is::<Overloaded>());
}

/// Why it belongs above: beneath, the second send is shed too, and a request that could wait fails.
#[tokio::test(start_paused = true)]
async fn load_shed_beneath_sheds_the_second_send() {
    let permits = Arc::new(Semaphore::new(1));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
    let harness = Harness::over_requests(|network| LoadShed::new(limit.layer(network)));
    harness.revoked().await;
    harness.issuer.delay(SECOND);
    let rejected = tokio::spawn(harness.client().oneshot(get()));
    settle().await;
    let _others = permits.acquire().await.expect("a permit: the rejected request holds none");
    let error = rejected.await.expect("no panic").expect_err("shed");
    assert!(error.is::<Overloaded>());
}

/// Retries an answer of this status at once, three times at most, and counts what it is shown.
#[derive(Clone)]
struct Retries {
    status: StatusCode,
    left: usize,
    seen: Arc<AtomicUsize>,
}

impl Retries {
    fn of(status: StatusCode) -> Self {
        Self { status, left: 3, seen: Arc::default() }
    }
}

impl<A> Policy<Request<Body>, Response<A>, BoxError> for Retries {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, answer: &mut Result<Response<A>, BoxError>) -> Option<Ready<()>> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.left == 0 || answer.as_ref().is_ok_and(|answer| answer.status() != self.status) {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_above_begins_anew_and_does_not_see_the_rejections_that_we_mend() {
    let (harness, policy) = (Harness::new(), Retries::of(StatusCode::SERVICE_UNAVAILABLE));
    harness.revoked().await;
    harness.api.queue(Answer::raw(503, ""));
    let client = Retry::new(policy.clone(), harness.client());
    assert_eq!(client.oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.sent("authorization"), ["1", "1", "2"].map(|number| format!("Bearer token-{number}")));
    assert_eq!(policy.seen.load(Ordering::SeqCst), 2, "the 503 and the end, no 401");
}

/// Why it belongs above: beneath, each attempt has the token of the first.
#[tokio::test(start_paused = true)]
async fn a_retry_beneath_repeats_the_token_and_sees_every_rejection() {
    let policy = Retries::of(StatusCode::SERVICE_UNAVAILABLE);
    let harness = Harness::over_requests(|network| Retry::new(policy.clone(), network));
    harness.revoked().await;
    harness.api.queue(Answer::raw(503, ""));
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.sent("authorization"), ["1", "1", "2"].map(|number| format!("Bearer token-{number}")));
    assert_eq!(policy.seen.load(Ordering::SeqCst), 3, "the 503, the 401 and the end");
}

/// Why its policy must leave the 401 alone.
#[tokio::test(start_paused = true)]
async fn a_retry_of_the_401_beneath_repeats_the_rejected_token() {
    let harness = Harness::over_requests(|network| Retry::new(Retries::of(StatusCode::UNAUTHORIZED), network));
    harness.revoked().await;
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.sent("authorization"), ["1", "1", "1", "1", "2"].map(|number| format!("Bearer token-{number}")));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_beneath_counts_each_send_and_one_above_each_request() {
    let rate = || Rate::new(1, 10 * SECOND);
    let harness = Harness::over_requests(|network| Buffer::new(RateLimit::new(network, rate()), 1));
    harness.revoked().await;
    let began = Instant::now();
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert!(began.elapsed() >= 10 * SECOND, "the second send had its turn");

    let harness = Harness::new();
    harness.revoked().await;
    let began = Instant::now();
    let client = RateLimit::new(harness.client(), rate());
    assert_eq!(client.oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_second_send_through_a_balancer_beneath_may_go_to_another_endpoint() {
    let harness = Harness::over_requests(|network| {
        let endpoint = |name| {
            ServiceExt::<Request<Body>>::map_request(network.clone(), move |mut request: Request<Body>| {
                request.headers_mut().insert("x-endpoint", HeaderValue::from_static(name));
                request
            })
        };
        Buffer::new(balanced(endpoint("one"), endpoint("two")), 1)
    });
    // The dice fall differently in one of so many.
    for _ in 0..64 {
        harness.revoked().await;
        assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
        // Past the time in which rejections may cause only so many refreshes.
        tokio::time::advance(60 * SECOND).await;
    }
    let endpoints = harness.sent("x-endpoint");
    assert_eq!(endpoints.len(), 128);
    assert!(endpoints.chunks(2).any(|sends| sends[0] != sends[1]), "{endpoints:?}");
}
