//! Revocation of tokens (RFC 7009).

use std::time::Duration;

use serde_json::json;
use tower_bearer::oauth2::{self, ClientAuth, Revocation, RevocationBuilder};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Secret, Token, TokenCache};

use crate::sources::{form, headers, password, says};

const REVOCATION_URL: &str = "https://auth.example.com/revoke";

fn revocation(issuer: &TokenServer) -> RevocationBuilder {
    Revocation::builder(&oauth2::Issuer::new(issuer.clone()).revocation_endpoint(REVOCATION_URL), "my-app")
}

fn refresh_token() -> Secret {
    "R3fresh".into()
}

#[tokio::test]
async fn each_kind_of_token_has_its_hint() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::raw(200, "")));
    let revocation = revocation(&issuer).build().unwrap();
    revocation.revoke_refresh_token(&refresh_token()).await.unwrap();
    revocation.revoke_access_token(&Token::new("Acc3ss").unwrap()).await.unwrap();
    let [first, second] = issuer.requests().try_into().unwrap();
    assert_eq!((first.method.as_str(), first.uri.to_string()), ("POST", REVOCATION_URL.to_owned()));
    let expected = [("token", "R3fresh"), ("token_type_hint", "refresh_token"), ("client_id", "my-app")];
    assert_eq!(first.form(), form(expected));
    let expected = [("token", "Acc3ss"), ("token_type_hint", "access_token"), ("client_id", "my-app")];
    assert_eq!(second.form(), form(expected));
}

#[tokio::test]
async fn a_confidential_client_authenticates() {
    let issuer = TokenServer::new();
    let basic = revocation(&issuer).client_auth("its secret").build().unwrap();
    basic.revoke_refresh_token(&refresh_token()).await.unwrap();
    let post = revocation(&issuer).client_auth(ClientAuth::post("its secret")).build().unwrap();
    post.revoke_refresh_token(&refresh_token()).await.unwrap();
    let [basic, post] = issuer.requests().try_into().unwrap();
    assert_eq!(headers(&basic)["authorization"], "Basic bXktYXBwOml0cyUyMHNlY3JldA==");
    assert_eq!(post.form()["client_secret"], "its secret");
}

#[tokio::test]
async fn any_2xx_is_a_success_and_any_other_status_an_error_that_names_the_url() {
    for status in [200, 204] {
        let issuer = TokenServer::new();
        issuer.queue(Answer::raw(status, ""));
        revocation(&issuer).build().unwrap().revoke_refresh_token(&refresh_token()).await.unwrap();
    }
    let failures = [
        (Answer::oauth_error(401, "invalid_client"), true),
        (Answer::oauth_error(400, "unsupported_token_type"), false),
        (Answer::raw(302, "").header("location", "https://evil.example"), false),
        (Answer::raw(404, "<html>"), false),
    ];
    for (answer, denied) in failures {
        let issuer = TokenServer::new();
        issuer.queue(answer);
        let error = revocation(&issuer).build().unwrap().revoke_refresh_token(&refresh_token()).await.unwrap_err();
        assert_eq!(error.is_denied(), denied, "{error}");
        assert!(error.to_string().contains(REVOCATION_URL), "{error}");
        assert_eq!(issuer.calls().total(), 1);
    }
    // If the connection breaks, the call is sent once more.
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::fails("connection reset")));
    let error = revocation(&issuer).build().unwrap().revoke_refresh_token(&refresh_token()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(REVOCATION_URL), "{error}");
    assert_eq!(issuer.calls().total(), 2);
}

#[tokio::test]
async fn the_error_has_the_retry_after_of_the_server() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::raw(503, "").header("retry-after", "120"));
    let error = revocation(&issuer).build().unwrap().revoke_refresh_token(&refresh_token()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_times_out_after_30_s() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::hangs());
    let error = revocation(&issuer).build().unwrap().revoke_refresh_token(&refresh_token()).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("30s"), "{error}");
}

#[tokio::test]
async fn an_error_redacts_the_token() {
    let issuer = TokenServer::new();
    let words = json!({ "error": "odd", "error_description": "I know R3fresh and its secret" });
    issuer.queue(Answer::json(400, words));
    let revocation = revocation(&issuer).client_auth("its secret").build().unwrap();
    let error = revocation.revoke_refresh_token(&refresh_token()).await.unwrap_err();
    assert!(!says(&error).contains("R3fresh") && !says(&error).contains("its secret"), "{error}");
    assert_eq!(error.description(), Some("I know [redacted] and [redacted]"));
}

#[tokio::test]
async fn signing_out_revokes_the_newest_refresh_token() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(&issuer).build().unwrap());
    cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    let revocation = revocation(&issuer).build().unwrap();
    cache.sign_out(async |token| revocation.revoke_refresh_token(&token).await).await.unwrap();
    assert_eq!(issuer.requests()[2].form()["token"], "refresh-2");
    assert!(cache.get().await.unwrap_err().is_signed_out());
}
