//! The session: a state machine that decides what callers get and when the cache fetches.
//!
//! Nothing here locks, awaits, reads a clock or draws a random number. Time and jitter are arguments. The driver locks
//! the session, asks it what to do, does that, reports the outcome to the session, and publishes its [`View`].
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
//! `on_closed` does not change this state. A closed cache starts no run, and serves the token that it holds until it
//! expires.
//!
//! # Three numbers
//! - A **session** is one login. A request belongs to the session in which it began, and never carries the token of
//!   another session. A sign-out begins a new session, and so does the login of another person.
//! - The **epoch** counts sources. The result of a run for an older source is discarded.
//! - The **generation** counts tokens. A rejection names a token, and has no effect unless that token is the current
//!   one.
//!
//! # The fallback: when an API rejects a young token
//! An API may reject a token in its first seconds, because the API's clock is behind or because not all of its servers
//! know the token. Then the previous token is still valid. So the session keeps the previous token until it expires.
//! When an API rejects a young token, the session makes the previous token current for some seconds, as a *fallback*.
//! After that it makes the newer token current again. The rejection counts only if there is no previous token, or if
//! the API rejects that one, too.

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
    /// The generation of the newest published token.
    generation: u64,
    /// When the newest token was requested.
    asked: Option<DualInstant>,
    /// The newest generation that an API rejected.
    rejected: u64,
    rejections: RejectionBudget,
    /// Boxed like `other`, because most sessions need neither.
    history: Option<Box<RejectionHistory>>,
    /// The second usable token: the previous one, or, while that one is the fallback, the newer one.
    other: Option<Box<CurrentToken>>,
    /// Whether the older of the two was rejected. Then it is a fallback only if the newer one did not help.
    previous_is_suspect: bool,
    /// The newest run that was started.
    started_run: u64,
    /// The newest run whose result was accepted.
    accepted_run: u64,
    /// The newest token of the source, published or not.
    newest: Option<Token>,
    rotation: Rotation,
    #[cfg(feature = "store")]
    shared: SharedState,
}

/// The past rejections of this cache's tokens.
#[derive(Debug, Default)]
struct RejectionHistory {
    /// The backoff of each [`Sign`], in the order of its variants.
    backoffs: [RejectionBackoff; 2],
    /// The newest token, if it was fetched because the previous one was rejected.
    replacement: Option<Replacement>,
    /// The newest generation that a fallback replaced for some seconds. The API is expected to accept it later.
    early: u64,
    /// When `rejected` was last rejected, and whether it was young then.
    rejected_at: (DualInstant, bool),
    /// The challenges of the last response that rejected the current token.
    challenges: Vec<HeaderValue>,
}

/// What this process knows about the record that processes share.
#[cfg(feature = "store")]
#[derive(Debug, Default)]
struct SharedState {
    /// The newest record that this process read or wrote.
    known: Option<Record>,
    /// Why `known` may not be in the store.
    unsaved: Option<Error>,
    /// The epoch whose login `known` belongs to.
    epoch: u64,
    /// Whether another process ended the session, instead of a call to this cache.
    ended_elsewhere: bool,
}

/// One look at the record: its purpose and its circumstances.
#[cfg(feature = "store")]
pub(crate) struct Look<'a> {
    /// The run that looks. It is `None` for a look in the background, for which no caller waits.
    pub(crate) run: Option<Run>,
    /// The digest of everything that determines this process's tokens.
    pub(crate) identity: &'a Digest,
    /// The first refresh token of this process's source, if it has one.
    pub(crate) seed: Option<&'a Secret>,
    /// The generation that was current when the run began. The run needs a newer one.
    pub(crate) generation: u64,
    pub(crate) policy: &'a RefreshPolicy,
    pub(crate) now: DualInstant,
    pub(crate) jitter: f64,
}

