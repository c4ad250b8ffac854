//! The session: what the cache holds, what a caller needs, and what each event does. Pure decisions.
//!
//! Nothing here locks, awaits, reads a clock or draws a random number: time and jitter are arguments. The driver takes the
//! lock, asks the session, runs the single flight, feeds the outcome back and publishes the [`View`].
//!
//! # The life of a session
//! ```text
//!            on_new_source                      on_new_source: another session
//!            +---------+                  +-------------------------------------------+
//!            v         |                  v                                           |
//!          Active -----+          Active (the next session)                           |
//!            |                                                                        |
//!            | on_sign_out                                on_run_ended                |
//!            +--------------> SigningOut ----------------------------> SignedOut -----+
//!                             the run in flight may still              no run is accepted;
//!                             rotate the refresh token                 the refresh token is revoked
//! ```
//! `on_closed` is independent of these: a closed cache starts no run and serves the token that it holds.
//!
//! # Three numbers
//! - A **session** is one login. A request belongs to the session in which it began, and never goes out with the token of
//!   another. Each sign-out and each other person's login begins a new one.
//! - An **epoch** counts sources. A run that was started for an older source is discarded.
//! - A **generation** counts tokens. A rejection names the token that was rejected, and does nothing unless that token is
//!   the current one.
//!
//! # A young token that is rejected
//! An API whose clock is behind rejects a token for its first seconds, and so does a server that has not heard of it yet. The
//! token before it is still good then. So the session keeps it until it expires, and puts it back into use for a moment;
//! then the newer is tried again. Only if there is none, or the API rejects that one as well, the rejection counts.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::error::Error;
#[cfg(feature = "store")]
use crate::error::StoreProblem;
use crate::schedule::{self, DualInstant, Phase, RefreshPolicy, RejectionBackoff, RejectionBudget, Sign, Window};
use crate::secret::Secret;
use crate::source::Reason;
#[cfg(feature = "store")]
use crate::store::record::{Digest, Ending, Record, SavedToken, State};
use crate::token::{SessionId, Token, TokenId};

/// The state of one cache.
#[derive(Debug)]
pub(crate) struct Session {
    /// Shared with the published snapshot, because there may be a session for each of a million keys.
    view: Arc<View>,
    lifecycle: Lifecycle,
    closed: bool,
    epoch: u64,
    /// Of the newest token that was published.
    generation: u64,
    /// When the newest token was asked for.
    asked: Option<DualInstant>,
    /// The newest generation that an API rejected.
    rejected: u64,
    rejections: RejectionBudget,
    /// Boxed, as the other token, because most sessions never need them.
    history: Option<Box<RejectionHistory>>,
    /// The other token that can be sent: the one before the current, or, while that one stands in, the newer.
    other: Option<Box<CurrentToken>>,
    /// Whether the former of both was marked as rejected: then it is only of use if the newer did not help.
    previous_is_suspect: bool,
    /// The newest run that was started.
    started_run: u64,
    /// The newest run whose answer was accepted.
    accepted_run: u64,
    /// The newest token of the source, published or not.
    newest: Option<Token>,
    rotation: Rotation,
    #[cfg(feature = "store")]
    shared: SharedState,
}

/// What rejections have taught.
#[derive(Debug, Default)]
struct RejectionHistory {
    /// Of rejections by a standard sign, and by one that a setting added.
    backoffs: [RejectionBackoff; 2],
    /// The newest token, if it was fetched because the one before it was rejected.
    replacement: Option<Replacement>,
    /// The newest generation that a former token stood in for. The API accepts it later.
    early: u64,
    /// When `rejected` was rejected last, and whether it was young then.
    rejected_at: (DualInstant, bool),
    /// Of the response that rejected the current token last.
    challenges: Vec<HeaderValue>,
}

/// What is known of the record that processes share.
#[cfg(feature = "store")]
#[derive(Debug, Default)]
struct SharedState {
    /// The newest record that this process saw or made.
    known: Option<Record>,
    /// Why `known` may not be in the store.
    unsaved: Option<Error>,
    /// The epoch whose login `known` belongs to.
    epoch: u64,
    /// Whether another process ended the session, and not a call of this cache.
    ended_elsewhere: bool,
}

/// Who looks at a record, and for what.
#[cfg(feature = "store")]
pub(crate) struct Look<'a> {
    /// The run that looks; `None`: nobody waits.
    pub(crate) run: Option<Run>,
    /// The digest of what shapes this process's tokens.
    pub(crate) identity: &'a Digest,
    /// The refresh token that this process's source begins with, if it does.
    pub(crate) seed: Option<&'a Secret>,
    /// The generation that the looker held when it began. A newer one is what it looks for.
    pub(crate) generation: u64,
    pub(crate) policy: &'a RefreshPolicy,
    pub(crate) now: DualInstant,
    pub(crate) jitter: f64,
}

/// What a record is to this process.
#[cfg(feature = "store")]
#[derive(Debug)]
pub(crate) enum Finding {
    /// There is a token that the looker can use; `adopted` if the record brought it.
    Usable { token: Token, adopted: bool },
    /// There is no session for this process.
    Ended(Error),
    /// The record belongs to someone else.
    OtherIdentity(Error),
    /// The token has to be fetched: with the refresh token of `base`, over the record that was found.
    Fetch { base: Record, is_login: bool },
    /// The record is missing or older than this one, which is to be written again.
    Lost(Record),
    /// What was found is not wanted: the source was replaced, or the session signed out.
    Discarded,
}

/// What requests see of the session. Published whole, never changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) session: SessionId,
    pub(crate) current: Option<CurrentToken>,
    /// The failure of the last fetch, if it failed. Most do not, so it takes no space in those.
    pub(crate) failure: Option<Arc<Failure>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CurrentToken {
    pub(crate) token: Token,
    pub(crate) window: Window,
    /// When this text was published for the first time.
    pub(crate) published_at: DualInstant,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// No fetch is made before, unless a caller asks for one.
    pub(crate) retry_at: DualInstant,
    /// How many fetches in a row have failed in the same way.
    streak: u32,
    /// How many fetches in a row have failed, in whatever way.
    fetches: u32,
}

