//! Many tasks over many expiries: one token call for each, never two at once, and no refresh token used twice.
#![expect(clippy::disallowed_methods, reason = "the server runs in real time")]

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use issuers::{BRIEF_LIFE, ODD_PASSWORD, OidcProvider, SHORT_LIFE, client};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};
use tower_bearer::oauth2::{Algorithm, ClientAuth, ClientCredentialsGrant, Issuer, PasswordGrant};
use tower_bearer::{BearerLayer, TokenCache, TokenSource};

const TASKS: u64 = 64;

fn client_credentials(provider: &OidcProvider, id: &str) -> impl TokenSource {
    ClientCredentialsGrant::builder(&Issuer::new(client()).token_endpoint(&provider.url("/token")), id, "secret")
        .build()
        .expect("a source")
}

/// A source with a rotating refresh token. The server ends the session if one is used twice.
fn rotating(provider: &OidcProvider, id: &str) -> impl TokenSource {
    let login =
        PasswordGrant::builder(&Issuer::new(client()).token_endpoint(&provider.url("/token")), id, "ann", ODD_PASSWORD);
    login.scope("read offline_access").build().expect("a source")
}

/// Sends requests from each task while `more` returns true, at least one each. Returns the number of requests.
async fn send(provider: &OidcProvider, cache: &TokenCache, more: impl Fn() -> bool + Clone + Send + 'static) -> u64 {
    let api = BearerLayer::new(cache.clone(), [provider.base()]).expect("an origin").layer(client());
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (mut api, url, more) = (api.clone(), provider.url("/test/api"), more.clone());
        tasks.spawn(async move {
            let mut sent = 0;
            loop {
                let request = Request::get(&url).body(Full::<Bytes>::default()).expect("a request");
                let response = api.ready().await.expect("room").call(request).await.expect("a response");
                assert_eq!(response.status(), StatusCode::OK);
                sent += 1;
                if !more() {
                    return sent;
                }
                sleep(Duration::from_millis(200)).await;
            }
        });
    }
    // A failed request panics its task.
    tasks.join_all().await.into_iter().sum()
}

/// Compares the counts of both sides, after `sent` requests with `tokens` tokens.
async fn check(provider: &OidcProvider, cache: &TokenCache, tokens: u64, sent: u64) {
    assert_eq!(cache.status().generation, tokens);
    for (name, expected) in [
        ("token_calls", tokens),
        ("token_calls_at_once", 1),
        ("granted", tokens),
        ("denied", 0),
        ("reuses", 0),
        ("revoked_grants", 0),
        ("accepted", sent),
    ] {
        assert_eq!(provider.count(name).await, expected, "{name}");
    }
}

/// Sends requests continuously. Tokens are replaced in the background, shortly before they end.
async fn steady(provider: &OidcProvider, source: impl TokenSource) {
    // Six tokens replaced another one. By then the first five have ended.
    const TOKENS: u64 = 7;
    let start = Instant::now();
    let cache = TokenCache::new(source);
    let watched = cache.clone();
    let sent = send(provider, &cache, move || watched.status().generation < TOKENS).await;
    check(provider, &cache, TOKENS, sent).await;
    // No token was replaced before three quarters of its life had passed. A slow machine only takes longer.
    let least = SHORT_LIFE * 3 / 4 * (TOKENS as u32 - 1);
    assert!(start.elapsed() >= least, "{TOKENS} tokens within {:?}", start.elapsed());
}

/// Sends requests only after the token has expired, and then from all tasks at once.
async fn bursts(provider: &OidcProvider, source: impl TokenSource) {
    let cache = TokenCache::new(source);
    let mut sent = send(provider, &cache, || false).await;
    for _ in 0..5 {
        let token = cache.peek().expect("a token");
        sleep(BRIEF_LIFE).await;
        assert_eq!(provider.call(&token).await.status, StatusCode::UNAUTHORIZED, "the server agrees");
        sent += send(provider, &cache, || false).await;
    }
    check(provider, &cache, 6, sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_credentials_take_one_token_call_per_expiry() {
    let Some(provider) = OidcProvider::start() else { return };
    steady(&provider, client_credentials(&provider, "short")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_refresh_token_is_used_once_per_expiry() {
    let Some(provider) = OidcProvider::start() else { return };
    steady(&provider, rotating(&provider, "short-public")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_credentials_take_one_token_call_for_all_waiting_requests() {
    let Some(provider) = OidcProvider::start() else { return };
    bursts(&provider, client_credentials(&provider, "brief")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_refresh_token_is_used_once_for_all_waiting_requests() {
    let Some(provider) = OidcProvider::start() else { return };
    bursts(&provider, rotating(&provider, "brief-public")).await;
}

/// The server accepts no assertion twice, and would deny a repeated one.
#[tokio::test(flavor = "multi_thread")]
async fn each_token_call_signs_a_new_assertion_for_the_token_url() {
    let Some(provider) = OidcProvider::start() else { return };
    let auth = ClientAuth::private_key_jwt(provider.signing_key(Algorithm::RS256).await);
    let source = ClientCredentialsGrant::builder(
        &Issuer::new(client()).token_endpoint(&provider.url("/token")),
        "brief-rs256",
        auth,
    )
    .build();
    bursts(&provider, source.expect("a source")).await;
    assert_eq!((provider.count("for_issuer").await, provider.count("for_endpoint").await), (0, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refresh_signs_a_new_assertion_for_the_issuer() {
    let Some(provider) = OidcProvider::start() else { return };
    let auth = ClientAuth::private_key_jwt(provider.signing_key(Algorithm::ES256).await);
    let login = PasswordGrant::builder(&provider.issuer(), "brief-es256", "ann", ODD_PASSWORD).client_auth(auth);
    bursts(&provider, login.scope("read offline_access").build().expect("a source")).await;
    assert_eq!((provider.count("for_issuer").await, provider.count("for_endpoint").await), (6, 0));
    assert_eq!(provider.count("metadata_reads").await, 1);
}
