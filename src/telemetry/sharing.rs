//! The events and counters of a session that processes share.

use std::time::Duration;

use crate::error::Error;

const TARGET: &str = "tower_bearer";

/// An event of a shared session.
pub(crate) enum Sharing<'a> {
    /// The record holds a newer token, which replaces this process's token without a token call.
    Adopted { generation: u64, serial: u64, remaining: Duration },
    /// This process waited for the lease of another.
    LeaseWaited { waited: Duration, obtained: bool },
    /// A record was not saved, because the lease was lost or another process had saved one.
    Conflict { serial: u64 },
    /// A call of the store failed. `first`: the call before succeeded.
    Unreachable { error: &'a Error, first: bool },
    /// A call of the store succeeded again.
    Reachable,
    /// A record that cannot be read was moved to this name.
    SetAside { why: &'static str, name: &'a str },
    /// A record cannot be read, or has another identity.
    Unusable { why: &'static str },
    /// An earlier refresh with the refresh token of the record did not complete.
    Resumed { serial: u64 },
    /// The record was gone or older than this process's state, and was written again.
    Restored { serial: u64 },
    /// Another process ended the session.
    Ended { signed_out: bool },
    /// The answer of the issuer was saved. For the time `unsaved_for` it was only in this process.
    Saved { serial: u64, unsaved_for: Duration },
}

// === impl Sharing ===

impl Sharing<'_> {
    /// Emits the event for the cache of this name.
    pub(crate) fn emit(&self, cache: Option<&str>) {
        match *self {
            Self::Adopted { generation, serial, remaining } => tracing::debug!(
                name: "token_adopted",
                target: TARGET,
                cache,
                generation,
                serial,
                remaining_s = remaining.as_secs_f64(),
                "token adopted from the store"
            ),
            Self::LeaseWaited { waited, obtained } => tracing::debug!(
                name: "store_lease_waited",
                target: TARGET,
                cache,
                waited_ms = millis(waited),
                obtained,
                "waited for the lease of another process"
            ),
            Self::Conflict { serial } => {
                tracing::warn!(name: "store_conflict", target: TARGET, cache, serial, "record not saved: conflict");
            }
            Self::Unreachable { error, first } if first => tracing::warn!(
                name: "store_unreachable",
                target: TARGET,
                cache,
                %error,
                cause = std::error::Error::source(error).map(tracing::field::display),
                "the token store did not do what it was asked"
            ),
            Self::Unreachable { .. } => {}
            Self::Reachable => {
                tracing::info!(name: "store_reachable", target: TARGET, cache, "the token store is available again");
            }
            Self::SetAside { why, name: aside } => tracing::error!(
                name: "store_record_set_aside",
                target: TARGET,
                cache,
                why,
                aside,
                "unreadable record set aside"
            ),
            Self::Unusable { why } => {
                tracing::error!(name: "store_record_unusable", target: TARGET, cache, why, "record not usable");
            }
            Self::Resumed { serial } => tracing::warn!(
                name: "store_refresh_resumed",
                target: TARGET,
                cache,
                serial,
                "an earlier refresh did not come to its end; the same refresh token is sent again"
            ),
            Self::Restored { serial } => {
                tracing::warn!(name: "store_record_restored", target: TARGET, cache, serial, "record written again");
            }
            Self::Ended { signed_out } => tracing::info!(
                name: "session_ended_elsewhere",
                target: TARGET,
                cache,
                signed_out,
                "another process ended the session"
            ),
            Self::Saved { serial, unsaved_for } => tracing::debug!(
                name: "store_record_saved",
                target: TARGET,
                cache,
                serial,
                unsaved_ms = millis(unsaved_for),
                "record saved"
            ),
        }
    }

    /// The counter of this event.
    #[cfg(feature = "metrics")]
    pub(crate) fn counter(&self) -> Option<&'static str> {
        Some(match self {
            Self::Adopted { .. } => "tower_bearer_store_adopted_total",
            Self::LeaseWaited { .. } => "tower_bearer_store_lease_waits_total",
            Self::Conflict { .. } => "tower_bearer_store_conflicts_total",
            Self::Unreachable { .. } => "tower_bearer_store_errors_total",
            Self::SetAside { .. } => "tower_bearer_store_set_aside_total",
            Self::Resumed { .. } => "tower_bearer_store_resumed_total",
            Self::Restored { .. } => "tower_bearer_store_restored_total",
            Self::Reachable | Self::Unusable { .. } | Self::Ended { .. } | Self::Saved { .. } => return None,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