/// A token that was fetched because the one before it was rejected.
#[derive(Clone, Copy, Debug)]
struct Replacement {
    generation: u64,
    sign: Sign,
    fetched_at: DualInstant,
    /// Whether it helped: whether a request that was rejected before it was accepted with it. `None`: not known yet.
    helped: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    Active,
    SigningOut,
    SignedOut,
}

/// The newest refresh token, and whether it is saved.
///
/// Saves are numbered by the refresh token that they save: `newest` counts refresh tokens over the life of the cache.
#[derive(Debug, Default)]
struct Rotation {
    refresh_token: Option<Secret>,
    /// The run that reported it before its answer was complete.
    reported_by: Option<u64>,
    /// The number of `refresh_token`.
    newest: u64,
    /// The number of the refresh token that was saved last.
    saved: u64,
    /// The refresh tokens up to this number belong to former sources.
    forgotten: u64,
    /// How many saves were begun.
    attempts: u64,
    /// The attempt that has not ended, and when it counts as lost. Boxed, as the error: both are rare and short-lived, and
    /// there may be a session for each of a million keys.
    saving: Option<Box<(u64, DualInstant)>>,
    not_saved: Option<Box<Error>>,
}

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Any token that can be sent.
    Usable,
    /// A token that is not due yet: a refresh ahead of time.
    Fresh,
    /// A token that can be sent and is newer than this generation, which was rejected; by a response with this sign, or,
    /// without one, as a user says.
    NewerThan(u64, Option<Sign>),
    /// The result of a fetch that ends after this call.
    Fetched,
}

/// How a demand is met.
#[derive(Debug)]
pub(crate) enum Decision {
    Use(Token),
    Fail(Error),
    /// Rejections have caused as many refreshes as they may.
    OverBudget,
    /// Wait for the run in flight.
    Join,
    Start(FetchPlan),
}

/// A fetch that is about to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FetchPlan {
    pub(crate) epoch: u64,
    pub(crate) reason: Reason,
    /// What said that the token was rejected, if a response said so.
    pub(crate) sign: Option<Sign>,
}

/// A run of the single flight, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) plan: FetchPlan,
}

/// When a fetch was asked for and answered, and the jitter that is drawn for it, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) asked: DualInstant,
    pub(crate) now: DualInstant,
    pub(crate) jitter: f64,
}

/// What the end of a fetch did.
#[derive(Debug)]
pub(crate) enum Outcome {
    Fetched {
        token: Token,
        /// How long the token before it could still have been sent.
        remaining: Duration,
    },
    Failed {
        error: Error,
        /// What the waiters get: the error, or the token that is held.
        answer: Result<Token, Error>,
        backoff: Duration,
    },
    /// The result is not wanted: of a former source, of a session that ended, or overtaken by a newer run.
    Discarded,
}

/// What a rejection did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Nothing: this cache did not issue the token.
    Unknown,
    /// Nothing: the session of the token has ended.
    SessionEnded,
    /// Nothing: the token was replaced before.
    Superseded,
    /// The token is young, and the one before it was put back into use, or takes its turn again; `first` if for the first
    /// time.
    Fallback { first: bool },
    /// Nothing: the token may not have reached every server of the API yet. The request waits this long.
    Early(Duration),
    /// The current token is suspect until it is replaced; `first` if it was not so before.
    Marked { first: bool },
}

/// What the rotated refresh token needs.
#[derive(Debug)]
pub(crate) enum SaveStep {
    /// Nothing: it is saved, or there is none.
    Done,
    /// To be saved; the ticket is for [`Session::on_saved`].
    Save(SaveTicket, RotatedToken),
    /// Another save has not ended. It counts as lost from this moment on.
    Wait(DualInstant),
}

/// One attempt to save a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaveTicket {
    attempt: u64,
    /// Of the refresh token.
    number: u64,
}

/// A new refresh token, to be saved.
///
/// What [`on_rotation`](crate::TokenCacheBuilder::on_rotation) is called with.
#[derive(Clone, Debug)]
pub struct RotatedToken {
    refresh_token: Secret,
    token: Option<Token>,
}

/// What a cache holds and does, for health checks. Holds no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// How far the token's life has gone; `None` without a token.
    pub phase: Option<Phase>,
    /// The token's generation; 0 before the first.
    pub generation: u64,
    /// How long the token can still be sent; `None` without a token.
    pub usable_for: Option<Duration>,
    /// Whether an API rejected this token. It is still sent until it is replaced.
    pub suspect: bool,
    /// Whether a fetch is in flight.
    pub fetching: bool,
    /// Why the last fetch failed; `None` if it succeeded.
    pub last_failure: Option<Error>,
    /// How long no fetch is made because the last one failed; `None` if the next request may fetch.
    pub next_attempt_in: Option<Duration>,
    /// Why the newest refresh token is not saved, if [`on_rotation`](crate::TokenCacheBuilder::on_rotation) failed.
    pub not_saved: Option<Error>,
    /// Whether the cache was shut down.
    pub closed: bool,
    /// Whether the session was [signed out](crate::TokenCache::sign_out).
    pub signed_out: bool,
    /// The session that processes share; `None` if it is this process's alone.
    #[cfg(feature = "store")]
    pub store: Option<StoreStatus>,
}

/// What a cache knows of the session that it shares.
#[cfg(feature = "store")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Why the store did not do what it was asked the last time; `None` if it did.
    pub error: Option<Error>,
    /// Why the newest token and refresh token are in this process only; `None` if they are in the store.
    pub unsaved: Option<Error>,
    /// How long ago the record was seen; `None` before the first look.
    pub looked: Option<Duration>,
    /// The number of the newest record that this process knows; 0 before the first. Processes that share a session know the
    /// same number, unless they have not looked yet.
    pub serial: u64,
}

