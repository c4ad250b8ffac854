//! Neither `Debug` nor an error shows a secret of a login, an assertion or a closure.

#[path = "sources/signed.rs"]
mod signed;
mod sources;

use std::fmt::Debug;
use std::io;

use serde_json::json;
use tower_bearer::oauth2::{
    self, Algorithm, Assertion, AuthorizationCodeLogin, ClientAuth, ClientCredentialsGrant, DeviceCodeLogin,
    JwtBearerGrant, PasswordGrant, RefreshTokenGrant, Revocation, TokenExchangeGrant,
};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Token, TokenCache, TokenSource};

use crate::signed::{P256, key};
use crate::sources::{TOKEN_URL, at, says};

const SECRET: &str = "S3cret";
const DEVICE_URL: &str = "https://auth.example.com/device_authorization";
const AUTHORIZATION_URL: &str = "https://auth.example.com/authorize";
const REDIRECT_URI: &str = "http://127.0.0.1:8400/back";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

#[track_caller]
fn shows_nothing(value: &impl Debug) {
    let shown = format!("{value:?} {value:#?}");
    assert!(!shown.contains(SECRET), "{shown}");
    let material = P256.lines().nth(1).unwrap();
    assert!(!shown.contains(&material[..8]), "{shown}");
}

async fn closure_secret() -> io::Result<&'static str> {
    Ok("S3cret-of-a-closure\n")
}

/// Each authentication with a secret, as a value and from a closure.
fn every_auth() -> [ClientAuth; 9] {
    [
        ClientAuth::basic(SECRET),
        ClientAuth::post(SECRET),
        ClientAuth::secret_jwt(SECRET),
        ClientAuth::assertion(SECRET),
        ClientAuth::basic(closure_secret),
        ClientAuth::post(closure_secret),
        ClientAuth::secret_jwt(closure_secret),
        ClientAuth::assertion(closure_secret),
        ClientAuth::private_key_jwt(key(Algorithm::ES256, P256)),
    ]
}

/// An issuer whose denial repeats the secret.
fn repeating() -> TokenServer {
    let issuer = TokenServer::new();
    issuer
        .fail(Some(Answer::json(400, json!({ "error": "odd", "error_description": "S3cret-of-a-closure is wrong" }))));
    issuer
}

async fn assert_redacted(source: impl TokenSource) {
    let error = TokenCache::new(source).get().await.unwrap_err();
    assert!(!says(&error).contains(SECRET), "{error}");
    let words = error.description().unwrap();
    assert!(words.starts_with("[redacted]") && words.ends_with("is wrong"), "{error}");
}

// === Debug ===

#[tokio::test]
async fn no_client_and_no_source_shows_a_secret() {
    let http = TokenServer::new;
    for auth in every_auth() {
        shows_nothing(&auth);
        shows_nothing(&ClientCredentialsGrant::builder(&at(http()), "my-app", auth.clone()).build().unwrap());
        shows_nothing(&PasswordGrant::builder(&at(http()), "my-app", "ann", SECRET).client_auth(auth).build().unwrap());
    }
    shows_nothing(&RefreshTokenGrant::builder(&at(http()), "my-app", closure_secret).build().unwrap());
    let exchange = TokenExchangeGrant::builder(&at(http()), SECRET).actor_token(SECRET, ACCESS_TOKEN);
    shows_nothing(&exchange);
    shows_nothing(&exchange.client_id("my-app").client_auth(SECRET).parameter("otp", SECRET).build().unwrap());
    shows_nothing(&JwtBearerGrant::builder(&at(http()), SECRET).build().unwrap());
    let assertion =
        Assertion::builder(key(Algorithm::ES256, P256), "me").audience(TOKEN_URL).claim("otp", SECRET).build().unwrap();
    shows_nothing(&assertion);
    shows_nothing(&JwtBearerGrant::builder(&at(http()), assertion).build().unwrap());
    let revocation = Revocation::builder(
        &oauth2::Issuer::new(http()).revocation_endpoint("https://auth.example.com/revoke"),
        "my-app",
    );
    shows_nothing(&revocation.client_auth(SECRET).build().unwrap());
    shows_nothing(&oauth2::Issuer::discover(http(), "https://auth.example.com"));
}

