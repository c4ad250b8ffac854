//! The driver: asks the session what to do, and does it.
//!
//! # The story
//! What requests need lies in one immutable [`Snapshot`] behind an `ArcSwap`; readers never lock. What fetches need lies in
//! [`State`] behind a mutex that no request takes while its token is usable. Each event goes the same way: lock the state,
//! tell the [`Session`], publish its view, unlock, and only then tell others (waiters, events, `keep_warm`).
//!
//! A fetch is one run of the single flight. It calls the source, keeps the new refresh token *before* anything else can
//! fail, saves it, and only then publishes the token. So a run that is superseded because its runtime stands still leaves
//! the newest refresh token behind, and the run after it does not spend a refresh token twice.
//!
//! Locks: the slot of the single flight, then the state. No user code runs while either is held, and neither is held
//! across an await. What a lock holder replaces may be a user's (a source, an error), so it is dropped after the lock.

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
use crate::cache::shared::SignOut;
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

// What a store adds. These files import this one, and the cache hands their `SharedStore` to the driver.
#[cfg(feature = "store")]
mod participant;
#[cfg(feature = "store")]
pub(crate) mod shared_store;
#[cfg(feature = "store")]
mod store_run;
#[cfg(feature = "store")]
mod store_tasks;

/// What all clones of one cache share.
pub(crate) struct Driver {
    snapshot: ArcSwap<Snapshot>,
    flight: Arc<SingleFlight<Result<Token, Error>>>,
    state: Mutex<State>,
    policy: CachePolicy,
    clock: Clock,
    telemetry: Telemetry,
    /// Notified after each run and each save: wakes `keep_warm`, and those that wait for the end of a save. Outlives this
    /// struct, to tell of its end.
    changed: Arc<Notify>,
    /// One permit for each KiB of rejected responses that wait unread. Made with the first of them.
    unread: OnceLock<Arc<Semaphore>>,
    /// When a keyed cache last handed this cache out, in ticks of the coarse clock.
    ///
    /// Ordering: relaxed, because eviction compares it with a time long past, under the lock of the map.
    #[cfg(feature = "keyed")]
    last_used: AtomicU64,
    /// The store of a session that processes share.
    #[cfg(feature = "store")]
    store: Option<Arc<dyn SessionStore>>,
}

/// The store of a session that processes share, as the driver calls it.
///
/// A trait, because what implements it calls the driver.
#[cfg(feature = "store")]
pub(crate) trait SessionStore: Send + Sync {
    /// How much longer a run may take than without a store.
    fn run_budget(&self, fetch_deadline: Duration) -> Duration;

    /// Why the store did not do what it was asked the last time, and how long ago the record was seen.
    fn health(&self) -> (Option<Error>, Option<Duration>);

    /// One fetch of the shared session. `held`: the generation that it is to replace.
    fn run<'a>(
        &'a self,
        driver: &'a Arc<Driver>,
        run: Run,
        source: Arc<dyn DynSource>,
        held: u64,
    ) -> BoxFuture<'a, Option<Result<Token, Error>>>;

    /// Ends the record, before the refresh token is revoked. Returns the refresh token to revoke.
    fn start_sign_out<'a>(
        &'a self,
        driver: &'a Driver,
        source: &'a Arc<dyn DynSource>,
        newest: Result<Option<Secret>, Error>,
    ) -> BoxFuture<'a, (Result<Option<Secret>, Error>, SignOut)>;

    /// Removes the refresh token from the record, now that it is revoked.
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
    /// One permit for each token call that caches which share it make at once.
    token_calls: Option<Arc<Semaphore>>,
}

/// A rejection of a token: by a response with this sign and these headers, or, without a sign, as a user says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rejected<'a> {
    pub(crate) sign: Option<Sign>,
    pub(crate) headers: Option<&'a HeaderMap>,
}

/// How a demand is met: at once, or by a run.
enum Acquired {
    Ready(Token),
    Wait(Waiter<Result<Token, Error>>),
}

/// Tells the session that its save was dropped half-way.
struct SaveGuard<'a> {
    driver: &'a Driver,
    ticket: SaveTicket,
}

/// A user's code panicked. The message went to the panic hook, which is the user's as well.
struct Panicked;

