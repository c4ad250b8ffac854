mod mesh_connect;
mod meshydb;

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{BoxError, Service, ServiceExt};

use crate::testing::helpers::now;
use crate::testing::{Answer, Api, Collected, Ledger, TokenServer, TokenState};

const SECOND: Duration = Duration::from_secs(1);

/// A response with its whole body.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap().to_owned()
    }
}

async fn send<S>(fake: &S, request: http::request::Builder, body: impl Into<Bytes>) -> Result<Got, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone,
{
    let response = fake.clone().oneshot(request.body(Full::new(body.into())).unwrap()).await?;
    let (parts, body) = response.into_parts();
    Ok(Got { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}

async fn ask(issuer: &TokenServer) -> Got {
    send(issuer, Request::post("/token"), "").await.unwrap()
}

async fn call<S>(api: &S, path: &str, token: &str) -> Got
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone,
{
    send(api, Request::get(path).header("authorization", format!("Bearer {token}")), "").await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_is_live_until_its_lifetime_has_passed() {
    let ledger = Ledger::new();
    ledger.issue("a", 10 * SECOND);
    tokio::time::advance(10 * SECOND - Duration::from_nanos(1)).await;
    assert_eq!(ledger.state_of("a"), TokenState::Live);
    tokio::time::advance(Duration::from_nanos(1)).await;
    assert_eq!(ledger.state_of("a"), TokenState::Expired);
    assert_eq!(ledger.state_of("b"), TokenState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_and_expired_counts_as_expired() {
    let ledger = Ledger::new();
    ledger.issue("a", 10 * SECOND);
    ledger.issue("b", 20 * SECOND);
    assert!(ledger.revoke("a") && !ledger.revoke("c"));
    assert_eq!((ledger.state_of("a"), ledger.state_of("b")), (TokenState::Revoked, TokenState::Live));
    ledger.revoke_all();
    tokio::time::advance(10 * SECOND).await;
    assert_eq!((ledger.state_of("a"), ledger.state_of("b")), (TokenState::Expired, TokenState::Revoked));
}

#[tokio::test(start_paused = true)]
async fn a_token_issued_again_starts_a_new_lifetime() {
    let ledger = Ledger::new();
    ledger.issue("a", SECOND);
    ledger.issue("b", SECOND);
    ledger.revoke("a");
    tokio::time::advance(SECOND).await;
    ledger.issue("a", SECOND);
    assert_eq!(ledger.state_of("a"), TokenState::Live);
    assert_eq!((ledger.newest().as_deref(), ledger.issued()), (Some("a"), 3));
}

#[test]
fn the_longest_lifetime_never_ends_and_needs_no_runtime() {
    let ledger = Ledger::new();
    ledger.issue("a", Duration::MAX);
    assert_eq!(ledger.state_of("a"), TokenState::Live);
}

#[tokio::test]
async fn an_issuer_numbers_its_tokens_and_adds_them_to_its_ledger() {
    let issuer = TokenServer::new();
    let first = ask(&issuer).await;
    assert_eq!(first.json(), json!({ "access_token": "token-1", "token_type": "Bearer", "expires_in": 3600 }));
    assert_eq!(first.headers["content-type"], "application/json");
    assert_eq!(first.headers["cache-control"], "no-store");
    assert_eq!(ask(&issuer).await.text("access_token"), "token-2");
    assert_eq!(issuer.ledger().state_of("token-1"), TokenState::Live);
    assert_eq!(issuer.ledger().newest().as_deref(), Some("token-2"));
}

#[tokio::test]
async fn an_issuer_answers_only_posts() {
    let issuer = TokenServer::new();
    assert_eq!(send(&issuer, Request::get("/token"), "").await.unwrap().status, 405);
    assert_eq!(issuer.ledger().issued(), 0);
}

#[tokio::test(start_paused = true)]
async fn queued_answers_come_in_order_and_before_the_outage() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::fails("connection refused")));
    issuer.queue(Answer::oauth_error(400, "invalid_grant"));
    issuer.queue(Answer::token("mine", SECOND));
    let denied = ask(&issuer).await;
    assert_eq!((denied.status.as_u16(), denied.json()), (400, json!({ "error": "invalid_grant" })));
    assert_eq!(ask(&issuer).await.text("access_token"), "mine");
    assert_eq!(issuer.ledger().state_of("mine"), TokenState::Live);
    for _ in 0..2 {
        let error = send(&issuer, Request::post("/"), "").await.err().unwrap();
        assert_eq!(error.to_string(), "connection refused");
    }
    issuer.fail(None);
    assert_eq!(ask(&issuer).await.text("access_token"), "token-1");
}

#[tokio::test]
async fn an_answer_keeps_its_status_headers_and_body() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::raw(503, "<h1>").header("retry-after", "7").header("retry-after", "8"));
    issuer.queue(Answer::response(Response::builder().status(302).header("location", "/").body(Bytes::new()).unwrap()));
    let (busy, moved) = (ask(&issuer).await, ask(&issuer).await);
    assert_eq!((busy.status.as_u16(), busy.body.as_ref()), (503, b"<h1>".as_ref()));
    assert_eq!(busy.headers.get_all("retry-after").iter().collect::<Vec<_>>(), ["7", "8"]);
    assert!(!busy.headers.contains_key("content-type"));
    assert_eq!((moved.status.as_u16(), &moved.headers["location"]), (302, &"/".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_arrives_after_its_own_delay_or_else_the_issuers() {
    let issuer = TokenServer::new();
    issuer.delay(3 * SECOND);
    issuer.queue(Answer::raw(500, "").after(SECOND));
    let start = now();
    ask(&issuer).await;
    assert_eq!(start.elapsed().as_secs(), 1);
    ask(&issuer).await;
    assert_eq!(start.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_token_can_expire_before_its_answer_arrives() {
    let issuer = TokenServer::new();
    issuer.lifetime(5 * SECOND);
    issuer.delay(5 * SECOND);
    let answer = ask(&issuer).await;
    assert_eq!(answer.json()["expires_in"], 5);
    assert_eq!(issuer.ledger().state_of("token-1"), TokenState::Expired);
}

#[tokio::test(start_paused = true)]
async fn settings_changed_during_a_call_apply_to_the_next() {
    let issuer = TokenServer::new();
    issuer.delay(SECOND);
    let (running, next) = tokio::join!(ask(&issuer), async {
        issuer.lifetime(9 * SECOND);
        issuer.rotate_refresh_tokens(true);
        issuer.delay(Duration::ZERO);
        let start = now();
        (ask(&issuer).await.json(), start.elapsed())
    });
    assert_eq!(running.json(), json!({ "access_token": "token-1", "token_type": "Bearer", "expires_in": 3600 }));
    let expected =
        json!({ "access_token": "token-2", "token_type": "Bearer", "expires_in": 9, "refresh_token": "refresh-2" });
    assert_eq!(next, (expected, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_no_longer_in_progress() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::hangs());
    issuer.queue(Answer::raw(500, "").after(2 * SECOND));
    let (hanging, slow) = tokio::join!(
        tokio::time::timeout(SECOND, ask(&issuer)),
        tokio::time::timeout(3 * SECOND, async {
            tokio::task::yield_now().await;
            assert_eq!(issuer.calls().in_progress(), 1);
            ask(&issuer).await.status
        }),
    );
    assert!(hanging.is_err());
    assert_eq!(slow.unwrap(), 500);
    let calls = issuer.calls();
    assert_eq!((calls.total(), calls.most_at_once(), calls.in_progress()), (2, 2, 0));
}

#[tokio::test]
async fn a_future_that_is_never_polled_does_not_count_as_a_call() {
    let mut issuer = TokenServer::new();
    drop(issuer.call(Request::post("/").body(Full::default()).unwrap()));
    assert_eq!((issuer.calls().total(), issuer.requests().len()), (0, 0));
}

#[tokio::test]
async fn requests_are_recorded_unchanged() {
    let issuer = TokenServer::new();
    let request = Request::post("https://a.example/token?x=1").header("accept", "application/json");
    send(&issuer, request, "scope=a+b&id=w%20e").await.unwrap();
    send(&issuer, Request::post("/"), r#"{"a":1}"#).await.unwrap();
    let requests = issuer.requests();
    assert_eq!((requests[0].method.as_str(), requests[0].uri.query()), ("POST", Some("x=1")));
    assert_eq!(requests[0].headers["accept"], "application/json");
    assert_eq!(
        requests[0].form().into_iter().collect::<Vec<_>>(),
        [("id".into(), "w e".into()), ("scope".into(), "a b".into())]
    );
    assert_eq!(requests[1].json(), json!({ "a": 1 }));
}

#[tokio::test]
async fn the_log_keeps_the_last_1024_requests() {
    let api = Api::new(Ledger::new());
    for number in 0..1025 {
        send(&api, Request::get(format!("/{number}")), "").await.unwrap();
    }
    let requests = api.requests();
    assert_eq!((requests.len(), requests[0].uri.path(), requests[1023].uri.path()), (1024, "/1", "/1024"));
}

#[tokio::test(start_paused = true)]
async fn an_api_accepts_live_tokens_only() {
    let ledger = Ledger::new();
    let api = Api::new(ledger.clone());
    for (token, life) in [("live", 9), ("short", 1), ("revoked", 9)] {
        ledger.issue(token, life * SECOND);
    }
    ledger.revoke("revoked");
    tokio::time::advance(SECOND).await;
    for (token, status) in [("live", 200), ("short", 401), ("revoked", 401), ("unknown", 401)] {
        let got = call(&api, "/", token).await;
        assert_eq!(got.status, status, "{token}");
        let challenge = got.headers.get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!(challenge, (status == 401).then_some(r#"Bearer error="invalid_token""#), "{token}");
    }
    assert_eq!((api.accepted(), api.rejected(), api.expired_seen(), api.without_token()), (1, 3, 1, 0));
    api.reject_all(true);
    assert_eq!(call(&api, "/", "live").await.status, 401);
}

#[tokio::test]
async fn an_api_names_no_error_if_there_was_no_authorization() {
    let api = Api::new(Ledger::new());
    let got = send(&api, Request::get("/"), "").await.unwrap();
    assert_eq!((got.status.as_u16(), &got.headers["www-authenticate"]), (401, &"Bearer".parse().unwrap()));
    assert_eq!((api.without_token(), api.rejected()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_api_accepts_the_scheme_in_any_case_but_only_one_header() {
    let ledger = Ledger::new();
    ledger.issue("live", SECOND);
    let api = Api::new(ledger);
    let with = |value: &str| Request::get("/").header("authorization", value);
    assert_eq!(send(&api, with("bEARER live"), "").await.unwrap().status, 200);
    assert_eq!(send(&api, with("Basic live"), "").await.unwrap().status, 401);
    let twice = with("Bearer live").header("authorization", "Bearer live");
    assert_eq!(send(&api, twice, "").await.unwrap().status, 401);
    assert_eq!(api.without_token(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_api_evaluates_a_token_when_the_request_arrives() {
    let ledger = Ledger::new();
    ledger.issue("live", 5 * SECOND);
    let api = Api::new(ledger);
    api.delay(5 * SECOND);
    let start = now();
    assert_eq!(call(&api, "/", "live").await.status, 401);
    assert_eq!((start.elapsed().as_secs(), api.expired_seen()), (5, 1));
}

#[tokio::test]
async fn a_queued_api_answer_counts_as_neither_accepted_nor_rejected() {
    let api = Api::new(Ledger::new());
    api.queue(Answer::raw(418, ""));
    assert_eq!(send(&api, Request::get("/"), "").await.unwrap().status, 418);
    assert_eq!((api.accepted(), api.rejected(), api.calls().total()), (0, 0, 1));
    assert_eq!(send(&api, Request::get("/"), "").await.unwrap().status, 401);
}

/// A body with these frames.
struct Frames(VecDeque<Result<&'static str, &'static str>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(|frame| Ok(Frame::data(Bytes::from(frame?)))))
    }
}

#[tokio::test]
async fn a_fake_receives_a_whole_streamed_body() {
    let issuer = TokenServer::new();
    let body = Frames(VecDeque::from([Ok("grant_type="), Ok("password")]));
    let response = Collected::new(issuer.clone()).oneshot(Request::post("/").body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(issuer.requests()[0].form()["grant_type"], "password");
}

#[tokio::test]
async fn a_fake_does_not_receive_a_broken_body() {
    let issuer = TokenServer::new();
    let body = Frames(VecDeque::from([Ok("grant_"), Err("reset")]));
    let error = Collected::new(issuer.clone()).oneshot(Request::post("/").body(body).unwrap()).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), issuer.calls().total()), ("reset", 0));
}

#[test]
fn fakes_are_cheap_handles_that_threads_can_share() {
    fn check_bounds<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    check_bounds::<TokenServer>();
    check_bounds::<Api>();
    check_bounds::<crate::testing::MeshyDbServer>();
    check_bounds::<crate::testing::MeshConnectServer>();
    check_bounds::<Collected<TokenServer>>();
    fn check_service<S: Service<Request<Full<Bytes>>, Future: Send>>() {}
    check_service::<Collected<Api>>();
}
