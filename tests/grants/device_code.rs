//! A login on another device (RFC 8628): its requests, its polling, and its end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};
use tower_bearer::oauth2::{ClientAuth, DeviceCodeLogin, DeviceCodeLoginBuilder};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, Token};

use crate::sources::{HOUR, TOKEN_URL, at, form, headers, now, pass, says};

const DEVICE_URL: &str = "https://auth.example.com/device_authorization";

fn code() -> Value {
    json!({
        "device_code": "the-device-code",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://auth.example.com/device",
        "verification_uri_complete": "https://auth.example.com/device?user_code=WDJB-MJHT",
        "expires_in": 1800,
        "interval": 5,
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut code = code();
    code[name] = value;
    code
}

fn login(issuer: &TokenServer) -> DeviceCodeLoginBuilder {
    DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(DEVICE_URL), "my-cli")
}

fn pending() -> Answer {
    Answer::oauth_error(400, "authorization_pending")
}

fn slow_down() -> Answer {
    Answer::oauth_error(400, "slow_down")
}

/// Runs a login with these answers to the code request and to each poll. Returns the times of the polls in seconds.
async fn polls(code: Value, answers: impl IntoIterator<Item = Answer>) -> (Result<Token, Error>, Vec<u64>) {
    let (issuer, times) = (TokenServer::new(), Arc::new(Mutex::new(Vec::new())));
    issuer.queue(Answer::json(200, code));
    answers.into_iter().for_each(|answer| issuer.queue(answer));
    let (start, noted) = (now(), Arc::clone(&times));
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        if request.uri() == TOKEN_URL {
            noted.lock().unwrap().push((now() - start).as_secs());
        }
        issuer.clone().oneshot(request)
    });
    let login =
        DeviceCodeLogin::builder(&at(http).device_authorization_endpoint(DEVICE_URL), "my-cli").build().unwrap();
    let token = login.begin().await.unwrap().finish().await;
    let times = times.lock().unwrap().clone();
    (token, times)
}

// === the requests ===

#[tokio::test(start_paused = true)]
async fn the_code_request_has_the_scope_and_the_polls_do_not() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, code()));
    let login =
        login(&issuer).scope("openid offline_access").audience("billing").header("x-api-key", "k").build().unwrap();
    let code = login.begin().await.unwrap();
    assert_eq!((code.user_code(), code.verification_uri()), ("WDJB-MJHT", "https://auth.example.com/device"));
    let complete = "https://auth.example.com/device?user_code=WDJB-MJHT";
    assert_eq!((code.verification_uri_complete(), code.expires_in()), (Some(complete), HOUR / 2));
    assert_eq!(code.finish().await.unwrap().access_token(), "token-1");
    let [begin, poll] = issuer.requests().try_into().unwrap();
    assert_eq!((begin.method.as_str(), begin.uri.to_string()), ("POST", DEVICE_URL.to_owned()));
    let expected = [("client_id", "my-cli"), ("scope", "openid offline_access"), ("audience", "billing")];
    assert_eq!(begin.form(), form(expected));
    assert_eq!((poll.method.as_str(), poll.uri.to_string()), ("POST", TOKEN_URL.to_owned()));
    let expected = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", "the-device-code"),
        ("client_id", "my-cli"),
        ("audience", "billing"),
    ];
    assert_eq!(poll.form(), form(expected));
    assert_eq!(headers(&begin), headers(&poll));
    assert_eq!(headers(&begin)["x-api-key"], "k");
}

