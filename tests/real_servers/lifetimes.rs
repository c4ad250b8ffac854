//! The lifetime of tokens.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{DeviceCodeLogin, DeviceCodeLoginBuilder};
use tower_bearer::testing::{Answer, ManualClock, TokenServer};
use tower_bearer::{Error, FetchContext, MAX_LIFETIME, Reason, Token, TokenCache, TokenSource};

use crate::sources::{HOUR, TOKEN_URL, at, client_credentials, pass};

/// The start of a `ManualClock`.
pub(crate) const NOW: u64 = 1_700_000_000;
const SECOND: Duration = Duration::from_secs(1);

async fn fetch(source: impl TokenSource) -> Result<Token, Error> {
    source.fetch(FetchContext::new(Reason::First).with_clock(ManualClock::new())).await
}

/// The result of each source for this answer.
async fn each_source(answer: Answer) -> [Result<Token, Error>; 2] {
    let issuer = TokenServer::new();
    issuer.fail(Some(answer));
    let login = JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({})).build().unwrap();
    [fetch(client_credentials(&issuer).build().unwrap()).await, fetch(login).await]
}

async fn assert_lives(answer: Value, seconds: u64) {
    for token in each_source(Answer::json(200, answer.clone())).await {
        assert_eq!(token.unwrap().lifetime().as_secs(), seconds, "{answer}");
    }
}

pub(crate) fn jwt(exp: u64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(json!({ "alg": "ES256" })), part(json!({ "exp": exp })))
}

#[tokio::test]
async fn a_token_may_say_when_it_ends() {
    assert_lives(json!({ "access_token": "t", "expires_on": (NOW + 300).to_string() }), 300).await;
    assert_lives(json!({ "access_token": "t", "expires_at": NOW + 300 }), 300).await;
    assert_lives(json!({ "access_token": "t", "expires_at": (NOW + 300) * 1000 }), 300).await;
    assert_lives(json!({ "access_token": "t", "expires_at": "2037-12-31T00:00:00Z" }), 2_145_830_400 - NOW).await;
    assert_lives(json!({ "access_token": "t", "expires_at": "0001-01-01T00:00:00Z" }), 3600).await;
    assert_lives(json!({ "access_token": "t", "expires_on": NOW + 300, "expires_in": "86399" }), 86399).await;
    assert_lives(json!({ "access_token": jwt(NOW + 300) }), 300).await;
    assert_lives(json!({ "access_token": jwt(NOW + 300), "expires_in": 60 }), 60).await;
    assert_lives(json!({ "access_token": "t" }), 3600).await;
}

#[tokio::test]
async fn a_token_that_has_ended_is_an_error_that_says_so() {
    for answer in [json!({ "access_token": "t", "expires_on": NOW - 90 }), json!({ "access_token": jwt(NOW - 90) })] {
        for outcome in each_source(Answer::json(200, answer)).await {
            let said = outcome.unwrap_err().to_string();
            assert!(said.contains("ended 90 s ago") && said.contains("clock"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_moment_is_compared_with_the_servers_clock_if_it_is_known() {
    let answer = Answer::json(200, json!({ "access_token": "t", "expires_at": NOW + 7500 }));
    // The server's clock is two hours fast.
    let answer = answer.header("date", "Wed, 15 Nov 2023 00:13:20 GMT");
    for token in each_source(answer).await {
        assert_eq!(token.unwrap().lifetime().as_secs(), 300);
    }
}

#[tokio::test]
async fn place_and_unit_of_the_lifetime_are_settings_of_every_source() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::json(200, json!({
        "access_token": "x", "expires_in_sec": 3600, "expires_in": 3_600_000, "expires_in_ms": 60_000, "ends": NOW + 9,
    }))));
    let oauth = || client_credentials(&issuer);
    let json = || JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({}));
    let ms = Duration::from_millis(1);
    for (lifetime, token) in [
        (HOUR, fetch(oauth().lifetime_at("/expires_in_sec").build().unwrap()).await),
        (HOUR, fetch(json().lifetime_at("/expires_in_sec").build().unwrap()).await),
        (HOUR, fetch(oauth().lifetime_unit(ms).build().unwrap()).await),
        (HOUR, fetch(json().lifetime_unit(ms).build().unwrap()).await),
        (60 * SECOND, fetch(oauth().lifetime_at("/expires_in_ms").lifetime_unit(ms).build().unwrap()).await),
        (60 * SECOND, fetch(json().lifetime_at("/expires_in_ms").lifetime_unit(ms).build().unwrap()).await),
        (9 * SECOND, fetch(oauth().expires_at("/ends").build().unwrap()).await),
        (9 * SECOND, fetch(json().expires_at("/ends").build().unwrap()).await),
    ] {
        assert_eq!(token.unwrap().lifetime(), lifetime);
    }
    assert!(oauth().lifetime_unit(Duration::ZERO).build().unwrap_err().is_invalid());
    assert!(json().expires_at("ends").build().unwrap_err().is_invalid());
    let odd = fetch(oauth().expires_at("/access_token").build().unwrap()).await.unwrap_err().to_string();
    assert!(odd.contains("RFC 3339") && odd.contains("/access_token"), "{odd}");
}

#[tokio::test]
async fn a_lifetime_is_read_from_the_object_that_has_the_token() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::json(200, json!({ "data": { "jwt": "t", "expires_in": 60 }, "expires_in": 7 }))));
    let login = JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({})).token_at("/data/jwt").build().unwrap();
    assert_eq!(fetch(login).await.unwrap().lifetime().as_secs(), 60);
    issuer.fail(Some(Answer::json(200, json!({ "data": { "jwt": "t" }, "expires_at": NOW + 7 }))));
    let login = JsonLogin::builder(issuer, TOKEN_URL, json!({})).token_at("/data/jwt").build().unwrap();
    assert_eq!(fetch(login).await.unwrap().lifetime().as_secs(), 7);
}

