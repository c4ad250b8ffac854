//! Counters and histograms, for the recorder of the `metrics` facade that the program installs.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{
    Label, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::error::Error;
use crate::source::Reason;
use crate::telemetry::fetch::Fetch;

/// The counters without labels of their own, and what they count.
const COUNTERS: [(&str, &str); 7] = [
    ("tower_bearer_rejections_total", "Rejections of a token by an API"),
    ("tower_bearer_retries_total", "Rejected requests that were sent again"),
    ("tower_bearer_returned_unauthorized_total", "Rejected requests that were not sent again"),
    ("tower_bearer_rejection_budget_exhausted_total", "Rejections that caused no refresh, because the budget was used"),
    ("tower_bearer_unmatched_origin_total", "Requests to origins that were not named, without a token"),
    ("tower_bearer_refresh_tokens_not_saved_total", "New refresh tokens that were not saved"),
    ("tower_bearer_sign_outs_total", "Sessions that were signed out"),
];
/// The counters of a session that processes share.
#[cfg(feature = "store")]
const SHARING: [(&str, &str); 7] = [
    ("tower_bearer_store_adopted_total", "Tokens that another process fetched and this one took from the store"),
    ("tower_bearer_store_lease_waits_total", "Waits for the lease of another process"),
    ("tower_bearer_store_conflicts_total", "Records not saved because the lease was lost or another was saved"),
    ("tower_bearer_store_errors_total", "Calls of the store that failed or were not answered in time"),
    ("tower_bearer_store_set_aside_total", "Records that could not be read and were set aside"),
    ("tower_bearer_store_resumed_total", "Refreshes after one that did not come to its end"),
    ("tower_bearer_store_restored_total", "Records that had vanished or were older, and were written again"),
];
#[cfg(feature = "store")]
const LEASE_WAIT: &str = "tower_bearer_store_lease_wait_seconds";
#[cfg(feature = "store")]
const UNSAVED: &str = "tower_bearer_store_unsaved_seconds";
const FETCHES: &str = "tower_bearer_fetches_total";
const UNAVAILABLE: &str = "tower_bearer_token_unavailable_total";
const EXPIRES_AT: &str = "tower_bearer_token_expires_at_seconds";
#[cfg(feature = "keyed")]
const KEYS: &str = "tower_bearer_keys";
#[cfg(feature = "keyed")]
const KEYS_EVICTED: &str = "tower_bearer_keys_evicted_total";
const REASONS: [Reason; 5] = [Reason::First, Reason::Due, Reason::Expired, Reason::Rejected, Reason::Asked];

/// The name of a cache, if it has one.
type Name<'a> = Option<&'a Arc<str>>;

/// Sets every counter to zero before it counts. For Prometheus a counter that begins at one has not changed, so that no
/// alert would see the first failure.
pub(crate) fn begin(cache: Name<'_>) {
    gauge!(EXPIRES_AT, labels(cache)).set(0.0);
    begin_counters(cache);
}

/// Does the same for a group of caches, which has no current token, and so no gauge of its end.
#[cfg(feature = "keyed")]
pub(crate) fn begin_group(cache: Name<'_>) {
    counter!(KEYS_EVICTED, labels(cache)).increment(0);
    begin_counters(cache);
}

fn begin_counters(cache: Name<'_>) {
    for outcome in ["failed", "denied", "ended"] {
        counter!(UNAVAILABLE, labels_with(cache, outcome)).increment(0);
    }
    for (counter, _) in COUNTERS {
        counter!(counter, labels(cache)).increment(0);
    }
    for outcome in ["fetched", "failed", "denied", "discarded"] {
        for reason in REASONS {
            counter!(FETCHES, labels_of(cache, outcome, reason)).increment(0);
        }
    }
}

#[cfg(feature = "store")]
pub(crate) fn begin_sharing(cache: Name<'_>) {
    for (counter, _) in SHARING {
        counter!(counter, labels(cache)).increment(0);
    }
}

#[cfg(feature = "store")]
pub(crate) fn record_lease_wait(cache: Name<'_>, waited: Duration) {
    histogram!(LEASE_WAIT, labels(cache)).record(waited);
}

#[cfg(feature = "store")]
pub(crate) fn record_unsaved(cache: Name<'_>, unsaved_for: Duration) {
    histogram!(UNSAVED, labels(cache)).record(unsaved_for);
}

