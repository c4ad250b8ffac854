//! What befalls a provider while requests flow: its issuer breaks down, and a token is revoked.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::BoxError;
use tower_bearer::Phase;
use tower_bearer::testing::Answer;

use crate::provider::{LIFETIME, Provider, TOKEN_DELAY};

/// A younger token that is refused may just not have reached every server of the API: the layer waits a moment and goes
/// again with it. One that is older is replaced.
const SETTLED: Duration = Duration::from_secs(2);
/// How long the token in hand can still be sent when an outage ends: time for one more try, on a slow machine too.
const TO_SPARE: Duration = Duration::from_millis(900);

pub(crate) async fn befall(provider: &Provider, tour: Duration, say: impl Fn(&str)) -> Result<(), BoxError> {
    let begun = Instant::now();
    sleep_until(begun + tour / 5).await;
    outage(provider, &say).await?;
    sleep_until(begun + tour * 3 / 5).await;
    revocation(provider, &say).await
}

/// Every token call fails, from when a new token has come until a moment before it cannot be sent any more.
///
/// So the layer finds the issuer broken when the token is due, tries again after a pause, and serves the token in hand
/// meanwhile. No request has a reason to fail; where the last pause is as long as the token lives, some wait for the
/// next one to arrive.
async fn outage(provider: &Provider, say: &impl Fn(&str)) -> Result<(), BoxError> {
    let status = || provider.cache.status();
    let failed = || provider.server.token_calls().total() - provider.server.ledger().issued();
    let generation = status().generation;
    until("a new token", || status().generation > generation).await?;

    let begun = Instant::now();
    provider.server.fail(Some(Answer::json(503, json!({ "error": "temporarily_unavailable" }))));
    say("the issuer breaks down");
    until("the token's end", || status().usable_for.is_none_or(|left| left < TO_SPARE)).await?;
    provider.server.fail(None);
    say(&format!("the issuer is back after {:.1?}", begun.elapsed()));
    if failed() == 0 {
        return Err("no token call fell into the outage".into());
    }
    Ok(())
}

/// The API refuses a token in the middle of its life, and nobody told the layer.
async fn revocation(provider: &Provider, say: &impl Fn(&str)) -> Result<(), BoxError> {
    let ledger = provider.server.ledger();
    let quiet = || {
        // Not while its successor is under way: the newest token would be one that the layer does not have yet. It is
        // sendable for nine tenths of its life, and has been here since its answer came.
        let status = provider.cache.status();
        let settled = LIFETIME * 9 / 10 - TOKEN_DELAY - SETTLED - Duration::from_millis(50);
        status.phase == Some(Phase::Fresh) && !status.fetching && status.usable_for.is_some_and(|left| left < settled)
    };
    // One revocation is enough as long as requests flow; if none met it, there may be another.
    for _ in 0..5 {
        until("a quiet moment", quiet).await?;
        ledger.newest().map(|token| ledger.revoke(&token));
        say("a token is revoked");
        sleep(Duration::from_millis(500)).await;
        if provider.probe().refused() > 0 {
            return Ok(());
        }
    }
    Err("no request met a revoked token".into())
}

/// Looks again and again until it has happened, but not forever.
async fn until(what: &str, happened: impl Fn() -> bool) -> Result<(), BoxError> {
    let looking = async {
        while !happened() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), looking).await.map_err(|_| format!("waited in vain for {what}").into())
}