#[tokio::test]
async fn a_default_is_taken_only_if_nothing_else_says_so() {
    let issuer = TokenServer::new();
    let fetch_with_default = async |answer: Value| {
        issuer.queue(Answer::json(200, answer));
        fetch(client_credentials(&issuer).default_lifetime(7 * SECOND).build().unwrap())
            .await
            .unwrap()
            .lifetime()
            .as_secs()
    };
    assert_eq!(fetch_with_default(json!({ "access_token": "t" })).await, 7);
    assert_eq!(fetch_with_default(json!({ "access_token": jwt(NOW + 300) })).await, 300);
    assert_eq!(fetch_with_default(json!({ "access_token": "t", "expires_at": NOW + 300 })).await, 300);
}

/// The session of a login on another device that got this answer.
async fn login(
    answer: Value,
    set: impl FnOnce(DeviceCodeLoginBuilder) -> DeviceCodeLoginBuilder,
) -> (TokenCache, Token, TokenServer) {
    let issuer = TokenServer::new();
    let code =
        json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://example.com", "interval": 1 });
    issuer.queue(Answer::json(200, code));
    issuer.queue(Answer::json(200, answer));
    let device = set(DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(TOKEN_URL), "my-app"))
        .build()
        .unwrap();
    let token = device.begin().await.unwrap().finish().await.unwrap();
    (TokenCache::new(device.session(token.clone())), token, issuer)
}

#[tokio::test(start_paused = true)]
async fn a_login_of_which_nothing_says_when_it_ends_is_sent_until_it_is_rejected() {
    let (cache, token, issuer) =
        login(json!({ "access_token": "gho_1", "token_type": "bearer" }), |device| device).await;
    assert_eq!(token.lifetime(), MAX_LIFETIME);
    for _ in 0..5 {
        assert_eq!(cache.get().await.unwrap().access_token(), "gho_1");
        pass(24 * HOUR).await;
    }
    assert_eq!(issuer.calls().total(), 2);
    let error = cache.report_rejected(&cache.get().await.unwrap()).await.unwrap_err();
    assert!(error.is_denied(), "{error}");

    let (_, token, _) = login(json!({ "access_token": "t", "refresh_token": "r" }), |device| device).await;
    assert_eq!(token.lifetime(), HOUR);
    let set = |device: DeviceCodeLoginBuilder| device.default_lifetime(2 * HOUR);
    assert_eq!(login(json!({ "access_token": "t" }), set).await.1.lifetime(), 2 * HOUR);
    // A token of a service is cheap to replace.
    let answer = Answer::json(200, json!({ "access_token": "t" }));
    assert!(each_source(answer).await.into_iter().all(|token| token.unwrap().lifetime() == HOUR));
}
