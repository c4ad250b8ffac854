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
use crate::cache::session::{
    Decision, Demand, Outcome, Rejection, RotatedToken, Run, SaveStep, SaveTicket, Session, Status, Timing,
};
#[cfg(feature = "store")]
use crate::cache::session::{Finding, Look, StoreStatus};
use crate::cache::settings::{CachePolicy, Save, Settings};
#[cfg(feature = "store")]
use crate::cache::shared::{Content, Found, HeldLease, Polls, SaveEnd, Shared, Taken};
use crate::challenge::Challenge;
use crate::clock::{self, Clock};
use crate::error::Error;
#[cfg(feature = "store")]
use crate::error::StoreProblem;
#[cfg(feature = "store")]
use crate::schedule::RefreshPolicy;
use crate::schedule::{DualInstant, Phase, Sign, Window};
use crate::secret::Secret;
use crate::singleflight::{InFlightHandle, SingleFlight, Waiter};
use crate::source::erased::DynSource;
use crate::source::{FetchContext, Fixed, Reason, TokenSource};
#[cfg(feature = "store")]
use crate::store::record::{Digest, Ending, Record, SavedToken, State as RecordState};
#[cfg(feature = "store")]
use crate::telemetry::Sharing;
use crate::telemetry::{Fetch, Telemetry};
use crate::token::{SessionId, Token, TokenId};

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
    shared: Option<Arc<Shared>>,
}

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

/// One run of a shared session, and what it needs to look at the record.
#[cfg(feature = "store")]
struct Attempt {
    run: Run,
    source: Arc<dyn DynSource>,
    identity: Digest,
    /// The refresh token that the source begins with, if that can make a difference.
    seed: OnceLock<Option<Secret>>,
    /// The generation that was held at its beginning.
    generation: u64,
}

/// What a look leaves to be done.
#[cfg(feature = "store")]
enum Step {
    /// Nothing: this is the answer.
    Done(Option<Result<Token, Error>>),
    /// Nothing: the run has failed.
    Failed(Error),
    /// To fetch the token that follows this record; `is_login`: with what the source begins with.
    Fetch { base: Record, is_login: bool },
}

/// How the work under a lease ended.
#[cfg(feature = "store")]
enum Leased {
    Done(Option<Result<Token, Error>>),
    /// The answer is used, and not saved yet. Whoever had the lease would spend the refresh token again.
    Unsaved(Option<Result<Token, Error>>),
    /// The lease was lost before anything was spent.
    Lost,
}

/// Notes that nobody watches the record any more.
#[cfg(feature = "store")]
struct WatchGuard(Arc<Shared>);

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
/// How often a lease holder looks at a record that changes although it holds the lease.
#[cfg(feature = "store")]
const MAX_LOOKS: usize = 3;
/// Between two attempts to save in the background.
#[cfg(feature = "store")]
const SAVE_PAUSE: Duration = Duration::from_millis(500);
/// How far apart processes look that were told of a change at once.
#[cfg(feature = "store")]
const LOOK_SPREAD: Duration = Duration::from_millis(100);
/// A longer response is not kept while its request waits.
const MAX_UNREAD_RESPONSE: u64 = 8 * 1024;

// === impl Driver: construction and views ===