/// How long `on_rotation` may take. After that the token is published, saved or not.
const SAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long after its deadlines a run is superseded. On a runtime that is driven it has completed long before.
const GRACE: Duration = Duration::from_secs(1);
/// How long `keep_warm` sleeps at most, so that it notices when a suspended machine wakes up.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// How many runs of one source a waiter sees end without a result before it gives up.
const MAX_ROUNDS: u8 = 8;
/// How many KiB of rejected responses wait unread at most: half of the smallest window of an HTTP/2 connection
/// (RFC 9113 section 6.9.2).
const MAX_UNREAD_KIB: usize = 32;
/// A longer response is not kept while its request waits.
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

    /// The token that can be sent, without fetching.
    pub(crate) fn peek(&self) -> Option<Token> {
        let now = self.clock.now();
        let token = self.snapshot.load().view.usable_token(now);
        token.or_else(|| {
            // A token that stood in has ended, and the newer one is there.
            let mut state = self.state();
            let former = state.session.on_time(now).then(|| self.replace_snapshot(&state));
            let token = state.session.view().usable_token(now);
            drop((state, former));
            token
        })
    }

    /// The same for a caller of this session; an error if the session has ended.
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
        let (error, looked) = self.store.as_ref()?.health();
        let serial = session.known_record().map_or(0, |record| record.serial);
        Some(StoreStatus { error, unsaved: session.unsaved().cloned(), looked, serial })
    }

    /// Room for an unread response of this size; `None` if the response is not to be kept.
    pub(crate) fn reserve_unread(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        // Each response counts, because it may hold a connection.
        let kib = u32::try_from(bytes.div_ceil(1024).max(1)).ok().filter(|_| bytes <= MAX_UNREAD_RESPONSE)?;
        let unread = self.unread.get_or_init(|| Arc::new(Semaphore::new(MAX_UNREAD_KIB)));
        Arc::clone(unread).try_acquire_many_owned(kib).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so a panic leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what requests see of the session, and unlocks the state. Returns the former snapshot, to be dropped after
    /// all locks.
    fn publish(&self, state: MutexGuard<'_, State>) -> Arc<Snapshot> {
        self.replace_snapshot(&state)
    }

    fn replace_snapshot(&self, state: &State) -> Arc<Snapshot> {
        self.snapshot.swap(Arc::new(Snapshot::new(Arc::clone(state.session.view()))))
    }

    /// Tells the telemetry when the current token ends. Outside all locks, because a recorder is user code.
    fn report_token_end(&self) {
        let end = self.snapshot.load().view.current.as_ref().and_then(|current| current.token.expires_at());
        self.telemetry.token_ends(end);
    }

    // --- callers ---

    /// Waits until the demand is met, or until an error says why not. The caller began in this session; `None`: in the
    /// present one.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        demand: Demand,
        mut session: Option<SessionId>,
    ) -> Result<Token, Error> {
        let mut give_up_at = None;
        let (mut epoch, mut rounds) = (0, 0);
        let error = loop {
            // Nothing that is made here is kept across the wait: every waiter would pay for it.
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
                // The run was abandoned, or its token is not newer than the one demanded.
                Ok(_) => {
                    let former = mem::replace(&mut epoch, self.state().session.epoch());
                    // A run of a former source was detached: nothing was lost.
                    rounds = if former == epoch { rounds + 1 } else { 1 };
                    if rounds == MAX_ROUNDS {
                        break Error::lost();
                    }
                }
                Err(_) if last => break Error::timed_out(self.policy.fetch_deadline()),
                Err(_) => {}
            }
        };
        // Other demands fail while there may be a token that can be sent.
        if demand == Demand::Usable {
            self.telemetry.unavailable(&error);
        }
        Err(error)
    }

    /// Starts a refresh ahead of time, without waiting for it.
    pub(crate) fn refresh_in_background(self: &Arc<Self>) {
        // The error is dropped, because the token can still be sent. A caller that has to wait gets it.
        let _ = self.start_in_background(Demand::Fresh, None, self.clock.now());
    }

    /// Notes that an API rejected this token, and starts its replacement without waiting for it.
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

    /// Notes that an API rejected this token.
    pub(crate) fn reject(&self, token: TokenId, rejected: Rejected<'_>) -> Rejection {
        let now = self.clock.now();
        let mut state = self.state();
        let rejection = state.session.on_rejected(token, rejected.sign, now);
        match rejection {
            Rejection::Marked { first } => {
                let challenges = rejected
                    .headers
                    .map_or_else(Vec::new, |headers| headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect());
                let former = state.session.keep_challenges(challenges);
                drop(state);
                drop(former);
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

    /// Notes whether an API accepted the second send of a request, which carried this token; `sign` says that it did not.
    pub(crate) fn retried(self: &Arc<Self>, token: TokenId, sign: Option<Sign>) {
        let Some(sign) = sign else { return self.state().session.on_accepted(token) };
        let now = self.clock.now();
        let mut state = self.state();
        let newer = state.session.on_rejected_again(token, sign, now);
        drop(self.publish(state));
        if let Some(newer) = newer {
            // The error is dropped: the caller has the API's response.
            let _ = self.replace_in_background(newer, Rejected { sign: Some(sign), headers: None });
        }
    }

    /// Starts what meets the demand, without waiting for it. `session`: as for [`acquire`](Self::acquire).
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

    /// Meets the demand without waiting for it, or finds out what to wait for.
    fn acquire_now(
        self: &Arc<Self>,
        demand: Demand,
        session: &mut Option<SessionId>,
        now: DualInstant,
    ) -> Result<Acquired, Error> {
        // A token that is there needs no lock.
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

    /// One decision and its consequence, in one step.
    fn join_or_start(
        self: &Arc<Self>,
        demand: Demand,
        session: SessionId,
        now: DualInstant,
    ) -> Result<Acquired, Error> {
        // Declared first, so that it is dropped after the locks.
        let _former;
        let slot = SingleFlight::lock(&self.flight);
        let mut state = self.state();
        _former = state.session.on_time(now).then(|| self.replace_snapshot(&state));
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
                // Before anything is spent on a run that cannot start.
                let runtime = clock::runtime().ok_or_else(Error::no_runtime)?;
                let run = Run { number: slot.next_run(), plan };
                state.session.on_started(run, &self.policy, now);
                let pause = state.session.pause_before(plan, now);
                // Of now: until the first poll of the run, another token may be adopted, which is what the run is to find.
                let held = state.session.view().current.as_ref().map_or(0, |current| current.token.generation());
                let fetch = Arc::clone(self).run(run, Arc::clone(&state.source), held);
                let work = own_run::within(session, async move {
                    if !pause.is_zero() {
                        // The error is dropped: without timers the fetch fails by itself.
                        let _ = clock::pause(pause).await;
                    }
                    fetch.await
                });
                let saving = if state.on_rotation.is_some() { SAVE_DEADLINE } else { Duration::ZERO };
                // The wait for a permit has a deadline of its own, as long as that of the call.
                let queueing = if state.token_calls.is_some() { self.policy.fetch_deadline() } else { Duration::ZERO };
                drop(state);
                let deadline = now.mono + pause + queueing + self.policy.fetch_deadline() + saving + GRACE;
                #[cfg(feature = "store")]
                let deadline = match &self.store {
                    Some(store) => deadline + store.run_budget(self.policy.fetch_deadline()),
                    None => deadline,
                };
                let (waiter, task) = slot.start(deadline, work);
                // Outside the locks: a runtime that is shutting down drops the task right here.
                runtime.spawn(task);
                Ok(Acquired::Wait(waiter))
            }
        }
    }

    // --- one fetch ---

    /// One fetch, from the question to the published answer; `None` if the answer is not wanted any more. `held`: the
    /// generation that it is to replace.
    #[cfg_attr(not(feature = "store"), expect(unused_variables, reason = "another token is never adopted"))]
    async fn run(self: Arc<Self>, run: Run, source: Arc<dyn DynSource>, held: u64) -> Option<Result<Token, Error>> {
        let permit = self.token_call_permit().await;
        // The wait for a permit may be long, and the session may have been signed out: then nothing is asked for.
        if !matches!(permit, Ok(None)) && !self.state().session.wants(run) {
            return None;
        }
        let _permit = match permit {
            Ok(permit) => permit,
            Err(error) => return self.conclude(run, self.clock.now(), Err(error)).await,
        };
        #[cfg(feature = "store")]
        if let Some(store) = &self.store {
            return store.run(&self, run, source, held).await;
        }
        let asked = self.clock.now();
        let (replaced, refresh_token) = {
            let state = self.state();
            // Between the start and this first poll the source may have been replaced.
            if state.session.epoch() != run.plan.epoch {
                return None;
            }
            (state.session.newest().cloned(), state.session.refresh_token().cloned())
        };
        let (answer, _) = self.ask(run, &source, replaced, refresh_token).await;
        let received = self.receive(run, answer)?;
        self.conclude(run, asked, received).await
    }

    /// Writes down what the source answered; `None` if it is not wanted any more.
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

    /// Saves the refresh token, publishes the token, and tells of both.
    async fn conclude(
        &self,
        run: Run,
        asked: DualInstant,
        received: Result<Token, Error>,
    ) -> Option<Result<Token, Error>> {
        let reason = run.plan.reason;
        // Also after a failure: the source may have reported a new refresh token before.
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
            Outcome::Failed { error, answer, backoff } => {
                self.telemetry.fetch_failed(&fetch, &error, backoff);
                Some(answer)
            }
            Outcome::Discarded => {
                self.telemetry.fetch_discarded(reason);
                None
            }
        }
    }

    /// Waits for the permit to make a token call, if this cache shares permits with others. They are given out in the order
    /// in which they were asked for, and each cache asks for one, so none waits longer because of another's slow issuer than
    /// for the permit that it holds.
    async fn token_call_permit(&self) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(token_calls) = self.state().token_calls.clone() else { return Ok(None) };
        let deadline = self.policy.fetch_deadline();
        match clock::timeout(deadline, token_calls.acquire_owned())?.await {
            // The semaphore is never closed.
            Ok(permit) => Ok(permit.ok()),
            Err(_) => Err(Error::too_many_token_calls(deadline)),
        }
    }

    /// Asks the source, within the fetch deadline. Returns also the newest refresh token, which the source may have reported
    /// before it failed.
    async fn ask(
        self: &Arc<Self>,
        run: Run,
        source: &Arc<dyn DynSource>,
        replaced: Option<Token>,
        refresh_token: Option<Secret>,
    ) -> (Result<Token, Error>, Option<Secret>) {
        let deadline = self.policy.fetch_deadline();
        // Weak: a context that a source keeps does not keep the cache.
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
        // Read outside the lock, because a server may send much.
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
            // Listens before it looks, so that the end of another save is not missed.
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

    /// Saves one refresh token; returns whether a newer one has to be saved again.
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
        let (again, _former) = self.state().session.on_saved(ticket, result);
        self.changed.notify_waiters();
        again
    }

    // --- sources, sessions and the end ---

    /// Puts another source in the place of the present one; `same_session`: for the same login.
    pub(crate) fn set_source(&self, source: impl TokenSource, same_session: bool) {
        let source: Arc<dyn DynSource> = Arc::new(source);
        let slot = SingleFlight::lock(&self.flight);
        let mut state = self.state();
        state.session.on_new_source(same_session);
        let former = (mem::replace(&mut state.source, source), self.publish(state));
        slot.detach();
        drop(former);
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
        let (epoch, running, former) = {
            let slot = SingleFlight::lock(&self.flight);
            let mut state = self.state();
            let epoch = state.session.on_sign_out();
            (epoch, slot.handle(), self.publish(state))
        };
        drop(former);
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
                let (to_revoke, sign_out) = store.start_sign_out(self, &source, refresh_token).await;
                let revoked = sign_out.keep(revoke(to_revoke)).await;
                store.finish_sign_out(self, epoch, sign_out, revoked).await
            }
            None => revoke(refresh_token).await,
        };
        #[cfg(not(feature = "store"))]
        let revoked = revoke(refresh_token).await;
        let former = {
            let mut state = self.state();
            let forget = state.session.on_revoked(epoch);
            forget.then(|| mem::replace(&mut state.source, Arc::new(Fixed)))
        };
        drop((former, source));
        self.telemetry.signed_out(revoked.as_ref().err());
        revoked
    }

    /// Starts no more fetches, and waits for the one in flight.
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

    /// Waits until a run ends, or until its deadline.
    async fn until_ended(&self, running: Option<InFlightHandle<Result<Token, Error>>>) {
        if let Some(running) = running {
            let remaining = running.deadline().saturating_sub(self.clock.now().mono);
            clock::at_most(remaining, running.ended()).await;
        }
    }

    /// Adopts a token that is never replaced, as if it had been published long ago.
    pub(crate) fn adopt(&self, token: Token) {
        let window = Window::new(&self.policy, token.lifetime(), self.clock.now(), Duration::ZERO, 0.0);
        let mut state = self.state();
        // Nothing is known of when it was issued, so it is not in time for a replication lag.
        state.session.on_adopted(token, window, DualInstant::default());
        drop(self.publish(state));
    }

    // --- one of many: for a keyed cache ---

    /// Makes this cache one of many: its token calls share these permits, and its metrics those of the others.
    #[cfg(feature = "keyed")]
    pub(crate) fn join_group(&self, name: Option<Arc<str>>, token_calls: Arc<Semaphore>) {
        self.telemetry.join_group(name);
        self.state().token_calls = Some(token_calls);
    }

    /// Notes that this cache was handed out.
    #[cfg(feature = "keyed")]
    pub(crate) fn touch(&self, tick: u64) {
        self.last_used.store(tick, Ordering::Relaxed);
    }

    #[cfg(feature = "keyed")]
    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Whether the newest refresh token would be lost with this cache.
    #[cfg(feature = "keyed")]
    pub(crate) fn holds_unsaved_refresh_token(&self) -> bool {
        let state = self.state();
        #[cfg(feature = "store")]
        if self.store.is_some() {
            return state.session.unsaved().is_some();
        }
        state.session.holds_unsaved_refresh_token()
    }

    // --- keep_warm ---

    pub(crate) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Starts what is due. Returns how long to sleep then; `None` if there is nothing to keep warm any more.
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
            // A run is in flight. Its end is a change, and from its deadline on it can be superseded.
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

/// Runs a user's future so that its panic is an error.
async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}