/// What a fetched token is, compared with the current one.
enum Evaluation {
    New(Token, Window),
    /// The current token again, and why the issuer is not asked again at once.
    Unchanged(Token, Error),
}

// === impl RotatedToken ===

impl RotatedToken {
    /// The refresh token to save. The one before it may be spent.
    pub fn refresh_token(&self) -> &Secret {
        &self.refresh_token
    }

    /// The newest token, with this refresh token: what came with it, or the token before if the issuer's answer held
    /// nothing else of use. `None` if there was no token before.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

// === impl View ===

impl View {
    /// The current token, if it can be sent.
    pub(crate) fn usable_at(&self, now: DualInstant) -> Option<(&CurrentToken, Phase)> {
        let current = self.current.as_ref()?;
        match current.window.phase(now) {
            Phase::Expired => None,
            phase => Some((current, phase)),
        }
    }

    /// The same without what is known of it.
    pub(crate) fn usable_token(&self, now: DualInstant) -> Option<Token> {
        self.usable_at(now).map(|(current, _)| current.token.clone())
    }

    /// The failure whose backoff is not over.
    pub(crate) fn active_backoff(&self, now: DualInstant) -> Option<&Failure> {
        self.failure.as_deref().filter(|failure| !failure.retry_at.is_past(now))
    }

