//! The state of a cache, for health checks.

use std::time::Duration;

use crate::error::Error;
use crate::schedule::Phase;

/// The state of a cache, for health checks. It contains no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The phase of the token's life, or `None` without a token.
    pub phase: Option<Phase>,
    /// The token's generation, or 0 before the first token.
    pub generation: u64,
    /// How long the token is still usable, or `None` without a token.
    pub usable_for: Option<Duration>,
    /// Whether an API rejected this token. Requests carry it until it is replaced.
    pub suspect: bool,
    /// Whether a fetch is in flight.
    pub fetching: bool,
    /// Why the last fetch failed, or `None` if it succeeded.
    pub last_failure: Option<Error>,
    /// How long the backoff after a failure lasts, or `None` if the next request may fetch.
    pub next_attempt_in: Option<Duration>,
    /// Why [`on_rotation`](crate::TokenCacheBuilder::on_rotation) did not save the newest refresh token, if it failed.
    pub not_saved: Option<Error>,
    /// Whether the cache was shut down.
    pub closed: bool,
    /// Whether the session was [signed out](crate::TokenCache::sign_out).
    pub signed_out: bool,
    /// The shared session, or `None` if processes do not share it.
    #[cfg(feature = "store")]
    pub store: Option<StoreStatus>,
}

/// What a cache knows about its shared session.
#[cfg(feature = "store")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Why the last operation of the store failed, or `None` if it succeeded.
    pub error: Option<Error>,
    /// Why the newest tokens are only in this process, or `None` if they are in the store.
    pub unsaved: Option<Error>,
    /// How long ago the cache read the record, or `None` before the first time.
    pub last_read: Option<Duration>,
    /// The number of the newest record that this process knows, or 0 before the first.
    ///
    /// All processes that share a session know the same number once each has read the newest record.
    pub serial: u64,
}
