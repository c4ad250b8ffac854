//! A session that a login started: it uses the login's token first, and then its refresh token.

use std::time::Duration;

use serde_json::{Value, json};
use tower_bearer::oauth2::{self, ClientAuth, DeviceCodeLogin, RefreshTokenGrant, Revocation};
use tower_bearer::testing::{Answer, ManualClock, TokenServer};
use tower_bearer::{Error, Phase, Token, TokenCache};

use crate::sources::{HOUR, at, form, pass};

const DEVICE_URL: &str = "https://auth.example.com/device_authorization";

/// A session from a login with this token answer. The login makes two calls.
async fn session(issuer: &TokenServer, token: Value) -> RefreshTokenGrant {
    let login = DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(DEVICE_URL), "my-cli");
    let login = login.client_auth(ClientAuth::post("its secret")).scope("offline_access").build().unwrap();
    let code = json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://auth.example.com/device" });
    issuer.queue(Answer::json(200, code));
    issuer.queue(Answer::json(200, token));
    let token = login.begin().await.unwrap().finish().await.unwrap();
    login.session(token)
}

fn granted() -> Value {
    json!({ "access_token": "login-token", "expires_in": 3600, "refresh_token": "from-login" })
}

#[tokio::test(start_paused = true)]
async fn the_logins_token_is_used_first_and_refreshed_when_it_expires() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(session(&issuer, granted()).await);
    assert_eq!(cache.get().await.unwrap().access_token(), "login-token");
    assert_eq!(issuer.calls().total(), 2);
    pass(HOUR).await;
    assert_eq!(cache.get().await.unwrap().access_token(), "token-1");
    let expected = [
        ("grant_type", "refresh_token"),
        ("refresh_token", "from-login"),
        ("client_id", "my-cli"),
        ("client_secret", "its secret"),
    ];
    assert_eq!(issuer.requests()[2].form(), form(expected));
}

#[tokio::test(start_paused = true)]
async fn refresh_replaces_the_logins_token() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(session(&issuer, granted()).await);
    cache.get().await.unwrap();
    assert_eq!(cache.refresh().await.unwrap().access_token(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn the_logins_token_keeps_its_remaining_lifetime() {
    let issuer = TokenServer::new();
    let mut granted = granted();
    granted["refresh_in"] = json!(600);
    let token = TokenCache::new(session(&issuer, granted).await).get().await.unwrap();
    let short_of = |time: Duration, whole: Duration| time <= whole && time > whole - Duration::from_secs(60);
    assert!(short_of(token.lifetime(), HOUR) && short_of(token.refresh_in().unwrap(), HOUR / 6), "{token:?}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_or_one_without_an_expiry_is_refreshed_first() {
    let issuer = TokenServer::new();
    let mut expired = granted();
    expired["expires_in"] = json!(0);
    let cache = TokenCache::new(session(&issuer, expired).await);
    assert_eq!(cache.get().await.unwrap().access_token(), "token-1");

    let login = DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(DEVICE_URL), "my-cli")
        .build()
        .unwrap();
    let saved = Token::new("saved-token").unwrap().with_refresh_token("saved");
    assert_eq!(TokenCache::new(login.session(saved)).get().await.unwrap().access_token(), "token-2");
    assert_eq!(issuer.requests().last().unwrap().form()["refresh_token"], "saved");
}

/// A token of an hour that ends in ten minutes by this clock.
async fn nearly_expired(token: Token, clock: &ManualClock) -> Token {
    let source = move |_| std::future::ready(Ok::<_, Error>(token.clone().with_lifetime(HOUR)));
    let token = TokenCache::builder(source).clock(clock.clone()).build().unwrap().get().await.unwrap();
    clock.sleep(Duration::from_secs(50 * 60));
    token
}

#[tokio::test]
async fn a_token_that_has_nearly_expired_is_refreshed_first_if_possible() {
    let (issuer, clock) = (TokenServer::new(), ManualClock::new());
    let login = DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(DEVICE_URL), "my-cli")
        .build()
        .unwrap();
    let cache = |token| TokenCache::builder(login.session(token)).clock(clock.clone()).build().unwrap();
    let alone = nearly_expired(Token::new("login-token").unwrap(), &clock).await;
    let token = cache(alone).get().await.unwrap();
    assert_eq!((token.access_token(), issuer.calls().total()), ("login-token", 0));
    assert!(token.lifetime() <= HOUR / 6 && token.lifetime() > HOUR / 6 - Duration::from_secs(60), "{token:?}");
    let renewable = nearly_expired(Token::new("login-token").unwrap().with_refresh_token("r"), &clock).await;
    assert_eq!(cache(renewable).get().await.unwrap().access_token(), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_session_without_a_refresh_token_ends_with_its_token_and_says_what_to_do() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(session(&issuer, json!({ "access_token": "login-token", "expires_in": 3600 })).await);
    assert_eq!(cache.get().await.unwrap().access_token(), "login-token");
    pass(HOUR - Duration::from_secs(30)).await;
    assert_eq!(cache.get().await.unwrap().access_token(), "login-token");
    assert_eq!(cache.status().phase, Some(Phase::Due));
    pass(Duration::from_secs(30)).await;
    let error = cache.get().await.unwrap_err();
    let said = crate::sources::says(&error);
    assert!(error.is_denied() && said.contains("offline_access") && said.contains("log in again"), "{said}");
    assert_eq!(issuer.calls().total(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_ends_the_session_and_another_login_can_replace_it() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(session(&issuer, granted()).await);
    cache.get().await.unwrap();
    issuer.queue(Answer::oauth_error(400, "invalid_grant"));
    let error = cache.refresh().await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("no login to fall back to"), "{error}");
    cache.set_source(session(&issuer, granted()).await);
    assert_eq!(cache.get().await.unwrap().access_token(), "login-token");
}

#[tokio::test(start_paused = true)]
async fn a_session_can_be_signed_out_before_its_first_fetch() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(session(&issuer, granted()).await);
    let revocation = Revocation::builder(
        &oauth2::Issuer::new(issuer.clone()).revocation_endpoint("https://auth.example.com/revoke"),
        "my-cli",
    )
    .build()
    .unwrap();
    cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await.unwrap();
    assert_eq!(issuer.requests()[2].form()["token"], "from-login");
    assert!(cache.get().await.unwrap_err().is_signed_out());
}