/// Adds to the number of keys, or subtracts from it.
#[cfg(feature = "keyed")]
pub(crate) fn add_keys(cache: Name<'_>, keys: f64) {
    gauge!(KEYS, labels(cache)).increment(keys);
}

#[cfg(feature = "keyed")]
pub(crate) fn count_evicted(cache: Name<'_>, keys: u64) {
    counter!(KEYS_EVICTED, labels(cache)).increment(keys);
}

pub(crate) fn count(cache: Name<'_>, counter: &'static str) {
    counter!(counter, labels(cache)).increment(1);
}

/// Counts a completed fetch. `remaining` is `Some` if it returned a token.
pub(crate) fn count_fetch(cache: Name<'_>, outcome: &'static str, fetch: &Fetch, remaining: Option<Duration>) {
    let of_outcome = labels_of(cache, outcome, fetch.reason);
    counter!(FETCHES, of_outcome.clone()).increment(1);
    histogram!("tower_bearer_fetch_seconds", of_outcome).record(fetch.took);
    histogram!("tower_bearer_fetch_waiters", labels(cache)).record(fetch.waiters as f64);
    histogram!("tower_bearer_fetch_longest_wait_seconds", labels(cache)).record(fetch.longest_wait);
    if let Some(remaining) = remaining {
        histogram!("tower_bearer_token_remaining_seconds", labels(cache)).record(remaining);
    }
}

pub(crate) fn count_discarded(cache: Name<'_>, reason: Reason) {
    counter!(FETCHES, labels_of(cache, "discarded", reason)).increment(1);
}

pub(crate) fn count_unavailable(cache: Name<'_>, error: &Error) {
    let outcome = match error {
        error if error.is_denied() => "denied",
        error if error.is_signed_out() || error.is_closed() => "ended",
        _ => "failed",
    };
    counter!(UNAVAILABLE, labels_with(cache, outcome)).increment(1);
}

/// Sets the end of the current token; zero without a token.
pub(crate) fn set_token_end(cache: Name<'_>, at: Option<SystemTime>) {
    let since_1970 = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    gauge!(EXPIRES_AT, labels(cache)).set(since_1970.as_secs_f64());
}

fn labels(cache: Name<'_>) -> Vec<Label> {
    let name = cache.map_or(SharedString::const_str(""), |name| SharedString::from_shared(name.clone()));
    vec![Label::new("cache", name)]
}

fn labels_with(cache: Name<'_>, outcome: &'static str) -> Vec<Label> {
    let mut labels = labels(cache);
    labels.push(Label::from_static_parts("outcome", outcome));
    labels
}

fn labels_of(cache: Name<'_>, outcome: &'static str, reason: Reason) -> Vec<Label> {
    let mut labels = labels_with(cache, outcome);
    labels.push(Label::new("reason", reason.to_string()));
    labels
}

/// Describes this crate's metrics and their units to the recorder.
///
/// Call it after installing a recorder. [`guide::observability`](crate::guide::observability) lists the metrics.
pub fn describe_metrics() {
    describe_counter!(FETCHES, Unit::Count, "Calls of the token source that ended, by outcome and reason");
    for (name, what) in COUNTERS {
        describe_counter!(name, Unit::Count, what);
    }
    describe_counter!(UNAVAILABLE, Unit::Count, "Calls that needed a token and got an error");
    describe_gauge!(EXPIRES_AT, Unit::Seconds, "When the current token ends, in seconds since 1970; 0 without one");
    #[cfg(feature = "keyed")]
    {
        describe_gauge!(KEYS, Unit::Count, "Keys that have a cache of their own");
        describe_counter!(KEYS_EVICTED, Unit::Count, "Caches of keys that were dropped: no room, or idle");
    }
    describe_histogram!("tower_bearer_fetch_waiters", Unit::Count, "Callers that waited for one fetch");
    for (name, what) in [
        ("tower_bearer_fetch_seconds", "How long a call of the token source took"),
        ("tower_bearer_fetch_longest_wait_seconds", "How long the first caller waited for one fetch"),
        ("tower_bearer_token_remaining_seconds", "How long the old token could still be sent when the new one came"),
    ] {
        describe_histogram!(name, Unit::Seconds, what);
    }
    #[cfg(feature = "store")]
    {
        for (name, what) in SHARING {
            describe_counter!(name, Unit::Count, what);
        }
        describe_histogram!(LEASE_WAIT, Unit::Seconds, "How long a process waited for the lease of another");
        describe_histogram!(UNSAVED, Unit::Seconds, "From the call of the issuer to the save of its answer");
    }
}
