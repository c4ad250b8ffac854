//! The session: a state machine that decides what callers get and when the cache fetches.
//!
//! Nothing here locks, awaits, reads a clock or draws a random number. Time and jitter are arguments. The driver locks
//! the session, asks it what to do, does that, reports the outcome to the session, and publishes its [`View`].
//!
//! # The life of a session
//! ```text
//!            on_sign_out                    on_run_ended
//! Active -------------------> SigningOut -------------------> SignedOut
//!   ^                             |                               |
//!   +------- on_new_source -------+-------- on_new_source --------+
//! ```
//! - `Active`: callers get tokens, and the cache fetches. `on_new_source` does not leave this state.
//! - `SigningOut`: callers get an error. The run in flight may still rotate the refresh token.
//! - `SignedOut`: no result of a run is accepted, and the sign-out revokes the refresh token.
//!
//! With a shared store, another process can end the session, and log in again. If the record says so, the session
//! changes from `Active` to `SignedOut` directly, and back to `Active`.
//!
//! `on_closed` does not change this state. A closed cache starts no run, and serves the token that it holds until it
//! expires.
//!
//! # Three numbers
//! - A **session** is the time in which one person is signed in. New credentials for that person do not end it. A
//!   request belongs to the session in which it began, and never carries the token of another session. A sign-out
//!   begins a new session, and so does the login of another person.
//! - The **epoch** counts sources. The result of a run for an older source is discarded.
//! - The **generation** counts tokens. A rejection names a token, and has no effect unless that token is the current
//!   one.
//!
//! # The fallback: when an API rejects a young token
//! An API may reject a token in its first seconds, because the API's clock is behind or because not all of its servers
//! know the token. Then the previous token is still valid. So the session keeps the previous token until it expires.
//! When an API rejects a young token, the session makes the previous token current for some seconds, as a *fallback*.
//! After that it makes the newer token current again. The rejection counts only if the API rejects the fallback, too,
//! or if no usable previous token exists and the API had time to learn of the young one ([`Rejection::Early`]). A
//! rejection that the user reports counts at once.

mod history;
#[cfg(feature = "store")]
mod record;
mod rotation;
mod status;
mod view;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::cache::session::history::RejectionHistory;
#[cfg(feature = "store")]
use crate::cache::session::record::{Comparison, KnownRecord};
pub use crate::cache::session::rotation::RotatedToken;
use crate::cache::session::rotation::Rotation;
pub(crate) use crate::cache::session::rotation::{SaveStep, SaveTicket};
pub use crate::cache::session::status::Status;
#[cfg(feature = "store")]
pub use crate::cache::session::status::StoreStatus;
pub(crate) use crate::cache::session::view::{CurrentToken, Failure, View};
use crate::error::Error;
#[cfg(feature = "store")]
use crate::error::StoreProblem;
use crate::schedule::{self, DualInstant, Phase, RefreshPolicy, RejectionBudget, Sign, Window};
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
    /// When the newest token that a fetch returned was requested.
    asked: Option<DualInstant>,
    /// The newest generation that an API rejected.
    rejected: u64,
    rejections: RejectionBudget,
    /// Boxed like `other`, because most sessions need neither.
    history: Option<Box<RejectionHistory>>,
    /// The second usable token: the previous one, or, while that one is the fallback, the newer one.
    other: Option<Box<CurrentToken>>,
    /// Whether the older of the two was rejected. Then it is a fallback only if the API rejected the newer one, too.
    previous_is_suspect: bool,
    /// The newest run that was started.
    started_run: u64,
    /// The results of runs with a smaller number are ignored.
    oldest_valid_run: u64,
    /// The newest token of the source, published or not.
    newest: Option<Token>,
    rotation: Rotation,
    #[cfg(feature = "store")]
    record: KnownRecord,
}

