//! Groups failed calls with the same problem into an outage. An outage is logged when it begins and when it ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tower::BoxError;

use crate::problem::Problem;

/// The current outages, by the code of their problem.
#[derive(Default)]
pub(crate) struct Outages {
    /// Whether there is an outage. Without one, a successful call does not take the lock.
    ///
    /// Ordering: relaxed, because if a call reads an old value, the next call ends the outage.
    any: AtomicBool,
    open: Mutex<BTreeMap<&'static str, Outage>>,
}

/// Consecutive calls that failed with the same problem.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outage {
    began: Instant,
    /// When the last call failed.
    last: Instant,
    calls: u64,
    quiet: Duration,
}

/// How long no call may fail before an outage of the upstream ends, because it may fail only some of its calls.
const QUIET: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "the library's clock is its own; this is a program")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

// === impl Outages ===

impl Outages {
    /// Records a failed call.
    pub(crate) fn failed(&self, problem: &Problem, error: &BoxError) {
        let (code, error) = (problem.code(), &**error);
        // Without a token every call fails, so the first success ends the outage.
        let quiet = if problem.is_about_token() { Duration::ZERO } else { QUIET };
        if self.note(code, quiet, now()) {
            tracing::warn!(code, error, "calls begin to fail");
        } else {
            tracing::debug!(code, error, "call failed");
        }
    }

    /// Records that a call that started at this time succeeded.
    pub(crate) fn succeeded(&self, started: Instant) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        for (code, Outage { began, last, calls, .. }) in self.end(started) {
            tracing::warn!(code, calls, lasted = ?(last - began), "calls no longer fail");
        }
    }

    /// Counts a failed call. Returns `true` for the first call of an outage.
    fn note(&self, code: &'static str, quiet: Duration, now: Instant) -> bool {
        let mut open = self.open();
        let outage = open.entry(code).or_insert(Outage { began: now, last: now, calls: 0, quiet });
        outage.calls += 1;
        outage.last = now;
        self.any.store(true, Ordering::Relaxed);
        outage.calls == 1
    }

    /// Removes and returns the outages that end because a call succeeded that started at this time.
    ///
    /// A call that started before the last failure ends no outage, because it may have got its token before the outage.
    fn end(&self, started: Instant) -> BTreeMap<&'static str, Outage> {
        let mut open = self.open();
        let over = |outage: &Outage| started > outage.last + outage.quiet;
        let ended = open.iter().filter(|(_, outage)| over(outage)).map(|(code, outage)| (*code, *outage)).collect();
        open.retain(|_, outage| !over(outage));
        self.any.store(!open.is_empty(), Ordering::Relaxed);
        ended
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<&'static str, Outage>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_outage_begins_once_and_ends_with_the_number_of_its_calls() {
        let (outages, start) = (Outages::default(), now());
        let begins: Vec<_> = (0..557).map(|ms| outages.note("a", Duration::ZERO, start + ms * SECOND / 1000)).collect();
        assert_eq!(begins.iter().filter(|begins| **begins).count(), 1);
        assert!(outages.note("b", Duration::ZERO, start), "another reason is another outage");
        let ended = outages.end(start + SECOND);
        assert_eq!((ended["a"].calls, ended["b"].calls), (557, 1));
        assert!(outages.end(start + SECOND).is_empty());
        assert!(outages.note("a", Duration::ZERO, start + SECOND), "the next one begins anew");
    }

    #[test]
    fn a_call_that_was_begun_before_the_last_failure_ends_no_outage() {
        let (outages, start) = (Outages::default(), now());
        outages.note("a", Duration::ZERO, start + SECOND);
        assert!(outages.end(start).is_empty());
        assert_eq!(outages.end(start + 2 * SECOND).len(), 1);
    }

    #[test]
    fn an_upstream_that_fails_now_and_then_has_one_outage() {
        let (outages, start) = (Outages::default(), now());
        let begins = (0..100).filter(|second| {
            let now = start + *second * SECOND;
            let begins = outages.note("timed-out", QUIET, now);
            assert!(outages.end(now + SECOND / 2).is_empty());
            begins
        });
        assert_eq!(begins.count(), 1);
        assert_eq!(outages.end(start + 110 * SECOND)["timed-out"].calls, 100);
    }
}