#[tokio::test(start_paused = true)]
async fn a_confidential_client_authenticates_both_requests() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, code()));
    let login = login(&issuer).client_auth(ClientAuth::post("its secret")).build().unwrap();
    login.begin().await.unwrap().finish().await.unwrap();
    for request in issuer.requests() {
        assert_eq!(request.form()["client_secret"], "its secret");
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_login_has_an_expiry() {
    let token = polls(code(), []).await.0.unwrap();
    assert_eq!((token.lifetime(), token.generation()), (HOUR, 0));
    assert!(token.expires_at().is_some());
}

// === the interval ===

#[tokio::test(start_paused = true)]
async fn polls_use_the_servers_interval_and_each_slow_down_adds_five_seconds() {
    let (token, times) = polls(code(), [pending(), pending(), slow_down(), pending(), slow_down(), pending()]).await;
    assert_eq!(token.unwrap().access_token(), "token-1");
    assert_eq!(times, [5, 10, 15, 25, 35, 50, 65]);
}

#[tokio::test(start_paused = true)]
async fn the_interval_may_be_missing_a_text_or_invalid() {
    for (interval, seconds) in [(json!(null), 5), (json!("7"), 7), (json!(0), 1), (json!(-3), 1), (json!("soon"), 5)] {
        assert_eq!(polls(with("interval", interval.clone()), []).await.1, [seconds], "{interval}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_lost_answer_doubles_the_interval_up_to_a_minute() {
    let lost = || Answer::fails("connection reset");
    let (token, times) = polls(code(), [lost(), lost(), lost(), lost(), lost(), pending()]).await;
    token.unwrap();
    assert_eq!(times, [5, 15, 35, 75, 135, 195, 255]);
    // A poll times out after 30 s.
    assert_eq!(polls(code(), [Answer::hangs()]).await.1, [5, 45]);
    // An outage is not a denial, and neither is a rate limit.
    assert_eq!(polls(code(), [Answer::raw(503, "<h1>busy</h1>"), Answer::raw(429, "<html>")]).await.1, [5, 15, 35]);
}

#[tokio::test(start_paused = true)]
async fn the_interval_is_never_shorter_than_the_servers() {
    let lost = || Answer::fails("connection reset");
    assert_eq!(polls(with("interval", json!(90)), [pending(), lost()]).await.1, [90, 180, 270]);
    assert_eq!(polls(with("interval", json!(58)), [slow_down(), lost()]).await.1, [58, 121, 184]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_delays_one_poll() {
    let busy = |wait: &str| Answer::raw(503, "").header("retry-after", wait);
    assert_eq!(polls(code(), [busy("40"), pending()]).await.1, [5, 45, 55]);
    assert_eq!(polls(code(), [busy("3")]).await.1, [5, 15]);
    for huge in ["99999999999", "99999999999999999999"] {
        let (token, times) = polls(code(), [busy(huge)]).await;
        assert!(token.unwrap_err().to_string().contains("start a new login"));
        assert_eq!(times, [5]);
    }
}

// === the end of a login ===

#[tokio::test(start_paused = true)]
async fn a_denial_ends_the_login_at_once_with_its_code() {
    for code_of_rfc in ["access_denied", "expired_token", "invalid_client", "invalid_grant"] {
        let (token, times) = polls(code(), [pending(), Answer::oauth_error(400, code_of_rfc)]).await;
        let error = token.unwrap_err();
        assert_eq!((error.code(), error.is_denied()), (Some(code_of_rfc), true));
        assert_eq!(times, [5, 10]);
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_no_poll_after_the_code_has_expired() {
    let start = now();
    let (token, times) = polls(with("expires_in", json!(12)), [pending(), pending(), pending()]).await;
    let error = token.unwrap_err();
    assert!(error.to_string().contains("start a new login") && !error.is_transient(), "{error}");
    assert_eq!(times, [5, 10]);
    assert!(now() - start <= Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_of_a_code_starts_when_it_is_received() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, with("expires_in", json!(60))));
    let code = login(&issuer).build().unwrap().begin().await.unwrap();
    pass(Duration::from_secs(56)).await;
    code.finish().await.unwrap_err();
    assert_eq!(issuer.calls().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_code_without_expires_in_lives_ten_minutes_and_no_code_longer_than_a_day() {
    for (expires_in, expected) in [(json!(null), HOUR / 6), (json!(1e300), 24 * HOUR)] {
        let issuer = TokenServer::new();
        issuer.queue(Answer::json(200, with("expires_in", expires_in)));
        assert_eq!(login(&issuer).build().unwrap().begin().await.unwrap().expires_in(), expected);
    }
}

// === the answer to the code request ===

#[tokio::test]
async fn an_answer_without_a_code_is_an_error() {
    let mut answers = vec![Answer::raw(200, "<html>"), Answer::json(200, json!([]))];
    for member in ["device_code", "user_code", "verification_uri"] {
        for value in [json!(null), json!(""), json!(7), json!("a\u{1b}[2Jb")] {
            answers.push(Answer::json(200, with(member, value)));
        }
    }
    for answer in answers {
        let issuer = TokenServer::new();
        issuer.queue(answer.clone());
        let error = login(&issuer).build().unwrap().begin().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(DEVICE_URL), "{answer:?}: {error}");
        assert!(!says(&error).contains("the-device-code"), "{error:?}");
    }
    let issuer = TokenServer::new();
    issuer.queue(Answer::oauth_error(401, "invalid_client"));
    let error = login(&issuer).build().unwrap().begin().await.unwrap_err();
    assert!(error.is_denied() && error.code() == Some("invalid_client"));
}

#[tokio::test]
async fn googles_name_for_the_verification_uri_is_accepted() {
    let issuer = TokenServer::new();
    let mut google = with("verification_url", json!("https://www.google.com/device"));
    google.as_object_mut().unwrap().remove("verification_uri");
    issuer.queue(Answer::json(200, google));
    assert_eq!(
        login(&issuer).build().unwrap().begin().await.unwrap().verification_uri(),
        "https://www.google.com/device"
    );
}
