//! The middleware for `reqwest-middleware`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Extensions, StatusCode};
use reqwest::redirect::Policy;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result};
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{RetryTransientMiddleware, Retryable, RetryableStrategy};
use tower_bearer::replay::{Buffered, Never};
use tower_bearer::testing::Answer;
use tower_bearer_reqwest::BearerMiddleware;

use crate::harness::{Harness, silent};
use crate::net::{Answer as Says, Net, events, named};

/// Counts requests, and those that carry a [`Word`].
#[derive(Clone, Default)]
struct Passed {
    requests: Arc<AtomicUsize>,
    words: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl Middleware for Passed {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<reqwest::Response> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.words.fetch_add(usize::from(extensions.get::<Word>().is_some()), Ordering::SeqCst);
        next.run(request, extensions).await
    }
}

/// An extension of another middleware.
#[derive(Clone, Debug)]
struct Word;

fn client(bearer: impl Middleware, below: impl Middleware) -> ClientWithMiddleware {
    let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().expect("a client");
    ClientBuilder::new(http).with(bearer).with(below).build()
}

#[tokio::test]
async fn a_rejected_request_goes_through_the_rest_of_the_chain_again() {
    let (harness, below) = (Harness::revoked().await, Passed::default());
    let client = client(BearerMiddleware::new(harness.layer()), below.clone());
    let response = client.post(harness.server.url("/me")).body("hello").send().await.expect("an answer");
    assert_eq!((response.status(), response.url().path()), (StatusCode::OK, "/me"));
    assert_eq!(harness.uploads(), ["hello", "hello"]);
    assert_eq!(harness.server.tokens(), ["Bearer token-1", "Bearer token-2"]);
    assert_eq!(below.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_layers_replay_choice_can_be_kept() {
    let harness = Harness::revoked().await;
    let client = client(BearerMiddleware::with_replay(harness.layer().replay(Never)), Passed::default());
    let response = client.get(harness.server.url("/")).send().await.expect("an answer");
    assert_eq!((response.status(), harness.server.seen().len()), (StatusCode::UNAUTHORIZED, 1));

    let harness = Harness::revoked().await;
    let recorded = harness.layer().replay(Buffered::new(1024).wrap(reqwest::Body::wrap));
    let client = self::client(BearerMiddleware::with_replay(recorded), Passed::default());
    let stream = tokio_stream::iter(["one", "two"].map(Ok::<_, std::io::Error>));
    let response = client.post(harness.server.url("/")).body(reqwest::Body::wrap_stream(stream)).send().await;
    assert_eq!(response.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.uploads(), ["onetwo", "onetwo"]);
}

#[tokio::test]
async fn other_servers_get_no_token() {
    let (harness, other) = (Harness::new().await, Harness::new().await);
    let client = client(BearerMiddleware::new(harness.layer()), Passed::default());
    let response = client.get(other.server.url("/")).send().await.expect("an answer");
    assert_eq!((response.status(), other.server.tokens()), (StatusCode::UNAUTHORIZED, vec![String::new()]));
    assert_eq!(harness.issuer.calls().total(), 1, "a 401 of another server refreshes nothing");
}

#[tokio::test]
async fn extensions_reach_the_rest_of_the_chain() {
    let (harness, below) = (Harness::revoked().await, Passed::default());
    let client = client(BearerMiddleware::new(harness.layer()), below.clone());
    let response = client.get(harness.server.url("/")).with_extension(Word).send().await.expect("an answer");
    assert_eq!((response.status(), below.words.load(Ordering::SeqCst)), (StatusCode::OK, 2));
}

#[tokio::test]
async fn a_client_of_client_builder_sends_no_token_to_another_server() {
    let (harness, net) = (Harness::new().await, Net::two_hops().await);
    let builder = Net::builder().redirect(Policy::default());
    let client = BearerMiddleware::client_builder(builder).expect("a client");
    let client = client.with(BearerMiddleware::new(harness.layer_for(&net.origin()))).build();
    let response = client.get(named("api.test", &net.api, "/")).send().await.expect("an answer");
    assert_eq!((response.status(), net.other.tokens().len()), (StatusCode::FOUND, 0));
}

#[tokio::test]
async fn an_answer_from_another_origin_is_an_error_event() {
    let (events, _guard) = events();
    let harness = Harness::new().await;
    let net = Net::one_hop(302, "other.test", Says::Says(200, "welcome")).await;
    let client = ClientBuilder::new(Net::builder().build().expect("a client"));
    let client = client.with(BearerMiddleware::new(harness.layer_for(&net.origin()))).build();
    client.get(named("api.test", &net.api, "/")).send().await.expect("an answer");
    let origins = vec![net.origin(), named("other.test", &net.other, "")];
    assert_eq!(*events.lock().expect("no panic"), [(tracing::Level::ERROR, "cross_origin_response", origins)]);
}

/// A middleware that answers itself: 401 to the first token, 200 to the next.
struct Mock;

#[async_trait::async_trait]
impl Middleware for Mock {
    async fn handle(&self, request: reqwest::Request, _: &mut Extensions, _: Next<'_>) -> Result<reqwest::Response> {
        let status = if request.headers()["authorization"] == "Bearer token-1" { 401 } else { 200 };
        Ok(http::Response::builder().status(status).body("").expect("a response").into())
    }
}

#[tokio::test]
async fn a_response_without_a_url_counts_as_from_the_requested_origin() {
    let (events, _guard) = events();
    let harness = Harness::new().await;
    let client = client(BearerMiddleware::new(harness.layer()), Mock);
    let response = client.get(harness.server.url("/")).send().await.expect("an answer");
    assert_eq!((response.status(), harness.issuer.calls().total()), (StatusCode::OK, 2));
    assert_eq!(events.lock().expect("no panic").len(), 0);
}

#[tokio::test]
async fn errors_of_the_chain_are_unchanged() {
    let harness = Harness::new().await;
    let server = silent(harness.accepts()).await;
    let timed_out = client(BearerMiddleware::new(harness.layer_for(server.origin())), Passed::default());
    let request = timed_out.get(server.url("/")).timeout(Duration::from_millis(50));
    let error = tokio::time::timeout(Duration::from_secs(60), request.send()).await;
    assert!(error.expect("its own timeout ends it").expect_err("a timeout").is_timeout());

    let harness = Harness::revoked().await;
    harness.cache.set_source(async |_| Err::<tower_bearer::Token, _>("no token today"));
    harness.issuer.fail(Some(Answer::oauth_error(401, "invalid_client")));
    let client = client(BearerMiddleware::new(harness.layer()), Passed::default());
    let error = client.get(harness.server.url("/")).send().await.expect_err("there is no token");
    assert!(tower_bearer::Error::find(&error).expect("our error").is_transient());
    assert_eq!(harness.server.seen().len(), 0);
}

/// Retries once after any error.
struct AnyError;

impl RetryableStrategy for AnyError {
    fn handle(&self, result: &Result<reqwest::Response>) -> Option<Retryable> {
        result.is_err().then_some(Retryable::Transient)
    }
}

#[tokio::test]
async fn the_error_is_found_with_retries_outside() {
    let once = || ExponentialBackoff::builder().retry_bounds(Duration::ZERO, Duration::ZERO).build_with_max_retries(1);
    let fatal = RetryTransientMiddleware::new_with_policy(once());
    let retried = RetryTransientMiddleware::new_with_policy_and_strategy(once(), AnyError);
    let harness = Harness::new().await;
    harness.cache.set_source(async |_| Err::<tower_bearer::Token, _>(tower_bearer::Error::denied("no token")));
    let http = || BearerMiddleware::client_builder(reqwest::Client::builder()).expect("a client");
    for (http, passes) in [(http().with(fatal), 1), (http().with(retried), 2)] {
        let passed = Passed::default();
        let client = http.with(passed.clone()).with(BearerMiddleware::new(harness.layer())).build();
        let error = client.get(harness.server.url("/")).send().await.expect_err("there is no token");
        assert!(tower_bearer::Error::find(&error).expect("our error").is_denied(), "{error:?}");
        assert_eq!(passed.requests.load(Ordering::SeqCst), passes);
        assert!(tower_bearer::Error::find(anyhow::Error::from(error).as_ref()).is_some());
    }
}

/// Sets a source whose token arrives after this time.
async fn slow_token(harness: &Harness, after: Duration) {
    harness.issuer.ledger().revoke_all();
    harness.cache.set_source(move |_| async move {
        tokio::time::sleep(after).await;
        tower_bearer::Token::new("slow")
    });
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_request_bounds_the_wait_for_a_token() {
    let harness = Harness::new().await;
    slow_token(&harness, Duration::from_secs(4)).await;
    let client = client(BearerMiddleware::new(harness.layer()), Passed::default());
    #[expect(clippy::disallowed_methods, reason = "time is paused")]
    let began = tokio::time::Instant::now();
    let url = harness.server.url("/");
    let error = client.get(&url).timeout(Duration::from_millis(300)).send().await.expect_err("a timeout");
    assert_eq!(began.elapsed().as_millis(), 300);
    assert!(error.is_timeout());
    assert_eq!(error.url().expect("a URL").as_str(), url);
    let Error::Reqwest(error) = error else { panic!("not of reqwest: {error}") };
    assert!(std::error::Error::source(&error).expect("a cause").to_string().contains("300ms"));
    assert_eq!(harness.server.seen().len(), 0);
}

/// Answers 200, and records the timeouts of the requests.
#[derive(Clone, Default)]
struct Timeouts(Arc<Mutex<Vec<Option<Duration>>>>);

#[async_trait::async_trait]
impl Middleware for Timeouts {
    async fn handle(&self, request: reqwest::Request, _: &mut Extensions, _: Next<'_>) -> Result<reqwest::Response> {
        self.0.lock().expect("no panic").push(request.timeout().copied());
        Ok(http::Response::new("").into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_send_has_the_time_that_remains_after_the_wait_for_a_token() {
    let harness = Harness::new().await;
    slow_token(&harness, Duration::from_millis(200)).await;
    let (timeouts, url) = (Timeouts::default(), harness.server.url("/"));
    let client = client(BearerMiddleware::new(harness.layer()), timeouts.clone());
    client.get(&url).timeout(Duration::from_millis(300)).send().await.expect("an answer");
    client.get(&url).send().await.expect("an answer");
    assert_eq!(*timeouts.0.lock().expect("no panic"), [Some(Duration::from_millis(100)), None]);
}

#[tokio::test(start_paused = true)]
async fn a_second_send_has_the_time_that_remains_after_the_first() {
    let harness = Harness::new().await;
    let (timeouts, url) = (Timeouts::default(), harness.server.url("/"));
    let http = reqwest::Client::new();
    let client = ClientBuilder::new(http).with(BearerMiddleware::new(harness.layer()));
    let client = client.with(SlowRejection).with(timeouts.clone()).build();
    client.get(&url).timeout(Duration::from_millis(300)).send().await.expect("an answer");
    assert_eq!(*timeouts.0.lock().expect("no panic"), [Some(Duration::from_millis(180))]);
}

/// Rejects `token-1` after 120 ms.
struct SlowRejection;

#[async_trait::async_trait]
impl Middleware for SlowRejection {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<reqwest::Response> {
        if request.headers()["authorization"] == "Bearer token-1" {
            tokio::time::sleep(Duration::from_millis(120)).await;
            return Ok(http::Response::builder().status(401).body("").expect("a response").into());
        }
        next.run(request, extensions).await
    }
}
