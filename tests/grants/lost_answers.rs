//! Refreshes with late, lost or unusable answers, and issuers that say when to refresh.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{JwtBearerGrant, RefreshTokenGrant, TokenExchangeGrant};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{FetchContext, Phase, Reason, RefreshPolicy, RotatedToken, TokenCache, TokenSource};

use crate::sources::{HOUR, TOKEN_URL, at, each, now, pass, password, refresh_token, says};

// === no answer ===

#[tokio::test(start_paused = true)]
async fn a_refresh_without_an_answer_is_retried_at_two_thirds_of_the_deadline() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::hangs());
    let settings = RefreshPolicy::new().deadline(Duration::from_secs(9));
    let cache = TokenCache::builder(refresh_token(&issuer).build().unwrap()).refresh_policy(settings).build().unwrap();
    let start = now();
    assert_eq!(cache.get().await.unwrap().access_token(), "token-1");
    assert_eq!((now() - start).as_secs(), 6);
    assert_eq!(each(&issuer.requests(), "refresh_token"), ["saved", "saved"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_times_out_before_the_deadline_with_an_error_that_names_the_server() {
    let settings = RefreshPolicy::new().deadline(Duration::from_secs(10));
    let waited = async |cache: TokenCache| {
        let start = now();
        let error = cache.get().await.unwrap_err();
        assert!(error.is_timeout() && error.is_transient() && error.to_string().contains(TOKEN_URL), "{error}");
        assert_eq!((now() - start).as_secs(), 9, "less than the deadline");
    };
    for source in 0..3 {
        let issuer = TokenServer::new();
        issuer.fail(Some(Answer::hangs()));
        let (cache, calls) = match source {
            0 => (
                TokenCache::builder(refresh_token(&issuer).build().unwrap()).refresh_policy(settings).build().unwrap(),
                2,
            ),
            1 => (TokenCache::builder(password(&issuer).build().unwrap()).refresh_policy(settings).build().unwrap(), 1),
            _ => {
                let login = JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({})).build().unwrap();
                (TokenCache::builder(login).refresh_policy(settings).build().unwrap(), 1)
            }
        };
        waited(cache).await;
        assert_eq!(issuer.calls().total(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_follows_a_retried_refresh_that_is_denied() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(&issuer).build().unwrap());
    cache.get().await.unwrap();
    issuer.queue(Answer::fails("connection reset"));
    issuer.queue(Answer::oauth_error(400, "invalid_grant"));
    cache.refresh().await.unwrap();
    assert_eq!(each(&issuer.requests(), "grant_type"), ["password", "refresh_token", "refresh_token", "password"]);
}

// === unusable answers ===

/// Answers that hold a refresh token and no valid access token.
fn unusable() -> [Answer; 4] {
    let answer = |access_token: Value, kind: &str| {
        Answer::json(200, json!({ "access_token": access_token, "token_type": kind, "refresh_token": "rotated" }))
    };
    [answer(json!(null), ""), answer(json!("a b"), ""), answer(json!(7), ""), answer(json!("t"), "mac")]
}

fn saving(source: impl TokenSource) -> (TokenCache, Arc<Mutex<Vec<String>>>) {
    let saved = Arc::new(Mutex::new(Vec::new()));
    let saves = Arc::clone(&saved);
    let cache = TokenCache::builder(source)
        .on_rotation(move |rotated: RotatedToken| {
            saves.lock().unwrap().push(rotated.refresh_token().expose().to_owned());
            async { Ok::<_, std::io::Error>(()) }
        })
        .build()
        .unwrap();
    (cache, saved)
}

#[tokio::test(start_paused = true)]
async fn the_refresh_token_of_an_unusable_answer_is_saved_and_used() {
    for answer in unusable() {
        let issuer = TokenServer::new();
        issuer.rotate_refresh_tokens(true);
        let (cache, saved) = saving(password(&issuer).build().unwrap());
        cache.get().await.unwrap();
        issuer.queue(answer.clone());
        let error = cache.refresh().await.unwrap_err();
        assert!(error.is_transient() && !says(&error).contains("rotated"), "{error}");
        assert_eq!(*saved.lock().unwrap(), ["refresh-1", "rotated"], "{answer:?}");
        // The old access token is still used.
        assert_eq!(cache.get().await.unwrap().access_token(), "token-1");
        cache.refresh().await.unwrap();
        assert_eq!(each(&issuer.requests(), "refresh_token"), ["-", "refresh-1", "rotated"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_refresh_token_of_an_unusable_first_answer_is_saved_and_used() {
    for answer in unusable() {
        let issuer = TokenServer::new();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (inner, replaced) = (Arc::new(refresh_token(&issuer).build().unwrap()), Arc::clone(&shown));
        let (cache, saved) = saving(move |context: FetchContext| {
            replaced.lock().unwrap().push(context.replaced().is_some());
            let inner = Arc::clone(&inner);
            async move { inner.fetch(context).await }
        });
        issuer.queue(answer.clone());
        cache.get().await.unwrap_err();
        assert_eq!(*saved.lock().unwrap(), ["rotated"], "{answer:?}");
        assert!(cache.peek().is_none() && cache.status().phase.is_none());
        cache.refresh().await.unwrap();
        assert_eq!(each(&issuer.requests(), "refresh_token"), ["saved", "rotated"]);
        // No token was replaced.
        assert_eq!(*shown.lock().unwrap(), [false, false]);
    }
}

#[tokio::test]
async fn every_grant_reports_the_refresh_token_of_an_unusable_answer() {
    for answer in unusable() {
        let issuer = TokenServer::new();
        issuer.fail(Some(answer));
        let assertion = JwtBearerGrant::builder(&at(issuer.clone()), "a.b.c").build().unwrap();
        let exchange = TokenExchangeGrant::builder(&at(issuer.clone()), "the subject").build().unwrap();
        assert_eq!(reported(&password(&issuer).build().unwrap()).await, "rotated");
        assert_eq!(reported(&refresh_token(&issuer).build().unwrap()).await, "rotated");
        assert_eq!(reported(&assertion).await, "rotated");
        assert_eq!(reported(&exchange).await, "rotated");
        assert_eq!(reported(&crate::sources::client_credentials(&issuer).build().unwrap()).await, "rotated");
    }
}

/// The refresh token that a failing fetch reports.
async fn reported(source: &impl TokenSource) -> String {
    let context = FetchContext::new(Reason::First);
    source.fetch(context.clone()).await.unwrap_err();
    context.refresh_token().expect("it was reported").expose().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_source_that_replaces_every_error_loses_no_refresh_token() {
    for answer in unusable() {
        let issuer = TokenServer::new();
        issuer.rotate_refresh_tokens(true);
        let inner = Arc::new(password(&issuer).build().unwrap());
        let cache = TokenCache::new(move |context: FetchContext| {
            let inner = Arc::clone(&inner);
            async move { inner.fetch(context).await.map_err(|_| io::Error::other("our login failed")) }
        });
        cache.get().await.unwrap();
        issuer.queue(answer);
        assert!(says(&cache.refresh().await.unwrap_err()).contains("our login failed"));
        cache.refresh().await.unwrap();
        assert_eq!(each(&issuer.requests(), "refresh_token"), ["-", "refresh-1", "rotated"]);
    }
}

#[tokio::test(start_paused = true)]
async fn signing_out_revokes_the_refresh_token_of_an_unusable_answer() {
    let issuer = TokenServer::new();
    issuer.queue(unusable()[0].clone());
    let cache = TokenCache::new(refresh_token(&issuer).build().unwrap());
    cache.get().await.unwrap_err();
    let mut revoked = None;
    let revoke = async |token| {
        revoked = Some(token);
        Ok::<_, std::io::Error>(())
    };
    cache.sign_out(revoke).await.unwrap();
    assert_eq!(revoked.unwrap().expose(), "rotated");
}

// === redaction ===

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_a_closure_returned_is_redacted() {
    let issuer = TokenServer::new();
    let words = json!({ "error": "invalid_grant", "error_description": "R3fresh is not known" });
    issuer.fail(Some(Answer::json(400, words)));
    let source =
        RefreshTokenGrant::builder(&at(issuer.clone()), "my-app", async || Ok::<_, std::io::Error>("R3fresh\n"))
            .build();
    let error = TokenCache::new(source.unwrap()).get().await.unwrap_err();
    assert!(!says(&error).contains("R3fresh") && says(&error).contains("[redacted]"), "{error}");
}

// === refresh_in ===

#[tokio::test(start_paused = true)]
async fn a_token_is_due_at_refresh_in() {
    let answer = |refresh_in: Value| {
        Answer::json(200, json!({ "access_token": "t", "expires_in": 86_400, "refresh_in": refresh_in }))
    };
    for (refresh_in, expected) in [(json!(7200), Some(2 * HOUR)), (json!("7200"), Some(2 * HOUR)), (json!(0), None)] {
        let issuer = TokenServer::new();
        issuer.queue(answer(refresh_in));
        let cache = TokenCache::new(crate::sources::client_credentials(&issuer).build().unwrap());
        let token = cache.get().await.unwrap();
        assert_eq!((token.refresh_in(), token.extra("refresh_in")), (expected, None));
        pass(HOUR).await;
        assert_eq!(cache.status().phase, Some(Phase::Fresh));
        pass(HOUR).await;
        let phase = if expected.is_some() { Phase::Due } else { Phase::Fresh };
        assert_eq!(cache.status().phase, Some(phase));
    }
}
