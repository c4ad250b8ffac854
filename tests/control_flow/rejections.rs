//! The rejection of a token that was just fetched does not cause another fetch at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, advance};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::replay::{CloneBody, Never, Replay};
use tower_bearer::{BearerLayer, Challenge, Error, FetchContext, Phase, Reason, RejectionPolicy, Token, TokenCache};

use crate::common::{HOUR, MINUTE, SECOND, Script, settle, text};

type Body = Full<Bytes>;

const API: &str = "https://api.example.com";

fn get() -> Request<Body> {
    Request::get(format!("{API}/")).body(Body::default()).expect("a request")
}

fn respond(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::default()).expect("a response")
}

fn token_of(request: &Request<Body>) -> String {
    let value = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    value.unwrap_or_default().to_owned()
}

/// An API whose answer is a function of the token's text.
fn api<F>(
    answer: F,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send
where
    F: Fn(&str) -> Response<Body> + Clone + Send + 'static,
{
    service_fn(move |request: Request<Body>| std::future::ready(Ok::<_, BoxError>(answer(&token_of(&request)))))
}

fn layer(cache: &TokenCache) -> BearerLayer {
    BearerLayer::new(cache.clone(), [API]).expect("an origin")
}

// === an API whose clock is wrong ===

/// The result of one request a second.
#[derive(Debug, Default)]
struct Outcome {
    requests: usize,
    failed: usize,
    /// The requests that failed while the API would have accepted some token.
    avoidable: usize,
    tokens: usize,
    sends: usize,
}

/// Sends one request a second to an API whose clock is off by this much. The issuer records when each token is valid,
/// and the API rejects a token that is not valid by its own clock.
async fn run<R>(behind: Duration, ahead: Duration, lifetime: Duration, long: Duration, replay: R) -> Outcome
where
    R: Replay<Body, Body = Body>,
{
    #[derive(Default)]
    struct Known {
        tokens: HashMap<String, (Instant, Instant)>,
        sends: usize,
    }
    let known = Arc::new(Mutex::new(Known::default()));
    let issued = Arc::clone(&known);
    let cache = TokenCache::new(move |_: FetchContext| {
        let known = &mut issued.lock().expect("no panic").tokens;
        let text = format!("t{}", known.len() + 1);
        known.insert(text.clone(), (Instant::now(), Instant::now() + lifetime));
        std::future::ready(Token::new(text).map(|token| token.with_lifetime(lifetime)))
    });
    let evaluate = Arc::clone(&known);
    let accepts = move |(from, to): (Instant, Instant)| {
        let now = Instant::now() - behind + ahead;
        from <= now && now < to
    };
    let client = layer(&cache).replay(replay).layer(api(move |token| {
        let mut known = evaluate.lock().expect("no panic");
        known.sends += 1;
        respond(if known.tokens.get(token).is_some_and(|times| accepts(*times)) { 200 } else { 401 })
    }));
    let (mut result, end) = (Outcome::default(), Instant::now() + long);
    while Instant::now() < end {
        result.requests += 1;
        let status = client.clone().oneshot(get()).await.expect("a response").status();
        if status != StatusCode::OK {
            result.failed += 1;
            let known = known.lock().expect("no panic");
            result.avoidable += usize::from(known.tokens.values().any(|times| accepts(*times)));
        }
        settle().await;
        advance(SECOND).await;
    }
    let known = known.lock().expect("no panic");
    (result.tokens, result.sends) = (known.tokens.len(), known.sends);
    result
}

#[tokio::test(start_paused = true)]
async fn an_api_whose_clock_is_behind_causes_no_storm_of_fetches_and_no_failed_request() {
    for behind in [1, 2, 3, 5] {
        let outcome = run(behind * SECOND, Duration::ZERO, MINUTE, 10 * MINUTE, CloneBody).await;
        // Until the first token is valid, the API accepts none.
        assert!(outcome.tokens <= 16, "{behind} s: {outcome:?}");
        assert_eq!(outcome.avoidable, 0, "{behind} s: {outcome:?}");
        assert!(outcome.failed <= behind as usize, "{behind} s: {outcome:?}");
        assert!(outcome.sends <= outcome.requests + 40, "{behind} s: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_replay_one_request_fails_for_each_token() {
    let outcome = run(5 * SECOND, Duration::ZERO, MINUTE, 10 * MINUTE, Never).await;
    assert!(outcome.tokens <= 16, "{outcome:?}");
    assert!(outcome.failed <= 5 + outcome.tokens, "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_far_behind_or_ahead_causes_no_storm_of_fetches() {
    // The clock is further behind than the remaining life of the previous token.
    let behind = run(8 * SECOND, Duration::ZERO, MINUTE, 10 * MINUTE, CloneBody).await;
    assert!(behind.tokens <= 16 && behind.failed <= 20, "{behind:?}");
    // The tokens live longer, and the clock is further behind.
    let far_behind = run(20 * SECOND, Duration::ZERO, 10 * MINUTE, HOUR, CloneBody).await;
    assert!(far_behind.tokens <= 12 && far_behind.avoidable == 0 && far_behind.failed <= 20, "{far_behind:?}");
    // Tokens end sooner by this clock, so each causes at most one refresh by a rejection.
    let ahead = run(Duration::ZERO, 20 * SECOND, MINUTE, 10 * MINUTE, CloneBody).await;
    assert!(ahead.tokens <= 16 && ahead.failed == 0, "{ahead:?}");
    // If the clock is behind by more than a token's life, no request succeeds, but the issuer gets few calls.
    let hopeless = run(2 * MINUTE, Duration::ZERO, MINUTE, 10 * MINUTE, CloneBody).await;
    assert!(hopeless.tokens <= 26, "{hopeless:?}");
}

#[tokio::test(start_paused = true)]
async fn the_previous_token_is_used_for_a_moment_and_the_newer_one_tried_again() {
    let script = Script::living(100 * SECOND);
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    advance(90 * SECOND).await;
    cache.get().await.expect("a token");
    settle().await;
    assert_eq!(text(cache.get().await), "t2");
    let began = Instant::now();
    let not_yet = move |token: &str| respond(if token == "t2" && began.elapsed() < 3 * SECOND { 401 } else { 200 });
    let client = layer(&cache).layer(api(not_yet));
    assert_eq!(client.clone().oneshot(get()).await.expect("a response").status(), 200);
    let status = cache.status();
    assert_eq!((status.generation, status.suspect, status.phase), (1, false, Some(Phase::Fresh)));
    // The previous token ends in five seconds.
    advance(5 * SECOND).await;
    assert_eq!(cache.peek().expect("the newer one").access_token(), "t2");
    assert_eq!(client.oneshot(get()).await.expect("a response").status(), 200);
    assert_eq!((script.calls(), cache.status().generation), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_previous_token_that_was_rejected_is_not_used() {
    // The issuer revokes the previous token when it issues the next, which has to reach all servers first.
    let script = Script::living(1000 * SECOND);
    let cache = TokenCache::new(script.clone());
    let former = cache.get().await.expect("a token");
    advance(700 * SECOND).await;
    let client = layer(&cache).layer(api(|token| respond(if token == "t1" { 401 } else { 200 })));
    // This request is in flight while the token is replaced.
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    let slow = layer(&cache).layer(service_fn(move |request: Request<Body>| {
        let (held, token) = (Arc::clone(&held), token_of(&request));
        async move {
            let _ = held.acquire().await;
            Ok::<_, BoxError>(respond(if token == "t1" { 401 } else { 200 }))
        }
    }));
    let mut in_flight = tokio_test::task::spawn(slow.oneshot(get()));
    assert!(in_flight.poll().is_pending());
    cache.refresh().await.expect("a token");
    gate.close();
    assert_eq!(in_flight.await.expect("a response").status(), 200);
    assert_eq!(client.oneshot(get()).await.expect("a response").status(), 200);
    // So a request that was rejected with the new token waits, and is retried with it.
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&rejected);
    let lagging = layer(&cache).layer(api(move |token| {
        let mut seen = seen.lock().expect("no panic");
        seen.push(token.to_owned());
        respond(if seen.len() == 1 { 401 } else { 200 })
    }));
    assert_eq!(lagging.oneshot(get()).await.expect("a response").status(), 200);
    assert_eq!(*rejected.lock().expect("no panic"), ["t2", "t2"]);
    assert_eq!((script.calls(), former.generation()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn two_revoked_tokens_cost_one_request_and_one_refresh() {
    let script = Script::living(1000 * SECOND);
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    advance(700 * SECOND).await;
    cache.refresh().await.expect("a token");
    advance(5 * SECOND).await;
    // After a sign-out elsewhere, the API accepts neither token.
    let client = layer(&cache).layer(api(|token| respond(if token == "t3" { 200 } else { 401 })));
    let statuses = async || {
        let status = client.clone().oneshot(get()).await.expect("a response").status();
        settle().await;
        status
    };
    assert_eq!(statuses().await, 401);
    assert_eq!((script.calls(), script.last_context().reason()), (3, Reason::Rejected));
    for _ in 0..3 {
        assert_eq!(statuses().await, 200);
    }
    assert_eq!(script.calls(), 3);
}

// === refreshes that do not help ===

/// Sends one request a second for an hour. `answer` chooses the status by the number of the request. Returns the number
/// of tokens and of sends.
async fn hour(rejection: RejectionPolicy, answer: fn(usize) -> u16) -> (usize, usize) {
    let script = Script::living(24 * HOUR);
    let cache = TokenCache::new(script.clone());
    let sends = Arc::new(Mutex::new(0));
    let count = Arc::clone(&sends);
    let client = layer(&cache).rejection_policy(rejection).layer(service_fn(move |request: Request<Body>| {
        *count.lock().expect("no panic") += 1;
        let number = request.uri().path()[1..].parse().expect("a number");
        std::future::ready(Ok::<_, BoxError>(respond(answer(number))))
    }));
    for number in 0..3600 {
        let request = Request::get(format!("{API}/{number}")).body(Body::default()).expect("a request");
        client.clone().oneshot(request).await.expect("a response");
        advance(SECOND).await;
    }
    let sends = *sends.lock().expect("no panic");
    (script.calls(), sends)
}

#[tokio::test(start_paused = true)]
async fn a_frequent_status_stops_causing_refreshes() {
    let forbidden = || RejectionPolicy::new().status(StatusCode::FORBIDDEN);
    let (tokens, _) = hour(forbidden(), |_| 403).await;
    assert!(tokens <= 8, "{tokens}");
    // Every tenth request is forbidden, and the others are accepted.
    let (tokens, sends) = hour(forbidden(), |request| if request % 10 == 0 { 403 } else { 200 }).await;
    assert!(tokens <= 8 && sends <= 3700, "{tokens} {sends}");
    // A closure detects the rejection.
    let (tokens, _) = hour(RejectionPolicy::new().when(|response| response.status == 418), |_| 418).await;
    assert!(tokens <= 8, "{tokens}");
    // A 401 says more about the token.
    let (tokens, _) = hour(RejectionPolicy::new(), |_| 401).await;
    assert!(tokens <= 65, "{tokens}");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_means_a_revoked_token_still_causes_refreshes() {
    let script = Script::living(24 * HOUR);
    let cache = TokenCache::new(script.clone());
    let accepted = Arc::new(Mutex::new("t1".to_owned()));
    let evaluate = Arc::clone(&accepted);
    let rejection = RejectionPolicy::new().status(StatusCode::FORBIDDEN);
    let client = layer(&cache)
        .rejection_policy(rejection)
        .layer(api(move |token| respond(if token >= evaluate.lock().expect("no panic").as_str() { 200 } else { 403 })));
    for number in 2..9 {
        client.clone().oneshot(get()).await.expect("a response");
        *accepted.lock().expect("no panic") = format!("t{number}");
        advance(20 * SECOND).await;
        assert_eq!(client.clone().oneshot(get()).await.expect("a response").status(), 200, "{number}");
        assert_eq!(script.calls(), number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_after_403s_does_not_apply_to_a_401() {
    let script = Script::living(24 * HOUR);
    let cache = TokenCache::new(script.clone());
    let status = Arc::new(Mutex::new(403));
    let answer = Arc::clone(&status);
    let client =
        layer(&cache).rejection_policy(RejectionPolicy::new().status(StatusCode::FORBIDDEN)).layer(api(move |token| {
            let status = *answer.lock().expect("no panic");
            respond(if status == 401 && token > "t2" { 200 } else { status })
        }));
    let send = async || client.clone().oneshot(get()).await.expect("a response");
    send().await;
    advance(10 * SECOND).await;
    assert_eq!(send().await.status(), 403);
    advance(40 * SECOND).await;
    let response = send().await;
    assert_eq!((response.status(), script.calls()), (StatusCode::FORBIDDEN, 2));
    let error = response.extensions().get::<Error>().expect("it says why");
    assert!(error.is_transient(), "{error}");
    *status.lock().expect("no panic") = 401;
    assert_eq!((send().await.status(), script.calls()), (StatusCode::OK, 3));
}

#[tokio::test(start_paused = true)]
async fn reported_tokens_are_replaced_within_the_budget() {
    let script = Script::new();
    let cache = TokenCache::builder(script.clone()).build().unwrap();
    let mut token = cache.get().await.expect("a token");
    for number in 2..=6 {
        token = cache.report_rejected(&token).await.expect("a token");
        assert_eq!(token.access_token(), format!("t{number}"));
    }
    cache.report_rejected(&token).await.expect_err("the budget is exhausted");
}

// === challenges ===

/// How a request ends whose token is dead, and how many tokens were fetched; a dead token is answered with this challenge.
async fn challenged(rejection: RejectionPolicy, challenge: &'static str) -> (u16, usize) {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    advance(MINUTE).await;
    let client = layer(&cache).rejection_policy(rejection).layer(api(move |token| {
        let mut response = respond(if token == "t1" { 401 } else { 200 });
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().expect("a value"));
        response
    }));
    (client.oneshot(get()).await.expect("a response").status().as_u16(), script.calls())
}

#[tokio::test(start_paused = true)]
async fn a_challenge_of_another_scheme_counts_as_none_by_a_setting() {
    for challenge in [r#"BASIC realm="..""#, "Negotiate", r#"Basic realm="x", Digest nonce="y""#] {
        assert_eq!(challenged(RejectionPolicy::new().any_scheme(), challenge).await, (200, 2), "{challenge}");
        assert_eq!(challenged(RejectionPolicy::new(), challenge).await, (401, 1), "{challenge}");
    }
    for challenge in [r#"Bearer error="insufficient_scope""#, r#"BASIC realm="..", Bearer error="insufficient_scope""#]
    {
        assert_eq!(challenged(RejectionPolicy::new().any_scheme(), challenge).await, (401, 1), "{challenge}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_challenge_that_caused_a_refresh_reaches_the_source() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let cache = TokenCache::new(move |context: FetchContext| {
        let claims = context.challenges().iter().find_map(|challenge| challenge.param("claims")).map(str::to_owned);
        log.lock().expect("no panic").push((context.reason(), claims.clone()));
        std::future::ready(Token::new(claims.unwrap_or("plain".to_owned())))
    });
    let more = |response: &http::response::Parts| {
        let asks = |challenge: &Challenge| challenge.param("error") == Some("insufficient_claims");
        Challenge::all(&response.headers).iter().any(asks)
    };
    let client = layer(&cache).rejection_policy(RejectionPolicy::new().when(more)).layer(api(|token| {
        if token == "eyJhY2Nlc3M" {
            return respond(200);
        }
        let mut response = respond(401);
        let challenge = r#"Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3M""#;
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().expect("a value"));
        response
    }));
    cache.get().await.expect("a token");
    advance(MINUTE).await;
    assert_eq!(client.oneshot(get()).await.expect("a response").status(), 200);
    let claims = Some("eyJhY2Nlc3M".to_owned());
    assert_eq!(*seen.lock().expect("no panic"), [(Reason::First, None), (Reason::Rejected, claims)]);
    // A later fetch has another reason.
    cache.refresh().await.expect("a token");
    assert_eq!(seen.lock().expect("no panic").last(), Some(&(Reason::Asked, None)));
}

#[tokio::test(start_paused = true)]
async fn a_test_of_a_source_can_pass_it_a_challenge() {
    let mut response = respond(401);
    response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer acr_values=\"high\"".parse().expect("a value"));
    let context = FetchContext::new(Reason::Rejected).with_challenges(Challenge::all(response.headers()));
    assert_eq!(context.challenges()[0].param("acr_values"), Some("high"));
    assert!(FetchContext::new(Reason::Rejected).challenges().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_challenge_of_a_request_that_is_not_retried_reaches_the_source() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    advance(MINUTE).await;
    let client = layer(&cache).replay(Never).layer(api(|_| {
        let mut response = respond(401);
        response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer scope=\"pull\"".parse().expect("a value"));
        response
    }));
    client.oneshot(get()).await.expect("a response");
    settle().await;
    assert_eq!(script.last_context().challenges()[0].param("scope"), Some("pull"));
}
