//! The store operations of a shared session: load, lease, save. This module does not use the session or the source.
//!
//! Every store operation has a deadline, so a store that hangs counts as failed. A lease is extended while its holder
//! works, and a failed save is repeated until the lease ends.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::clock::{self, Clock};
use crate::error::{Error, StoreProblem};
use crate::schedule::DualInstant;
use crate::store::record::{Digest, Record, State, Unreadable};
use crate::store::{Lease, Saved, SharedSession, StoreError};

/// One process's access to the store of a shared session.
pub(crate) struct StoreAccess {
    pub(crate) config: SharedSession,
    clock: Clock,
    health: Mutex<Health>,
    /// Whether a task watches the record.
    watching: AtomicBool,
}

/// The result of the last store operations.
#[derive(Default)]
struct Health {
    error: Option<Error>,
    read_at: Option<DualInstant>,
}

/// What the store holds under the key.
pub(crate) struct Found {
    /// `None` without a record.
    pub(crate) version: Option<u64>,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Absent,
    Record(Record),
    Unreadable(Unreadable),
}

/// The lease, or its current owner.
pub(crate) enum LeaseState {
    Held(HeldLease),
    Busy { owner: Option<String>, remaining: Duration },
}

/// The lease of one attempt. It expires if it is not released.
pub(crate) struct HeldLease {
    shared: Arc<StoreAccess>,
    pub(crate) owner: String,
    /// When the lease ends unless it is extended, on this process's monotonic clock.
    until: Mutex<Duration>,
}

/// How a save ended.
pub(crate) enum SaveEnd {
    /// Saved as this version.
    Saved(u64),
    Conflict,
    Failed(Error),
}

/// A sign-out whose refresh token is being revoked.
pub(crate) struct SignOut {
    /// `None`: the store failed, or another process holds the lease.
    pub(crate) lease: Option<HeldLease>,
    /// The version of the ended record, and the record without the refresh token. `None`: the record belongs to the
    /// next session, and stays as it is. An error says why it was not ended.
    pub(crate) marked: Result<Option<(Option<u64>, Record)>, Error>,
}

/// The number of polls so far, while another process holds the lease.
pub(crate) struct Polls(u32);

/// The longest that one store operation may take.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// The pause between two polls: the first one, and the cap of the doubling.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long the record of an ended session is kept. A process that was suspended for longer would use its refresh token
/// once more, and the issuer would deny it.
const KEEP_ENDED_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The pause between two attempts to save a record.
const SAVE_RETRY_PAUSE: Duration = Duration::from_millis(200);

// === impl StoreAccess ===

impl StoreAccess {
    pub(crate) fn new(config: SharedSession, clock: Clock) -> Self {
        Self { config, clock, health: Mutex::default(), watching: AtomicBool::new(false) }
    }

    /// The digest of everything that determines the token.
    pub(crate) fn identity(&self, source: &[String]) -> Digest {
        let parts = source.iter().chain(&self.config.identity).map(String::as_str);
        Digest::of(["tower-bearer-identity"].into_iter().chain(parts))
    }

    /// How much longer a run may take than without a store.
    ///
    /// It may wait for the lease as long as a fetch may take, and then call the issuer. The holder of the lease may
    /// take the length of a lease to save, before and after.
    pub(crate) fn run_budget(&self, fetch_deadline: Duration) -> Duration {
        (fetch_deadline + self.config.lease + CALL_DEADLINE) * 2
    }