/// What the record means for this process.
#[cfg(feature = "store")]
#[derive(Debug)]
pub(crate) enum Finding {
    /// There is a usable token. `adopted`: this look took it from the record.
    Usable { token: Token, adopted: bool },
    /// The session has ended.
    Ended(Error),
    /// The record belongs to another identity, such as another user.
    OtherIdentity(Error),
    /// A token has to be fetched with the refresh token of `base`. The new record follows `base`.
    Fetch { base: Record, is_login: bool },
    /// The record is missing or out of date. This newer one has to be written again.
    Lost(Record),
    /// The record is ignored, because the source was replaced or the session signed out.
    Discarded,
}

/// What requests see of the session. It is immutable, and each change publishes a new one.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) session: SessionId,
    pub(crate) current: Option<CurrentToken>,
    /// The failure of the last fetch, if it failed. Behind a pointer, because most views have none.
    pub(crate) failure: Option<Arc<Failure>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CurrentToken {
    pub(crate) token: Token,
    pub(crate) window: Window,
    /// When this access token was first published.
    pub(crate) published_at: DualInstant,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// When the backoff ends. Until then only [`Demand::Fetched`] starts a fetch.
    pub(crate) retry_at: DualInstant,
    /// How many fetches in a row have failed in the same way: denied, or otherwise.
    streak: u32,
    /// How many fetches in a row have failed for any reason.
    fetches: u32,
}

/// A token that was fetched because the previous one was rejected.
#[derive(Clone, Copy, Debug)]
struct Replacement {
    generation: u64,
    sign: Sign,
    fetched_at: DualInstant,
    /// Whether the API accepted a retry with this token. `None`: not known yet.
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
/// Refresh tokens are numbered over the life of the cache. A save has the number of its refresh token.
#[derive(Debug, Default)]
struct Rotation {
    refresh_token: Option<Secret>,
    /// The run whose source reported it before it returned a token.
    reported_by: Option<u64>,
    /// The number of `refresh_token`.
    newest: u64,
    /// The number of the last saved refresh token.
    saved: u64,
    /// The refresh tokens up to this number belong to previous sources.
    forgotten: u64,
    /// How many saves have begun.
    attempts: u64,
    /// The save in flight, and when it counts as lost. It and the error are boxed, because both are rare and there may
    /// be a session for each of a million keys.
    saving: Option<Box<(u64, DualInstant)>>,
    not_saved: Option<Box<Error>>,
}

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Any usable token.
    Usable,
    /// A token that is not due yet. This refreshes the token ahead of time.
    Fresh,
    /// A usable token that is newer than this rejected generation. The sign is that of the rejecting response. It is
    /// `None` if the user reported the rejection.
    NewerThan(u64, Option<Sign>),
    /// The result of a fetch that ends after this call.
    Fetched,
}

/// What the driver does for a demand.
#[derive(Debug)]
pub(crate) enum Decision {
    Use(Token),
    Fail(Error),
    /// Fail, because rejections may cause no further refresh now.
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
    /// The sign of the response that rejected the token, if one did.
    pub(crate) sign: Option<Sign>,
}

/// A run of the single flight, and its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) plan: FetchPlan,
}

/// When a fetch began and ended, and its jitter, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) asked: DualInstant,
    pub(crate) now: DualInstant,
    pub(crate) jitter: f64,
}

/// The effect of a fetch that ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Fetched {
        token: Token,
        /// How long the previous token was still usable.
        remaining: Duration,
    },
    Failed {
        error: Error,
        /// What the waiters get: the error, or the current token.
        answer: Result<Token, Error>,
        backoff: Duration,
    },
    /// The result is ignored, because the source was replaced, the session ended, or a newer run
    /// was faster.
    Discarded,
}

/// The effect of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Has no effect, because this cache did not issue the token.
    Unknown,
    /// Has no effect, because the token's session has ended.
    SessionEnded,
    /// Has no effect, because the token was replaced before.
    Superseded,
    /// The session switched to the previous token, or back to the newer one. `first`: to the previous token, and for
    /// the first time.
    Fallback { first: bool },
    /// Has no effect, because the token may not have reached every server of the API. The request waits this long.
    Early(Duration),
    /// The current token is suspect until it is replaced. `first`: it was not suspect before.
    Marked { first: bool },
}

