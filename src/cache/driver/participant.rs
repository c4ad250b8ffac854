//! One process of a shared session: the steps that its runs and its background tasks have in common.

use std::sync::Arc;

use crate::cache::driver::{Driver, catch_panic};
use crate::cache::session::{ReadContext, ReadOutcome};
use crate::cache::store_access::{Content, Found, HeldLease, SaveEnd, StoreAccess};
use crate::clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::store::record::Digest;
use crate::telemetry::Sharing;

/// One process of a shared session.
#[derive(Clone, Copy)]
pub(crate) struct Participant<'a> {
    pub(crate) driver: &'a Driver,
    pub(crate) shared: &'a Arc<StoreAccess>,
}

// === impl Participant ===

impl<'a> Participant<'a> {
    /// Passes the record to the session, publishes the changes, and reports them to the telemetry.
    pub(crate) fn on_record_read(self, found: &Found, context: ReadContext<'_>) -> ReadOutcome {
        let driver = self.driver;
        let (record, why) = match &found.content {
            Content::Record(record) => (Some(record), None),
            Content::Unreadable(why) => (None, Some(why)),
            Content::Absent => (None, None),
        };
        let mut state = driver.state();
        let was_ended = state.session.is_ended_elsewhere();
        let view = Arc::clone(state.session.view());
        let outcome = state.session.on_record_read(record, &context);
        let ended = !was_ended && state.session.is_ended_elsewhere();
        let changed = !Arc::ptr_eq(&view, state.session.view());
        let previous = changed.then(|| driver.publish(state));
        drop((view, previous));
        if changed {
            driver.report_token_end();
        }
        match &outcome {
            ReadOutcome::Usable { token, adopted: true } => {
                let remaining =
                    driver.snapshot.load().view.current.as_ref().map(|current| current.window.remaining(context.now));
                driver.telemetry.shared(&Sharing::Adopted {
                    generation: token.generation(),
                    serial: record.map_or(0, |record| record.serial),
                    remaining: remaining.unwrap_or_default(),
                });
            }
            ReadOutcome::Ended(_) if ended => driver.telemetry.shared(&Sharing::Ended { signed_out: true }),
            ReadOutcome::OtherIdentity(_) => {
                driver
                    .telemetry
                    .shared(&Sharing::Unusable { why: "it belongs to another user, tenant, scope or issuer" });
            }
            _ => {}
        }
        if let Some(why) = why {
            driver.telemetry.shared(&Sharing::Unusable { why });
        }
        outcome
    }

    /// Records and reports a failure of the store.
    pub(crate) fn store_failed(self, error: &Error) {
        let first = self.shared.note_failure(error);
        self.driver.telemetry.shared(&Sharing::Unreachable { error, first });
    }

    /// The refresh token with which the source begins, if it has one.
    pub(crate) async fn initial_refresh_token(self, source: &Arc<dyn DynSource>) -> Option<Secret> {
        let asked = catch_panic(async { source.refresh_token().await });
        match clock::timeout(self.driver.policy.fetch_deadline(), asked).ok()?.await {
            Ok(Ok(Ok(initial))) => initial,
            _ => None,
        }
    }

    /// A read in the background, for which no caller waits.
    pub(crate) fn background_read(self, identity: &'a Digest) -> ReadContext<'a> {
        let (now, jitter) = (self.driver.clock.now(), fastrand::f64());
        ReadContext {
            run: None,
            identity,
            initial_refresh_token: None,
            generation: u64::MAX,
            policy: &self.driver.policy,
            now,
            jitter,
        }
    }

    /// Writes the newest record again, if the lease holder still finds it missing or out of date. Returns whether the
    /// store failed.
    pub(crate) async fn restore(self, lease: &HeldLease, identity: &Digest) -> bool {
        let Ok(found) = self.shared.read().await else { return true };
        if matches!(found.content, Content::Unreadable(_)) {
            return false;
        }
        let ReadOutcome::Lost(known) = self.on_record_read(&found, self.background_read(identity)) else {
            return false;
        };
        match lease.save(found.version, &known.clone().with_refreshing(None)).await {
            SaveEnd::Saved(_) => {
                self.driver.state().session.on_restored(&known);
                self.driver.telemetry.shared(&Sharing::Restored { serial: known.serial });
                false
            }
            SaveEnd::Conflict => false,
            SaveEnd::Failed(_) => true,
        }
    }
}
