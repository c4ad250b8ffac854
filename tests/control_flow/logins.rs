//! A session with a login logs in again, a broken connection is retried once, and an exchange belongs to its subject.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tower_bearer::oauth2::{
    ClientCredentialsGrant, JwtBearerGrant, PasswordGrant, RefreshTokenGrant, TokenExchangeGrant,
};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, FetchContext, Reason, Token, TokenCache, TokenSource};

use crate::common::{MINUTE, SECOND, text};
use crate::sources::{client_credentials, each, password, refresh_token};

/// A session of a password grant with the refresh token `refresh-1`.
async fn session() -> (TokenServer, TokenCache) {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(&issuer).build().unwrap());
    cache.get().await.expect("a token");
    (issuer, cache)
}

/// The grants of a fetch whose refresh gets this answer: `r` for the refresh token, `p` for the password.
async fn grants_after(answer: Answer) -> (String, Result<Token, Error>) {
    let (issuer, cache) = session().await;
    issuer.queue(answer);
    let result = cache.refresh().await;
    let grants = each(&issuer.requests()[1..], "grant_type");
    (grants.iter().map(|grant| &grant[..1]).collect(), result)
}

// === the login follows in the same fetch ===

#[tokio::test(start_paused = true)]
async fn a_login_follows_a_refresh_that_is_denied_in_any_form() {
    let errors = json!([{ "errorType": "invalid_grant", "message": "Refresh token invalid" }]);
    for answer in [
        Answer::oauth_error(401, "invalid_token"),
        Answer::oauth_error(400, "interaction_required"),
        Answer::oauth_error(403, "token_revoked"),
        Answer::oauth_error(200, "bad_refresh_token"),
        Answer::json(200, json!({ "ok": false, "error": "invalid_refresh_token" })),
        Answer::json(400, json!({ "errors": errors, "success": false })),
        Answer::json(400, json!({ "status": 400, "message": "Invalid refresh token" })),
        Answer::json(401, json!({ "message": "Session expired" })),
        Answer::raw(401, "Unauthorized"),
        Answer::raw(400, ""),
    ] {
        let (grants, token) = grants_after(answer.clone()).await;
        assert_eq!((&*grants, token.is_ok()), ("rp", true), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_or_a_rate_limit_causes_no_login() {
    for answer in [
        Answer::raw(503, ""),
        Answer::raw(500, "<h1>oops</h1>"),
        Answer::raw(429, "").header("retry-after", "1"),
        Answer::oauth_error(400, "temporarily_unavailable"),
        Answer::oauth_error(400, "slow_down"),
        Answer::oauth_error(503, "invalid_something"),
        Answer::raw(403, "<html>blocked</html>"),
        Answer::raw(401, "<html>sign in</html>"),
        Answer::raw(200, "<html>maintenance</html>"),
        Answer::raw(404, "not here"),
        // A login of this client would be denied, too.
        Answer::oauth_error(401, "invalid_client"),
    ] {
        let (grants, token) = grants_after(answer.clone()).await;
        assert_eq!((&*grants, token.is_err()), ("r", true), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_follows_after_three_failed_refreshes() {
    for failure in [Answer::raw(503, ""), Answer::raw(404, "<html>"), Answer::raw(200, "{}"), Answer::hangs()] {
        let (issuer, cache) = session().await;
        // Each of the first three fetches fails. A refresh that hangs is sent twice.
        let calls = if format!("{failure:?}").contains("Hangs") { 2 } else { 1 };
        for _ in 0..4 * calls {
            issuer.queue(failure.clone());
        }
        for _ in 0..3 {
            cache.refresh().await.expect_err("the refresh fails");
        }
        assert_eq!(text(cache.refresh().await), "token-2", "{failure:?}");
        let grants = each(&issuer.requests(), "grant_type");
        assert_eq!(grants.iter().filter(|grant| *grant == "password").count(), 2, "{failure:?}");
        assert_eq!(grants.last().map(String::as_str), Some("password"));
        // The new session uses its own refresh token.
        cache.refresh().await.expect("a token");
        assert_eq!(each(&issuer.requests(), "refresh_token").pop().as_deref(), Some("refresh-2"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_refresh_token_is_kept_until_the_login_has_succeeded() {
    let (issuer, cache) = session().await;
    issuer.queue(Answer::oauth_error(401, "invalid_token"));
    issuer.queue(Answer::raw(503, ""));
    assert!(cache.refresh().await.expect_err("the login fails").is_transient());
    cache.refresh().await.expect("a token");
    assert_eq!(each(&issuer.requests(), "refresh_token"), ["-", "refresh-1", "-", "refresh-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_without_a_login_only_refreshes() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::raw(503, "")));
    let cache = TokenCache::new(refresh_token(&issuer).build().unwrap());
    for _ in 0..8 {
        cache.refresh().await.expect_err("an outage");
    }
    assert!(each(&issuer.requests(), "grant_type").iter().all(|grant| grant == "refresh_token"));
}

#[tokio::test(start_paused = true)]
async fn the_context_has_the_number_of_fetches_that_failed_in_a_row() {
    let last = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&last);
    let cache = TokenCache::new(move |context: FetchContext| {
        seen.store(context.failed_fetches() as usize, Ordering::SeqCst);
        std::future::ready(match context.failed_fetches() {
            0 => Err(Error::transient("down")),
            1 => Err(Error::denied("no")),
            2 => Err(Error::transient("down")),
            _ => Token::new("t"),
        })
    });
    for failed in [0, 1, 2, 3, 0, 1] {
        let _ = cache.refresh().await;
        assert_eq!(last.load(Ordering::SeqCst), failed);
    }
    let source = async |context: FetchContext| Token::new(format!("t{}", context.failed_fetches()));
    let token = source.fetch(FetchContext::new(Reason::Due).with_failed_fetches(7)).await;
    assert_eq!(text(token), "t7");
}

// === a broken connection ===

#[tokio::test(start_paused = true)]
async fn a_call_is_retried_once_if_the_connection_breaks_unless_it_sends_a_password() {
    let issuer = TokenServer::new();
    let grants: Vec<(&str, TokenCache)> = vec![
        ("client credentials", TokenCache::new(client_credentials(&issuer).build().unwrap())),
        ("refresh token", TokenCache::new(refresh_token(&issuer).build().unwrap())),
        (
            "exchange",
            TokenCache::new(
                TokenExchangeGrant::builder(&crate::sources::at(issuer.clone()), "subject").build().expect("a grant"),
            ),
        ),
        (
            "assertion",
            TokenCache::new(
                JwtBearerGrant::builder(&crate::sources::at(issuer.clone()), "assertion").build().expect("a grant"),
            ),
        ),
    ];
    for (name, cache) in grants {
        let before = issuer.calls().total();
        issuer.queue(Answer::fails("connection closed before the message was complete"));
        cache.get().await.expect(name);
        assert_eq!(issuer.calls().total() - before, 2, "{name}");
        // There is only one retry, and the second failure is remembered.
        issuer.queue(Answer::fails("connection refused"));
        issuer.queue(Answer::fails("connection refused"));
        cache.refresh().await.expect_err(name);
        assert_eq!(issuer.calls().total() - before, 4, "{name}");
    }
    let before = issuer.calls().total();
    issuer.queue(Answer::fails("connection closed before the message was complete"));
    TokenCache::new(password(&issuer).build().unwrap()).get().await.expect_err("the password was sent");
    assert_eq!(issuer.calls().total() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_answer_is_not_retried() {
    for answer in [Answer::raw(503, ""), Answer::raw(200, ""), Answer::oauth_error(401, "invalid_client")] {
        let issuer = TokenServer::new();
        issuer.queue(answer.clone());
        TokenCache::new(client_credentials(&issuer).build().unwrap()).get().await.expect_err("no token");
        assert_eq!(issuer.calls().total(), 1, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_attempt_has_a_new_assertion() {
    let issuer = TokenServer::new();
    let made = Arc::new(AtomicUsize::new(0));
    let assertion = move || {
        let number = made.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, Error>(format!("assertion-{number}")) }
    };
    issuer.queue(Answer::fails("broken pipe"));
    TokenCache::new(JwtBearerGrant::builder(&crate::sources::at(issuer.clone()), assertion).build().expect("a grant"))
        .get()
        .await
        .expect("a token");
    assert_eq!(each(&issuer.requests(), "assertion"), ["assertion-0", "assertion-1"]);
}

// === an exchange belongs to its subject ===

#[tokio::test(start_paused = true)]
async fn a_change_of_the_subject_starts_a_new_exchange() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    issuer.lifetime(MINUTE);
    let user = TokenCache::new(async |_: FetchContext| Token::new("ada"));
    let subject_cache = user.clone();
    let subject = move || {
        let user = subject_cache.clone();
        async move { user.get().await.map(|token| token.access_token().to_owned()) }
    };
    let cache = TokenCache::new(
        TokenExchangeGrant::builder(&crate::sources::at(issuer.clone()), subject).build().expect("a grant"),
    );
    for _ in 0..2 {
        cache.get().await.expect("a token");
        tokio::time::advance(MINUTE + SECOND).await;
    }
    assert_eq!(each(&issuer.requests(), "subject_token"), ["ada", "-"]);
    user.sign_in(async |_: FetchContext| Token::new("grace"));
    cache.get().await.expect("a token");
    cache.refresh().await.expect("a token");
    // The subject changes back, but the refresh token belongs to another exchange.
    user.sign_in(async |_: FetchContext| Token::new("ada"));
    cache.refresh().await.expect("a token");
    assert_eq!(each(&issuer.requests(), "subject_token"), ["ada", "-", "grace", "-", "ada"]);
    assert_eq!(each(&issuer.requests(), "refresh_token"), ["-", "refresh-1", "-", "refresh-3", "-"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_not_used_if_there_is_no_subject() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let user = TokenCache::new(async |_: FetchContext| Token::new("ada"));
    let subject_cache = user.clone();
    let subject = move || {
        let user = subject_cache.clone();
        async move { user.get().await.map(|token| token.access_token().to_owned()) }
    };
    let cache = TokenCache::new(
        TokenExchangeGrant::builder(&crate::sources::at(issuer.clone()), subject).build().expect("a grant"),
    );
    cache.get().await.expect("a token");
    user.sign_out(async |_| Ok::<_, Error>(())).await.expect("signed out");
    cache.refresh().await.expect_err("there is no subject");
    assert_eq!(issuer.calls().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_actor_starts_a_new_exchange() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let actor = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&actor);
    let provider = move || {
        let actor = current.load(Ordering::SeqCst);
        async move { Ok::<_, Error>(format!("actor-{actor}")) }
    };
    let grant = TokenExchangeGrant::builder(&crate::sources::at(issuer.clone()), "subject");
    let cache =
        TokenCache::new(grant.actor_token(provider, "urn:ietf:params:oauth:token-type:jwt").build().expect("a grant"));
    for _ in 0..2 {
        cache.refresh().await.expect("a token");
    }
    actor.store(1, Ordering::SeqCst);
    cache.refresh().await.expect("a token");
    assert_eq!(each(&issuer.requests(), "actor_token"), ["actor-0", "-", "actor-1"]);
}

#[tokio::test(start_paused = true)]
async fn every_grant_with_a_login_logs_in_again() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let caches = [
        TokenCache::new(
            PasswordGrant::builder(&crate::sources::at(issuer.clone()), "app", "ann", "her password")
                .build()
                .expect("a grant"),
        ),
        TokenCache::new(
            TokenExchangeGrant::builder(&crate::sources::at(issuer.clone()), "subject").build().expect("a grant"),
        ),
        TokenCache::new(
            JwtBearerGrant::builder(&crate::sources::at(issuer.clone()), "assertion").build().expect("a grant"),
        ),
    ];
    for cache in caches {
        cache.get().await.expect("a token");
        issuer.queue(Answer::oauth_error(401, "invalid_token"));
        cache.refresh().await.expect("a token");
    }
    // A grant without a refresh token and a session without a login cannot try anything else.
    let grant =
        ClientCredentialsGrant::builder(&crate::sources::at(issuer.clone()), "app", "secret").build().expect("a grant");
    let saved =
        RefreshTokenGrant::builder(&crate::sources::at(issuer.clone()), "app", "saved").build().expect("a grant");
    for cache in [TokenCache::new(grant), TokenCache::new(saved)] {
        let before = issuer.calls().total();
        issuer.queue(Answer::oauth_error(401, "invalid_token"));
        cache.get().await.expect_err("it was denied");
        assert_eq!(issuer.calls().total() - before, 1);
    }
}