    fn remaining(&self, now: DualInstant) -> Duration {
        self.current.as_ref().map_or(Duration::ZERO, |current| current.window.remaining(now))
    }
}

// === impl Session ===

impl Session {
    pub(crate) fn new(id: SessionId) -> Self {
        Self {
            view: Arc::new(View { session: id, ..View::default() }),
            lifecycle: Lifecycle::Active,
            closed: false,
            epoch: 0,
            generation: 0,
            asked: None,
            rejected: 0,
            rejections: RejectionBudget::default(),
            history: None,
            other: None,
            previous_is_suspect: false,
            started_run: 0,
            accepted_run: 0,
            newest: None,
            rotation: Rotation::default(),
            #[cfg(feature = "store")]
            shared: SharedState::default(),
        }
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn newest(&self) -> Option<&Token> {
        self.newest.as_ref()
    }

    pub(crate) fn refresh_token(&self) -> Option<&Secret> {
        self.rotation.refresh_token.as_ref()
    }

    /// How many fetches have failed in a row.
    pub(crate) fn failed_fetches(&self) -> u32 {
        self.view.failure.as_ref().map_or(0, |failure| failure.fetches)
    }

    /// Whether the newest refresh token is nowhere but here.
    #[cfg(feature = "keyed")]
    pub(crate) fn holds_unsaved_refresh_token(&self) -> bool {
        self.rotation.refresh_token.is_some() && self.rotation.saved < self.rotation.newest
    }

    pub(crate) fn status(&self, now: DualInstant, fetching: bool) -> Status {
        let View { current, failure, .. } = &*self.view;
        let backoff = failure.as_ref().map(|failure| failure.retry_at.wait(now));
        Status {
            phase: current.as_ref().map(|current| current.window.phase(now)),
            generation: current.as_ref().map_or(0, |current| current.token.generation()),
            usable_for: current.as_ref().map(|current| current.window.remaining(now)),
            suspect: current.as_ref().is_some_and(|current| current.token.generation() == self.rejected),
            fetching,
            last_failure: failure.as_ref().map(|failure| failure.error.clone()),
            next_attempt_in: backoff.filter(|backoff| !backoff.is_zero()),
            not_saved: self.rotation.not_saved.as_deref().cloned(),
            closed: self.closed,
            signed_out: self.lifecycle != Lifecycle::Active,
            #[cfg(feature = "store")]
            store: None,
        }
    }

    // --- what a caller needs ---

    /// Decides how a demand is met, for a caller that began in this session. `in_flight`: a run is in flight that the
    /// caller can join.
    pub(crate) fn decide(
        &self,
        demand: Demand,
        session: SessionId,
        policy: &RefreshPolicy,
        now: DualInstant,
        in_flight: bool,
    ) -> Decision {
        // Also with a run in flight: its token is not for this caller.
        if session != self.view.session || self.lifecycle != Lifecycle::Active {
            return Decision::Fail(Error::signed_out());
        }
        let usable = self.view.usable_at(now);
        if let Some((current, phase)) = usable
            && demand.is_met_by(&current.token, phase)
        {
            return Decision::Use(current.token.clone());
        }
        if in_flight {
            return Decision::Join;
        }
        if self.closed {
            return Decision::Fail(Error::closed());
        }
        if let Some(failure) = self.view.active_backoff(now)
            && demand != Demand::Fetched
        {
            return Decision::Fail(failure.error.clone());
        }
        let reason = match (demand, usable) {
            (Demand::Fetched, _) => Reason::Asked,
            (Demand::NewerThan(..), Some(_)) => Reason::Rejected,
            (_, Some(_)) => Reason::Due,
            // A token that has ended would be replaced without a rejection, too.
            (_, None) if self.view.current.is_some() => Reason::Expired,
            (_, None) => Reason::First,
        };
        let sign = match demand {
            Demand::NewerThan(_, sign) if reason == Reason::Rejected => sign,
            _ => None,
        };
        let is_suspended = sign
            .zip(self.history.as_ref())
            .is_some_and(|(sign, history)| history.backoffs[sign as usize].is_active(now));
        if reason == Reason::Rejected && (is_suspended || !self.rejections.has_capacity(policy, now)) {
            return Decision::OverBudget;
        }
        Decision::Start(FetchPlan { epoch: self.epoch, reason, sign })
    }

    /// How long a run waits before it calls the source, because tokens with a tiny lifetime would cause a call for each
    /// request.
    pub(crate) fn pause_before(&self, plan: FetchPlan, now: DualInstant) -> Duration {
        let is_for_its_age = matches!(plan.reason, Reason::Due | Reason::Expired);
        let aged = self.view.current.as_ref().filter(|_| is_for_its_age);
        let next = aged.zip(self.asked).map(|(aged, asked)| schedule::next_refresh(asked, aged.token.lifetime()));
        next.map_or(Duration::ZERO, |next| next.wait(now))
    }

    /// A run was started as [`decide`](Self::decide) said.
    pub(crate) fn on_started(&mut self, run: Run, policy: &RefreshPolicy, now: DualInstant) {
        self.started_run = run.number;
        if run.plan.reason == Reason::Rejected {
            self.rejections.record(policy, now);
        }
    }

    /// A caller was told that rejections have used their budget; returns whether it is the first within the window.
    pub(crate) fn on_over_budget(&mut self, policy: &RefreshPolicy, now: DualInstant) -> bool {
        self.rejections.report(policy, now)
    }

    // --- rejection ---

    /// An API rejected this token, by a response with this sign, or, without one, as a user says.
    pub(crate) fn on_rejected(&mut self, token: TokenId, sign: Option<Sign>, now: DualInstant) -> Rejection {
        let session = self.view.session;
        if token.session != session {
            let is_known = token.session.is_of_same_cache(session);
            return if is_known { Rejection::SessionEnded } else { Rejection::Unknown };
        }
        let newest = self.generation;
        let Some(current) = self.view.current.as_ref().filter(|current| current.token.id() == token) else {
            // A request that was on its way says that the token before the current one is not good any more.
            let is_dead = |other: &mut Box<CurrentToken>| {
                other.token.id() == token && token.generation < newest && !schedule::is_young(other.published_at, now)
            };
            self.other.take_if(is_dead);
            return Rejection::Superseded;
        };
        let published_at = current.published_at;
        let is_young = schedule::is_young(published_at, now);
        if self.uses_fallback() {
            self.end_fallback(is_young, now);
            return Rejection::Fallback { first: false };
        }
        // What a setting adds may have other causes than the token's age, and a user knows better.
        if sign == Some(Sign::Standard) && is_young && self.has_fallback(now) {
            let first = mem::replace(&mut self.history().early, token.generation) != token.generation;
            self.swap(now);
            return Rejection::Fallback { first };
        }
        let is_early = is_young && self.history.as_ref().is_some_and(|history| history.early == token.generation);
        if sign.is_some()
            && let Some(lag) = schedule::replication_lag(published_at, is_early, now)
        {
            return Rejection::Early(lag);
        }
        if let Some(sign) = sign {
            self.on_replacement_rejected(token, sign, now);
        }
        let first = self.rejected < token.generation;
        self.rejected = self.rejected.max(token.generation);
        self.history().rejected_at = (now, is_young);
        Rejection::Marked { first }
    }

    /// Keeps the challenges of the rejection that has just been marked; returns the former ones, to be dropped after the lock.
    pub(crate) fn keep_challenges(&mut self, challenges: Vec<HeaderValue>) -> Vec<HeaderValue> {
        mem::replace(&mut self.history().challenges, challenges)
    }

    /// The challenges of the response that rejected the current token last, as they came.
    pub(crate) fn challenges(&self) -> &[HeaderValue] {
        self.history.as_ref().map_or(&[], |history| &history.challenges)
    }

    /// A request that was rejected went again with this token, and was rejected again. Returns the newer token that it was
    /// sent with before, if that is to be replaced.
    pub(crate) fn on_rejected_again(&mut self, token: TokenId, sign: Sign, now: DualInstant) -> Option<TokenId> {
        self.on_replacement_rejected(token, sign, now);
        let current = self.view.current.as_ref().filter(|current| current.token.id() == token)?;
        if sign != Sign::Standard || !self.uses_fallback() || schedule::is_young(current.published_at, now) {
            return None;
        }
        // The API rejects both, so it is not for the age of the newer one.
        self.end_fallback(false, now);
        self.history().early = 0;
        let newer = self.view.current.as_ref()?;
        schedule::replication_lag(newer.published_at, false, now).is_none().then(|| newer.token.id())
    }

    /// A request that was rejected went again with this token, and was accepted.
    pub(crate) fn on_accepted(&mut self, token: TokenId) {
        let Some(RejectionHistory { backoffs, replacement, .. }) = self.history.as_deref_mut() else { return };
        if let Some(replacement) = replacement.as_mut().filter(|replacement| replacement.is(token)) {
            replacement.helped = Some(true);
            backoffs[replacement.sign as usize] = RejectionBackoff::default();
        }
    }

    /// Ends the time in which a former token stands in. Returns whether the current token is another now.
    pub(crate) fn on_time(&mut self, now: DualInstant) -> bool {
        let is_over = self.uses_fallback() && self.view.usable_at(now).is_none_or(|(_, phase)| phase != Phase::Fresh);
        if is_over {
            self.swap(now);
        }
        is_over
    }

    /// A token that was fetched because of a rejection was rejected, too: so the refresh was in vain, unless that was long
    /// ago.
    fn on_replacement_rejected(&mut self, token: TokenId, sign: Sign, now: DualInstant) {
        let undecided = |replacement: &&mut Replacement| {
            replacement.is(token) && replacement.sign == sign && replacement.helped.is_none()
        };
        let Some(RejectionHistory { backoffs, replacement, .. }) = self.history.as_deref_mut() else { return };
        if let Some(replacement) = replacement.as_mut().filter(undecided) {
            let helped = schedule::has_helped(sign, replacement.fetched_at, now);
            replacement.helped = Some(helped);
            if helped {
                backoffs[sign as usize] = RejectionBackoff::default();
            } else {
                backoffs[sign as usize].add(sign, now);
            }
        }
    }

    fn history(&mut self) -> &mut RejectionHistory {
        self.history.get_or_insert_default()
    }

    /// Whether the current token is a former one that stands in for a newer.
    fn uses_fallback(&self) -> bool {
        let current = self.view.current.as_ref().map_or(0, |current| current.token.generation());
        self.other.as_ref().is_some_and(|other| other.token.generation() > current)
    }

    /// Whether there is a former token that can be sent and may be accepted.
    fn has_fallback(&self, now: DualInstant) -> bool {
        let replacement = self.history.as_ref().and_then(|history| history.replacement);
        let is_futile =
            replacement.is_some_and(|newer| newer.generation == self.generation && newer.helped == Some(false));
        (!self.previous_is_suspect || is_futile)
            && self.other.as_ref().is_some_and(|other| other.window.phase(now) != Phase::Expired)
    }

    /// The newer token takes its place again. `keep`: the former one may be of use once more.
    fn end_fallback(&mut self, keep: bool, now: DualInstant) {
        self.swap(now);
        if !keep {
            self.other = None;
        }
    }

    /// The current token and the other one change places. A former one stands in for a moment only.
    fn swap(&mut self, now: DualInstant) {
        let other = self.other.take().map(|other| *other);
        self.other = mem::replace(&mut Arc::make_mut(&mut self.view).current, other).map(Box::new);
        let uses_fallback = self.uses_fallback();
        if let Some(current) = Arc::make_mut(&mut self.view).current.as_mut().filter(|_| uses_fallback) {
            current.window = current.window.as_fallback(now);
        }
    }

    // --- the fetch ---

    /// The source of this run reported a new refresh token; `false` if it is not wanted.
    pub(crate) fn on_rotated(&mut self, run: Run, refresh_token: Secret) -> bool {
        if !self.accept(run) {
            return false;
        }
        self.rotation.reported_by = Some(run.number);
        self.rotation.replace(Some(refresh_token));
        true
    }

    /// The source of this run returned a token. Its refresh token is kept before anything else can fail. Returns the token
    /// with the newest refresh token; `None` if the token is not wanted.
    pub(crate) fn on_received(&mut self, run: Run, token: Token) -> Option<Token> {
        if !self.accept(run) {
            return None;
        }
        // A source that reported the refresh token need not put it into the token as well.
        if token.refresh_token().is_some() || self.rotation.reported_by != Some(run.number) {
            self.rotation.replace(token.refresh_token());
        }
        let token = self.with_refresh_token(token);
        self.newest = Some(token.clone());
        Some(token)
    }

    /// The token of this run, saved or not, takes the place of the current one.
    pub(crate) fn on_fetched(&mut self, run: Run, token: Token, policy: &RefreshPolicy, timing: Timing) -> Outcome {
        if !self.wants(run) {
            return Outcome::Discarded;
        }
        let Timing { now, .. } = timing;
        let remaining = self.view.remaining(now);
        match self.evaluate(token, policy, timing) {
            Ok(Evaluation::New(token, window)) => {
                let token = self.publish(token, window, now);
                self.asked = Some(timing.asked);
                let generation = token.generation();
                let replacement =
                    run.plan.sign.map(|sign| Replacement { generation, sign, fetched_at: now, helped: None });
                if replacement.is_some() || self.history.is_some() {
                    self.history().replacement = replacement;
                }
                Outcome::Fetched { token, remaining }
            }
            Ok(Evaluation::Unchanged(token, error)) => {
                let mut outcome = self.on_failed(run, error, timing);
                // After a rejection the same token would not help.
                if let Outcome::Failed { answer, .. } = &mut outcome
                    && run.plan.reason != Reason::Rejected
                {
                    *answer = Ok(token);
                }
                outcome
            }
            Err(error) => self.on_failed(run, error, timing),
        }
    }

    /// This run failed.
    pub(crate) fn on_failed(&mut self, run: Run, error: Error, timing: Timing) -> Outcome {
        // A late failure says nothing about the run that replaced this one.
        if !self.wants(run) || run.number < self.started_run {
            return Outcome::Discarded;
        }
        let Timing { now, jitter, .. } = timing;
        let denied = error.is_denied();
        let streak = match &self.view.failure {
            Some(failure) if failure.error.is_denied() == denied => failure.streak.saturating_add(1),
            _ => 1,
        };
        let backoff = if denied {
            schedule::denied_backoff(streak, error.retry_after())
        } else {
            schedule::backoff(streak, self.view.remaining(now), error.retry_after(), jitter)
        };
        let fetches = self.failed_fetches().saturating_add(1);
        let failure = Failure { error: error.clone(), retry_at: now.after(backoff), streak, fetches };
        Arc::make_mut(&mut self.view).failure = Some(Arc::new(failure));
        Outcome::Failed { answer: Err(error.clone()), error, backoff }
    }

    /// Adopts a token that no fetch of this cache brought.
    pub(crate) fn on_adopted(&mut self, token: Token, window: Window, published_at: DualInstant) {
        self.publish(token, window, published_at);
    }

    // --- the record that processes share ---

    /// The newest record that this process knows.
    #[cfg(feature = "store")]
    pub(crate) fn known_record(&self) -> Option<&Record> {
        self.shared.known.as_ref()
    }

    /// Why the newest record may not be in the store, if it may not.
    #[cfg(feature = "store")]
    pub(crate) fn unsaved(&self) -> Option<&Error> {
        self.shared.unsaved.as_ref()
    }

    /// Whether this process has a login of its own that is not in a record yet.
    #[cfg(feature = "store")]
    pub(crate) fn has_new_login(&self) -> bool {
        self.shared.epoch != self.epoch
    }

    /// Whether another process ended the session.
    #[cfg(feature = "store")]
    pub(crate) fn is_ended_elsewhere(&self) -> bool {
        self.shared.ended_elsewhere
    }

    /// A record was found, or none. Adopts what is newer than what this process holds, and decides what is left to do.
    #[cfg(feature = "store")]
    pub(crate) fn on_found(&mut self, found: Option<&Record>, look: &Look<'_>) -> Finding {
        let wanted = look.run.is_none_or(|run| self.is_newest(run));
        let revivable = self.lifecycle == Lifecycle::Active || self.shared.ended_elsewhere;
        if !wanted || !revivable {
            return Finding::Discarded;
        }
        let found = match found {
            Some(record) if record.identity != *look.identity => {
                let ended = matches!(record.state, State::Ended(_));
                if !ended || self.shared.known.is_some() && !self.has_new_login() {
                    return Finding::OtherIdentity(Error::shared(
                        "the record under this key belongs to another user, tenant, scope, client or issuer; give each session a key of its own",
                        StoreProblem::Permanent,
                    ));
                }
                // Another's session that has ended makes room for this one.
                return self.new_login(Some(record), look);
            }
            found => found,
        };
        if self.has_new_login() || self.brings_new_login(found, look) {
            return self.new_login(found, look);
        }
        match (found, &self.shared.known) {
            (Some(found), Some(known)) if !found.is_newer_than(known) => {
                if !found.says_the_same(known) {
                    return Finding::Lost(known.clone());
                }
                self.shared.unsaved = None;
                self.on_known(found.clone(), look)
            }
            (Some(found), _) => self.on_newer(found.clone(), look),
            (None, Some(known)) => Finding::Lost(known.clone()),
            (None, None) => self.new_login(None, look),
        }
    }

    /// A login of this process is to be made.
    #[cfg(feature = "store")]
    fn new_login(&self, found: Option<&Record>, look: &Look<'_>) -> Finding {
        match look.run {
            Some(_) => Finding::Fetch { base: self.login_over(found, look), is_login: true },
            None => Finding::Discarded,
        }
    }

    /// Whether the source of this process begins with a refresh token that no login of the record began with.
    #[cfg(feature = "store")]
    fn brings_new_login(&self, found: Option<&Record>, look: &Look<'_>) -> bool {
        let (Some(found), Some(seed), None) = (found, look.seed, &self.shared.known) else { return false };
        !found.seeds.contains(&Digest::of_secret(seed))
    }

    /// A record for a new login, which follows what was found and what is known.
    #[cfg(feature = "store")]
    pub(crate) fn login_over(&self, found: Option<&Record>, look: &Look<'_>) -> Record {
        let former = |number: fn(&Record) -> u64| {
            found.into_iter().chain(&self.shared.known).map(number).max().unwrap_or_default() + 1
        };
        let seeds = found.filter(|found| found.identity == *look.identity).map(|found| found.seeds.clone());
        let record = Record {
            identity: look.identity.clone(),
            login: former(|record| record.login),
            serial: former(|record| record.serial),
            seeds: seeds.unwrap_or_default(),
            state: State::Active { token: None, refresh_token: look.seed.cloned(), refreshing: None },
        };
        record.with_seed(look.seed.map(Digest::of_secret))
    }

    /// The record in the store is newer than what this process knows.
    #[cfg(feature = "store")]
    fn on_newer(&mut self, record: Record, look: &Look<'_>) -> Finding {
        self.shared.known = Some(record.clone());
        self.shared.unsaved = None;
        let State::Active { token, refresh_token, .. } = &record.state else { return self.on_ended(record, look) };
        if self.shared.ended_elsewhere {
            // Another process has logged in anew.
            self.shared.ended_elsewhere = false;
            self.lifecycle = Lifecycle::Active;
            self.rejected = self.generation;
        }
        self.rotation.replace(refresh_token.clone());
        self.newest = token.as_ref().map(|saved| saved.token.clone());
        let Some((saved, window)) = token.as_ref().and_then(|saved| self.adoptable(saved, look)) else {
            return Finding::Fetch { base: record, is_login: false };
        };
        let adopted = self.publish(saved.token.clone(), window, look.now);
        if let Some(current) = &mut Arc::make_mut(&mut self.view).current {
            current.published_at = saved.asked;
        }
        if let Some(run) = look.run {
            self.accepted_run = run.number;
            if run.plan.reason == Reason::Rejected {
                // No token call was made.
                self.rejections.remove_last();
            }
        }
        Finding::Usable { token: adopted, adopted: true }
    }

    /// The window of a token of a record, if it can be sent and is not the one that was rejected.
    #[cfg(feature = "store")]
    fn adoptable<'a>(&self, saved: &'a SavedToken, look: &Look<'_>) -> Option<(&'a SavedToken, Window)> {
        let SavedToken { token, asked } = saved;
        let mut window = Window::new(look.policy, token.lifetime(), *asked, Duration::ZERO, look.jitter);
        if let Some(refresh_in) = token.refresh_in() {
            window = window.due_within(refresh_in, look.jitter);
        }
        let rejected = self.view.current.as_ref().is_some_and(|current| {
            current.token.generation() == self.rejected && current.token.header_value() == token.header_value()
        });
        (window.phase(look.now) != Phase::Expired && !rejected).then_some((saved, window))
    }

