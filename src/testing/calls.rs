//! Counts the calls that a fake received.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many calls arrived, and how many were in progress at the same time.
///
/// A call is in progress from the first poll of its future until the future ends or is dropped.
#[derive(Debug, Default)]
pub struct Calls {
    total: AtomicUsize,
    in_progress: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Calls {
    /// All calls so far, including those in progress.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::SeqCst)
    }

    /// Calls that have neither been answered nor dropped.
    pub fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::SeqCst)
    }

    /// The highest value of [`in_progress`](Self::in_progress) so far.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }

    /// Counts a call until the guard is dropped. A dropped future drops its guard.
    pub(crate) fn enter(&self) -> CallGuard<'_> {
        self.total.fetch_add(1, Ordering::SeqCst);
        let now = self.in_progress.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        CallGuard(self)
    }
}

pub(crate) struct CallGuard<'a>(&'a Calls);

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::SeqCst);
    }
}
