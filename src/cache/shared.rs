//! The store's side of a session that processes share: looking, leasing, saving. Knows no session and no source.
//!
//! Every call of the store has a deadline, so that a store that hangs is a store that failed. A lease is extended for as
//! long as its holder works under it, and a save is repeated for as long as the lease lives.

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

/// A shared session, as one process sees its store.
pub(crate) struct Shared {
    pub(crate) config: SharedSession,
    clock: Clock,
    health: Mutex<Health>,
    /// Whether a task looks at the record from time to time.
    watching: AtomicBool,
}

/// Whether the store does what it is asked.
#[derive(Default)]
struct Health {
    error: Option<Error>,
    looked_at: Option<DualInstant>,
}

/// What lies under the key.
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

/// The lease, or who has it.
pub(crate) enum Leasing {
    Held(HeldLease),
    Busy { owner: Option<String>, remaining: Duration },
}

/// The lease of one attempt. Ends by itself if it is not released.
pub(crate) struct HeldLease {
    shared: Arc<Shared>,
    pub(crate) owner: String,
    /// When the lease ends if it is not extended, by this process's monotonic clock.
    until: Mutex<Duration>,
}

/// How a save ended.
pub(crate) enum SaveEnd {
    /// The version.
    Saved(u64),
    Conflict,
    Failed(Error),
}

/// A sign-out whose refresh token is being revoked.
pub(crate) struct SignOut {
    /// `None`: the store or another process did not give it.
    pub(crate) lease: Option<HeldLease>,
    /// The version of the record that says so, and the record without the refresh token; or why it does not say so.
    pub(crate) marked: Result<(Option<u64>, Record), Error>,
}

/// How often the lease is asked for while another process holds it.
pub(crate) struct Polls(u32);

/// How long one call of the store may take.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// The first pause between two polls, which doubles, and the longest.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long the record of a session is kept that has ended. A process that was suspended all that time would send its refresh
/// token once more, which the issuer denies.
const KEEP_ENDED_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Between two attempts to save a record.
const SAVE_PAUSE: Duration = Duration::from_millis(200);

// === impl Shared ===

impl Shared {
    pub(crate) fn new(config: SharedSession, clock: Clock) -> Self {
        Self { config, clock, health: Mutex::default(), watching: AtomicBool::new(false) }
    }

    /// The digest of everything that shapes the token.
    pub(crate) fn identity(&self, source: &[String]) -> Digest {
        let parts = source.iter().chain(&self.config.identity).map(String::as_str);
        Digest::of(["tower-bearer-identity"].into_iter().chain(parts))
    }

    /// How long a run may take in all: it waits for the lease as long as another process may work under it, then does the
    /// same, and each save has the time of a lease.
    pub(crate) fn run_budget(&self, fetch_deadline: Duration) -> Duration {
        (fetch_deadline + self.config.lease + CALL_DEADLINE) * 2
    }

    /// Whether the caller is the one that starts watching.
    pub(crate) fn start_watching(&self) -> bool {
        // Ordering: the flag guards no data.
        !self.watching.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn stop_watching(&self) {
        self.watching.store(false, Ordering::Relaxed);
    }

    /// Why the store did not do what it was asked the last time, and how long ago the record was seen.
    pub(crate) fn health(&self) -> (Option<Error>, Option<Duration>) {
        let health = self.lock();
        let now = self.clock.now();
        (health.error.clone(), health.looked_at.map(|looked_at| now.mono.saturating_sub(looked_at.mono)))
    }

    /// Notes a failure of the store; returns whether it is the first since the store last did what it was asked.
    pub(crate) fn note_failure(&self, error: &Error) -> bool {
        let previous = self.lock().error.replace(error.clone());
        previous.is_none()
    }

    /// Notes that the store does what it is asked; returns whether it did not before.
    pub(crate) fn note_success(&self) -> bool {
        let now = self.clock.now();
        let mut health = self.lock();
        health.looked_at = Some(now);
        health.error.take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the operations ---

    /// Loads the record.
    pub(crate) async fn look(&self) -> Result<Found, Error> {
        // Before the call, so that a token counts as older rather than younger.
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

    /// Takes the lease, under an owner that no other attempt has.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Leasing, Error> {
        let owner = owner();
        let before = self.clock.now().mono;
        let SharedSession { store, key, lease, .. } = &self.config;
        Ok(match self.call("acquire", store.acquire(key, &owner, *lease)).await? {
            Lease::Held => {
                Leasing::Held(HeldLease { shared: Arc::clone(self), owner, until: Mutex::new(before + *lease) })
            }
            Lease::Busy { owner, remaining } => Leasing::Busy { owner, remaining },
        })
    }

    /// A notification, subscribed to now.
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

    /// One call, with its deadline.
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
    /// Does the work while the lease is extended.
    pub(crate) async fn keep<T>(&self, work: impl Future<Output = T>) -> T {
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

    /// Extends the lease again and again. Never completes: after the lease is lost, the next save is a conflict.
    ///
    /// An extension that is lost or late is repeated in time: three fit into what is left of the lease.
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

    /// Saves the record over this version, repeatedly while the lease lives, and for the length of a lease at most.
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
                            // If it fails, the record lives as long as any.
                            let expired = store.expire(key, &self.owner, version, KEEP_ENDED_FOR);
                            let _ = self.shared.call_within(deadline, "expire", expired).await;
                        }
                        return SaveEnd::Saved(version);
                    }
                    Ok(Saved::Conflict) if may_have_saved => match self.shared.look().await {
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
            if now + SAVE_PAUSE >= give_up_at.min(*self.until()) {
                return SaveEnd::Failed(error);
            }
            clock::sleep(SAVE_PAUSE).await;
        }
    }

    /// Moves an unreadable record out of the way; returns its new name.
    pub(crate) async fn set_aside(&self, version: u64) -> Result<Option<String>, Error> {
        let SharedSession { store, key, .. } = &self.shared.config;
        self.shared.call("set_aside", store.set_aside(key, &self.owner, version)).await
    }

    /// Ends the lease. If that fails, it ends by itself.
    pub(crate) async fn release(self) {
        let SharedSession { store, key, .. } = &self.shared.config;
        let _ = self.shared.call("release", store.release(key, &self.owner)).await;
    }

    /// Whether the lease may still be this attempt's.
    pub(crate) fn lives(&self) -> bool {
        self.shared.clock.now().mono < *self.until()
    }

    fn until(&self) -> MutexGuard<'_, Duration> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SignOut ===

impl SignOut {
    /// Does the work while the lease is extended, if there is one.
    pub(crate) async fn keep<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.lease {
            Some(lease) => lease.keep(work).await,
            None => work.await,
        }
    }
}

// === impl Polls ===

impl Polls {
    pub(crate) fn new() -> Self {
        Self(0)
    }

    /// How long until the lease is asked for again, if it ends in `remaining` at the latest. Jittered, because others wait
    /// as well.
    pub(crate) fn next(&mut self, remaining: Duration) -> Duration {
        let (first, longest) = POLL;
        let pause = first.saturating_mul(1 << self.0.min(10)).min(longest);
        self.0 += 1;
        pause.mul_f64(0.5 + fastrand::f64() / 2.0).min(remaining + first.mul_f64(fastrand::f64()))
    }
}

/// Names an attempt: the process for people, and a number that no other attempt has.
fn owner() -> String {
    let mut random = [0; 12];
    getrandom::fill(&mut random).expect("the operating system has random numbers");
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{random}", std::process::id())
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
