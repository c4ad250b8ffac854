//! Triggers each event and each metric once.

use std::io;
use std::time::Duration;

use http::Request;
use tower::ServiceExt;
use tower_bearer::chain::TokenSourceChain;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, RefreshPolicy, Token, TokenCache};

use crate::stack::{Body, Harness, get};

/// Triggers all events, on a runtime of one thread.
pub(crate) async fn trigger_all() {
    let harness = Harness::new();
    let send = async |request| drop(harness.client().oneshot(request).await.expect("an answer"));
    // A token is fetched. It is rejected, another is fetched, and the request is retried.
    harness.with_old_token().await;
    harness.api.queue(Answer::raw(401, ""));
    send(get("/")).await;
    // A token is rejected, the fetch fails, and the 401 is returned.
    harness.with_old_token().await;
    harness.issuer.fail(Some(Answer::raw(503, "")));
    harness.api.queue(Answer::raw(401, ""));
    send(get("/")).await;
    // A request goes to another origin.
    send(Request::get("https://elsewhere.test/").body(Body::default()).expect("a request")).await;

    let source = async |_| Token::new(format!("t{}", fastrand::u64(..))).map(|token| token.with_refresh_token("r"));
    let cache = TokenCache::builder(source)
        .refresh_policy(RefreshPolicy::new().rejection_budget(1, Duration::MAX))
        // The refresh token is not saved.
        .on_rotation(async |_| Err::<(), _>("the disk is full"))
        .build()
        .unwrap();
    let first = cache.get().await.expect("a token");
    // The rejection budget is exhausted.
    let second = cache.report_rejected(&first).await.expect("the budget has one");
    cache.report_rejected(&second).await.expect_err("the budget is exhausted");
    // A fetch is discarded: the source is replaced while it is in flight.
    let clone = cache.clone();
    cache.set_source(move |_| {
        clone.set_source(source);
        std::future::ready(Token::new("late"))
    });
    cache.get().await.expect("a token of the other source");
    // An issuer uses plain http.
    let issuer = Issuer::new(TokenServer::new()).token_endpoint("http://auth.internal/token").allow_insecure();
    ClientCredentialsGrant::builder(&issuer, "app", "secret").build().expect("it is allowed");
    // The first source of a chain returns no token.
    let chain = TokenSourceChain::first_try("none", async |_| Err::<Token, _>(Error::denied("not configured")));
    TokenCache::new(chain.or_else("source", source)).get().await.expect("a token of the second source");
    // The session is signed out twice.
    cache.sign_out(async |_| Err(io::Error::other("no route"))).await.expect_err("it was not revoked");
    cache.set_source(source);
    cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("there is nothing to revoke");
}
