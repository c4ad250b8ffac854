//! The figures of one fetch that has ended.

use std::time::Duration;

use crate::source::Reason;

/// The figures of one fetch that has ended.
pub(crate) struct Fetch {
    pub(crate) reason: Reason,
    /// How long it took.
    pub(crate) took: Duration,
    /// How many callers waited for it.
    pub(crate) waiters: usize,
    /// How long the first of them waited.
    pub(crate) longest_wait: Duration,
}
