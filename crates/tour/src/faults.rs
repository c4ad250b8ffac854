//! The faults of a provider during requests: its issuer fails for a while, and its API rejects a token.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::BoxError;
use tower_bearer::Phase;
use tower_bearer::testing::Answer;

use crate::provider::{LIFETIME, Provider, TOKEN_DELAY};

/// A token of this age has reached every server of the API. If a younger one is rejected, the layer waits briefly and
/// sends it again.
const REPLICATION_GRACE: Duration = Duration::from_secs(2);
/// How long the current token is still usable when an outage ends. It is enough for one more token call, also on a slow
/// machine.
const USABLE_AFTER_OUTAGE: Duration = Duration::from_millis(900);

pub(crate) async fn inject(provider: &Provider, tour: Duration, say: impl Fn(&str)) -> Result<(), BoxError> {
    let begun = Instant::now();
    sleep_until(begun + tour / 5).await;
    outage(provider, &say).await?;
    sleep_until(begun + tour * 3 / 5).await;
    revocation(provider, &say).await
}

/// Every token call fails, from the arrival of a new token until shortly before that token is unusable.
///
/// So the refresh fails when the token is due, the cache backs off and tries again, and requests carry the current
/// token meanwhile. No request has a reason to fail. Some wait for the next token if the last backoff outlasts the
/// current token.
async fn outage(provider: &Provider, say: &impl Fn(&str)) -> Result<(), BoxError> {
    let status = || provider.cache.status();
    let failed = || provider.server.token_calls().total() - provider.server.ledger().issued();
    let generation = status().generation;
    until("a new token", || status().generation > generation).await?;

    let begun = Instant::now();
    provider.server.fail(Some(Answer::json(503, json!({ "error": "temporarily_unavailable" }))));
    say("the issuer fails");
    until("the end of the token", || status().usable_for.is_none_or(|left| left < USABLE_AFTER_OUTAGE)).await?;
    provider.server.fail(None);
    say(&format!("the issuer is back after {:.1} s", begun.elapsed().as_secs_f32()));
    if failed() == 0 {
        return Err("no token call was made in the outage".into());
    }
    Ok(())
}

/// The API rejects a token in the middle of its life, and the layer learns it only from the 401.
async fn revocation(provider: &Provider, say: &impl Fn(&str)) -> Result<(), BoxError> {
    let quiet = || {
        // Not while a fetch is in flight, because then the newest token is one that the layer does not have yet. A
        // token is usable for nine tenths of its life, and its age counts from the arrival of the token call.
        let status = provider.cache.status();
        let settled = LIFETIME * 9 / 10 - TOKEN_DELAY - REPLICATION_GRACE - Duration::from_millis(50);
        status.phase == Some(Phase::Fresh) && !status.fetching && status.usable_for.is_some_and(|left| left < settled)
    };
    // One revocation is enough if a request carries the token. Otherwise another follows.
    for _ in 0..5 {
        until("a quiet moment", quiet).await?;
        provider.revoke_newest();
        say("the API rejects the token from now on");
        sleep(Duration::from_millis(500)).await;
        if provider.probe().rejected() > 0 {
            return Ok(());
        }
    }
    Err("no request carried a revoked token".into())
}

/// Polls until it has happened, for a limited time.
async fn until(what: &str, happened: impl Fn() -> bool) -> Result<(), BoxError> {
    let polling = async {
        while !happened() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), polling).await.map_err(|_| format!("timed out waiting for {what}").into())
}