    /// The record in the store is the one that this process knows.
    #[cfg(feature = "store")]
    fn on_known(&mut self, record: Record, look: &Look<'_>) -> Finding {
        if matches!(record.state, State::Ended(_)) {
            return self.on_ended(record, look);
        }
        // Adopted by another look meanwhile.
        if let Some((current, _)) = self.view.usable_at(look.now)
            && current.token.generation() > look.generation
            && current.token.generation() != self.rejected
        {
            return Finding::Usable { token: current.token.clone(), adopted: false };
        }
        Finding::Fetch { base: record, is_login: false }
    }

    /// The session was ended by this or another process.
    #[cfg(feature = "store")]
    fn on_ended(&mut self, record: Record, look: &Look<'_>) -> Finding {
        match record.state {
            State::Ended(Ending::SignedOut { .. }) => {
                if !self.shared.ended_elsewhere {
                    self.shared.ended_elsewhere = true;
                    self.lifecycle = Lifecycle::SignedOut;
                    self.view = Arc::new(View { session: self.view.session.next(), ..View::default() });
                    self.forget();
                }
                Finding::Ended(Error::signed_out())
            }
            _ if look.run.is_none() => Finding::Discarded,
            // A source that can log in by itself does so.
            _ if look.seed.is_none() => {
                self.rotation.replace(None);
                Finding::Fetch { base: self.login_over(Some(&record), look), is_login: true }
            }
            _ => Finding::Ended(Error::shared(
                "the issuer denied the refresh token of the session that processes share; log in again",
                StoreProblem::Denied,
            )),
        }
    }

