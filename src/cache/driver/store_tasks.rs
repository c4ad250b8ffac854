//! The background tasks of a shared session: one watches the record, one saves a record that could not be saved at
//! once.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;

use crate::cache::driver::Driver;
use crate::cache::driver::participant::Participant;
use crate::cache::session::ReadOutcome;
use crate::cache::store_access::{Content, HeldLease, LeaseState, StoreAccess};
use crate::clock;
use crate::schedule::DualInstant;
use crate::store::record::{Record, SavedToken, State as RecordState};
use crate::telemetry::Sharing;

/// Records on drop that no task watches the record.
struct WatchGuard(Arc<StoreAccess>);

/// The pause between two attempts to save in the background.
const RESTORE_PAUSE: Duration = Duration::from_millis(500);
/// The time over which processes spread their reads after the store notifies them of a change.
const READ_SPREAD: Duration = Duration::from_millis(100);

/// Reads the record at intervals, and when the store notifies of a change, until the cache is dropped or closed.
pub(crate) async fn watch(driver: Weak<Driver>, shared: Arc<StoreAccess>, changed: Arc<Notify>) {
    let _guard = WatchGuard(Arc::clone(&shared));
    loop {
        let wait = shared.config.poll_interval.mul_f64(0.9 + fastrand::f64() / 5.0);
        let mut notified = shared.subscribe().await;
        let until = clock::from_now(wait);
        loop {
            let mut local = pin!(changed.notified());
            local.as_mut().enable();
            match driver.upgrade() {
                Some(driver) if !driver.state().session.is_closed() => {}
                _ => return,
            }
            let woken = std::future::poll_fn(|cx| match notified.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => local.as_mut().poll(cx).map(|()| false),
            });
            match clock::timeout_at(until, woken) {
                Ok(woken) => match woken.await {
                    Ok(false) => {}
                    Ok(true) | Err(_) => break,
                },
                Err(_) => return,
            }
        }
        // The processes do not all read at once.
        clock::sleep(READ_SPREAD.mul_f64(fastrand::f64())).await;
        let Some(driver) = driver.upgrade() else { return };
        watch_once(Participant { driver: &driver, shared: &shared }).await;
    }
}

/// One read in the background, for which no caller waits.
async fn watch_once(participant: Participant<'_>) {
    let Participant { driver, shared } = participant;
    // The run in flight reads the record itself.
    if driver.flight.is_in_flight(driver.clock.now().mono) {
        return;
    }
    let (source, known) = {
        let state = driver.state();
        (Arc::clone(&state.source), state.session.known_record().is_some() && !state.session.has_new_login())
    };
    if !known {
        return;
    }
    let identity = shared.identity(&source.identity());
    let found = match shared.read().await {
        Ok(found) => found,
        Err(error) => return participant.store_failed(&error),
    };
    if shared.note_success() {
        driver.telemetry.shared(&Sharing::Reachable);
    }
    if let Content::Unreadable(why) = found.content {
        // Only reported, because a newer release of this program may have written it. The next fetch sets it aside.
        driver.telemetry.shared(&Sharing::Unusable { why });
        return;
    }
    match participant.on_record_read(&found, participant.background_read(&identity)) {
        ReadOutcome::Usable { adopted: true, .. } => {
            driver.save().await;
            driver.changed.notify_waiters();
        }
        ReadOutcome::Lost(known) if is_worth_restoring(&known, driver.clock.now()) => {
            if let Ok(LeaseState::Held(lease)) = shared.acquire().await {
                lease.extend_while(participant.restore(&lease, &identity)).await;
                lease.release().await;
            }
        }
        _ => {}
    }
}

/// Keeps trying to save in the background, as long as the lease can be extended. The lease keeps other processes from
/// using the old refresh token in the record.
pub(crate) async fn save_later(driver: Weak<Driver>, shared: Arc<StoreAccess>, lease: HeldLease) {
    lease
        .extend_while(async {
            while lease.may_be_held() {
                let Some(driver) = driver.upgrade() else { return };
                let known = {
                    let state = driver.state();
                    let unsaved = state.session.unsaved().is_some();
                    state.session.known_record().filter(|_| unsaved).map(|known| known.identity.clone())
                };
                let Some(identity) = known else { return };
                let participant = Participant { driver: &driver, shared: &shared };
                if !participant.restore(&lease, &identity).await {
                    return;
                }
                drop(driver);
                clock::sleep(RESTORE_PAUSE).await;
            }
        })
        .await;
    lease.release().await;
}

/// Whether a lost record contains anything that is still useful.
fn is_worth_restoring(record: &Record, now: DualInstant) -> bool {
    let lives = |saved: &SavedToken| !saved.asked.after(saved.token.lifetime()).is_past(now);
    match &record.state {
        RecordState::Active { token, refresh_token, .. } => {
            refresh_token.is_some() || token.as_ref().is_some_and(lives)
        }
        RecordState::Ended(_) => true,
    }
}

// === impl WatchGuard ===

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.stop_watching();
    }
}
