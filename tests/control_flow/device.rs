//! A device login ends when the server says so (RFC 8628 section 3.5).

use serde_json::{Value, json};
use tokio::time::Instant;
use tower_bearer::Error;
use tower_bearer::oauth2::{DeviceCodeLogin, DeviceCodeLoginBuilder};
use tower_bearer::testing::{Answer, TokenServer};

use crate::sources::at;

fn builder(issuer: &TokenServer) -> DeviceCodeLoginBuilder {
    let issuer = at(issuer.clone()).device_authorization_endpoint("https://auth.example.com/device");
    DeviceCodeLogin::builder(&issuer, "my-cli")
}

fn login(issuer: &TokenServer) -> DeviceCodeLogin {
    builder(issuer).build().expect("a login")
}

fn code(expires_in: u64) -> Answer {
    let uri = "https://auth.example.com/go";
    let code = json!({
        "device_code": "the-device-code", "user_code": "WDJB", "verification_uri": uri, "expires_in": expires_in, "interval": 5,
    });
    Answer::json(200, code)
}

fn pending() -> Answer {
    Answer::oauth_error(400, "authorization_pending")
}

/// Runs a login whose polls get these answers. Returns its error and the number of polls.
async fn end(answers: impl IntoIterator<Item = Answer>) -> (Error, usize) {
    let issuer = TokenServer::new();
    issuer.queue(code(120));
    answers.into_iter().for_each(|answer| issuer.queue(answer));
    issuer.fail(Some(pending()));
    let error = login(&issuer).begin().await.expect("a code").finish().await.expect_err("the login ends");
    (error, issuer.calls().total() - 1)
}

#[tokio::test(start_paused = true)]
async fn any_other_error_ends_the_login_with_its_code() {
    for answer in [
        Answer::oauth_error(400, "authorization_declined"),
        Answer::oauth_error(400, "bad_verification_code"),
        Answer::oauth_error(403, "org_internal"),
        Answer::oauth_error(200, "incorrect_device_code"),
        Answer::oauth_error(400, "expired_token"),
    ] {
        let (error, polls) = end([pending(), answer.clone()]).await;
        assert_eq!(polls, 2, "{answer:?}");
        assert!(format!("{answer:?}").contains(error.code().expect("a code")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_token_ends_the_login() {
    for answer in [
        Answer::raw(403, "<html>"),
        Answer::raw(404, ""),
        Answer::raw(302, "").header("location", "/login"),
        Answer::raw(200, "<html>"),
        Answer::json(200, json!({ "token_type": "Bearer" })),
    ] {
        assert_eq!(end([answer.clone()]).await.1, 1, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_an_outage_and_a_broken_connection_do_not_end_the_login() {
    for answer in [
        pending(),
        Answer::oauth_error(400, "slow_down"),
        Answer::oauth_error(200, "authorization_pending"),
        Answer::json(400, json!({ "error": { "code": "authorization_pending" } })),
        Answer::raw(429, ""),
        Answer::raw(500, ""),
        Answer::oauth_error(503, "temporarily_unavailable"),
        Answer::fails("connection reset"),
    ] {
        let issuer = TokenServer::new();
        issuer.queue(code(120));
        issuer.queue(answer.clone());
        let token = login(&issuer).begin().await.expect("a code").finish().await;
        assert_eq!(token.expect("a token").access_token(), "token-1", "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_a_part_of_an_error_code_does_not_end_the_login() {
    let issuer = TokenServer::new();
    issuer.queue(code(120));
    (0..3).for_each(|_| issuer.queue(pending()));
    let login = builder(&issuer).client_auth("pending-review-secret").build().expect("a login");
    let (code, began) = (login.begin().await.expect("a code"), Instant::now());
    code.finish().await.expect("a token");
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn the_final_error_includes_the_last_failure() {
    let (error, _) = end([pending(), pending()]).await;
    assert_eq!(error.to_string(), "the device code expired before it was entered; start a new login");
    let (error, _) = end(std::iter::repeat_n(Answer::raw(503, ""), 40)).await;
    assert!(error.to_string().contains("answered 503"), "{error}");
    // An earlier failure is not included.
    let (error, _) = end([Answer::raw(503, "")]).await;
    assert!(!error.to_string().contains("503"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_code_request_that_is_denied_with_a_200_is_an_error_with_its_code() {
    let begin = async |answer: Value| {
        let issuer = TokenServer::new();
        issuer.queue(Answer::json(200, answer));
        login(&issuer).begin().await
    };
    let error = begin(json!({ "error": "device_flow_disabled" })).await.expect_err("no code");
    assert_eq!(error.code(), Some("device_flow_disabled"));
    let error = begin(json!({ "error": "unauthorized_client", "error_description": "Not this app" })).await;
    let error = error.expect_err("no code");
    assert_eq!((error.code(), error.description()), (Some("unauthorized_client"), Some("Not this app")));
    assert!(error.is_denied());
    let began = Instant::now();
    let odd = json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://x.test", "error": null });
    begin(odd).await.expect("a code is a code").finish().await.expect("a token");
    assert_eq!(began.elapsed().as_secs(), 5);
}