/// The next step to save the newest refresh token.
#[derive(Debug)]
pub(crate) enum SaveStep {
    /// There is nothing to save, because it is saved or there is none.
    Done,
    /// The driver saves it, and passes the ticket to [`Session::on_saved`].
    Save(SaveTicket, RotatedToken),
    /// The driver waits for another save, which counts as lost at this time.
    Wait(DualInstant),
}

/// One attempt to save a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaveTicket {
    attempt: u64,
    /// The number of the refresh token.
    number: u64,
}

/// A new refresh token, to be saved.
///
/// The cache passes it to [`on_rotation`](crate::TokenCacheBuilder::on_rotation).
#[derive(Clone, Debug)]
pub struct RotatedToken {
    refresh_token: Secret,
    token: Option<Token>,
}

/// The state of a cache, for health checks. It contains no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The phase of the token's life, or `None` without a token.
    pub phase: Option<Phase>,
    /// The token's generation, or 0 before the first token.
    pub generation: u64,
    /// How long the token is still usable, or `None` without a token.
    pub usable_for: Option<Duration>,
    /// Whether an API rejected this token. Requests carry it until it is replaced.
    pub suspect: bool,
    /// Whether a fetch is in flight.
    pub fetching: bool,
    /// Why the last fetch failed, or `None` if it succeeded.
    pub last_failure: Option<Error>,
    /// How long the backoff after a failure lasts, or `None` if the next request may fetch.
    pub next_attempt_in: Option<Duration>,
    /// Why [`on_rotation`](crate::TokenCacheBuilder::on_rotation) did not save the newest refresh token, if it failed.
    pub not_saved: Option<Error>,
    /// Whether the cache was shut down.
    pub closed: bool,
    /// Whether the session was [signed out](crate::TokenCache::sign_out).
    pub signed_out: bool,
    /// The shared session, or `None` if processes do not share it.
    #[cfg(feature = "store")]
    pub store: Option<StoreStatus>,
}

/// What a cache knows about its shared session.
#[cfg(feature = "store")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Why the last operation of the store failed, or `None` if it succeeded.
    pub error: Option<Error>,
    /// Why the newest tokens are only in this process, or `None` if they are in the store.
    pub unsaved: Option<Error>,
    /// How long ago the cache read the record, or `None` before the first time.
    pub looked: Option<Duration>,
    /// The number of the newest record that this process knows, or 0 before the first.
    ///
    /// All processes that share a session know the same number once each has read the newest record.
    pub serial: u64,
}

/// A fetched token, compared with the current one.
enum Evaluation {
    New(Token, Window),
    /// The current token again, and the error that starts the backoff.
    Unchanged(Token, Error),
}

// === impl RotatedToken ===

impl RotatedToken {
    /// Returns the refresh token to save.
    ///
    /// The issuer may no longer accept the previous one.
    pub fn refresh_token(&self) -> &Secret {
        &self.refresh_token
    }

    /// Returns the newest token, with this refresh token.
    ///
    /// It is the token that came with the refresh token. If the issuer's response contained no usable token, it is the
    /// previous one, or `None` if there was none.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

// === impl View ===

impl View {
    /// The current token, if it is usable.
    pub(crate) fn usable_at(&self, now: DualInstant) -> Option<(&CurrentToken, Phase)> {
        let current = self.current.as_ref()?;
        match current.window.phase(now) {
            Phase::Expired => None,
            phase => Some((current, phase)),
        }
    }

    /// The current token alone, if it is usable.
    pub(crate) fn usable_token(&self, now: DualInstant) -> Option<Token> {
        self.usable_at(now).map(|(current, _)| current.token.clone())
    }

    /// The failure whose backoff has not ended.
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

    /// Whether only this session holds the newest refresh token.
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

    // --- decisions ---

