//! What can be seen: every event, span and metric of this crate, its name and its fields, in one place. `docs/observability.md`
//! lists them, and tests hold the list against what comes out here.
//!
//! Events and spans carry the target `tower_bearer`. Nothing here is on the path of a request that finds a usable token,
//! and nothing holds a secret.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::Uri;
use tracing::Span;

use crate::error::Error;
use crate::source::Reason;

mod fetch;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "store")]
mod sharing;

pub(crate) use fetch::Fetch;
#[cfg(feature = "metrics")]
pub use metrics::describe_metrics;
#[cfg(feature = "store")]
pub(crate) use sharing::Sharing;

const TARGET: &str = "tower_bearer";

/// What one cache, and the layers over it, let others see. Told apart from others by its name, where it has one.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    name: OnceLock<Arc<str>>,
    #[cfg(feature = "metrics")]
    begun: OnceLock<()>,
}

// === impl Telemetry ===

impl Telemetry {
    /// Names the cache; the first name stays.
    pub(crate) fn named(&self, name: &str) {
        let _ = self.name.set(name.into());
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.get().map(|name| &**name)
    }

    #[cfg(feature = "metrics")]
    fn begin(&self) {
        self.begun.get_or_init(|| metrics::begin(self.name.get()));
    }

    /// Around the source's work.
    pub(crate) fn fetching(&self, reason: Reason) -> Span {
        #[cfg(feature = "metrics")]
        self.begin();
        tracing::debug_span!(target: TARGET, "token_fetch", cache = self.name(), %reason)
    }

    /// One fetch that brought a token, while the one before it could still be sent for as long as `remaining`.
    pub(crate) fn fetched(&self, fetch: &Fetch, generation: u64, lifetime: Duration, remaining: Duration) {
        let Fetch { reason, took, waiters, longest_wait } = fetch;
        tracing::debug!(
            name: "token_fetched",
            target: TARGET,
            cache = self.name(),
            %reason,
            generation,
            lifetime_s = lifetime.as_secs_f64(),
            took_ms = millis(*took),
            remaining_s = remaining.as_secs_f64(),
            waiters,
            longest_wait_ms = millis(*longest_wait),
            "token fetched"
        );
        #[cfg(feature = "metrics")]
        metrics::count_fetch(self.name.get(), "fetched", fetch, Some(remaining));
        #[cfg(not(feature = "metrics"))]
        let _ = remaining;
    }

    /// One fetch that brought none.
    pub(crate) fn fetch_failed(&self, fetch: &Fetch, error: &Error, pause: Duration) {
        let Fetch { reason, took, waiters, longest_wait } = fetch;
        tracing::warn!(
            name: "token_fetch_failed",
            target: TARGET,
            cache = self.name(),
            %reason,
            %error,
            denied = error.is_denied(),
            took_ms = millis(*took),
            waiters,
            longest_wait_ms = millis(*longest_wait),
            next_attempt_ms = millis(pause),
            "token fetch failed"
        );
        #[cfg(feature = "metrics")]
        {
            let outcome = if error.is_denied() { "denied" } else { "failed" };
            metrics::count_fetch(self.name.get(), outcome, fetch, None);
        }
    }