    /// Returns whether the caller has to start the task that watches the record.
    pub(crate) fn start_watching(&self) -> bool {
        // Ordering: relaxed, because the flag guards no data.
        !self.watching.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn stop_watching(&self) {
        self.watching.store(false, Ordering::Relaxed);
    }

    /// Why the last operation of the store failed, if it did, and how long ago the record was read.
    pub(crate) fn health(&self) -> (Option<Error>, Option<Duration>) {
        let health = self.lock();
        let now = self.clock.now();
        (health.error.clone(), health.read_at.map(|read_at| now.mono.saturating_sub(read_at.mono)))
    }

    /// Records a failure of the store. Returns whether it is the first since the last success.
    pub(crate) fn note_failure(&self, error: &Error) -> bool {
        let previous = self.lock().error.replace(error.clone());
        previous.is_none()
    }

    /// Records a success of the store. Returns whether it follows a failure.
    pub(crate) fn note_success(&self) -> bool {
        let now = self.clock.now();
        let mut health = self.lock();
        health.read_at = Some(now);
        health.error.take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the operations ---

    /// Loads the record.
    pub(crate) async fn read(&self) -> Result<Found, Error> {
        // Read before the call, so that a token counts as older rather than younger.
        let now = self.clock.now();
        let loaded = self.call("load", self.config.store.load(&self.config.key)).await?;
        Ok(match loaded {
            None => Found { version: None, content: Content::Absent },
            Some(stored) => {
                let content = match Record::decode(&stored.bytes, stored.age, now) {
                    Ok(record) => Content::Record(record),
                    Err(why) => Content::Unreadable(why),
                };
                Found { version: Some(stored.version), content }
            }
        })
    }

    /// Tries to take the lease, with an owner name that is unique to this attempt.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<LeaseState, Error> {
        let owner = owner();
        let before = self.clock.now().mono;
        let SharedSession { store, key, lease, .. } = &self.config;
        Ok(match self.call("acquire", store.acquire(key, &owner, *lease)).await? {
            Lease::Held => {
                LeaseState::Held(HeldLease { shared: Arc::clone(self), owner, until: Mutex::new(before + *lease) })
            }
            Lease::Busy { owner, remaining } => LeaseState::Busy { owner, remaining },
        })
    }

    /// Subscribes to changes of the record. Returns a future of the next change.
    pub(crate) async fn subscribe(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut changed = self.config.store.changed(&self.config.key);
        let mut early = false;
        std::future::poll_fn(|cx| {
            early = changed.as_mut().poll(cx).is_ready();
            Poll::Ready(())
        })
        .await;
        if early { Box::pin(std::future::ready(())) } else { changed }
    }

    /// Runs one store operation with the default deadline.
    async fn call<T>(&self, what: &'static str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
        self.call_within(CALL_DEADLINE, what, call).await
    }

    async fn call_within<T>(
        &self,
        deadline: Duration,
        what: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Error> {
        match clock::timeout(deadline, call)?.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let class = if error.is_transient() { StoreProblem::Transient } else { StoreProblem::Permanent };
                let problem = format!("the token store failed ({what}; the cause is this error's source)");
                Err(Error::store(problem, class, error))
            }
            Err(_) => {
                let problem = format!("the token store did not answer within {deadline:?} ({what})");
                Err(Error::shared(problem, StoreProblem::Transient))
            }
        }
    }
}

// === impl HeldLease ===

impl HeldLease {
    /// Does the work, and extends the lease meanwhile.
    pub(crate) async fn extend_while<T>(&self, work: impl Future<Output = T>) -> T {
        let (mut work, mut extending) = (pin!(work), pin!(self.extend()));
        std::future::poll_fn(|cx| {
            let done = work.as_mut().poll(cx);
            if done.is_pending() {
                let _ = extending.as_mut().poll(cx);
            }
            done
        })
        .await
    }

    /// Extends the lease repeatedly. It never completes, because the next save detects a lost lease as a conflict.
    ///
    /// A failed or late extension is repeated in time, because three attempts fit into the rest of the lease.
    async fn extend(&self) {
        let SharedSession { store, key, lease, .. } = &self.shared.config;
        let mut pause = *lease / 3;
        loop {
            clock::sleep(pause).await;
            let before = self.shared.clock.now().mono;
            let deadline = CALL_DEADLINE.min(*lease / 6);
            pause = match self.shared.call_within(deadline, "extend", store.extend(key, &self.owner, *lease)).await {
                Ok(true) => {
                    *self.until() = before + *lease;
                    *lease / 3
                }
                Ok(false) => std::future::pending().await,
                Err(_) => *lease / 30,
            };
        }
    }