    /// This process made a record: it is in the store, or `unsaved` says why it may not be.
    #[cfg(feature = "store")]
    pub(crate) fn on_record_made(&mut self, run: Run, record: Record, unsaved: Option<Error>) {
        if run.plan.epoch != self.epoch {
            return;
        }
        if self.shared.known.as_ref().is_none_or(|known| record.is_newer_than(known) || record.says_the_same(known)) {
            self.shared.known = Some(record);
            self.shared.unsaved = unsaved;
            self.shared.epoch = run.plan.epoch;
        }
    }

    /// The record that this process knows was written again.
    #[cfg(feature = "store")]
    pub(crate) fn on_restored(&mut self, record: &Record) {
        if self.shared.known.as_ref().is_some_and(|known| record.says_the_same(known)) {
            self.shared.unsaved = None;
        }
    }

    /// The signing out of this process has ended the record, or `unsaved` says why it may not have.
    #[cfg(feature = "store")]
    pub(crate) fn on_record_ended(&mut self, epoch: u64, record: Record, unsaved: Option<Error>) {
        if self.epoch == epoch {
            self.shared = SharedState { known: Some(record), unsaved, epoch, ended_elsewhere: false };
        }
    }

    // --- the refresh token ---

    /// What the newest refresh token needs. A step that saves lasts until `deadline` at most.
    pub(crate) fn begin_save(&mut self, now: DualInstant, deadline: DualInstant) -> SaveStep {
        let rotation = &mut self.rotation;
        let Some(refresh_token) = rotation.refresh_token.clone().filter(|_| rotation.saved < rotation.newest) else {
            return SaveStep::Done;
        };
        // Invariant: two saves do not overlap, so that an older one never overwrites a newer.
        if let Some((_, until)) = rotation.saving.as_deref().copied()
            && !until.is_past(now)
        {
            return SaveStep::Wait(until);
        }
        rotation.attempts += 1;
        let ticket = SaveTicket { attempt: rotation.attempts, number: rotation.newest };
        rotation.saving = Some(Box::new((ticket.attempt, deadline)));
        let token = self.newest.clone().map(|token| self.with_refresh_token(token));
        SaveStep::Save(ticket, RotatedToken { refresh_token, token })
    }

