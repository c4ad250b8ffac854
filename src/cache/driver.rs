//! The driver: asks the session what to do, and does it.
//!
//! # How it works
//! Requests read one immutable [`Snapshot`] behind an `ArcSwap`, and never lock. Fetches use the [`State`] behind a
//! mutex. No request locks it while its token is fresh. The driver handles each event in the same order: lock the
//! state, pass the event to the [`Session`], publish the session's view, unlock, and only then notify waiters,
//! telemetry and `keep_warm`.
//!
//! A fetch is one run of the single flight. It calls the source, stores the new refresh token in memory *before*
//! anything else can fail, saves it, and only then publishes the token. If its runtime stalls after that, another run
//! replaces it. That run finds the newest refresh token in memory, so no refresh token is used twice.
//!
//! Locks: the slot of the single flight, then the state. No user code runs while either is held, and neither is held
//! across an await. A replaced source or error is a user's type, so the lock holder drops it after unlocking.

use std::mem;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "store")]
use std::pin::Pin;
use std::pin::pin;
#[cfg(feature = "keyed")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tower::BoxError;
use tracing::Instrument;

use crate::cache::own_run;
use crate::cache::reader::Snapshot;
#[cfg(feature = "store")]
use crate::cache::session::StoreStatus;
use crate::cache::session::{
    Decision, Demand, Outcome, Rejection, RotatedToken, Run, SaveStep, SaveTicket, Session, Status, Timing,
};
use crate::cache::settings::{CachePolicy, Save, Settings};
#[cfg(feature = "store")]
use crate::cache::store_access::SignOut;
use crate::challenge::Challenge;
use crate::clock::{self, Clock};
use crate::error::Error;
use crate::schedule::{DualInstant, Phase, Sign, Window};
use crate::secret::Secret;
use crate::singleflight::{InFlightHandle, SingleFlight, Waiter};
use crate::source::erased::DynSource;
use crate::source::{FetchContext, Fixed, Reason, TokenSource};
use crate::telemetry::{Fetch, Telemetry};
use crate::token::{SessionId, Token, TokenId};

// The store's part. These modules import this one, and the cache passes their `SharedStore` to the driver.
#[cfg(feature = "store")]
mod participant;
#[cfg(feature = "store")]
pub(crate) mod shared_store;
#[cfg(feature = "store")]
mod store_run;
#[cfg(feature = "store")]
mod store_tasks;

/// The state and the services that all clones of one cache share.
pub(crate) struct Driver {
    snapshot: ArcSwap<Snapshot>,
    flight: Arc<SingleFlight<Result<Token, Error>>>,
    state: Mutex<State>,
    policy: CachePolicy,
    clock: Clock,
    telemetry: Telemetry,
    /// Notified after each run, save, new source, adopted record and shutdown. It wakes `keep_warm`, the watch of the
    /// store, and the tasks that wait for the end of a save. It outlives this struct, because it also signals that the
    /// struct was dropped.
    changed: Arc<Notify>,
    /// One permit for each KiB of rejected responses that are kept unread. Created for the first of them.
    unread: OnceLock<Arc<Semaphore>>,
    /// When a keyed cache last handed this cache out, in ticks of the coarse clock.
    ///
    /// Ordering: relaxed, because eviction compares it with a time long ago, while the map is locked.
    #[cfg(feature = "keyed")]
    last_used: AtomicU64,
    /// The store of a session that processes share.
    #[cfg(feature = "store")]
    store: Option<Arc<dyn SessionStore>>,
}

/// The store of a shared session, as the driver calls it.
///
/// It is a trait, because its implementation calls the driver.
#[cfg(feature = "store")]
pub(crate) trait SessionStore: Send + Sync {
    /// How much longer a run may take than without a store.
    fn run_budget(&self, fetch_deadline: Duration) -> Duration;

    /// Why the last operation of the store failed, if it did, and how long ago the record was read.
    fn health(&self) -> (Option<Error>, Option<Duration>);

