//! Many tasks over many expiries: one token call for each, never two at once, and no refresh token spent twice.
#![expect(clippy::disallowed_methods, reason = "real time: the server has no other")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use issuers::{ODD_PASSWORD, OidcProvider, SHORT_LIFE, client};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_bearer::oauth2::{ClientCredentials, Password};
use tower_bearer::{BearerLayer, TokenCache};

const TASKS: usize = 64;
/// The first token and five that took its place, each after the one before had come near its end; one more, so that
/// the fifth has ended.
const TOKENS: u64 = 7;
const PAUSE: Duration = Duration::from_millis(200);

/// Sends requests from all tasks until there were this many tokens; tells what was counted.
async fn run(provider: &OidcProvider, cache: TokenCache) {
    let start = Instant::now();
    let api = BearerLayer::new(cache.clone(), [provider.base()]).expect("an origin").layer(client());
    let sent = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (api, cache, sent, url) = (api.clone(), cache.clone(), Arc::clone(&sent), provider.url("/test/api"));
        tasks.spawn(async move {
            while cache.status().generation < TOKENS {
                let request = Request::get(&url).body(Full::<Bytes>::default()).expect("a request");
                let response = api.clone().oneshot(request).await.expect("a response");
                assert_eq!(response.status(), StatusCode::OK);
                sent.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE).await;
            }
        });
    }
    // A task that failed has panicked.
    tasks.join_all().await;

    assert_eq!(cache.status().generation, TOKENS);
    for (name, expected) in [
        ("token_calls", TOKENS),
        ("token_calls_at_once", 1),
        ("granted", TOKENS),
        ("denied", 0),
        ("reuses", 0),
        ("revoked_grants", 0),
        ("accepted", sent.load(Ordering::Relaxed) as u64),
    ] {
        assert_eq!(provider.count(name).await, expected, "{name}");
    }
    // No token was replaced before three quarters of its life were over. A slow machine only takes longer.
    let least = Duration::from_secs(SHORT_LIFE) * 3 / 4 * (TOKENS as u32 - 1);
    assert!(start.elapsed() >= least, "{TOKENS} tokens within {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn client_credentials_take_one_token_call_per_expiry() {
    let Some(provider) = OidcProvider::start() else { return };
    let login = ClientCredentials::new(client(), &provider.url("/token"), "short", "secret").expect("a source");
    run(&provider, TokenCache::new(login)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_refresh_token_is_spent_once_per_expiry_and_no_reuse_is_detected() {
    let Some(provider) = OidcProvider::start() else { return };
    let login =
        Password::new(client(), &provider.url("/token"), "short-public", "ann", ODD_PASSWORD).expect("a source");
    let cache = TokenCache::new(login.scope("read offline_access"));
    let first = cache.get().await.expect("a token").refresh_token().expect("a refresh token");
    run(&provider, cache.clone()).await;
    assert_ne!(cache.peek().expect("a token").refresh_token(), Some(first), "it was rotated");
}