    /// Decides what to do for a demand of a caller that began in `session`. `in_flight`: the caller can join a run.
    pub(crate) fn decide(
        &self,
        demand: Demand,
        session: SessionId,
        policy: &RefreshPolicy,
        now: DualInstant,
        in_flight: bool,
    ) -> Decision {
        // This comes before `Join`, because the token of a run in flight belongs to another session.
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
            // An expired token would be replaced without a rejection, too.
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

    /// How long a run waits before it calls the source. Without a pause, tokens with a tiny lifetime would cause a call
    /// for each request.
    pub(crate) fn pause_before(&self, plan: FetchPlan, now: DualInstant) -> Duration {
        let is_for_its_age = matches!(plan.reason, Reason::Due | Reason::Expired);
        let aged = self.view.current.as_ref().filter(|_| is_for_its_age);
        let next = aged.zip(self.asked).map(|(aged, asked)| schedule::next_refresh(asked, aged.token.lifetime()));
        next.map_or(Duration::ZERO, |next| next.wait(now))
    }

    /// The driver started the run that [`decide`](Self::decide) returned.
    pub(crate) fn on_started(&mut self, run: Run, policy: &RefreshPolicy, now: DualInstant) {
        self.started_run = run.number;
        if run.plan.reason == Reason::Rejected {
            self.rejections.record(policy, now);
        }
    }

    /// A caller failed because the rejection budget is exhausted. Returns whether it is the first within the window.
    pub(crate) fn on_over_budget(&mut self, policy: &RefreshPolicy, now: DualInstant) -> bool {
        self.rejections.report(policy, now)
    }

    // --- rejection ---

    /// An API rejected this token, as a response with this sign says, or as the user reported if there is no sign.
    pub(crate) fn on_rejected(&mut self, token: TokenId, sign: Option<Sign>, now: DualInstant) -> Rejection {
        let session = self.view.session;
        if token.session != session {
            let is_known = token.session.is_of_same_cache(session);
            return if is_known { Rejection::SessionEnded } else { Rejection::Unknown };
        }
        let newest = self.generation;
        let Some(current) = self.view.current.as_ref().filter(|current| current.token.id() == token) else {
            // A rejected request may have carried the previous token. Then that token is no fallback any more.
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
        // An added sign may have other causes than the token's age, and a user's report counts at once.
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

    /// Stores the challenges of the rejection that was just marked. Returns the previous ones, to drop after unlocking.
    pub(crate) fn keep_challenges(&mut self, challenges: Vec<HeaderValue>) -> Vec<HeaderValue> {
        mem::replace(&mut self.history().challenges, challenges)
    }

    /// The unparsed challenges of the last response that rejected the current token.
    pub(crate) fn challenges(&self) -> &[HeaderValue] {
        self.history.as_ref().map_or(&[], |history| &history.challenges)
    }

    /// The API rejected a retry with this token.
    ///
    /// If this token was the fallback, returns the newer token if that one now has to be replaced.
    pub(crate) fn on_rejected_again(&mut self, token: TokenId, sign: Sign, now: DualInstant) -> Option<TokenId> {
        self.on_replacement_rejected(token, sign, now);
        let current = self.view.current.as_ref().filter(|current| current.token.id() == token)?;
        if sign != Sign::Standard || !self.uses_fallback() || schedule::is_young(current.published_at, now) {
            return None;
        }
        // The API rejects both, so the age of the newer token is not the reason.
        self.end_fallback(false, now);
        self.history().early = 0;
        let newer = self.view.current.as_ref()?;
        schedule::replication_lag(newer.published_at, false, now).is_none().then(|| newer.token.id())
    }

    /// The API accepted a retry with this token.
    pub(crate) fn on_accepted(&mut self, token: TokenId) {
        let Some(RejectionHistory { backoffs, replacement, .. }) = self.history.as_deref_mut() else { return };
        if let Some(replacement) = replacement.as_mut().filter(|replacement| replacement.is(token)) {
            replacement.helped = Some(true);
            backoffs[replacement.sign as usize] = RejectionBackoff::default();
        }
    }

    /// Ends the fallback if its time is over. Returns whether the current token has changed.
    pub(crate) fn on_time(&mut self, now: DualInstant) -> bool {
        let is_over = self.uses_fallback() && self.view.usable_at(now).is_none_or(|(_, phase)| phase != Phase::Fresh);
        if is_over {
            self.swap(now);
        }
        is_over
    }

    /// A token that replaced a rejected one was rejected, too. So the refresh did not help, unless it was long ago.
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

    /// Whether the current token is the fallback.
    fn uses_fallback(&self) -> bool {
        let current = self.view.current.as_ref().map_or(0, |current| current.token.generation());
        self.other.as_ref().is_some_and(|other| other.token.generation() > current)
    }

    /// Whether there is a usable previous token that the API may accept.
    fn has_fallback(&self, now: DualInstant) -> bool {
        let replacement = self.history.as_ref().and_then(|history| history.replacement);
        let newer_did_not_help =
            replacement.is_some_and(|newer| newer.generation == self.generation && newer.helped == Some(false));
        (!self.previous_is_suspect || newer_did_not_help)
            && self.other.as_ref().is_some_and(|other| other.window.phase(now) != Phase::Expired)
    }

    /// Makes the newer token current again. `keep`: the previous one stays available as a fallback.
    fn end_fallback(&mut self, keep: bool, now: DualInstant) {
        self.swap(now);
        if !keep {
            self.other = None;
        }
    }

    /// Swaps the current token with the other one. A previous token becomes current for [some
    /// seconds](Window::for_fallback).
    fn swap(&mut self, now: DualInstant) {
        let other = self.other.take().map(|other| *other);
        self.other = mem::replace(&mut Arc::make_mut(&mut self.view).current, other).map(Box::new);
        let uses_fallback = self.uses_fallback();
        if let Some(current) = Arc::make_mut(&mut self.view).current.as_mut().filter(|_| uses_fallback) {
            current.window = current.window.for_fallback(now);
        }
    }

    // --- the fetch ---

    /// The source of this run reported a new refresh token. Returns `false` if the session ignores it.
    pub(crate) fn on_rotated(&mut self, run: Run, refresh_token: Secret) -> bool {
        if !self.accept(run) {
            return false;
        }
        self.rotation.reported_by = Some(run.number);
        self.rotation.replace(Some(refresh_token));
        true
    }

    /// The source of this run returned a token. The session stores its refresh token before anything else can fail.
    ///
    /// Returns the token with the newest refresh token, or `None` if the session ignores it.
    pub(crate) fn on_received(&mut self, run: Run, token: Token) -> Option<Token> {
        if !self.accept(run) {
            return None;
        }
        // A source that reported a refresh token may leave it out of the token.
        if token.refresh_token().is_some() || self.rotation.reported_by != Some(run.number) {
            self.rotation.replace(token.refresh_token());
        }
        let token = self.with_refresh_token(token);
        self.newest = Some(token.clone());
        Some(token)
    }

    /// Evaluates the token of this run, and publishes it if it is new. Its refresh token may be saved or not.
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
        // The late failure of a replaced run is no failure of the newer run.
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

    /// Publishes a token that no fetch of this cache returned.
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

    /// Whether this process's login is not in a record yet.
    #[cfg(feature = "store")]
    pub(crate) fn has_new_login(&self) -> bool {
        self.shared.epoch != self.epoch
    }

    /// Whether another process ended the session.
    #[cfg(feature = "store")]
    pub(crate) fn is_ended_elsewhere(&self) -> bool {
        self.shared.ended_elsewhere
    }

    /// The store returned this record, or none. Adopts a newer record, and returns what it means for this process.
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
                // The session of another identity has ended, so a new login may replace its record.
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

    /// Returns a new login for a run. A look in the background does not log in.
    #[cfg(feature = "store")]
    fn new_login(&self, found: Option<&Record>, look: &Look<'_>) -> Finding {
        match look.run {
            Some(_) => Finding::Fetch { base: self.login_over(found, look), is_login: true },
            None => Finding::Discarded,
        }
    }

    /// Whether this process's source begins with a refresh token with which no login in the record began.
    #[cfg(feature = "store")]
    fn brings_new_login(&self, found: Option<&Record>, look: &Look<'_>) -> bool {
        let (Some(found), Some(seed), None) = (found, look.seed, &self.shared.known) else { return false };
        !found.seeds.contains(&Digest::of_secret(seed))
    }

    /// The record of a new login. It is newer than the found and the known record.
    #[cfg(feature = "store")]
    pub(crate) fn login_over(&self, found: Option<&Record>, look: &Look<'_>) -> Record {
        let previous = |number: fn(&Record) -> u64| {
            found.into_iter().chain(&self.shared.known).map(number).max().unwrap_or_default() + 1
        };
        let seeds = found.filter(|found| found.identity == *look.identity).map(|found| found.seeds.clone());
        let record = Record {
            identity: look.identity.clone(),
            login: previous(|record| record.login),
            serial: previous(|record| record.serial),
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
            // Another process has logged in again.
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

    /// The token of a record and its window, if it is usable and was not rejected.
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
        // Another look has adopted it meanwhile.
        if let Some((current, _)) = self.view.usable_at(look.now)
            && current.token.generation() > look.generation
            && current.token.generation() != self.rejected
        {
            return Finding::Usable { token: current.token.clone(), adopted: false };
        }
        Finding::Fetch { base: record, is_login: false }
    }

    /// This or another process has ended the session.
    #[cfg(feature = "store")]
    fn on_ended(&mut self, record: Record, look: &Look<'_>) -> Finding {
        match record.state {
            State::Ended(Ending::SignedOut { .. }) => {
                if !self.shared.ended_elsewhere {
                    self.shared.ended_elsewhere = true;
                    self.lifecycle = Lifecycle::SignedOut;
                    self.view = Arc::new(View { session: self.view.session.next(), ..View::default() });
                    self.other = None;
                    self.forget();
                }
                Finding::Ended(Error::signed_out())
            }
            _ if look.run.is_none() => Finding::Discarded,
            // A source without a first refresh token can log in again by itself.
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

    /// This process made a record. `unsaved` says why it may not be in the store.
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

    /// The driver wrote this lost record again.
    #[cfg(feature = "store")]
    pub(crate) fn on_restored(&mut self, record: &Record) {
        if self.shared.known.as_ref().is_some_and(|known| record.says_the_same(known)) {
            self.shared.unsaved = None;
        }
    }

    /// The sign-out of this process ended the record. `unsaved` says why it may not be in the store.
    #[cfg(feature = "store")]
    pub(crate) fn on_record_ended(&mut self, epoch: u64, record: Record, unsaved: Option<Error>) {
        if self.epoch == epoch {
            self.shared = SharedState { known: Some(record), unsaved, epoch, ended_elsewhere: false };
        }
    }

    // --- the refresh token ---

    /// Returns the next step to save the newest refresh token. A save counts as lost at `deadline`.
    pub(crate) fn begin_save(&mut self, now: DualInstant, deadline: DualInstant) -> SaveStep {
        let rotation = &mut self.rotation;
        let Some(refresh_token) = rotation.refresh_token.clone().filter(|_| rotation.saved < rotation.newest) else {
            return SaveStep::Done;
        };
        // Invariant: saves do not overlap, so that an older one never overwrites a newer one.
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

    /// A save ended. `result` is `None` if it was dropped before it ended.
    ///
    /// Returns whether a newer refresh token has to be saved, because this save may have overwritten it. Returns also
    /// the error that is no longer reported, to drop after unlocking.
    pub(crate) fn on_saved(&mut self, ticket: SaveTicket, result: Option<Result<(), Error>>) -> (bool, Option<Error>) {
        let rotation = &mut self.rotation;
        let SaveTicket { attempt, number } = ticket;
        rotation.saving.take_if(|saving| saving.0 == attempt);
        // A failed save of an older refresh token may have overwritten the newer one, which then counts as not saved.
        if number < rotation.saved || matches!(result, Some(Ok(()))) {
            rotation.saved = number;
        }
        // The save of an older refresh token, or of a previous source's, does not change the status of the newest.
        let is_newest = number == rotation.newest && number > rotation.forgotten;
        let previous = match result {
            Some(result) if is_newest => {
                mem::replace(&mut rotation.not_saved, result.err().map(Box::new)).map(|error| *error)
            }
            Some(result) => result.err(),
            None => None,
        };
        (number < rotation.newest && rotation.refresh_token.is_some(), previous)
    }

    // --- sources, sessions and the end ---

    /// The session ends. From now on no caller gets its token.
    ///
    /// Returns the epoch, which is an argument of the later steps of the sign-out.
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

    /// The run in flight at the sign-out has ended, or its deadline has passed. From now on no result is accepted.
    ///
    /// Returns the refresh token to revoke. [`on_revoked`](Self::on_revoked) removes it, so that a dropped sign-out can
    /// be repeated.
    pub(crate) fn on_run_ended(&mut self, epoch: u64) -> Result<Option<Secret>, Error> {
        if self.epoch != epoch {
            return Err(Error::login(
                "another session began before this one was signed out; its refresh token was not revoked",
            ));
        }
        self.lifecycle = Lifecycle::SignedOut;
        Ok(self.rotation.refresh_token.clone())
    }

    /// The revocation of the refresh token has succeeded or failed. Removes all tokens.
    ///
    /// Returns whether to remove the source, too. If another session began meanwhile, nothing is removed.
    pub(crate) fn on_revoked(&mut self, epoch: u64) -> bool {
        let is_current = self.epoch == epoch;
        if is_current {
            self.forget();
        }
        is_current
    }

    /// Another source replaces the current one. All tokens of the current one are removed.
    ///
    /// `same_session`: the source has new credentials for the same login, so the callers of this session continue. A
    /// session that was signed out does not continue.
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

    /// Whether the result of this run may be published.
    pub(crate) fn wants(&self, run: Run) -> bool {
        self.is_newest(run) && self.lifecycle == Lifecycle::Active
    }

    /// Records that a run returned a token. Returns `false` if the session ignores it.
    ///
    /// A session that is signing out still accepts it, because its refresh token has to be revoked.
    fn accept(&mut self, run: Run) -> bool {
        let accepts = self.is_newest(run) && self.lifecycle != Lifecycle::SignedOut;
        if accepts {
            self.accepted_run = run.number;
        }
        accepts
    }

    /// Whether this run belongs to the current source, and no result of a newer run was accepted.
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
        // The issuer returned the current token with no later end. Without a backoff, the cache would fetch in a loop.
        if let Some((current, _)) = self.view.usable_at(now)
            && current.token.header_value() == token.header_value()
        {
            if self.rejected == current.token.generation() {
                return Err(Error::unusable(None, "the issuer handed out the token again that an API has rejected"));
            }
            // A source that sets `refresh_in` polls, so the same token again is not a failure.
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
        // The same access token with a later end keeps its generation: its rejections still count, and the API's
        // servers already know it.
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
        let previous = mem::replace(&mut self.view, Arc::new(view)).current.clone();
        if known.is_none() {
            let (rejected_at, was_young) =
                self.history.as_ref().map_or_else(Default::default, |history| history.rejected_at);
            // A token that was used for some time after its rejection is probably valid.
            let is_suspect = |previous: &CurrentToken| {
                previous.token.generation() == self.rejected && schedule::is_young(rejected_at, now)
            };
            let is_good = |previous: &CurrentToken| {
                previous.window.phase(now) != Phase::Expired && (was_young || !is_suspect(previous))
            };
            // A suspect fallback stays suspect.
            self.previous_is_suspect =
                used_fallback && self.previous_is_suspect || previous.as_ref().is_some_and(is_suspect);
            self.other = previous.filter(is_good).map(Box::new);
        }
        token
    }

    fn with_refresh_token(&self, token: Token) -> Token {
        match &self.rotation.refresh_token {
            Some(refresh_token) => token.with_refresh_token(refresh_token.clone()),
            None => token,
        }
    }

    /// Removes the tokens of the source.
    fn forget(&mut self) {
        self.newest = None;
        self.rotation.forget();
    }
}

// === impl Replacement ===

impl Replacement {
    /// Compares only generations, because they are unique within a cache.
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

    /// Removes the refresh token. A save in flight continues, and the next save waits for it.
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

    /// Whether a waiter can use the token that a run returned.
    pub(crate) fn is_met_by_result(self, token: &Token) -> bool {
        match self {
            Self::NewerThan(generation, _) => token.generation() > generation,
            Self::Usable | Self::Fresh | Self::Fetched => true,
        }
    }
}

#[cfg(test)]
mod tests;