    /// Runs one fetch of the shared session. `generation`: the one that was current when the run started, or 0.
    fn run<'a>(
        &'a self,
        driver: &'a Arc<Driver>,
        run: Run,
        source: Arc<dyn DynSource>,
        generation: u64,
    ) -> BoxFuture<'a, Option<Result<Token, Error>>>;

    /// Ends the record, before the refresh token is revoked. Returns the refresh token to revoke.
    fn start_sign_out<'a>(
        &'a self,
        driver: &'a Driver,
        epoch: u64,
        source: &'a Arc<dyn DynSource>,
        newest: Result<Option<Secret>, Error>,
    ) -> BoxFuture<'a, (Result<Option<Secret>, Error>, SignOut)>;

    /// Removes the revoked refresh token from the record, and releases the lease.
    fn finish_sign_out<'a>(
        &'a self,
        driver: &'a Driver,
        epoch: u64,
        sign_out: SignOut,
        revoked: Result<(), Error>,
    ) -> BoxFuture<'a, Result<(), Error>>;
}

#[cfg(feature = "store")]
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

struct State {
    session: Session,
    source: Arc<dyn DynSource>,
    on_rotation: Option<Arc<dyn Save>>,
    /// Limits the concurrent token calls of all caches that share it.
    token_calls: Option<Arc<Semaphore>>,
}

/// A rejection: the sign and headers of the response, or neither if the user reported it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rejected<'a> {
    pub(crate) sign: Option<Sign>,
    pub(crate) headers: Option<&'a HeaderMap>,
}

/// The token for a demand, or the run to wait for.
enum Acquired {
    Ready(Token),
    Wait(Waiter<Result<Token, Error>>),
}

/// Reports to the session that a save was dropped before it ended.
struct SaveGuard<'a> {
    driver: &'a Driver,
    ticket: SaveTicket,
}

/// User code panicked. The panic hook got the message.
struct Panicked;

/// How long `on_rotation` may take. After that the cache publishes the token even if it is not saved.
const SAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long after its deadlines a run may be replaced. It has ended long before, unless its runtime has stalled.
const GRACE: Duration = Duration::from_secs(1);
/// How long `keep_warm` sleeps at most, so that it notices when a suspended machine resumes.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// How many runs of one source may end without a usable result before their waiter gives up.
const MAX_ROUNDS: u8 = 8;
/// How many KiB of rejected responses are kept unread at most. This is half of the initial flow-control window of an
/// HTTP/2 connection (RFC 9113 section 6.9.2).
const MAX_UNREAD_KIB: usize = 32;
/// The longest response, in bytes, that is kept while its request waits.
const MAX_UNREAD_RESPONSE: u64 = 8 * 1024;