#[tokio::test]
async fn no_login_shows_a_secret() {
    let issuer = TokenServer::new();
    let device = DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(DEVICE_URL), "my-cli")
        .client_auth(SECRET)
        .build()
        .unwrap();
    issuer.queue(Answer::json(
        200,
        json!({
            "device_code": "S3cret-device-code",
            "user_code": "S3cret-user-code",
            "verification_uri": "https://auth.example.com/device",
            "verification_uri_complete": "https://auth.example.com/device?user_code=S3cret-user-code",
        }),
    ));
    shows_nothing(&device);
    shows_nothing(&device.begin().await.unwrap());
    let token = Token::new("S3cret-token").unwrap().with_refresh_token("S3cret-refresh-token");
    shows_nothing(&device.session(token.clone()));

    let browser = AuthorizationCodeLogin::builder(
        &at(issuer.clone()).authorization_endpoint(AUTHORIZATION_URL),
        "my-app",
        REDIRECT_URI,
    );
    let browser = browser.client_auth(SECRET).build().unwrap();
    shows_nothing(&browser);
    shows_nothing(&browser.session(token));
    let request = browser.begin().await.unwrap();
    let shown = format!("{request:?} {request:#?}");
    let state = request.url().split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    request.finish(&format!("{REDIRECT_URI}?code=c&state={state}")).await.unwrap();
    let verifier = issuer.requests().pop().unwrap().form()["code_verifier"].clone();
    assert!(!shown.contains(&state) && !shown.contains(&verifier) && shown.contains(REDIRECT_URI), "{shown}");
}

// === errors ===

#[tokio::test]
async fn secrets_are_redacted_if_the_issuer_repeats_them() {
    let http = repeating;
    // The last one sends no secret.
    for auth in every_auth().into_iter().take(8) {
        assert_redacted(ClientCredentialsGrant::builder(&at(http()), "my-app", auth).build().unwrap()).await;
    }
    assert_redacted(PasswordGrant::builder(&at(http()), "my-app", "ann", closure_secret).build().unwrap()).await;
    assert_redacted(RefreshTokenGrant::builder(&at(http()), "my-app", closure_secret).build().unwrap()).await;
    assert_redacted(TokenExchangeGrant::builder(&at(http()), closure_secret).build().unwrap()).await;
    let exchange = TokenExchangeGrant::builder(&at(http()), "the subject");
    assert_redacted(exchange.actor_token(closure_secret, ACCESS_TOKEN).build().unwrap()).await;
    assert_redacted(JwtBearerGrant::builder(&at(http()), closure_secret).build().unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn the_codes_of_a_login_are_redacted() {
    let issuer = TokenServer::new();
    let words = "S3cret-device-code of S3cret-user-code by S3cret-client";
    let code = json!({
        "device_code": "S3cret-device-code",
        "user_code": "S3cret-user-code",
        "verification_uri": "https://auth.example.com/device",
    });
    issuer.queue(Answer::json(200, code));
    issuer.queue(Answer::json(400, json!({ "error": "access_denied", "error_description": words })));
    let login = DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(DEVICE_URL), "my-cli");
    let login = login.client_auth("S3cret-client").build().unwrap();
    let error = login.begin().await.unwrap().finish().await.unwrap_err();
    assert_eq!(error.description(), Some("[redacted] of [redacted] by [redacted]"));

    let login = AuthorizationCodeLogin::builder(
        &at(issuer.clone()).authorization_endpoint(AUTHORIZATION_URL),
        "my-app",
        REDIRECT_URI,
    )
    .build()
    .unwrap();
    let request = login.begin().await.unwrap();
    let state = request.url().split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    issuer.queue(Answer::json(400, json!({ "error": "invalid_grant", "error_description": "S3cret-code" })));
    let error = request.finish(&format!("{REDIRECT_URI}?code=S3cret-code&state={state}")).await.unwrap_err();
    assert_eq!(error.description(), Some("[redacted]"));
}
