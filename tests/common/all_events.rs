//! Everything that can be seen, once each.

use std::io;
use std::time::Duration;

use http::Request;
use tower::ServiceExt;
use tower_bearer::testing::Answer;
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
        .build()
        .unwrap();
    // Not saved.
    let cache = cache.on_rotation(async |_| Err::<(), _>("the disk is full"));
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
    // Signed out, twice.
    cache.sign_out(async |_| Err(io::Error::other("no route"))).await.expect_err("it was not revoked");
    cache.set_source(source);
    cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("there is nothing to revoke");
}
