//! What can be seen: every event of this crate, its name and its fields, in one place.
//!
//! All events carry the target `tower_bearer`. None is on the path of a request that finds a usable token, and none
//! holds a secret.

use std::time::Duration;

use http::Uri;

use crate::error::Error;
use crate::source::Reason;

const TARGET: &str = "tower_bearer";

/// One fetch that brought a token.
pub(crate) fn fetched(reason: Reason, generation: u64, lifetime: Duration, took: Duration, waiters: usize) {
    tracing::debug!(
        target: TARGET,
        %reason,
        generation,
        lifetime_s = lifetime.as_secs_f64(),
        took_ms = millis(took),
        waiters,
        "token fetched"
    );
}

/// One fetch that brought none.
pub(crate) fn fetch_failed(reason: Reason, error: &Error, took: Duration, waiters: usize, pause: Duration) {
    tracing::warn!(
        target: TARGET,
        %reason,
        %error,
        denied = error.is_denied(),
        took_ms = millis(took),
        waiters,
        next_attempt_ms = millis(pause),
        "token fetch failed"
    );
}

/// A result that nobody wants any more: the source was replaced, the session signed out, or a newer run has landed.
pub(crate) fn fetch_discarded(reason: Reason) {
    tracing::debug!(target: TARGET, %reason, "token fetch discarded");
}

/// The new refresh token is in memory, and nowhere else.
pub(crate) fn not_saved(error: &Error) {
    tracing::error!(target: TARGET, %error, "refresh token not saved");
}

/// A session has ended; `error` where its refresh token could not be revoked.
pub(crate) fn signed_out(error: Option<&Error>) {
    match error {
        None => tracing::info!(target: TARGET, "signed out"),
        Some(error) => tracing::warn!(target: TARGET, %error, "signed out, refresh token not revoked"),
    }
}

/// An API refused a token.
pub(crate) fn refused(generation: u64) {
    tracing::info!(target: TARGET, generation, "token refused");
}

/// A refused request goes out once more.
pub(crate) fn sent_again(refused: u64, generation: u64) {
    tracing::debug!(target: TARGET, refused, generation, "request sent again");
}

/// A refused request does not go out again.
pub(crate) fn handed_back(refused: u64, why: &str) {
    tracing::debug!(target: TARGET, refused, why, "refused response handed back");
}

/// A request to an origin that was not named: a mistyped origin must not look like a mystery.
pub(crate) fn foreign_origin(uri: &Uri) {
    tracing::debug!(
        target: TARGET,
        scheme = uri.scheme_str().unwrap_or_default(),
        host = uri.host().unwrap_or_default(),
        port = uri.port_u16(),
        "request to another origin passes without a token"
    );
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