impl Driver {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let Settings {
            source,
            policy,
            name,
            on_rotation,
            #[cfg(feature = "store")]
            shared,
            clock,
        } = settings;
        #[cfg(feature = "store")]
        let shared = shared.map(|session| Arc::new(Shared::new(session, clock.clone())));
        static CACHES: AtomicU32 = AtomicU32::new(1);
        let cache = NonZeroU32::new(CACHES.fetch_add(1, Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN);
        let session = Session::new(SessionId::first_of(cache));
        let changed = Arc::new(Notify::new());
        let idle = Arc::clone(&changed);
        Arc::new(Self {
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
            shared,
        })
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
        let (error, looked) = self.shared.as_ref()?.health();
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
    fn tell_token_end(&self) {
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
            Rejection::StandIn { first } => {
                drop(self.publish(state));
                self.tell_token_end();
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
                let deadline = match &self.shared {
                    Some(shared) => deadline + shared.run_budget(self.policy.fetch_deadline()),
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
        if let Some(shared) = &self.shared {
            return self.run_shared(&Arc::clone(shared), run, source, held).await;
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
                self.tell_token_end();
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
        self.tell_token_end();
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
        self.tell_token_end();
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
            None => source.refresh_token().await,
        };
        let revoke = async |refresh_token: Option<Secret>| match refresh_token {
            Some(refresh_token) => revoke(refresh_token).await.map_err(Error::not_revoked),
            None => Ok(()),
        };
        #[cfg(feature = "store")]
        let revoked = match (&self.shared, refresh_token) {
            (Some(shared), refresh_token) => self.end_record(shared, epoch, &source, refresh_token, revoke).await,
            (None, Ok(refresh_token)) => revoke(refresh_token).await,
            (None, Err(error)) => Err(Error::not_revoked(error)),
        };
        #[cfg(not(feature = "store"))]
        let revoked = match refresh_token {
            Ok(refresh_token) => revoke(refresh_token).await,
            Err(error) => Err(Error::not_revoked(error)),
        };
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
        if self.shared.is_some() {
            return state.session.unsaved().is_some();
        }
        state.session.holds_unsaved_refresh_token()
    }

    // --- a session that processes share ---

    /// One fetch of a shared session: look, lease, look again, call, save, publish, release.
    #[cfg(feature = "store")]
    async fn run_shared(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        run: Run,
        source: Arc<dyn DynSource>,
        generation: u64,
    ) -> Option<Result<Token, Error>> {
        if shared.start_watching() {
            self.telemetry.begin_sharing();
            let watching = Self::watch(Arc::downgrade(self), Arc::clone(shared), Arc::clone(&self.changed));
            if let Some(runtime) = clock::runtime() {
                runtime.spawn(watching);
            }
        }
        let began = self.clock.now();
        let attempt =
            Attempt { run, identity: shared.identity(&source.identity()), seed: OnceLock::new(), generation, source };
        let (mut polls, mut waits) = (Polls::new(), false);
        let error = loop {
            // Before the look, so that no change after it is missed.
            let changed = shared.subscribe().await;
            match self.look(shared, &attempt).await {
                Ok((_, Step::Done(answer))) => return answer,
                Ok((_, Step::Failed(error))) => break error,
                Ok((_, Step::Fetch { .. })) => {}
                Err(error) => return self.run_without_store(shared, &attempt, error).await,
            }
            let taken = shared.acquire().await;
            let waited = self.clock.now().mono.saturating_sub(began.mono);
            match taken {
                Err(error) => return self.run_without_store(shared, &attempt, error).await,
                Ok(Taken::Held(lease)) => {
                    if mem::take(&mut waits) {
                        self.telemetry.shared(&Sharing::LeaseWaited { waited, obtained: true });
                    }
                    let answer = lease.keep(self.run_with_lease(shared, &attempt, &lease)).await;
                    match answer {
                        Leased::Unsaved(answer) => {
                            if let Some(runtime) = clock::runtime() {
                                runtime.spawn(Self::save_later(Arc::downgrade(self), Arc::clone(shared), lease));
                            }
                            return answer;
                        }
                        Leased::Done(answer) => {
                            lease.release().await;
                            return answer;
                        }
                        Leased::Lost => lease.release().await,
                    }
                }
                Ok(Taken::Busy { owner, remaining }) => {
                    waits = true;
                    if waited >= self.policy.fetch_deadline() {
                        self.telemetry.shared(&Sharing::LeaseWaited { waited, obtained: false });
                        let owner = owner.unwrap_or_else(|| "another process".to_owned());
                        let problem = format!(
                            "{owner} has held the lease on the shared session for {waited:.0?}, and this process does not \
                             refresh without it; try again after a pause"
                        );
                        break Error::shared(problem, StoreProblem::Transient);
                    }
                    clock::at_most(polls.next(remaining), changed).await;
                }
            }
        };
        self.conclude(run, began, Err(error)).await
    }

    /// The work under the lease.
    #[cfg(feature = "store")]
    async fn run_with_lease(self: &Arc<Self>, shared: &Shared, attempt: &Attempt, lease: &HeldLease) -> Leased {
        let run = attempt.run;
        // More than once only if the record has changed although the lease is held.
        for _ in 0..MAX_LOOKS {
            let (found, step) = match self.look(shared, attempt).await {
                Ok(looked) => looked,
                Err(error) => return Leased::Done(self.run_without_store(shared, attempt, error).await),
            };
            let (base, is_login) = match step {
                Step::Done(answer) => return Leased::Done(answer),
                Step::Failed(error) => return Leased::Done(self.conclude(run, self.clock.now(), Err(error)).await),
                Step::Fetch { base, is_login } => (base, is_login),
            };
            let mut version = found.version;
            if let (Content::Unreadable(why), Some(unreadable)) = (&found.content, version) {
                match lease.set_aside(unreadable).await {
                    Ok(Some(name)) => self.telemetry.shared(&Sharing::SetAside { why, name: &name }),
                    Ok(None) => return Leased::Lost,
                    Err(error) => return Leased::Done(self.run_without_store(shared, attempt, error).await),
                }
                version = None;
            }
            let interrupted = base.refreshing().is_some();
            if interrupted {
                self.telemetry.shared(&Sharing::Resumed { serial: base.serial });
            }
            let spent = base.refresh_token().cloned();
            // Written down before the refresh token is spent: if this process dies, the next one knows. The save is also
            // the last check that the lease is this process's. A login replaces no record before it has succeeded.
            let marked = spent.is_some() && (!is_login || version.is_none());
            if marked {
                match lease.save(version, &base.clone().with_refreshing(Some(&lease.owner))).await {
                    SaveEnd::Saved(saved) => version = Some(saved),
                    SaveEnd::Conflict => return self.lost(&base),
                    SaveEnd::Failed(error) => {
                        return Leased::Done(self.run_without_store(shared, attempt, error).await);
                    }
                }
            }
            let asked = self.clock.now();
            // A login begins with what its source has.
            let (replaced, refresh_token) = match is_login {
                true => (None, None),
                false => (base.token().map(|saved| saved.token.clone()), spent.clone()),
            };
            let (answer, newest) = self.ask(run, &attempt.source, replaced, refresh_token).await;
            let error = match &answer {
                Ok(_) => None,
                Err(error) => Some(error.clone()),
            };
            if let Some(record) = answered(&base, &answer, newest, spent.as_ref(), asked) {
                let received = self.receive(run, answer);
                let saved = lease.save(version, &record).await;
                let failed = matches!(saved, SaveEnd::Failed(_));
                if let Some(answer) = self.on_record_saved(shared, attempt, asked, record, saved).await {
                    return Leased::Done(answer);
                }
                let answer = match received {
                    Some(received) => self.conclude(run, asked, received).await,
                    None => None,
                };
                return if failed { Leased::Unsaved(answer) } else { Leased::Done(answer) };
            }
            let Some(error) = error else {
                // A token that is not worth a record: dead on arrival.
                let received = self.receive(run, answer);
                return Leased::Done(match received {
                    Some(received) => self.conclude(run, asked, received).await,
                    None => None,
                });
            };
            let denied = error.is_denied() && !error.is_denied_client();
            if let (true, Some(spent)) = (denied && (marked || !is_login), &spent) {
                // Another process may have replaced it, if the lease was lost.
                match self.look(shared, attempt).await {
                    Ok((_, Step::Done(answer))) => return Leased::Done(answer),
                    Ok((found, Step::Fetch { base: now, .. })) if now.refresh_token() == Some(spent) => {
                        let ending = Ending::Denied { refresh_token: Digest::of_secret(spent) };
                        let record = now.next(RecordState::Ended(ending));
                        let saved = lease.save(found.version, &record).await;
                        if let Some(answer) = self.on_record_saved(shared, attempt, asked, record, saved).await {
                            return Leased::Done(answer);
                        }
                    }
                    // Another refresh token: it is tried.
                    Ok((_, Step::Fetch { .. })) => continue,
                    Ok((_, Step::Failed(_))) | Err(_) => {}
                }
            } else if marked && error.status().is_some() {
                // The issuer answered, so the refresh token is not spent.
                let _ = lease.save(version, &base.with_refreshing(None)).await;
            }
            let error = if denied && interrupted { error.after_interrupted_refresh() } else { error };
            return Leased::Done(self.conclude(run, asked, Err(error)).await);
        }
        Leased::Lost
    }

    /// The record that this process made was saved, or was not. Returns the answer if another process was faster.
    #[cfg(feature = "store")]
    async fn on_record_saved(
        &self,
        shared: &Shared,
        attempt: &Attempt,
        asked: DualInstant,
        record: Record,
        saved: SaveEnd,
    ) -> Option<Option<Result<Token, Error>>> {
        let serial = record.serial;
        match saved {
            SaveEnd::Saved(_) => {
                let unsaved_for = self.clock.now().mono.saturating_sub(asked.mono);
                self.state().session.on_record_made(attempt.run, record, None);
                self.telemetry.shared(&Sharing::Saved { serial, unsaved_for });
            }
            SaveEnd::Conflict => {
                let problem = "the lease was lost, and another process may have saved; the token is in memory only";
                let error = Error::shared(problem, StoreProblem::Transient);
                self.state().session.on_record_made(attempt.run, record, Some(error));
                self.telemetry.shared(&Sharing::Conflict { serial });
                // Adopts what is there, if it is newer.
                if let Ok((_, Step::Done(answer))) = self.look(shared, attempt).await {
                    return Some(answer);
                }
            }
            SaveEnd::Failed(error) => {
                self.store_failed(shared, &error);
                let error = Error::not_saved(error);
                self.telemetry.not_saved(&error);
                self.state().session.on_record_made(attempt.run, record, Some(error));
            }
        }
        None
    }

    /// The lease was lost before anything was spent.
    #[cfg(feature = "store")]
    fn lost(&self, base: &Record) -> Leased {
        self.telemetry.shared(&Sharing::Conflict { serial: base.serial });
        Leased::Lost
    }

    /// Looks at the record, and adopts what is newer than what this process holds.
    #[cfg(feature = "store")]
    async fn look(&self, shared: &Shared, attempt: &Attempt) -> Result<(Found, Step), Error> {
        let found = shared.look().await?;
        if shared.note_success() {
            self.telemetry.shared(&Sharing::Reachable);
        }
        self.find_seed(attempt, &found).await;
        let finding = self.on_found(&found, attempt.look(&self.policy, self.clock.now()));
        let step = match finding {
            Finding::Usable { token, .. } => {
                self.save().await;
                Step::Done(Some(Ok(token)))
            }
            Finding::Ended(error) if error.is_signed_out() => Step::Done(Some(Err(error))),
            Finding::Ended(error) | Finding::Foreign(error) => Step::Failed(error),
            Finding::Fetch { base, is_login } => Step::Fetch { base, is_login },
            Finding::Lost(known) => Step::Fetch { base: known, is_login: false },
            Finding::Discarded => {
                self.telemetry.fetch_discarded(attempt.run.plan.reason);
                Step::Done(None)
            }
        };
        Ok((found, step))
    }

    /// Tells the session what lies in the store, publishes what that changed, and tells of it.
    #[cfg(feature = "store")]
    fn on_found(&self, found: &Found, look: Look<'_>) -> Finding {
        let (record, why) = match &found.content {
            Content::Record(record) => (Some(record), None),
            Content::Unreadable(why) => (None, Some(why)),
            Content::Absent => (None, None),
        };
        let mut state = self.state();
        let was_ended = state.session.is_ended_elsewhere();
        let finding = state.session.on_found(record, &look);
        let ended = !was_ended && state.session.is_ended_elsewhere();
        let adopted = matches!(finding, Finding::Usable { adopted: true, .. });
        let former = (adopted || ended || was_ended).then(|| self.publish(state));
        drop(former);
        match &finding {
            Finding::Usable { token, adopted: true } => {
                let remaining = self.snapshot.load().view.current.as_ref().map(|current| current.window.left(look.now));
                self.telemetry.shared(&Sharing::Adopted {
                    generation: token.generation(),
                    serial: record.map_or(0, |record| record.serial),
                    remaining: remaining.unwrap_or_default(),
                });
                self.tell_token_end();
            }
            Finding::Ended(_) if ended => {
                self.telemetry.shared(&Sharing::Ended { signed_out: true });
                self.tell_token_end();
            }
            Finding::Foreign(_) => {
                self.telemetry
                    .shared(&Sharing::Unusable { why: "it belongs to another user, tenant, scope or issuer" });
            }
            _ => {}
        }
        if let Some(why) = why {
            self.telemetry.shared(&Sharing::Unusable { why });
        }
        finding
    }

    /// The store did not do what it was asked.
    #[cfg(feature = "store")]
    fn store_failed(&self, shared: &Shared, error: &Error) {
        let first = shared.note_failure(error);
        self.telemetry.shared(&Sharing::Unreachable { error, first });
    }

    /// Has the refresh token at hand that the source begins with, if it can make a difference.
    #[cfg(feature = "store")]
    async fn find_seed(&self, attempt: &Attempt, found: &Found) {
        let has_ended = matches!(&found.content, Content::Record(Record { state: RecordState::Ended(_), .. }));
        let begins = {
            let state = self.state();
            state.session.known_record().is_none() || state.session.has_new_login()
        };
        if (has_ended || begins) && attempt.seed.get().is_none() {
            let _ = attempt.seed.set(self.first_refresh_token(&attempt.source).await);
        }
    }

    #[cfg(feature = "store")]
    async fn first_refresh_token(&self, source: &Arc<dyn DynSource>) -> Option<Secret> {
        let asked = catch_panic(async { source.refresh_token().await });
        match clock::timeout(self.policy.fetch_deadline(), asked).ok()?.await {
            Ok(Ok(Ok(seed))) => seed,
            _ => None,
        }
    }

    /// A fetch while the store does not do what it is asked. Spends no refresh token, unless a setting allows it.
    #[cfg(feature = "store")]
    async fn run_without_store(
        self: &Arc<Self>,
        shared: &Shared,
        attempt: &Attempt,
        error: Error,
    ) -> Option<Result<Token, Error>> {
        self.store_failed(shared, &error);
        let (run, asked) = (attempt.run, self.clock.now());
        let allowed = shared.config.refresh_without_store;
        let has_token = self.snapshot.load().view.usable_at(asked).is_some();
        if attempt.seed.get().is_none() {
            let _ = attempt.seed.set(self.first_refresh_token(&attempt.source).await);
        }
        let spends = attempt.seed.get().is_some_and(Option::is_some);
        if has_token || spends && !allowed {
            return self.conclude(run, asked, Err(error)).await;
        }
        let (base, replaced, refresh_token) = {
            let state = self.state();
            let session = &state.session;
            if session.epoch() != run.plan.epoch {
                return None;
            }
            match session.known_record() {
                Some(known) if allowed && !session.has_new_login() => {
                    (known.clone(), session.newest().cloned(), session.refresh_token().cloned())
                }
                known => (session.login_over(known, &attempt.look(&self.policy, asked)), None, None),
            }
        };
        let (answer, newest) = self.ask(run, &attempt.source, replaced, refresh_token.clone()).await;
        let record = answered(&base, &answer, newest, refresh_token.as_ref(), asked);
        let received = self.receive(run, answer)?;
        if let Some(record) = record {
            self.state().session.on_record_made(run, record, Some(error));
        }
        self.conclude(run, asked, received).await
    }

    /// Looks at the record from time to time, and when the store tells of a change, for as long as there is a cache.
    #[cfg(feature = "store")]
    async fn watch(driver: Weak<Self>, shared: Arc<Shared>, changed: Arc<Notify>) {
        let _guard = WatchGuard(Arc::clone(&shared));
        loop {
            let wait = shared.config.look_every.mul_f64(0.9 + fastrand::f64() / 5.0);
            let mut told = shared.subscribe().await;
            let until = clock::from_now(wait);
            loop {
                let mut local = pin!(changed.notified());
                local.as_mut().enable();
                match driver.upgrade() {
                    Some(driver) if !driver.state().session.is_closed() => {}
                    _ => return,
                }
                let woken = std::future::poll_fn(|cx| match told.as_mut().poll(cx) {
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
            // Not all at once.
            clock::sleep(LOOK_SPREAD.mul_f64(fastrand::f64())).await;
            let Some(driver) = driver.upgrade() else { return };
            driver.watch_once(&shared).await;
        }
    }

    /// One look for which nobody waits.
    #[cfg(feature = "store")]
    async fn watch_once(&self, shared: &Arc<Shared>) {
        // A run looks by itself.
        if self.flight.is_in_flight(self.clock.now().mono) {
            return;
        }
        let (source, known) = {
            let state = self.state();
            (Arc::clone(&state.source), state.session.known_record().is_some() && !state.session.has_new_login())
        };
        if !known {
            return;
        }
        let identity = shared.identity(&source.identity());
        let found = match shared.look().await {
            Ok(found) => found,
            Err(error) => return self.store_failed(shared, &error),
        };
        if shared.note_success() {
            self.telemetry.shared(&Sharing::Reachable);
        }
        if let Content::Unreadable(why) = found.content {
            // Told of, and set aside by the next fetch: it may be a matter of a release that is being rolled out.
            self.telemetry.shared(&Sharing::Unusable { why });
            return;
        }
        match self.on_found(&found, self.idle_look(&identity)) {
            Finding::Usable { adopted: true, .. } => {
                self.save().await;
                self.changed.notify_waiters();
            }
            Finding::Lost(known) if is_worth_restoring(&known, self.clock.now()) => {
                if let Ok(Taken::Held(lease)) = shared.acquire().await {
                    lease.keep(self.restore(shared, &lease, &identity)).await;
                    lease.release().await;
                }
            }
            _ => {}
        }
    }

    #[cfg(feature = "store")]
    fn idle_look<'a>(&'a self, identity: &'a Digest) -> Look<'a> {
        let (now, jitter) = (self.clock.now(), fastrand::f64());
        Look { run: None, identity, seed: None, generation: u64::MAX, policy: &self.policy, now, jitter }
    }

    /// Writes the newest record again, if it is still missing under the lease. Returns whether the store failed.
    #[cfg(feature = "store")]
    async fn restore(&self, shared: &Shared, lease: &HeldLease, identity: &Digest) -> bool {
        let Ok(found) = shared.look().await else { return true };
        if matches!(found.content, Content::Unreadable(_)) {
            return false;
        }
        let Finding::Lost(known) = self.on_found(&found, self.idle_look(identity)) else { return false };
        match lease.save(found.version, &known.clone().with_refreshing(None)).await {
            SaveEnd::Saved(_) => {
                self.state().session.on_restored(&known);
                self.telemetry.shared(&Sharing::Restored { serial: known.serial });
                false
            }
            SaveEnd::Conflict => false,
            SaveEnd::Failed(_) => true,
        }
    }

    /// Goes on saving under the lease in the background, for as long as it can be extended: nobody else is to spend the
    /// refresh token of the record meanwhile.
    #[cfg(feature = "store")]
    async fn save_later(driver: Weak<Self>, shared: Arc<Shared>, lease: HeldLease) {
        lease
            .keep(async {
                while lease.lives() {
                    let Some(driver) = driver.upgrade() else { return };
                    let known = {
                        let state = driver.state();
                        let unsaved = state.session.unsaved().is_some();
                        state.session.known_record().filter(|_| unsaved).map(|known| known.identity.clone())
                    };
                    let Some(identity) = known else { return };
                    if !driver.restore(&shared, &lease, &identity).await {
                        return;
                    }
                    drop(driver);
                    clock::sleep(SAVE_PAUSE).await;
                }
            })
            .await;
        lease.release().await;
    }

    /// Ends the record of a session that is signed out, and revokes its newest refresh token once for all processes.
    #[cfg(feature = "store")]
    async fn end_record(
        &self,
        shared: &Arc<Shared>,
        epoch: u64,
        source: &Arc<dyn DynSource>,
        newest: Result<Option<Secret>, Error>,
        revoke: impl AsyncFnOnce(Option<Secret>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let newest = newest.map_err(Error::not_revoked);
        let lease = match self.lease_for_sign_out(shared).await {
            Ok(lease) => lease,
            Err(problem) => {
                // The others go on until the issuer denies them. What this process holds is revoked all the same.
                self.store_failed(shared, &problem);
                revoke(newest?).await?;
                return Err(problem);
            }
        };
        let ended = lease.keep(self.mark_signed_out(shared, &lease, source, newest.as_ref().ok())).await;
        let (to_revoke, marked) = match ended {
            Ok((to_revoke, version, record)) => (Ok(to_revoke), Ok((version, record))),
            Err(problem) => {
                self.store_failed(shared, &problem);
                (newest, Err(problem))
            }
        };
        let revoked = match to_revoke {
            Ok(to_revoke) => lease.keep(revoke(to_revoke)).await,
            Err(error) => Err(error),
        };
        let result = match marked {
            Ok((version, record)) => {
                let saved = lease.keep(lease.save(version, &record)).await;
                let problem = match saved {
                    SaveEnd::Saved(_) => None,
                    SaveEnd::Conflict => {
                        Some(Error::shared("the lease was lost in a sign-out", StoreProblem::Transient))
                    }
                    SaveEnd::Failed(error) => Some(error),
                };
                self.state().session.on_record_ended(epoch, record, problem);
                revoked
            }
            Err(problem) => revoked.and(Err(problem)),
        };
        lease.release().await;
        result
    }

    /// The lease, waited for as long as a fetch may take.
    #[cfg(feature = "store")]
    async fn lease_for_sign_out(&self, shared: &Arc<Shared>) -> Result<HeldLease, Error> {
        let (give_up_at, mut polls) = (self.clock.now().after(self.policy.fetch_deadline()), Polls::new());
        loop {
            let changed = shared.subscribe().await;
            match shared.acquire().await? {
                Taken::Held(lease) => return Ok(lease),
                Taken::Busy { .. } if give_up_at.is_past(self.clock.now()) => {
                    let problem =
                        "another process holds the lease on the shared session, which it may not know to have ended";
                    return Err(Error::shared(problem, StoreProblem::Transient));
                }
                Taken::Busy { remaining, .. } => clock::at_most(polls.next(remaining), changed).await,
            }
        }
    }

    /// Ends the record before the refresh token is revoked, so that no other process sends it. The refresh token stays in
    /// the record until it is revoked. Returns it, if it is to be revoked, the version, and the record without it.
    #[cfg(feature = "store")]
    async fn mark_signed_out(
        &self,
        shared: &Shared,
        lease: &HeldLease,
        source: &Arc<dyn DynSource>,
        newest: Option<&Option<Secret>>,
    ) -> Result<(Option<Secret>, Option<u64>, Record), Error> {
        let found = shared.look().await?;
        let known = self.state().session.known_record().cloned();
        // Signed out for the second time, the cache has no source any more.
        let identity = known.as_ref().map(|known| known.identity.clone());
        let identity = identity.unwrap_or_else(|| shared.identity(&source.identity()));
        let base = match (&found.content, known) {
            (Content::Record(found), _) if found.identity != identity => {
                let problem = "the record under this key belongs to another user, tenant, scope or issuer";
                return Err(Error::shared(problem, StoreProblem::Permanent));
            }
            (Content::Record(found), Some(known)) if !found.is_newer_than(&known) && !found.says_the_same(&known) => {
                known
            }
            (Content::Record(found), _) => found.clone(),
            (_, Some(known)) => known,
            (_, None) => {
                let state = RecordState::Active { token: None, refresh_token: None, refreshing: None };
                Record { identity, login: 1, serial: 0, seeds: Vec::new(), state }
            }
        };
        let mut version = found.version;
        if let (Content::Unreadable(why), Some(unreadable)) = (&found.content, version)
            && let Some(name) = lease.set_aside(unreadable).await?
        {
            self.telemetry.shared(&Sharing::SetAside { why, name: &name });
            version = None;
        }
        let to_revoke = match &base.state {
            RecordState::Active { refresh_token, .. } => refresh_token.clone().or_else(|| newest.cloned().flatten()),
            RecordState::Ended(Ending::SignedOut { revoke }) => revoke.clone(),
            RecordState::Ended(Ending::Denied { .. }) => None,
        };
        let ending = |revoke| base.next(RecordState::Ended(Ending::SignedOut { revoke }));
        // A process that starts with the same refresh token does not begin a new login.
        let seed = self.first_refresh_token(source).await.as_ref().map(Digest::of_secret);
        let ending = |revoke| ending(revoke).with_seed(seed.clone());
        match lease.save(version, &ending(to_revoke.clone())).await {
            SaveEnd::Saved(saved) => Ok((to_revoke, Some(saved), ending(None))),
            SaveEnd::Conflict => Err(Error::shared("the lease was lost in a sign-out", StoreProblem::Transient)),
            SaveEnd::Failed(error) => Err(error),
        }
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

#[cfg(feature = "store")]
impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.stop_watching();
    }
}

#[cfg(feature = "store")]
impl Attempt {
    fn look<'a>(&'a self, policy: &'a RefreshPolicy, now: DualInstant) -> Look<'a> {
        let Self { run, identity, seed, generation, .. } = self;
        let (seed, jitter) = (seed.get().and_then(Option::as_ref), fastrand::f64());
        Look { run: Some(*run), identity, seed, generation: *generation, policy, now, jitter }
    }
}

/// The record that follows `base` after this answer; `None` if there is nothing to save. `newest` is the newest refresh
/// token, which a source may have reported and then failed.
#[cfg(feature = "store")]
fn answered(
    base: &Record,
    answer: &Result<Token, Error>,
    newest: Option<Secret>,
    spent: Option<&Secret>,
    asked: DualInstant,
) -> Option<Record> {
    let reported = newest.filter(|newest| Some(newest) != spent);
    let (token, refresh_token) = match answer {
        Ok(token) => {
            let refresh_token = token.refresh_token().or(reported);
            // A dead token does not take the place of another.
            let saved = match token.lifetime().is_zero() {
                true => base.token().cloned(),
                false => Some(SavedToken { token: token.clone(), asked }),
            };
            (saved, refresh_token)
        }
        Err(_) => (base.token().cloned(), Some(reported?)),
    };
    if token.is_none() && refresh_token.is_none() {
        return None;
    }
    Some(base.next(RecordState::Active { token, refresh_token, refreshing: None }))
}

/// Whether a record that has vanished is missed.
#[cfg(feature = "store")]
fn is_worth_restoring(record: &Record, now: DualInstant) -> bool {
    let lives = |saved: &SavedToken| !saved.asked.after(saved.token.lifetime()).is_past(now);
    match &record.state {
        RecordState::Active { token, refresh_token, .. } => {
            refresh_token.is_some() || token.as_ref().is_some_and(lives)
        }
        RecordState::Ended(_) => true,
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