/// The purpose and the circumstances of a read of the record.
#[cfg(feature = "store")]
pub(crate) struct ReadContext<'a> {
    /// The run that reads. It is `None` for a read in the background, for which no caller waits.
    pub(crate) run: Option<Run>,
    /// The digest of everything that determines this process's tokens.
    pub(crate) identity: &'a Digest,
    /// The refresh token with which this process's source begins, if it has one.
    pub(crate) initial_refresh_token: Option<&'a Secret>,
    /// The generation that was current when the run began. The run needs a newer one.
    pub(crate) generation: u64,
    pub(crate) policy: &'a RefreshPolicy,
    pub(crate) now: DualInstant,
    pub(crate) jitter: f64,
}

/// What the record means for this process.
#[cfg(feature = "store")]
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// There is a usable token. `adopted`: this read took it from the record.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    Active,
    SigningOut,
    SignedOut,
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
        for_waiters: Result<Token, Error>,
        backoff: Duration,
    },
    /// The result is ignored, because the source was replaced, the session ended, a newer run returned a token before,
    /// or this run failed after a newer one started.
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

/// A fetched token, compared with the current one.
enum Evaluation {
    New(Token, Window),
    /// The current token again, and the error that starts the backoff.
    Unchanged(Token, Error),
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
            oldest_valid_run: 0,
            newest: None,
            rotation: Rotation::default(),
            #[cfg(feature = "store")]
            record: KnownRecord::default(),
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
        self.rotation.refresh_token()
    }

    /// How many fetches have failed in a row.
    pub(crate) fn failed_fetches(&self) -> u32 {
        self.view.failure.as_ref().map_or(0, |failure| failure.fetches)
    }

    /// Whether only this session holds the newest refresh token.
    #[cfg(feature = "keyed")]
    pub(crate) fn holds_unsaved_refresh_token(&self) -> bool {
        self.rotation.is_unsaved()
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
            not_saved: self.rotation.not_saved().cloned(),
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
        // This comes before `Join`, because a caller whose session has ended cannot use the token of a run.
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
            // Also for a rejected token, so that the rejection budget does not count the fetch.
            (_, None) if self.view.current.is_some() => Reason::Expired,
            (_, None) => Reason::First,
        };
        let sign = match demand {
            Demand::NewerThan(_, sign) if reason == Reason::Rejected => sign,
            _ => None,
        };
        let is_suspended =
            sign.zip(self.history.as_ref()).is_some_and(|(sign, history)| history.is_suspended(sign, now));
        if reason == Reason::Rejected && (is_suspended || !self.rejections.has_capacity(policy, now)) {
            return Decision::OverBudget;
        }
        Decision::Start(FetchPlan { epoch: self.epoch, reason, sign })
    }

    /// How long a run waits before it calls the source. Without a pause, tokens with a tiny lifetime would cause a call
    /// for each request.
    pub(crate) fn pause_before(&self, plan: FetchPlan, now: DualInstant) -> Duration {
        let is_for_age = matches!(plan.reason, Reason::Due | Reason::Expired);
        let aged = self.view.current.as_ref().filter(|_| is_for_age);
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
        // A user's report of the newer token counts at once, also while the previous one is the fallback.
        if sign.is_none() && token.generation == newest && self.uses_fallback() {
            self.swap(now);
        }
        let Some(current) = self.view.current.as_ref().filter(|current| current.token.id() == token) else {
            // If the rejected token is the previous one and is not young, it cannot be a fallback.
            let is_no_fallback = |other: &mut Box<CurrentToken>| {
                other.token.id() == token && token.generation < newest && !schedule::is_young(other.issued_at, now)
            };
            self.other.take_if(is_no_fallback);
            return Rejection::Superseded;
        };
        let issued_at = current.issued_at;
        let is_young = schedule::is_young(issued_at, now);
        if self.uses_fallback() {
            self.end_fallback(is_young, now);
            return Rejection::Fallback { first: false };
        }
        // A response with `Sign::Added` may have other causes than the token's age, and a user's report counts at once.
        if sign == Some(Sign::Standard) && is_young && self.has_fallback(now) {
            let first = mem::replace(&mut self.history().early, token.generation) != token.generation;
            self.swap(now);
            return Rejection::Fallback { first };
        }
        let is_early = is_young && self.history.as_ref().is_some_and(|history| history.early == token.generation);
        if sign.is_some()
            && let Some(lag) = schedule::replication_lag(issued_at, is_early, now)
        {
            return Rejection::Early(lag);
        }
        if let Some(sign) = sign {
            self.history().on_rejected(token, sign, now);
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

    /// The unparsed challenges of the last rejection that was marked.
    pub(crate) fn challenges(&self) -> &[HeaderValue] {
        self.history.as_ref().map_or(&[], |history| &history.challenges)
    }

    /// The API rejected a retry with this token.
    ///
    /// If this token was the fallback, returns the newer token if that one now has to be replaced.
    pub(crate) fn on_rejected_again(&mut self, token: TokenId, sign: Sign, now: DualInstant) -> Option<TokenId> {
        if let Some(history) = &mut self.history {
            history.on_rejected(token, sign, now);
        }
        let current = self.view.current.as_ref().filter(|current| current.token.id() == token)?;
        if sign != Sign::Standard || !self.uses_fallback() || schedule::is_young(current.issued_at, now) {
            return None;
        }
        // The API rejects both, so the age of the newer token is not the reason.
        self.end_fallback(false, now);
        self.history().early = 0;
        let newer = self.view.current.as_ref()?;
        schedule::replication_lag(newer.issued_at, false, now).is_none().then(|| newer.token.id())
    }

    /// The API accepted a retry with this token.
    pub(crate) fn on_accepted(&mut self, token: TokenId) {
        if let Some(history) = &mut self.history {
            history.on_accepted(token);
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
        let newer_did_not_help = self.history.as_ref().is_some_and(|history| history.did_not_help(self.generation));
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
        self.rotation.report(run.number, refresh_token);
        true
    }

    /// The source of this run returned a token. The session stores its refresh token before anything else can fail.
    ///
    /// Returns the token with the newest refresh token, or `None` if the session ignores it.
    pub(crate) fn on_received(&mut self, run: Run, token: Token) -> Option<Token> {
        if !self.accept(run) {
            return None;
        }
        self.rotation.receive(run.number, &token);
        let token = self.rotation.add_to(token);
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
                let token = self.publish(token, window, now, now);
                self.asked = Some(timing.asked);
                let generation = token.generation();
                if run.plan.sign.is_some() || self.history.is_some() {
                    self.history().on_fetched(generation, run.plan.sign, now);
                }
                Outcome::Fetched { token, remaining }
            }
            Ok(Evaluation::Unchanged(token, error)) => {
                let mut outcome = self.on_failed(run, error, timing);
                // After a rejection the same token would not help.
                if let Outcome::Failed { for_waiters, .. } = &mut outcome
                    && run.plan.reason != Reason::Rejected
                {
                    *for_waiters = Ok(token);
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
        Outcome::Failed { for_waiters: Err(error.clone()), error, backoff }
    }

    /// Publishes a token that no fetch of this cache returned.
    ///
    /// If an API rejects it soon after `issued_at`, it counts as young.
    pub(crate) fn on_adopted(&mut self, token: Token, window: Window, issued_at: DualInstant, now: DualInstant) {
        self.publish(token, window, issued_at, now);
    }

    // --- the record that processes share ---

    /// The newest record that this process knows.
    #[cfg(feature = "store")]
    pub(crate) fn known_record(&self) -> Option<&Record> {
        self.record.record()
    }

    /// Why the newest record may not be in the store, if it may not.
    #[cfg(feature = "store")]
    pub(crate) fn unsaved(&self) -> Option<&Error> {
        self.record.unsaved()
    }

    /// Whether only this process has the newest tokens of the session. After a sign-out there are none.
    #[cfg(all(feature = "store", feature = "keyed"))]
    pub(crate) fn holds_unsaved_record(&self) -> bool {
        self.record.unsaved().is_some() && self.lifecycle != Lifecycle::SignedOut
    }

    /// Whether this process has replaced its source since it last made or ended a record.
    #[cfg(feature = "store")]
    pub(crate) fn has_new_login(&self) -> bool {
        self.record.lacks_login_of(self.epoch)
    }

    /// Whether another process ended the session.
    #[cfg(feature = "store")]
    pub(crate) fn is_ended_elsewhere(&self) -> bool {
        self.record.ended_elsewhere
    }

    /// The store returned this record, or none. Adopts a newer record, and returns what it means for this process.
    #[cfg(feature = "store")]
    pub(crate) fn on_record_read(&mut self, found: Option<&Record>, context: &ReadContext<'_>) -> ReadOutcome {
        let wanted = context.run.is_none_or(|run| self.is_newest(run));
        let reads_records = self.lifecycle == Lifecycle::Active || self.record.ended_elsewhere;
        if !wanted || !reads_records {
            return ReadOutcome::Discarded;
        }
        match self.record.compare(found, context.identity, context.initial_refresh_token, self.epoch) {
            // A read in the background does not log in.
            Comparison::NewLogin if context.run.is_none() => ReadOutcome::Discarded,
            Comparison::NewLogin => ReadOutcome::Fetch { base: self.login_over(found, context), is_login: true },
            Comparison::OtherIdentity => ReadOutcome::OtherIdentity(Error::shared(
                "the record under this key belongs to another user, tenant, scope, client or issuer; give each session a key of its own",
                StoreProblem::Permanent,
            )),
            Comparison::Lost(record) => ReadOutcome::Lost(record),
            Comparison::Same(record) => {
                self.record.on_same(record);
                self.on_known(record.clone(), context)
            }
            Comparison::Newer(record) => self.on_newer(record.clone(), context),
        }
    }

    /// The record of a new login. It is newer than the found and the known record.
    #[cfg(feature = "store")]
    pub(crate) fn login_over(&self, found: Option<&Record>, context: &ReadContext<'_>) -> Record {
        self.record.login_over(found, context.identity, context.initial_refresh_token)
    }

    /// The record in the store is newer than what this process knows.
    #[cfg(feature = "store")]
    fn on_newer(&mut self, record: Record, context: &ReadContext<'_>) -> ReadOutcome {
        let is_active = matches!(record.state, State::Active { .. });
        let begins_session = is_active && self.record.ended_elsewhere || self.record.is_of_another_session(&record);
        if begins_session {
            self.on_session_elsewhere();
        }
        let outcome = self.adopt(record, context);
        match outcome {
            // This run belongs to the former session, too. The next one fetches.
            ReadOutcome::Fetch { .. } if begins_session => ReadOutcome::Discarded,
            outcome => outcome,
        }
    }

    /// Another process began another session, after a sign-out or for another person.
    #[cfg(feature = "store")]
    fn on_session_elsewhere(&mut self) {
        self.end_view(self.view.session.next());
        self.forget();
        self.end_backoffs();
        // All runs so far belong to the former session.
        self.oldest_valid_run = self.started_run + 1;
    }

    /// Stores the record as the known one, and publishes its token if that is usable.
    #[cfg(feature = "store")]
    fn adopt(&mut self, record: Record, context: &ReadContext<'_>) -> ReadOutcome {
        self.record.on_read(record.clone());
        let State::Active { token, refresh_token, .. } = &record.state else { return self.on_ended(record, context) };
        if self.record.ended_elsewhere {
            // Another process has logged in again.
            self.record.ended_elsewhere = false;
            self.lifecycle = Lifecycle::Active;
        }
        self.rotation.replace(refresh_token.clone());
        self.newest = token.as_ref().map(|saved| saved.token.clone());
        let Some((saved, window)) = token.as_ref().and_then(|saved| self.adoptable(saved, context)) else {
            return ReadOutcome::Fetch { base: record, is_login: false };
        };
        let adopted = self.publish(saved.token.clone(), window, saved.asked, context.now);
        if let Some(run) = context.run {
            self.oldest_valid_run = self.oldest_valid_run.max(run.number);
            if run.plan.reason == Reason::Rejected {
                // No token call was made.
                self.rejections.remove_last();
            }
        }
        ReadOutcome::Usable { token: adopted, adopted: true }
    }

    /// The token of a record and its window, if it is usable and was not rejected.
    #[cfg(feature = "store")]
    fn adoptable<'a>(&self, saved: &'a SavedToken, context: &ReadContext<'_>) -> Option<(&'a SavedToken, Window)> {
        let SavedToken { token, asked } = saved;
        let window = window_of(token, context.policy, *asked, Duration::ZERO, context.jitter);
        let rejected = self.view.current.as_ref().is_some_and(|current| {
            current.token.generation() == self.rejected && current.token.header_value() == token.header_value()
        });
        (window.phase(context.now) != Phase::Expired && !rejected).then_some((saved, window))
    }

    /// The record in the store is the one that this process knows.
    #[cfg(feature = "store")]
    fn on_known(&mut self, record: Record, context: &ReadContext<'_>) -> ReadOutcome {
        if matches!(record.state, State::Ended(_)) {
            return self.on_ended(record, context);
        }
        // A read since this run began has adopted the record, so its token is newer than the run needs.
        if let Some((current, _)) = self.view.usable_at(context.now)
            && current.token.generation() > context.generation
            && current.token.generation() != self.rejected
        {
            return ReadOutcome::Usable { token: current.token.clone(), adopted: false };
        }
        ReadOutcome::Fetch { base: record, is_login: false }
    }

    /// This or another process has ended the session.
    #[cfg(feature = "store")]
    fn on_ended(&mut self, record: Record, context: &ReadContext<'_>) -> ReadOutcome {
        match record.state {
            State::Ended(Ending::SignedOut { .. }) => {
                // Later reads of the same end begin no further session.
                if !self.record.ended_elsewhere {
                    self.record.ended_elsewhere = true;
                    self.lifecycle = Lifecycle::SignedOut;
                    self.end_view(self.view.session.next());
                    self.forget();
                }
                ReadOutcome::Ended(Error::signed_out())
            }
            _ if context.run.is_none() => ReadOutcome::Discarded,
            // A source that begins without a refresh token can log in again by itself.
            _ if context.initial_refresh_token.is_none() => {
                self.rotation.replace(None);
                ReadOutcome::Fetch { base: self.login_over(Some(&record), context), is_login: true }
            }
            _ => ReadOutcome::Ended(Error::shared(
                "the issuer denied the refresh token of the session that processes share; log in again",
                StoreProblem::Denied,
            )),
        }
    }

    /// This process made a record. `unsaved` says why it may not be in the store.
    #[cfg(feature = "store")]
    pub(crate) fn on_record_made(&mut self, run: Run, record: Record, unsaved: Option<Error>) {
        if run.plan.epoch == self.epoch {
            self.record.on_made(self.epoch, record, unsaved);
        }
    }

    /// The driver wrote this lost record again.
    #[cfg(feature = "store")]
    pub(crate) fn on_restored(&mut self, record: &Record) {
        self.record.on_restored(record);
    }

    /// The sign-out of this process ended the record. `unsaved` says why it may not be in the store.
    #[cfg(feature = "store")]
    pub(crate) fn on_record_ended(&mut self, epoch: u64, record: Record, unsaved: Option<Error>) {
        if self.epoch == epoch {
            self.record.on_ended_here(epoch, record, unsaved);
        }
    }

    // --- the refresh token ---

    /// Returns the next step to save the newest refresh token. A save counts as lost at `deadline`.
    pub(crate) fn begin_save(&mut self, now: DualInstant, deadline: DualInstant) -> SaveStep {
        self.rotation.begin_save(self.newest.as_ref(), now, deadline)
    }

    /// A save ended. `result` is `None` if it was dropped before it ended.
    ///
    /// Returns whether a newer refresh token has to be saved, because this save may have overwritten it. Returns also
    /// the error that is no longer reported, to drop after unlocking.
    pub(crate) fn on_saved(&mut self, ticket: SaveTicket, result: Option<Result<(), Error>>) -> (bool, Option<Error>) {
        self.rotation.on_saved(ticket, result)
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
            self.record.ended_elsewhere = false;
        }
        self.end_view(self.view.session.next());
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
        Ok(self.rotation.refresh_token().cloned())
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
        let keeps_session = same_session && self.lifecycle == Lifecycle::Active;
        self.end_view(if keeps_session { session } else { session.next() });
        self.lifecycle = Lifecycle::Active;
        #[cfg(feature = "store")]
        {
            self.record.ended_elsewhere = false;
            if !keeps_session {
                self.record.on_new_session();
            }
        }
        self.epoch += 1;
        self.end_backoffs();
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

    /// Records that a run reported a refresh token or returned a token. Returns `false` if the session ignores it.
    ///
    /// A session that is signing out still accepts it, because its refresh token has to be revoked.
    fn accept(&mut self, run: Run) -> bool {
        let accepts = self.is_newest(run) && self.lifecycle != Lifecycle::SignedOut;
        if accepts {
            self.oldest_valid_run = run.number;
        }
        accepts
    }

    /// Whether this run belongs to the current source and session, and no result of a newer run was accepted.
    fn is_newest(&self, run: Run) -> bool {
        run.plan.epoch == self.epoch && run.number >= self.oldest_valid_run
    }

    fn evaluate(&self, token: Token, policy: &RefreshPolicy, timing: Timing) -> Result<Evaluation, Error> {
        let Timing { asked, now, jitter } = timing;
        let took = now.mono.saturating_sub(asked.mono);
        let window = window_of(&token, policy, asked, took, jitter);
        if window.phase(now) == Phase::Expired {
            let problem = format!(
                "it had expired when it arrived: it is valid for {:?} from the request, and the answer took {took:?}",
                token.lifetime(),
            );
            return Err(Error::unusable(None, problem));
        }
        if let Some((current, _)) = self.view.usable_at(now)
            && current.token.header_value() == token.header_value()
        {
            if self.rejected == current.token.generation() {
                return Err(Error::unusable(None, "the issuer returned the token again that an API has rejected"));
            }
            // Without a backoff, the cache would fetch in a loop. A source that sets `refresh_in` polls, so the same
            // token again is not a failure.
            if token.refresh_in().is_none()
                && window.end().wait(asked) <= current.window.end().wait(asked) + Duration::from_secs(1)
            {
                let error = Error::unusable(None, "the issuer returned the same token again, with no later end");
                return Ok(Evaluation::Unchanged(current.token.clone(), error));
            }
        }
        Ok(Evaluation::New(token, window))
    }

    /// Makes the token the current one, as the next generation.
    fn publish(&mut self, token: Token, window: Window, issued_at: DualInstant, now: DualInstant) -> Token {
        // The same access token with a later end keeps its generation: its rejections still count, and the API's
        // servers already know it.
        let same = self.view.usable_at(now).filter(|(current, _)| current.token.header_value() == token.header_value());
        let issued_at = same.map_or(issued_at, |(current, _)| current.issued_at);
        let known = same.map(|(current, _)| current.token.generation());
        self.generation += u64::from(known.is_none());
        let id = TokenId { session: self.view.session, generation: known.unwrap_or(self.generation) };
        let token = token.published(id, window.end().system_time());
        self.newest = Some(token.clone());
        let current = CurrentToken { token: token.clone(), window, issued_at };
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

    /// Removes both usable tokens and the failure from the view, which belongs to this session from now on.
    // Invariant: `other` never outlives the view with which it was stored. So no token of an ended session is used.
    fn end_view(&mut self, session: SessionId) {
        self.view = Arc::new(View { session, ..View::default() });
        self.other = None;
    }

    /// Forgets whether refreshes after rejections have helped.
    fn end_backoffs(&mut self) {
        if let Some(history) = &mut self.history {
            history.end_backoffs();
        }
    }

    /// Removes the tokens of the source.
    fn forget(&mut self) {
        self.newest = None;
        self.rotation.forget();
    }
}

/// The window of a token that was requested at `asked`. `took`: how long its fetch took.
fn window_of(token: &Token, policy: &RefreshPolicy, asked: DualInstant, took: Duration, jitter: f64) -> Window {
    let window = Window::new(policy, token.lifetime(), asked, took, jitter);
    match token.refresh_in() {
        Some(refresh_in) => window.due_within(refresh_in, jitter),
        None => window,
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