    /// A save ended; `None` if it was dropped half-way. Returns whether a newer refresh token has to be saved after it,
    /// because this save may have overwritten it; and the error that is told no more, to be dropped after the lock.
    pub(crate) fn on_saved(&mut self, ticket: SaveTicket, result: Option<Result<(), Error>>) -> (bool, Option<Error>) {
        let rotation = &mut self.rotation;
        let SaveTicket { attempt, number } = ticket;
        rotation.saving.take_if(|saving| saving.0 == attempt);
        // A save that failed may have written all the same.
        if number < rotation.saved || matches!(result, Some(Ok(()))) {
            rotation.saved = number;
        }
        // A save of an older refresh token, or of a former source's, says nothing about the newest.
        let is_newest = number == rotation.newest && number > rotation.forgotten;
        let former = match result {
            Some(result) if is_newest => {
                mem::replace(&mut rotation.not_saved, result.err().map(Box::new)).map(|error| *error)
            }
            Some(result) => result.err(),
            None => None,
        };
        (number < rotation.newest && rotation.refresh_token.is_some(), former)
    }

    // --- sources, sessions and the end ---

    /// The session ends: from now on no caller gets its token. Returns the epoch that the later steps of the sign-out name.
    pub(crate) fn on_sign_out(&mut self) -> u64 {
        if self.lifecycle == Lifecycle::Active {
            self.lifecycle = Lifecycle::SigningOut;
        }
        #[cfg(feature = "store")]
        {
            self.shared.ended_elsewhere = false;
        }
        self.view = Arc::new(View { session: self.view.session.next(), ..View::default() });
        self.other = None;
        self.epoch
    }

    /// The run in flight at the sign-out has ended, or is overdue: no run is accepted any more. Returns the refresh token
    /// to be revoked; it is forgotten by [`on_revoked`](Self::on_revoked), so that a dropped sign-out can be repeated.
    pub(crate) fn on_run_ended(&mut self, epoch: u64) -> Result<Option<Secret>, Error> {
        if self.epoch != epoch {
            return Err(Error::login(
                "another session began before this one was signed out; its refresh token was not revoked",
            ));
        }
        self.lifecycle = Lifecycle::SignedOut;
        Ok(self.rotation.refresh_token.clone())
    }

    /// The refresh token was revoked, or could not be. Returns whether the source is to be forgotten, too: not if another
    /// session began meanwhile.
    pub(crate) fn on_revoked(&mut self, epoch: u64) -> bool {
        let is_current = self.epoch == epoch;
        if is_current {
            self.forget();
        }
        is_current
    }

    /// Another source takes the place of the present one, of which nothing is left. `same_session`: it has new credentials
    /// for the same login, so the callers of this session go on. A session that was signed out does not go on.
    pub(crate) fn on_new_source(&mut self, same_session: bool) {
        let session = self.view.session;
        let goes_on = same_session && self.lifecycle == Lifecycle::Active;
        self.view = Arc::new(View { session: if goes_on { session } else { session.next() }, ..View::default() });
        self.lifecycle = Lifecycle::Active;
        #[cfg(feature = "store")]
        {
            self.shared.ended_elsewhere = false;
        }
        self.epoch += 1;
        self.other = None;
        if let Some(history) = &mut self.history {
            history.backoffs = Default::default();
        }
        self.forget();
    }