    /// Saves the record over the expected version. It repeats a failed save until the lease ends, for the length of one
    /// lease at most.
    pub(crate) async fn save(&self, expected: Option<u64>, record: &Record) -> SaveEnd {
        let SharedSession { store, key, lease, .. } = &self.shared.config;
        let give_up_at = self.shared.clock.now().mono + *lease;
        let deadline = CALL_DEADLINE.min(*lease / 3);
        let mut may_have_saved = false;
        loop {
            let bytes = record.encode(self.shared.clock.now());
            let error =
                match self.shared.call_within(deadline, "save", store.save(key, &self.owner, expected, &bytes)).await {
                    Ok(Saved::Saved { version }) => {
                        if matches!(record.state, State::Ended(_)) {
                            // The error is dropped, because the record then lives as long as any other.
                            let expired = store.expire(key, &self.owner, version, KEEP_ENDED_FOR);
                            let _ = self.shared.call_within(deadline, "expire", expired).await;
                        }
                        return SaveEnd::Saved(version);
                    }
                    Ok(Saved::Conflict) if may_have_saved => match self.shared.read().await {
                        Ok(Found { version: Some(version), content: Content::Record(found) })
                            if found.says_the_same(record) && found.refreshing() == record.refreshing() =>
                        {
                            return SaveEnd::Saved(version);
                        }
                        Ok(_) => return SaveEnd::Conflict,
                        Err(error) => error,
                    },
                    Ok(Saved::Conflict) => return SaveEnd::Conflict,
                    Err(error) => error,
                };
            may_have_saved = true;
            let now = self.shared.clock.now().mono;
            if now + SAVE_RETRY_PAUSE >= give_up_at.min(*self.until()) {
                return SaveEnd::Failed(error);
            }
            clock::sleep(SAVE_RETRY_PAUSE).await;
        }
    }

    /// Moves an unreadable record to another name, and returns that name.
    pub(crate) async fn set_aside(&self, version: u64) -> Result<Option<String>, Error> {
        let SharedSession { store, key, .. } = &self.shared.config;
        self.shared.call("set_aside", store.set_aside(key, &self.owner, version)).await
    }

    /// Releases the lease. If that fails, the lease expires.
    pub(crate) async fn release(self) {
        let SharedSession { store, key, .. } = &self.shared.config;
        let _ = self.shared.call("release", store.release(key, &self.owner)).await;
    }

    /// Whether this attempt may still hold the lease.
    pub(crate) fn may_be_held(&self) -> bool {
        self.shared.clock.now().mono < *self.until()
    }

    fn until(&self) -> MutexGuard<'_, Duration> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SignOut ===

impl SignOut {
    /// Does the work, and extends the lease meanwhile, if there is one.
    pub(crate) async fn extend_while<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.lease {
            Some(lease) => lease.extend_while(work).await,
            None => work.await,
        }
    }
}

// === impl Polls ===

impl Polls {
    pub(crate) fn new() -> Self {
        Self(0)
    }

    /// The pause before the next attempt to take the lease, which ends in `remaining` at the latest. It is jittered,
    /// because other processes may wait, too.
    pub(crate) fn next(&mut self, remaining: Duration) -> Duration {
        let (first, longest) = POLL;
        let pause = first.saturating_mul(1 << self.0.min(10)).min(longest);
        self.0 += 1;
        pause.mul_f64(0.5 + fastrand::f64() / 2.0).min(remaining + first.mul_f64(fastrand::f64()))
    }
}

/// The unique owner name of an attempt: the process ID, for people, and a random number.
fn owner() -> String {
    let mut random = [0; 12];
    getrandom::fill(&mut random).expect("the operating system has random numbers");
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{random}", std::process::id())
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
