//! Calls that fail for one reason are one outage: a line when it begins, and one with their number when it is over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tower::BoxError;

use crate::problem::Problem;

/// The outages that have begun, by the code of their problem.
#[derive(Default)]
pub(crate) struct Outages {
    /// Whether there is one, so that no other call takes the lock.
    ///
    /// Ordering: relaxed, because a call that misses it leaves the end of the outage to the next one.
    any: AtomicBool,
    open: Mutex<BTreeMap<&'static str, Outage>>,
}

/// Calls that failed, without one of them going through.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outage {
    began: Instant,
    /// When the last of them failed.
    last: Instant,
    calls: u64,
    quiet: Duration,
}

/// An upstream may fail some of its calls and answer others: its outage is over when none has failed for so long.
const QUIET: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "the library's clock is its own; this is a program")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

// === impl Outages ===

impl Outages {
    /// A call failed.
    pub(crate) fn failed(&self, problem: &Problem, error: &BoxError) {
        let (code, error) = (problem.code(), &**error);
        // Without a token each call fails.
        let quiet = if problem.is_of_token() { Duration::ZERO } else { QUIET };
        if self.note(code, quiet, now()) {
            tracing::warn!(code, error, "calls begin to fail");
        } else {
            tracing::debug!(code, error, "call failed");
        }
    }

    /// A call that was begun at this time got its answer.
    pub(crate) fn succeeded(&self, begun: Instant) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        for (code, Outage { began, last, calls, .. }) in self.end(begun) {
            tracing::warn!(code, calls, lasted = ?(last - began), "calls no longer fail");
        }
    }

    /// Counts one more; `true` for the first of an outage.
    fn note(&self, code: &'static str, quiet: Duration, now: Instant) -> bool {
        let mut open = self.open();
        let outage = open.entry(code).or_insert(Outage { began: now, last: now, calls: 0, quiet });
        outage.calls += 1;
        outage.last = now;
        self.any.store(true, Ordering::Relaxed);
        outage.calls == 1
    }

    /// Takes out what is over because a call went through that was begun at this time. One that was begun before the last
    /// failure shows nothing: it may have had its token by then.
    fn end(&self, begun: Instant) -> BTreeMap<&'static str, Outage> {
        let mut open = self.open();
        let over = |outage: &Outage| begun > outage.last + outage.quiet;
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