    /// The cache was shut down.
    pub(crate) fn on_closed(&mut self) {
        self.closed = true;
    }

    // --- shared by the events ---

    /// Whether the answer of this run may be published.
    pub(crate) fn wants(&self, run: Run) -> bool {
        self.is_newest(run) && self.lifecycle == Lifecycle::Active
    }

    /// Notes that a run brought something; `false` if it is not wanted. While the session is signed out, the refresh token
    /// is still wanted: it is the one to be revoked.
    fn accept(&mut self, run: Run) -> bool {
        let accepts = self.is_newest(run) && self.lifecycle != Lifecycle::SignedOut;
        if accepts {
            self.accepted_run = run.number;
        }
        accepts
    }

    /// Whether this run is of the present source, and no newer one has brought anything.
    fn is_newest(&self, run: Run) -> bool {
        run.plan.epoch == self.epoch && run.number >= self.accepted_run
    }

    fn evaluate(&self, token: Token, policy: &RefreshPolicy, timing: Timing) -> Result<Evaluation, Error> {
        let Timing { asked, now, jitter } = timing;
        let took = now.mono.saturating_sub(asked.mono);
        let mut window = Window::new(policy, token.lifetime(), asked, took, jitter);
        if let Some(refresh_in) = token.refresh_in() {
            window = window.due_within(refresh_in, jitter);
        }
        if window.phase(now) == Phase::Expired {
            let problem = format!(
                "it was dead on arrival: it lives {:?} from when it was asked for, and the answer took {took:?}",
                token.lifetime(),
            );
            return Err(Error::unusable(None, problem));
        }
        // The same token again that ends no later: to fetch on would be a loop.
        if let Some((current, _)) = self.view.usable_at(now)
            && current.token.header_value() == token.header_value()
        {
            if self.rejected == current.token.generation() {
                return Err(Error::unusable(None, "the issuer handed out the token again that an API has rejected"));
            }
            // A source that says when to look again looks: to find the same token is no failure.
            if token.refresh_in().is_none()
                && window.end().wait(asked) <= current.window.end().wait(asked) + Duration::from_secs(1)
            {
                let error = Error::unusable(None, "the issuer handed out the same token again, ending no later");
                return Ok(Evaluation::Unchanged(current.token.clone(), error));
            }
        }
        Ok(Evaluation::New(token, window))
    }

    /// Makes the token the current one, as the next generation.
    fn publish(&mut self, token: Token, window: Window, now: DualInstant) -> Token {
        // The same text with more time to live keeps its generation: what was rejected of it stays rejected, and it has
        // reached the servers of the API already.
        let same = self.view.usable_at(now).filter(|(current, _)| current.token.header_value() == token.header_value());
        let published_at = same.map_or(now, |(current, _)| current.published_at);
        let known = same.map(|(current, _)| current.token.generation());
        self.generation += u64::from(known.is_none());
        let id = TokenId { session: self.view.session, generation: known.unwrap_or(self.generation) };
        let token = token.published(id, window.end().system_time());
        self.newest = Some(token.clone());
        let current = CurrentToken { token: token.clone(), window, published_at };
        let used_fallback = self.uses_fallback();
        let view = View { current: Some(current), failure: None, session: self.view.session };
        let former = mem::replace(&mut self.view, Arc::new(view)).current.clone();
        if known.is_none() {
            let (rejected_at, was_young) =
                self.history.as_ref().map_or_else(Default::default, |history| history.rejected_at);
            // One that was sent for some time after its rejection is good.
            let is_suspect = |former: &CurrentToken| {
                former.token.generation() == self.rejected && schedule::is_young(rejected_at, now)
            };
            let is_good = |former: &CurrentToken| {
                former.window.phase(now) != Phase::Expired && (was_young || !is_suspect(former))
            };
            // One that stood in, and was suspect then, still is.
            self.previous_is_suspect =
                used_fallback && self.previous_is_suspect || former.as_ref().is_some_and(is_suspect);
            self.other = former.filter(is_good).map(Box::new);
        }
        token
    }

    fn with_refresh_token(&self, token: Token) -> Token {
        match &self.rotation.refresh_token {
            Some(refresh_token) => token.with_refresh_token(refresh_token.clone()),
            None => token,
        }
    }

    /// Nothing of the former source is left.
    fn forget(&mut self) {
        self.newest = None;
        self.rotation.forget();
    }
}

// === impl Replacement ===

impl Replacement {
    /// Generations are counted over all sessions of a cache.
    fn is(&self, token: TokenId) -> bool {
        self.generation == token.generation
    }
}

// === impl Rotation ===

impl Rotation {
    fn replace(&mut self, refresh_token: Option<Secret>) {
        if self.refresh_token != refresh_token {
            self.newest += u64::from(refresh_token.is_some());
            self.refresh_token = refresh_token;
        }
    }

    /// Forgets the refresh token. A save of it that has not ended goes on, and the next save waits for it.
    fn forget(&mut self) {
        let Self { newest, saved, attempts, .. } = *self;
        let saving = self.saving.take();
        *self = Self { newest, saved, attempts, saving, forgotten: newest, ..Self::default() };
    }
}

// === impl Demand ===

impl Demand {
    pub(crate) fn is_met_by(self, token: &Token, phase: Phase) -> bool {
        match self {
            Self::Usable | Self::NewerThan(..) => self.is_met_by_result(token),
            Self::Fresh => phase == Phase::Fresh,
            Self::Fetched => false,
        }
    }

    /// Whether the token that a run brought is what its waiter needs.
    pub(crate) fn is_met_by_result(self, token: &Token) -> bool {
        match self {
            Self::NewerThan(generation, _) => token.generation() > generation,
            Self::Usable | Self::Fresh | Self::Fetched => true,
        }
    }
}

#[cfg(test)]
mod tests;
