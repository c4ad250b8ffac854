//! Every event, span and metric of this crate, with its name and fields. `docs/observability.md` lists them, and tests
//! compare the list with what this module emits.
//!
//! Events and spans carry the target `tower_bearer`. A request that finds a usable token calls nothing here, and no
//! event contains a secret.

use std::sync::Arc;
#[cfg(any(feature = "keyed", feature = "metrics"))]
use std::sync::OnceLock;
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

/// The telemetry of one cache and its layers, identified by the name of the cache, if it has one.
#[derive(Debug)]
pub(crate) struct Telemetry {
    name: Option<Arc<str>>,
    #[cfg(feature = "metrics")]
    begun: OnceLock<()>,
    /// The name of the group, if the cache belongs to one. A group has no current token.
    #[cfg(feature = "keyed")]
    group: OnceLock<Option<Arc<str>>>,
}

// === impl Telemetry ===

impl Telemetry {
    pub(crate) fn new(name: Option<Arc<str>>) -> Self {
        Self {
            name,
            #[cfg(feature = "metrics")]
            begun: OnceLock::new(),
            #[cfg(feature = "keyed")]
            group: OnceLock::new(),
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.label().map(|name| &**name)
    }

    fn label(&self) -> Option<&Arc<str>> {
        #[cfg(feature = "keyed")]
        if let (None, Some(group)) = (&self.name, self.group.get()) {
            return group.as_ref();
        }
        self.name.as_ref()
    }

    #[cfg(feature = "metrics")]
    fn begin(&self) {
        if !self.is_in_group() {
            self.begun.get_or_init(|| metrics::begin(self.label()));
        }
    }

    /// Whether this cache belongs to a group.
    #[cfg(feature = "metrics")]
    fn is_in_group(&self) -> bool {
        #[cfg(feature = "keyed")]
        return self.group.get().is_some();
        #[cfg(not(feature = "keyed"))]
        false
    }

    /// Makes this cache belong to a group. It takes the group's name if it has none.
    #[cfg(feature = "keyed")]
    pub(crate) fn join_group(&self, name: Option<Arc<str>>) {
        let _ = self.group.set(name);
    }

    /// A cache was added for a key. The telemetry of the group counts this, and the following.
    #[cfg(feature = "keyed")]
    pub(crate) fn key_added(&self) {
        #[cfg(feature = "metrics")]
        {
            self.begun.get_or_init(|| metrics::begin_group(self.label()));
            metrics::add_keys(self.label(), 1.0);
        }
    }

    /// Caches were dropped because the group was full, or because they were idle.
    #[cfg(feature = "keyed")]
    pub(crate) fn keys_evicted(&self, keys: usize) {
        self.keys_removed(keys);
        #[cfg(feature = "metrics")]
        metrics::count_evicted(self.label(), keys as u64);
    }

    /// Caches were dropped for any reason.
    #[cfg(feature = "keyed")]
    #[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nothing counts"))]
    pub(crate) fn keys_removed(&self, keys: usize) {
        #[cfg(feature = "metrics")]
        metrics::add_keys(self.label(), -(keys as f64));
    }

    /// The span of a fetch.
    pub(crate) fn fetching(&self, reason: Reason) -> Span {
        #[cfg(feature = "metrics")]
        self.begin();
        tracing::debug_span!(target: TARGET, "token_fetch", cache = self.name(), %reason)
    }

    /// A fetch returned a token. The previous token was usable for another `remaining`.
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
        metrics::count_fetch(self.label(), "fetched", fetch, Some(remaining));
        #[cfg(not(feature = "metrics"))]
        let _ = remaining;
    }

    /// A fetch failed.
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
            metrics::count_fetch(self.label(), outcome, fetch, None);
        }
    }

    /// A caller needed a token and got this error. It is only counted, because in an outage each request calls this.
    pub(crate) fn unavailable(&self, error: &Error) {
        #[cfg(feature = "metrics")]
        {
            // Without a runtime no fetch has begun.
            self.begin();
            metrics::count_unavailable(self.label(), error);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = error;
    }

    /// The current token ends at this time; `None` if there is no token.
    pub(crate) fn token_ends(&self, at: Option<SystemTime>) {
        // The gauge is set only after the first fetch has begun.
        #[cfg(feature = "metrics")]
        if self.begun.get().is_some() {
            metrics::set_token_end(self.label(), at);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = at;
    }

    /// A result was discarded: the source was replaced, the session was signed out, or a newer fetch has completed.
    pub(crate) fn fetch_discarded(&self, reason: Reason) {
        tracing::debug!(
            name: "token_fetch_discarded",
            target: TARGET,
            cache = self.name(),
            %reason,
            "token fetch discarded"
        );
        #[cfg(feature = "metrics")]
        metrics::count_discarded(self.label(), reason);
    }

    /// The new refresh token is only in memory.
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

    /// A session has ended. `error` says why its refresh token was not revoked.
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

    /// An API rejected a token. Emits one event for each token, and counts each rejection.
    pub(crate) fn rejected(&self, generation: u64, first: bool) {
        if first {
            tracing::info!(name: "token_rejected", target: TARGET, cache = self.name(), generation, "token rejected");
        }
        self.count("tower_bearer_rejections_total");
    }

    /// A rejection caused no refresh, because the budget is exhausted. Emits one event within each window of the
    /// budget, and counts each rejection.
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

    /// A rejected request is sent again.
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

    /// A rejected request is not sent again. Counts it, and emits an event if there is a reason.
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

    /// Whether a request to an unmatched origin is counted or emits an event.
    pub(crate) fn reports_unmatched_origins(&self) -> bool {
        cfg!(feature = "metrics") || tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
    }

    /// A request was sent to an unmatched origin. The event helps to find a mistyped origin.
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
        what.emit(self.name());
        #[cfg(feature = "metrics")]
        {
            if let Some(counter) = what.counter() {
                self.count(counter);
            }
            match what {
                Sharing::LeaseWaited { waited, .. } => metrics::record_lease_wait(self.label(), *waited),
                Sharing::Saved { unsaved_for, .. } => metrics::record_unsaved(self.label(), *unsaved_for),
                _ => {}
            }
        }
    }

    /// Sets the counters of a shared session to zero before they count.
    #[cfg(feature = "store")]
    pub(crate) fn begin_sharing(&self) {
        #[cfg(feature = "metrics")]
        metrics::begin_sharing(self.label());
    }

    #[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nothing counts"))]
    fn count(&self, counter: &'static str) {
        #[cfg(feature = "metrics")]
        metrics::count(self.label(), counter);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