    /// A caller needed a token and got this error. Counted only: in an outage, each request comes here.
    pub(crate) fn unavailable(&self, error: &Error) {
        #[cfg(feature = "metrics")]
        {
            // Without a runtime no fetch has begun.
            self.begin();
            metrics::count_unavailable(self.name.get(), error);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = error;
    }

    /// The current token ends at this time; `None` if there is none any more.
    pub(crate) fn token_ends(&self, at: Option<SystemTime>) {
        // Before the first fetch nothing is said, because the cache may still get its name.
        #[cfg(feature = "metrics")]
        if self.begun.get().is_some() {
            metrics::set_token_end(self.name.get(), at);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = at;
    }

    /// A result that nobody wants any more: the source was replaced, the session signed out, or a newer run has
    /// landed.
    pub(crate) fn fetch_discarded(&self, reason: Reason) {
        tracing::debug!(
            name: "token_fetch_discarded",
            target: TARGET,
            cache = self.name(),
            %reason,
            "token fetch discarded"
        );
        #[cfg(feature = "metrics")]
        metrics::count_discarded(self.name.get(), reason);
    }

    /// The new refresh token is in memory, and nowhere else.
    pub(crate) fn not_saved(&self, error: &Error) {
        tracing::error!(
            name: "refresh_token_not_saved",
            target: TARGET,
            cache = self.name(),
            %error,
            "refresh token not saved"
        );
        self.count("tower_bearer_refresh_tokens_not_saved_total");
    }

    /// A session has ended; `error` where its refresh token could not be revoked.
    pub(crate) fn signed_out(&self, error: Option<&Error>) {
        match error {
            None => tracing::info!(name: "signed_out", target: TARGET, cache = self.name(), "signed out"),
            Some(error) => {
                tracing::warn!(
                    name: "refresh_token_not_revoked",
                    target: TARGET,
                    cache = self.name(),
                    %error,
                    "signed out, refresh token not revoked"
                );
            }
        }
        self.count("tower_bearer_sign_outs_total");
    }

    /// An API rejected a token. One event for each token, and each time one count.
    pub(crate) fn rejected(&self, generation: u64, first: bool) {
        if first {
            tracing::info!(name: "token_rejected", target: TARGET, cache = self.name(), generation, "token rejected");
        }
        self.count("tower_bearer_rejections_total");
    }

    /// A rejection caused no refresh, because others have caused as many as they may. One event within each window of the
    /// budget, and each time one count.
    pub(crate) fn budget_exhausted(&self, first: bool) {
        if first {
            tracing::warn!(
                name: "rejection_budget_exhausted",
                target: TARGET,
                cache = self.name(),
                "rejections have caused as many refreshes as they may"
            );
        }
        self.count("tower_bearer_rejection_budget_exhausted_total");
    }

    /// A rejected request goes out once more.
    pub(crate) fn retried(&self, rejected: u64, generation: u64) {
        tracing::debug!(
            name: "request_retried",
            target: TARGET,
            cache = self.name(),
            rejected,
            generation,
            "request retried"
        );
        self.count("tower_bearer_retries_total");
    }

    /// A rejected request does not go out again. Counted, and with a reason an event.
    pub(crate) fn returned_unauthorized(&self, rejected: u64, why: Option<&str>) {
        if let Some(why) = why {
            tracing::debug!(
                name: "rejected_response_returned",
                target: TARGET,
                cache = self.name(),
                rejected,
                why,
                "rejected response returned"
            );
        }
        self.count("tower_bearer_returned_unauthorized_total");
    }

    /// Whether anybody hears of a request to an origin that was not named.
    pub(crate) fn reports_unmatched_origins(&self) -> bool {
        cfg!(feature = "metrics") || tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
    }

    /// A request to an origin that was not named: a mistyped origin must not look like a mystery.
    pub(crate) fn unmatched_origin(&self, uri: &Uri) {
        tracing::debug!(
            name: "unmatched_origin",
            target: TARGET,
            cache = self.name(),
            scheme = uri.scheme_str().unwrap_or_default(),
            host = uri.host().unwrap_or_default(),
            port = uri.port_u16(),
            "request to another origin passes without a token"
        );
        self.count("tower_bearer_unmatched_origin_total");
    }

    /// Something happened to the session that processes share.
    #[cfg(feature = "store")]
    pub(crate) fn shared(&self, what: &Sharing<'_>) {
        what.tell(self.name());
        #[cfg(feature = "metrics")]
        {
            if let Some(counter) = what.counter() {
                self.count(counter);
            }
            match what {
                Sharing::LeaseWaited { waited, .. } => metrics::record_lease_wait(self.name.get(), *waited),
                Sharing::Saved { unsaved_for, .. } => metrics::record_unsaved(self.name.get(), *unsaved_for),
                _ => {}
            }
        }
    }

    /// Has the counters of a shared session stand at zero before they count.
    #[cfg(feature = "store")]
    pub(crate) fn begin_sharing(&self) {
        #[cfg(feature = "metrics")]
        metrics::begin_sharing(self.name.get());
    }

    #[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nothing counts"))]
    fn count(&self, counter: &'static str) {
        #[cfg(feature = "metrics")]
        metrics::count(self.name.get(), counter);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
