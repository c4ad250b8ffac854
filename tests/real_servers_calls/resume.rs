//! A session that continues from a saved refresh token, and logs in if it is no longer valid.

use std::io;

use tower_bearer::oauth2::{Issuer, Revocation};
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, MeshyDbServer, TokenServer};
use tower_bearer::{Token, TokenCache};

use crate::sources::{each, password};

const GRANTS: &str = "grant_type";

#[tokio::test(start_paused = true)]
async fn a_saved_session_continues_without_a_login() {
    let server = TokenServer::new();
    server.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(&server).resume("saved").build().unwrap());
    cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    assert_eq!(each(&server.requests(), GRANTS), ["refresh_token", "refresh_token"]);
    assert_eq!(each(&server.requests(), "refresh_token"), ["saved", "refresh-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_saved_session_that_is_dead_logs_in_within_the_same_fetch_and_is_not_tried_again() {
    let server = TokenServer::new();
    server.queue(Answer::oauth_error(400, "invalid_grant"));
    let cache = TokenCache::new(password(&server).resume("dead").build().unwrap());
    cache.get().await.unwrap();
    // The login returned no refresh token.
    cache.refresh().await.unwrap();
    assert_eq!(each(&server.requests(), GRANTS), ["refresh_token", "password", "password"]);
}

#[tokio::test(start_paused = true)]
async fn a_saved_session_that_cannot_be_read_logs_in() {
    let server = TokenServer::new();
    let missing = async || Err::<String, _>(io::Error::other("no such file"));
    TokenCache::new(password(&server).resume(missing).build().unwrap()).get().await.unwrap();
    assert_eq!(each(&server.requests(), GRANTS), ["password"]);
}

#[test]
fn an_empty_saved_refresh_token_is_an_error_of_the_builder() {
    let error = password(&TokenServer::new()).resume("").build().unwrap_err();
    assert!(error.to_string().starts_with("invalid refresh_token: "), "{error}");
}

#[tokio::test]
async fn a_saved_session_that_fetched_nothing_is_revoked_when_it_is_signed_out() {
    let server = TokenServer::new();
    let cache = TokenCache::new(password(&server).resume("saved").build().unwrap());
    let issuer = Issuer::new(server.clone()).revocation_endpoint("https://auth.example.com/revoke");
    let revocation = Revocation::builder(&issuer, "my-app").build().unwrap();
    cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await.unwrap();
    assert_eq!(each(&server.requests(), "token"), ["saved"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_of_meshydb_resumes_or_logs_in() {
    let server = MeshyDbServer::new("acme", "public-key").user("ann", "her password");
    let meshy = MeshyDb::builder(server.clone(), "acme", "public-key").build().unwrap();
    let login = || meshy.login_with_password("ann", "her password");
    let saved = TokenCache::new(login().build().unwrap()).get().await.unwrap().refresh_token().unwrap();
    for (refresh_token, grants) in [(saved, vec!["refresh_token"]), ("dead".into(), vec!["refresh_token", "password"])]
    {
        let before = server.requests().len();
        let token: Token = TokenCache::new(login().resume(refresh_token).build().unwrap()).get().await.unwrap();
        assert!(token.refresh_token().is_some());
        assert_eq!(each(&server.requests()[before..], GRANTS), grants);
    }
}
