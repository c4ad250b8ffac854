//! Everything that can be seen, once each.

use std::io;
use std::time::Duration;

use http::Request;
use tower::ServiceExt;
use tower_bearer::chain::TokenSourceChain;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, RefreshPolicy, Token, TokenCache};

use crate::stack::{Body, World, get};

/// Has all of it happen, on a runtime of one thread.
pub(crate) async fn everything() {
    let world = World::new();
    let send = async |request| drop(world.client().oneshot(request).await.expect("an answer"));
    // Fetched; rejected, fetched and sent again.
    world.settled().await;
    world.api.queue(Answer::raw(401, ""));
    send(get("/")).await;
    // Rejected, not fetched and handed back.
    world.settled().await;
    world.issuer.fail(Some(Answer::raw(503, "")));
    world.api.queue(Answer::raw(401, ""));
    send(get("/")).await;
    // To another origin.
    send(Request::get("https://elsewhere.test/").body(Body::default()).expect("a request")).await;

    let source = async |_| Token::new(format!("t{}", fastrand::u64(..))).map(|token| token.with_refresh_token("r"));
    let cache = TokenCache::builder(source)
        .refresh_policy(RefreshPolicy::new().rejection_budget(1, Duration::MAX))
        // Not saved.
        .on_rotation(async |_| Err::<(), _>("the disk is full"))
        .build()
        .unwrap();
    let first = cache.get().await.expect("a token");
    // Out of budget.
    let second = cache.report_rejected(&first).await.expect("the budget has one");
    cache.report_rejected(&second).await.expect_err("the budget is spent");
    // Discarded: another source comes while it is under way.
    let ours = cache.clone();
    cache.set_source(move |_| {
        ours.set_source(source);
        std::future::ready(Token::new("late"))
    });
    cache.get().await.expect("a token of the other source");
    // An issuer over plain http.
    let issuer = Issuer::new(TokenServer::new()).token_endpoint("http://auth.internal/token").allow_insecure();
    ClientCredentialsGrant::builder(&issuer, "app", "secret").build().expect("it is allowed");
    // A source that brings nothing, before one that does.
    let chain = TokenSourceChain::first_try("none", async |_| Err::<Token, _>(Error::denied("not configured")));
    TokenCache::new(chain.or_else("source", source)).get().await.expect("a token of the second source");
    // Signed out, twice.
    cache.sign_out(async |_| Err(io::Error::other("no route"))).await.expect_err("it was not revoked");
    cache.set_source(source);
    cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("there is nothing to revoke");
}
