//! Sessions that are rotated, revoked or shared, for oidc-provider and the fake MeshyDB server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use issuers::ODD_PASSWORD;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, Error, RotatedToken, TokenCache};

use crate::subject::{Subject, held};

held! {
    sessions
    authlib:
        each_refresh_uses_the_newest_refresh_token,
        a_session_is_loaded_from_a_vault_and_saved_at_each_rotation,
        a_revoked_session_starts_over_with_its_login,
        a_revoked_refresh_token_alone_is_denied,
        sixty_four_rejected_requests_start_one_new_session;
    meshydb:
        each_refresh_uses_the_newest_refresh_token,
        a_session_is_loaded_from_a_vault_and_saved_at_each_rotation,
        a_revoked_session_starts_over_with_its_login,
        a_revoked_refresh_token_alone_is_denied,
        a_wrong_password_is_denied,
        a_refresh_token_that_another_cache_used_is_denied_and_ends_both_sessions,
        sixty_four_rejected_requests_start_one_new_session;
    oidc_provider:
        each_refresh_uses_the_newest_refresh_token,
        a_session_is_loaded_from_a_vault_and_saved_at_each_rotation,
        a_revoked_session_starts_over_with_its_login,
        a_revoked_refresh_token_alone_is_denied,
        a_wrong_password_is_denied,
        a_refresh_token_that_another_cache_used_is_denied_and_ends_both_sessions,
        sixty_four_rejected_requests_start_one_new_session;
}

/// The newest refresh token of a cache.
fn refresh_token(cache: &TokenCache) -> String {
    cache.peek().and_then(|token| token.refresh_token()).expect("a refresh token").expose().to_owned()
}

async fn is_live(server: &Subject, cache: &TokenCache) -> bool {
    server.call(cache.peek().expect("a token").access_token()).await.status == 200
}

async fn each_refresh_uses_the_newest_refresh_token(server: &Subject) {
    let cache = TokenCache::new(server.password(ODD_PASSWORD));
    cache.get().await.expect("a login");
    let saved = refresh_token(&cache);
    let resumed = TokenCache::new(server.refresh_token(&saved));
    for _ in 0..5 {
        let before = resumed.peek().map(|token| token.refresh_token());
        let token = resumed.refresh().await.expect("a refresh");
        assert_ne!(Some(token.refresh_token()), before);
        assert!(is_live(server, &resumed).await);
    }
}

async fn a_session_is_loaded_from_a_vault_and_saved_at_each_rotation(server: &Subject) {
    // The secret ends with the line break of a file.
    let vault = Arc::new(Mutex::new(format!("{}\n", server.login().await.text("refresh_token"))));
    let reads = Arc::new(AtomicU64::new(0));
    for start in 1..=3 {
        let (read, write, count) = (Arc::clone(&vault), Arc::clone(&vault), Arc::clone(&reads));
        let saved = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let text = read.lock().expect("a vault").clone();
            async move { Ok::<_, Error>(text) }
        };
        let cache = TokenCache::builder(server.refresh_token(saved))
            .on_rotation(move |rotated: RotatedToken| {
                let newest = rotated.refresh_token();
                *write.lock().expect("a vault") = format!("{}\n", newest.expose());
                async { Ok::<_, Error>(()) }
            })
            .build()
            .unwrap();
        for _ in 0..3 {
            cache.refresh().await.expect("a refresh");
            assert!(is_live(server, &cache).await);
        }
        assert_eq!(vault.lock().expect("a vault").trim_end(), refresh_token(&cache));
        assert_eq!(reads.load(Ordering::Relaxed), start, "the source reads it only when the session starts");
    }
}

async fn a_revoked_session_starts_over_with_its_login(server: &Subject) {
    let cache = TokenCache::new(server.password(ODD_PASSWORD));
    cache.get().await.expect("a login");
    assert_eq!(server.revoke(&[("token", &refresh_token(&cache))]).await.status, 200);
    assert!(!is_live(server, &cache).await);
    cache.refresh().await.expect("another login");
    assert!(is_live(server, &cache).await);
}

async fn a_revoked_refresh_token_alone_is_denied(server: &Subject) {
    let saved = server.login().await.text("refresh_token");
    let cache = TokenCache::new(server.refresh_token(&saved));
    cache.get().await.expect("a session");
    server.revoke(&[("token", &refresh_token(&cache))]).await;
    let error = cache.refresh().await.expect_err("a denial");
    assert!(error.is_denied() && error.code() == Some("invalid_grant"), "{error}");
    assert!(error.to_string().contains("no login to fall back to"), "{error}");
}

async fn a_wrong_password_is_denied(server: &Subject) {
    let error = TokenCache::new(server.password("wrong")).get().await.expect_err("a denial");
    assert!(error.is_denied() && error.code() == Some("invalid_grant"), "{error}");
}

/// Two caches that share a rotating refresh token log each other out.
async fn a_refresh_token_that_another_cache_used_is_denied_and_ends_both_sessions(server: &Subject) {
    let saved = server.login().await.text("refresh_token");
    let [one, other] = [(); 2].map(|()| TokenCache::new(server.refresh_token(&saved)));
    one.get().await.expect("the first cache");
    assert!(other.get().await.expect_err("a denial").is_denied());
    assert!(one.refresh().await.expect_err("a denial").is_denied());
}

async fn sixty_four_rejected_requests_start_one_new_session(server: &Subject) {
    let clock = ManualClock::new();
    let cache = TokenCache::builder(server.password(ODD_PASSWORD)).clock(clock.clone()).build().unwrap();
    cache.get().await.expect("a login");
    server.revoke(&[("token", &refresh_token(&cache))]).await;
    // The token is then old enough for a rejection to count.
    clock.advance(Duration::from_secs(3));
    let api = BearerLayer::new(cache.clone(), [server.origin()]).expect("an origin").layer(server.http.clone());
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let request = Request::get(&server.api_url).body(Full::<Bytes>::default()).expect("a request");
        tasks.spawn(api.clone().oneshot(request));
    }
    for response in tasks.join_all().await {
        assert_eq!(response.expect("a response").status(), 200);
    }
    assert_eq!(cache.status().generation, 2);
    if let Some(provider) = &server.provider {
        // The login, the denied refresh, and the second login.
        assert_eq!((provider.count("token_calls").await, provider.count("reuses").await), (3, 0));
    }
}