// === impl Driver: construction and views ===

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        let Settings { source, policy, name, on_rotation, clock, .. } = settings;
        static CACHES: AtomicU32 = AtomicU32::new(1);
        let cache = NonZeroU32::new(CACHES.fetch_add(1, Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN);
        let session = Session::new(SessionId::first_of(cache));
        let changed = Arc::new(Notify::new());
        let idle = Arc::clone(&changed);
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::new(Arc::clone(session.view()))),
            flight: SingleFlight::new(move || idle.notify_waiters()),
            state: Mutex::new(State { session, source, on_rotation, token_calls: None }),
            policy,
            clock,
            telemetry: Telemetry::new(name),
            changed,
            unread: OnceLock::new(),
            #[cfg(feature = "keyed")]
            last_used: AtomicU64::new(0),
            #[cfg(feature = "store")]
            store: None,
        }
    }

    /// Shares the session with other processes, through this store.
    #[cfg(feature = "store")]
    pub(crate) fn with_store(mut self, store: impl SessionStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    pub(crate) fn snapshot(&self) -> &ArcSwap<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The usable token, without fetching.
    pub(crate) fn peek(&self) -> Option<Token> {
        let now = self.clock.now();
        let token = self.snapshot.load().view.usable_token(now);
        token.or_else(|| {
            // If the current token is an expired fallback, the newer token becomes current again.
            let mut state = self.state();
            let previous = state.session.on_time(now).then(|| self.replace_snapshot(&state));
            let token = state.session.view().usable_token(now);
            drop((state, previous));
            token
        })
    }

    /// The usable token of this session, or an error if the session has ended.
    pub(crate) fn peek_in(&self, session: SessionId) -> Result<Option<Token>, Error> {
        let snapshot = self.snapshot.load();
        if snapshot.view.session != session {
            return Err(Error::signed_out());
        }
        Ok(snapshot.view.usable_token(self.clock.now()))
    }

    pub(crate) fn status(&self) -> Status {
        let now = self.clock.now();
        let fetching = self.flight.is_in_flight(now.mono);
        let state = self.state();
        let status = state.session.status(now, fetching);
        #[cfg(feature = "store")]
        let status = Status { store: self.store_status(&state.session), ..status };
        status
    }

    #[cfg(feature = "store")]
    fn store_status(&self, session: &Session) -> Option<StoreStatus> {
        let (error, last_read) = self.store.as_ref()?.health();
        let serial = session.known_record().map_or(0, |record| record.serial);
        Some(StoreStatus { error, unsaved: session.unsaved().cloned(), last_read, serial })
    }

    /// A permit to keep a response of this size unread, or `None` if the response has to be read or dropped.
    pub(crate) fn reserve_unread(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        // Even an empty response counts, because it may hold a connection.
        let kib = u32::try_from(bytes.div_ceil(1024).max(1)).ok().filter(|_| bytes <= MAX_UNREAD_RESPONSE)?;
        let unread = self.unread.get_or_init(|| Arc::new(Semaphore::new(MAX_UNREAD_KIB)));
        Arc::clone(unread).try_acquire_many_owned(kib).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs while the lock is held, so a poisoned lock still guards consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the session's view, and unlocks the state. Returns the previous snapshot, to drop when no lock is
    /// held.
    fn publish(&self, state: MutexGuard<'_, State>) -> Arc<Snapshot> {
        self.replace_snapshot(&state)
    }

    fn replace_snapshot(&self, state: &State) -> Arc<Snapshot> {
        self.snapshot.swap(Arc::new(Snapshot::new(Arc::clone(state.session.view()))))
    }

    /// Reports to the telemetry when the current token ends. No lock may be held, because a recorder is user
    /// code.
    fn report_token_end(&self) {
        let end = self.snapshot.load().view.current.as_ref().and_then(|current| current.token.expires_at());
        self.telemetry.token_ends(end);
    }

    // --- callers ---

    /// Waits for a token that meets the demand. The caller belongs to `session`, or to the current one if that is
    /// `None`.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        demand: Demand,
        mut session: Option<SessionId>,
    ) -> Result<Token, Error> {
        let mut give_up_at = None;
        let (mut epoch, mut rounds) = (0, 0);
        let error = loop {
            // A block, so that no local variable lives across the wait and enlarges every waiter's future.
            let (wait, last) = {
                // Each caller enforces its own deadline, because the runtime that fetches may have stalled.
                let (now, here) = self.clock.now_here();
                let waiter = match self.acquire_now(demand, &mut session, now) {
                    Ok(Acquired::Ready(token)) => return Ok(token),
                    Ok(Acquired::Wait(waiter)) => waiter,
                    Err(error) => break error,
                };
                let (waiter, remaining) = waiter.start_waiting(now.mono);
                let give_up_at = *give_up_at.get_or_insert(here + self.policy.fetch_deadline());
                let until = give_up_at.min(here + remaining);
                match clock::timeout_at(until, waiter) {
                    Ok(wait) => (wait, until == give_up_at),
                    Err(error) => break error,
                }
            };
            match wait.await {
                Ok(Ok(Ok(token))) if demand.is_met_by_result(&token) => {
                    if Some(token.id().session) == session {
                        return Ok(token);
                    }
                    break Error::signed_out();
                }
                Ok(Ok(Err(error))) => break error,
                // The run was abandoned, or its token does not meet the demand.
                Ok(_) => {
                    let previous = mem::replace(&mut epoch, self.state().session.epoch());
                    // If the source was replaced, its run was detached, and the count starts again.
                    rounds = if previous == epoch { rounds + 1 } else { 1 };
                    if rounds == MAX_ROUNDS {
                        break Error::lost();
                    }
                }
                Err(_) if last => break Error::timed_out(self.policy.fetch_deadline()),
                Err(_) => {}
            }
        };
        // Only this demand fails for lack of a usable token. Other demands may fail while there is one.
        if demand == Demand::Usable {
            self.telemetry.unavailable(&error);
        }
        Err(error)
    }

    /// Starts a refresh ahead of time, without waiting for it.
    pub(crate) fn refresh_in_background(self: &Arc<Self>) {
        // The error is dropped, because the token is still usable. A caller that has to wait gets the error.
        let _ = self.start_in_background(Demand::Fresh, None, self.clock.now());
    }

    /// Records that an API rejected this token, and starts its replacement without waiting for it.
    pub(crate) fn replace_in_background(self: &Arc<Self>, token: TokenId, rejected: Rejected<'_>) -> Result<(), Error> {
        match self.reject(token, rejected) {
            Rejection::Marked { .. } => self.start_replacement(token, rejected.sign),
            _ => Ok(()),
        }
    }

    fn start_replacement(self: &Arc<Self>, token: TokenId, sign: Option<Sign>) -> Result<(), Error> {
        let demand = Demand::NewerThan(token.generation, sign);
        self.start_in_background(demand, Some(token.session), self.clock.now())
    }

    /// Records that an API rejected this token.
    pub(crate) fn reject(&self, token: TokenId, rejected: Rejected<'_>) -> Rejection {
        let now = self.clock.now();
        let mut state = self.state();
        let rejection = state.session.on_rejected(token, rejected.sign, now);
        match rejection {
            Rejection::Marked { first } => {
                let challenges = rejected
                    .headers
                    .map_or_else(Vec::new, |headers| headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect());
                let previous = state.session.keep_challenges(challenges);
                // A user's report may have ended the fallback.
                let snapshot = rejected.sign.is_none().then(|| self.replace_snapshot(&state));
                drop(state);
                drop((previous, snapshot));
                self.telemetry.rejected(token.generation, first);
            }
            Rejection::Fallback { first } => {
                drop(self.publish(state));
                self.report_token_end();
                self.telemetry.rejected(token.generation, first);
            }
            _ => {}
        }
        rejection
    }

    /// Records the response to a retry with this token. The API accepted the token if `sign` is `None`.
    pub(crate) fn retried(self: &Arc<Self>, token: TokenId, sign: Option<Sign>) {
        let Some(sign) = sign else { return self.state().session.on_accepted(token) };
        let now = self.clock.now();
        let mut state = self.state();
        let newer = state.session.on_rejected_again(token, sign, now);
        drop(self.publish(state));
        if let Some(newer) = newer {
            // The error is dropped, because the caller gets the API's response.
            let _ = self.replace_in_background(newer, Rejected { sign: Some(sign), headers: None });
        }
    }

    /// Starts a run for the demand, without waiting for it. `session`: as for [`acquire`](Self::acquire).
    fn start_in_background(
        self: &Arc<Self>,
        demand: Demand,
        session: Option<SessionId>,
        now: DualInstant,
    ) -> Result<(), Error> {
        if self.flight.is_in_flight(now.mono) {
            return Ok(());
        }
        let snapshot = self.snapshot.load();
        if snapshot.view.active_backoff(now).is_some() {
            return Ok(());
        }
        let session = session.unwrap_or(snapshot.view.session);
        drop(snapshot);
        self.join_or_start(demand, session, now).map(drop)
    }

    /// Returns a token for the demand, or the run to wait for.
    fn acquire_now(
        self: &Arc<Self>,
        demand: Demand,
        session: &mut Option<SessionId>,
        now: DualInstant,
    ) -> Result<Acquired, Error> {
        // If the snapshot has the token, no lock is needed.
        let snapshot = self.snapshot.load();
        let session = *session.get_or_insert(snapshot.view.session);
        if snapshot.view.session == session
            && let Some((current, phase)) = snapshot.view.usable_at(now)
            && demand.is_met_by(&current.token, phase)
        {
            let token = current.token.clone();
            drop(snapshot);
            if phase == Phase::Due {
                let _ = self.start_in_background(Demand::Fresh, Some(session), now);
            }
            return Ok(Acquired::Ready(token));
        }
        drop(snapshot);
        self.join_or_start(demand, session, now)
    }

    /// Asks the session for a decision and carries it out, while the slot stays locked.
    fn join_or_start(
        self: &Arc<Self>,
        demand: Demand,
        session: SessionId,
        now: DualInstant,
    ) -> Result<Acquired, Error> {
        // Declared first, so that it is dropped after unlocking.
        let _previous;
        let slot = SingleFlight::lock(&self.flight);
        let mut state = self.state();
        _previous = state.session.on_time(now).then(|| self.replace_snapshot(&state));
        match state.session.decide(demand, session, &self.policy, now, slot.is_in_flight(now.mono)) {
            Decision::Join | Decision::Start(_) if own_run::is_within(session) => Err(Error::waits_for_itself()),
            Decision::Use(token) => Ok(Acquired::Ready(token)),
            Decision::Fail(error) => Err(error),
            Decision::OverBudget => {
                let first = state.session.on_over_budget(&self.policy, now);
                drop((state, slot));
                self.telemetry.budget_exhausted(first);
                Err(Error::too_many_rejections())
            }
            Decision::Join => Ok(Acquired::Wait(slot.join(now.mono).expect("a run is in flight"))),
            Decision::Start(plan) => {
                // Checked first, so that a run that cannot start changes nothing.
                let runtime = clock::runtime().ok_or_else(Error::no_runtime)?;
                let run = Run { number: slot.next_run(), plan };
                state.session.on_started(run, &self.policy, now);
                let pause = state.session.pause_before(plan, now);
                // Read now, because another token may be adopted before the run is first polled. The run then uses
                // that.
                let generation = state.session.view().current.as_ref().map_or(0, |current| current.token.generation());
                let fetch = Arc::clone(self).run(run, Arc::clone(&state.source), generation);
                let work = own_run::within(session, async move {
                    if !pause.is_zero() {
                        // The error is dropped, because without timers the fetch fails anyway.
                        let _ = clock::pause(pause).await;
                    }
                    fetch.await
                });
                let longest = pause + self.longest_run(&state);
                drop(state);
                let (waiter, task) = slot.start(now.mono + longest, work);
                // No lock may be held here, because a runtime that is shutting down drops the task at once.
                runtime.spawn(task);
                Ok(Acquired::Wait(waiter))
            }
        }
    }

    /// How long a run takes at most after its pause, as the sum of the deadlines of its steps.
    fn longest_run(&self, state: &State) -> Duration {
        let fetching = self.policy.fetch_deadline();
        // The wait for a permit has its own deadline, which is as long as that of the call.
        let queueing = if state.token_calls.is_some() { fetching } else { Duration::ZERO };
        let saving = if state.on_rotation.is_some() { SAVE_DEADLINE } else { Duration::ZERO };
        #[cfg(feature = "store")]
        let sharing = self.store.as_ref().map_or(Duration::ZERO, |store| store.run_budget(fetching));
        #[cfg(not(feature = "store"))]
        let sharing = Duration::ZERO;
        queueing + fetching + saving + sharing + GRACE
    }

    // --- one fetch ---

    /// Fetches and publishes a token. Returns `None` if the session ignores the result. `generation`: the one that was
    /// current when the run started, or 0.
    #[cfg_attr(not(feature = "store"), expect(unused_variables, reason = "another token is never adopted"))]
    async fn run(
        self: Arc<Self>,
        run: Run,
        source: Arc<dyn DynSource>,
        generation: u64,
    ) -> Option<Result<Token, Error>> {
        let permit = self.token_call_permit().await;
        // The session may have been signed out during a long wait for the permit. Then no token call is made.
        if !matches!(permit, Ok(None)) && !self.state().session.wants(run) {
            return None;
        }
        let _permit = match permit {
            Ok(permit) => permit,
            Err(error) => return self.conclude(run, self.clock.now(), Err(error)).await,
        };
        #[cfg(feature = "store")]
        if let Some(store) = &self.store {
            return store.run(&self, run, source, generation).await;
        }
        let asked = self.clock.now();
        let (replaced, refresh_token) = {
            let state = self.state();
            // The source may have been replaced before this first poll.
            if state.session.epoch() != run.plan.epoch {
                return None;
            }
            (state.session.newest().cloned(), state.session.refresh_token().cloned())
        };
        let (answer, _) = self.ask(run, &source, replaced, refresh_token).await;
        let received = self.receive(run, answer)?;
        self.conclude(run, asked, received).await
    }

    /// Passes the source's result to the session. Returns `None` if the session ignores it.
    fn receive(&self, run: Run, answer: Result<Token, Error>) -> Option<Result<Token, Error>> {
        match answer.map(|token| self.state().session.on_received(run, token)) {
            Ok(Some(token)) => Some(Ok(token)),
            Ok(None) => {
                self.telemetry.fetch_discarded(run.plan.reason);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Saves the refresh token, publishes the token, and reports both to the telemetry.
    async fn conclude(
        &self,
        run: Run,
        asked: DualInstant,
        received: Result<Token, Error>,
    ) -> Option<Result<Token, Error>> {
        let reason = run.plan.reason;
        // Also after a failure, because the source may have reported a new refresh token before it failed.
        self.save().await;
        let (waiters, first_wait_at) = self.flight.waiting();
        let now = self.clock.now();
        let timing = Timing { asked, now, jitter: fastrand::f64() };
        let mut state = self.state();
        let outcome = match received {
            Ok(token) => state.session.on_fetched(run, token, &self.policy, timing),
            Err(error) => state.session.on_failed(run, error, timing),
        };
        drop(self.publish(state));
        let fetch = Fetch {
            reason,
            took: now.mono.saturating_sub(asked.mono),
            waiters,
            longest_wait: first_wait_at.map_or(Duration::ZERO, |since| now.mono.saturating_sub(since)),
        };
        match outcome {
            Outcome::Fetched { token, remaining } => {
                self.report_token_end();
                self.telemetry.fetched(&fetch, token.generation(), token.lifetime(), remaining);
                Some(Ok(token))
            }
            Outcome::Failed { error, for_waiters, backoff } => {
                self.telemetry.fetch_failed(&fetch, &error, backoff);
                Some(for_waiters)
            }
            Outcome::Discarded => {
                self.telemetry.fetch_discarded(reason);
                None
            }
        }
    }

    /// Waits for the permit to make a token call, if this cache shares permits with others.
    ///
    /// The semaphore is fair, and each cache holds one permit at most. So a slow issuer delays the other caches only by
    /// the permit that its own cache holds.
    async fn token_call_permit(&self) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(token_calls) = self.state().token_calls.clone() else { return Ok(None) };
        let deadline = self.policy.fetch_deadline();
        match clock::timeout(deadline, token_calls.acquire_owned())?.await {
            // The semaphore is never closed.
            Ok(permit) => Ok(permit.ok()),
            Err(_) => Err(Error::too_many_token_calls(deadline)),
        }
    }

    /// Calls the source, within the fetch deadline. Returns also the newest refresh token, which the source may have
    /// reported before it failed.
    async fn ask(
        self: &Arc<Self>,
        run: Run,
        source: &Arc<dyn DynSource>,
        replaced: Option<Token>,
        refresh_token: Option<Secret>,
    ) -> (Result<Token, Error>, Option<Secret>) {
        let deadline = self.policy.fetch_deadline();
        // Weak, so that a context that the source stores does not keep the cache alive.
        let driver = Arc::downgrade(self);
        let report = move |refresh_token| {
            if let Some(driver) = Weak::upgrade(&driver) {
                driver.state().session.on_rotated(run, refresh_token);
            }
        };
        let clock = self.clock.clone();
        let context = FetchContext::of_cache(replaced, refresh_token, run.plan.reason, deadline, clock, report);
        let asked_with = context.clone();
        let (failed_fetches, challenges) = {
            let state = self.state();
            let is_rejection = run.plan.reason == Reason::Rejected;
            let challenges = if is_rejection { state.session.challenges().to_vec() } else { Vec::new() };
            (state.session.failed_fetches(), challenges)
        };
        // Parsed while no lock is held, because the headers may be long.
        let headers = challenges.into_iter().map(|value| (WWW_AUTHENTICATE, value)).collect();
        let context = context.with_failed_fetches(failed_fetches).with_challenges(Challenge::all(&headers));
        let span = self.telemetry.fetching(run.plan.reason);
        let fetch = catch_panic(async { source.fetch(context).await }).instrument(span);
        let answer = match clock::timeout(deadline, fetch) {
            Ok(fetch) => match fetch.await {
                Ok(Ok(fetched)) => fetched,
                Ok(Err(Panicked)) => Err(Error::panicked()),
                Err(_) => Err(Error::timed_out(deadline)),
            },
            Err(error) => Err(error),
        };
        (answer, asked_with.refresh_token())
    }

    // --- the refresh token ---

    /// Saves the newest refresh token, if it is not saved yet.
    async fn save(&self) {
        loop {
            // Registered before the check, so that the end of another save is not missed.
            let mut ended = pin!(self.changed.notified());
            ended.as_mut().enable();
            let now = self.clock.now();
            let step = {
                let mut state = self.state();
                let Some(save) = state.on_rotation.clone() else { return };
                (state.session.begin_save(now, now.after(SAVE_DEADLINE + GRACE)), save)
            };
            match step {
                (SaveStep::Done, _) => return,
                (SaveStep::Wait(until), _) => clock::at_most(until.wait(now), ended).await,
                (SaveStep::Save(ticket, rotated), save) => {
                    if !self.save_rotated(ticket, rotated, save).await {
                        return;
                    }
                }
            }
        }
    }

    /// Saves one refresh token. Returns whether a newer one still has to be saved.
    async fn save_rotated(&self, ticket: SaveTicket, rotated: RotatedToken, save: Arc<dyn Save>) -> bool {
        let guard = SaveGuard { driver: self, ticket };
        let result = match clock::timeout(SAVE_DEADLINE, catch_panic(save(rotated))) {
            Ok(saving) => match saving.await {
                Ok(Ok(saved)) => saved.map_err(Error::not_saved),
                Ok(Err(Panicked)) => Err(Error::not_saved(Error::panicked())),
                Err(_) => Err(Error::not_saved(Error::timed_out(SAVE_DEADLINE))),
            },
            Err(error) => Err(Error::not_saved(error)),
        };
        mem::forget(guard);
        if let Err(error) = &result {
            self.telemetry.not_saved(error);
        }
        self.on_saved(ticket, Some(result))
    }

    fn on_saved(&self, ticket: SaveTicket, result: Option<Result<(), Error>>) -> bool {
        let (again, _previous) = self.state().session.on_saved(ticket, result);
        self.changed.notify_waiters();
        again
    }

    // --- sources, sessions and the end ---

    /// Replaces the source. `same_session`: the new source is for the same login.
    pub(crate) fn set_source(&self, source: impl TokenSource, same_session: bool) {
        let source: Arc<dyn DynSource> = Arc::new(source);
        let slot = SingleFlight::lock(&self.flight);
        let mut state = self.state();
        state.session.on_new_source(same_session);
        let previous = (mem::replace(&mut state.source, source), self.publish(state));
        slot.detach();
        drop(previous);
        self.report_token_end();
        self.changed.notify_waiters();
    }

    /// Ends the session, as [`TokenCache::sign_out`](crate::TokenCache::sign_out) says.
    pub(crate) async fn sign_out<F, T, E>(&self, revoke: F) -> Result<(), Error>
    where
        F: FnOnce(Secret) -> T,
        T: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        if own_run::is_within(self.snapshot.load().view.session) {
            return Err(Error::waits_for_itself());
        }
        let (epoch, running, previous) = {
            let slot = SingleFlight::lock(&self.flight);
            let mut state = self.state();
            let epoch = state.session.on_sign_out();
            (epoch, slot.handle(), self.publish(state))
        };
        drop(previous);
        self.report_token_end();
        if let Some(running) = &running {
            running.resolve_waiters(Err(Error::signed_out()));
        }
        self.until_ended(running).await;
        let (source, newest) = {
            let mut state = self.state();
            let newest = state.session.on_run_ended(epoch)?;
            (Arc::clone(&state.source), newest)
        };
        let refresh_token = match newest {
            Some(newest) => Ok(Some(newest)),
            None => source.refresh_token().await.map_err(Error::not_revoked),
        };
        let revoke = async |refresh_token: Result<Option<Secret>, Error>| match refresh_token? {
            Some(refresh_token) => revoke(refresh_token).await.map_err(Error::not_revoked),
            None => Ok(()),
        };
        #[cfg(feature = "store")]
        let revoked = match &self.store {
            Some(store) => {
                let (to_revoke, sign_out) = store.start_sign_out(self, epoch, &source, refresh_token).await;
                let revoked = sign_out.extend_while(revoke(to_revoke)).await;
                store.finish_sign_out(self, epoch, sign_out, revoked).await
            }
            None => revoke(refresh_token).await,
        };
        #[cfg(not(feature = "store"))]
        let revoked = revoke(refresh_token).await;
        let previous = {
            let mut state = self.state();
            let forget = state.session.on_revoked(epoch);
            forget.then(|| mem::replace(&mut state.source, Arc::new(Fixed)))
        };
        drop((previous, source));
        self.telemetry.signed_out(revoked.as_ref().err());
        revoked
    }

    /// Stops fetching, and waits for the fetch in flight.
    pub(crate) async fn shut_down(&self) {
        let running = {
            let slot = SingleFlight::lock(&self.flight);
            self.state().session.on_closed();
            slot.handle()
        };
        self.changed.notify_waiters();
        if !own_run::is_within(self.snapshot.load().view.session) {
            self.until_ended(running).await;
        }
    }

    /// Waits until the run ends or its deadline passes.
    async fn until_ended(&self, running: Option<InFlightHandle<Result<Token, Error>>>) {
        if let Some(running) = running {
            let remaining = running.deadline().saturating_sub(self.clock.now().mono);
            clock::at_most(remaining, running.ended()).await;
        }
    }

    /// Publishes a token that is never replaced.
    pub(crate) fn adopt(&self, token: Token) {
        let now = self.clock.now();
        let window = Window::new(&self.policy, token.lifetime(), now, Duration::ZERO, 0.0);
        let mut state = self.state();
        // The time of issue is unknown, so the token does not count as young when an API rejects it.
        state.session.on_adopted(token, window, DualInstant::default(), now);
        drop(self.publish(state));
    }

    // --- for a keyed cache ---

    /// Adds this cache to a keyed cache, whose caches share these permits and one set of metrics.
    #[cfg(feature = "keyed")]
    pub(crate) fn join_group(&self, name: Option<Arc<str>>, token_calls: Arc<Semaphore>) {
        self.telemetry.join_group(name);
        self.state().token_calls = Some(token_calls);
    }

    /// Records that the keyed cache returned this cache.
    #[cfg(feature = "keyed")]
    pub(crate) fn touch(&self, tick: u64) {
        self.last_used.store(tick, Ordering::Relaxed);
    }

    #[cfg(feature = "keyed")]
    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Whether dropping this cache would lose the newest refresh token.
    #[cfg(feature = "keyed")]
    pub(crate) fn holds_unsaved_refresh_token(&self) -> bool {
        let state = self.state();
        #[cfg(feature = "store")]
        if self.store.is_some() {
            return state.session.holds_unsaved_record();
        }
        state.session.holds_unsaved_refresh_token()
    }

    // --- keep_warm ---

    pub(crate) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Starts a refresh if one is due. Returns how long to sleep, or `None` if the cache is closed.
    pub(crate) fn warm(self: &Arc<Self>) -> Option<Duration> {
        if self.state().session.is_closed() {
            return None;
        }
        self.refresh_in_background();
        let now = self.clock.now();
        let snapshot = self.snapshot.load();
        let view = &snapshot.view;
        let idle = match (view.active_backoff(now), view.usable_at(now)) {
            (Some(failure), _) => failure.retry_at.wait(now),
            (None, Some((current, Phase::Fresh))) => current.window.until_due(now),
            // A run is in flight. `changed` signals its end, and after its deadline another run may replace it.
            (None, _) => {
                let handle = SingleFlight::lock(&self.flight).handle();
                let remaining = handle.map(|running| running.deadline().saturating_sub(now.mono));
                remaining.filter(|remaining| !remaining.is_zero()).unwrap_or(MAX_IDLE)
            }
        };
        Some(idle.min(MAX_IDLE))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

impl Drop for SaveGuard<'_> {
    fn drop(&mut self) {
        self.driver.on_saved(self.ticket, None);
    }
}

/// Turns a panic of a user's future into an error.
async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}
