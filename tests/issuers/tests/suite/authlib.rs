//! Behaviour that only Authlib has. Other modules test the behaviour that all servers share.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use issuers::{Authlib, ODD_PASSWORD, ODD_SECRET, http, post};
use tower::{Layer, ServiceExt};
use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, DeviceCodeLogin, PasswordGrant, RefreshTokenGrant};
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, Challenge, Error, TokenCache};

use crate::subject::Subject;

fn invalid_grant(error: &Error) -> bool {
    error.is_denied() && error.code() == Some("invalid_grant")
}

#[tokio::test]
async fn an_odd_id_and_secret_log_in_in_the_header_and_in_the_body() {
    let Some(authlib) = Authlib::start() else { return };
    for (id, auth) in [("we ird:id+%", ClientAuth::basic(ODD_SECRET)), ("post", ClientAuth::post(ODD_SECRET))] {
        let grant =
            ClientCredentialsGrant::builder(&authlib.issuer(), id, auth).scope("read").build().expect("a grant");
        let token = TokenCache::new(grant).get().await.expect("a token");
        assert_eq!((token.scope(), token.lifetime().as_secs()), (Some("read"), 3600));
        assert!(token.refresh_token().is_none());
    }
    for auth in [ClientAuth::basic("wrong"), ClientAuth::post(ODD_SECRET), ClientAuth::none()] {
        let grant = ClientCredentialsGrant::builder(&authlib.issuer(), "we ird:id+%", auth).build().expect("a grant");
        let error = TokenCache::new(grant).get().await.expect_err("a denial");
        assert!(error.is_denied() && error.code() == Some("invalid_client"), "{error}");
    }
}

#[tokio::test]
async fn the_metadata_of_rfc_8414_name_the_endpoints() {
    let Some(authlib) = Authlib::start() else { return };
    let issuer = authlib.issuer();
    // Authlib does not serve the URLs of OpenID Connect.
    let metadata = issuer.metadata().await.expect("metadata");
    assert_eq!(metadata["token_endpoint"], authlib.url("/token"));
    let grant = PasswordGrant::builder(&issuer, "public", "ann", ODD_PASSWORD).build().expect("a grant");
    TokenCache::new(grant).get().await.expect("a token");
}

#[tokio::test]
async fn a_wrong_password_is_denied_although_it_is_called_an_invalid_request() {
    let Some(server) = Subject::authlib() else { return };
    let error = TokenCache::new(server.password("wrong")).get().await.expect_err("a denial");
    assert!(error.is_denied() && error.code() == Some("invalid_request"), "{error}");
    assert!(error.to_string().contains("Invalid 'username' or 'password'"), "{error}");
}

/// Authlib continues the session with the newest refresh token.
#[tokio::test]
async fn a_spent_refresh_token_is_denied_and_its_session_goes_on() {
    let Some(server) = Subject::authlib() else { return };
    let saved = server.login().await.text("refresh_token");
    let [one, other] = [(); 2].map(|()| TokenCache::new(server.refresh_token(&saved)));
    one.get().await.expect("the first to come");
    assert!(invalid_grant(&other.get().await.expect_err("a denial")));
    one.refresh().await.expect("it goes on");
}

#[tokio::test]
async fn a_scope_that_is_too_small_is_a_403_without_a_challenge_and_costs_no_token_call() {
    let Some(authlib) = Authlib::start() else { return };
    let grant = ClientCredentialsGrant::builder(&authlib.issuer(), "post", ClientAuth::post(ODD_SECRET));
    let clock = ManualClock::new();
    let cache =
        TokenCache::builder(grant.scope("write").build().expect("a grant")).clock(clock.clone()).build().unwrap();
    cache.get().await.expect("a token");
    clock.advance(Duration::from_secs(3));
    let url = authlib.url("/test/api");
    let api = BearerLayer::new(cache, [authlib.url("")]).expect("an origin").layer(http());
    let response = api.oneshot(Request::get(&url).body(Full::default()).expect("a request")).await.expect("an answer");
    assert_eq!((response.status().as_u16(), Challenge::all(response.headers()).len()), (403, 0));
    assert_eq!(authlib.token_calls().await, 1);
}

#[tokio::test]
async fn a_device_obeys_slow_down_and_its_session_rotates() {
    let Some(authlib) = Authlib::start() else { return };
    let login = DeviceCodeLogin::builder(&authlib.issuer(), "public").scope("read").build().expect("a login");
    let code = login.begin().await.expect("a code");
    assert_eq!(code.verification_uri(), authlib.url("/device"));
    let url = authlib.url(&format!("/test/device?user_code={}", code.user_code()));
    let agrees_late = async {
        // The first poll is answered with `authorization_pending`, and the second with `slow_down`.
        while authlib.token_calls().await < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(post(&http(), &url, &[]).await.status, 200);
        Ok(())
    };
    let (token, ()) = tokio::try_join!(code.finish(), agrees_late).expect("a login");
    assert_eq!((token.scope(), authlib.token_calls().await), (Some("read"), 3));
    let cache = TokenCache::new(login.session(token));
    let first = cache.refresh().await.expect("a refresh");
    let second = cache.refresh().await.expect("a refresh");
    assert_ne!(first.refresh_token(), second.refresh_token());

    let code = login.begin().await.expect("a code");
    let url = authlib.url(&format!("/test/device?user_code={}&deny=1", code.user_code()));
    assert_eq!(post(&http(), &url, &[]).await.status, 200);
    let error = code.finish().await.expect_err("a denial");
    assert!(error.is_denied() && error.code() == Some("access_denied"), "{error}");
}

#[tokio::test]
async fn a_refresh_token_of_another_client_is_denied() {
    let Some(authlib) = Authlib::start() else { return };
    let issuer = authlib.issuer();
    let grant = PasswordGrant::builder(&issuer, "public", "ann", ODD_PASSWORD).scope("read").build().expect("a grant");
    let token = TokenCache::new(grant).get().await.expect("a token");
    let refresh_token = token.refresh_token().expect("a refresh token");
    let other = RefreshTokenGrant::builder(&issuer, "post", refresh_token).client_auth(ClientAuth::post(ODD_SECRET));
    let error = TokenCache::new(other.build().expect("a grant")).get().await.expect_err("a denial");
    assert!(invalid_grant(&error), "{error}");
}
