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

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::schedule::{self, Moment, Phase, Refresh, RejectionBudget, Window};
use crate::secret::Secret;
use crate::source::Reason;
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
    /// The newest generation that an API rejected.
    rejected: u64,
    rejections: RejectionBudget,
    /// The newest run that was started.
    started_run: u64,
    /// The newest run whose answer was accepted.
    accepted_run: u64,
    /// The newest token of the source, published or not.
    newest: Option<Token>,
    rotation: Rotation,
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
    pub(crate) published_at: Moment,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// No fetch is made before, unless a caller asks for one.
    pub(crate) retry_at: Moment,
    /// How many fetches in a row have failed in the same way.
    streak: u32,
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
    saving: Option<Box<(u64, Moment)>>,
    not_saved: Option<Box<Error>>,
}

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Any token that can be sent.
    Usable,
    /// A token that is not due yet: a refresh ahead of time.
    Fresh,
    /// A token that can be sent and is newer than this generation.
    NewerThan(u64),
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
    pub(crate) asked: Moment,
    pub(crate) now: Moment,
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
    /// The current token is suspect until it is replaced; `first` if it was not so before.
    Marked { first: bool },
}

/// What the rotated refresh token needs.
#[derive(Debug)]
pub(crate) enum SaveStep {
    /// Nothing: it is saved, or there is none.
    Done,
    /// To be saved; the ticket is for [`Session::on_saved`].
    Save(SaveTicket, Token),
    /// Another save has not ended. It counts as lost from this moment on.
    Wait(Moment),
}

/// One attempt to save a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaveTicket {
    attempt: u64,
    /// Of the refresh token.
    number: u64,
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
    /// Why the newest refresh token is not saved, if [`on_rotation`](crate::TokenCache::on_rotation) failed.
    pub not_saved: Option<Error>,
    /// Whether the cache was shut down.
    pub closed: bool,
    /// Whether the session was [signed out](crate::TokenCache::sign_out).
    pub signed_out: bool,
}

/// What a fetched token is, compared with the current one.
enum Evaluation {
    New(Token, Window),
    /// The current token again, and why the issuer is not asked again at once.
    Unchanged(Token, Error),
}

// === impl View ===

impl View {
    /// The current token, if it can be sent.
    pub(crate) fn usable_at(&self, now: Moment) -> Option<(&CurrentToken, Phase)> {
        let current = self.current.as_ref()?;
        match current.window.phase(now) {
            Phase::Expired => None,
            phase => Some((current, phase)),
        }
    }

    /// The same without what is known of it.
    pub(crate) fn usable_token(&self, now: Moment) -> Option<Token> {
        self.usable_at(now).map(|(current, _)| current.token.clone())
    }

    /// The failure whose backoff is not over.
    pub(crate) fn active_backoff(&self, now: Moment) -> Option<&Failure> {
        self.failure.as_deref().filter(|failure| !failure.retry_at.reached(now))
    }

    fn remaining(&self, now: Moment) -> Duration {
        self.current.as_ref().map_or(Duration::ZERO, |current| current.window.left(now))
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
            rejected: 0,
            rejections: RejectionBudget::default(),
            started_run: 0,
            accepted_run: 0,
            newest: None,
            rotation: Rotation::default(),
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

    /// Whether the newest refresh token is nowhere but here.
    #[cfg(feature = "keyed")]
    pub(crate) fn holds_unsaved_refresh_token(&self) -> bool {
        self.rotation.refresh_token.is_some() && self.rotation.saved < self.rotation.newest
    }

    pub(crate) fn status(&self, now: Moment, fetching: bool) -> Status {
        let View { current, failure, .. } = &*self.view;
        let backoff = failure.as_ref().map(|failure| failure.retry_at.wait(now));
        Status {
            phase: current.as_ref().map(|current| current.window.phase(now)),
            generation: current.as_ref().map_or(0, |current| current.token.generation()),
            usable_for: current.as_ref().map(|current| current.window.left(now)),
            suspect: current.as_ref().is_some_and(|current| current.token.generation() == self.rejected),
            fetching,
            last_failure: failure.as_ref().map(|failure| failure.error.clone()),
            next_attempt_in: backoff.filter(|backoff| !backoff.is_zero()),
            not_saved: self.rotation.not_saved.as_deref().cloned(),
            closed: self.closed,
            signed_out: self.lifecycle != Lifecycle::Active,
        }
    }

    // --- what a caller needs ---

    /// Decides how a demand is met, for a caller that began in this session. `in_flight`: a run is in flight that the
    /// caller can join.
    pub(crate) fn decide(
        &self,
        demand: Demand,
        session: SessionId,
        policy: &Refresh,
        now: Moment,
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
            (Demand::NewerThan(_), Some(_)) => Reason::Refused,
            (_, Some(_)) => Reason::Due,
            // A token that has ended would be replaced without a rejection, too.
            (_, None) if self.view.current.is_some() => Reason::Expired,
            (_, None) => Reason::First,
        };
        if reason == Reason::Refused && !self.rejections.has_room(policy, now) {
            return Decision::OverBudget;
        }
        Decision::Start(FetchPlan { epoch: self.epoch, reason })
    }

    /// A run was started as [`decide`](Self::decide) said.
    pub(crate) fn on_started(&mut self, run: Run, policy: &Refresh, now: Moment) {
        self.started_run = run.number;
        if run.plan.reason == Reason::Refused {
            self.rejections.spend(policy, now);
        }
    }

    /// A caller was told that rejections have used their budget; returns whether it is the first within the window.
    pub(crate) fn on_over_budget(&mut self, policy: &Refresh, now: Moment) -> bool {
        self.rejections.report(policy, now)
    }

    // --- rejection ---

    /// An API rejected this token.
    pub(crate) fn on_rejected(&mut self, token: TokenId) -> Rejection {
        match &self.view.current {
            _ if !token.session.is_of_same_cache(self.view.session) => Rejection::Unknown,
            _ if token.session != self.view.session => Rejection::SessionEnded,
            Some(current) if current.token.id() == token => {
                let first = self.rejected < token.generation;
                self.rejected = token.generation;
                Rejection::Marked { first }
            }
            _ => Rejection::Superseded,
        }
    }

    /// How long a request waits that was rejected with this token, if the token may not have reached every server of the
    /// API yet. Such a rejection is not counted.
    pub(crate) fn replication_lag(view: &View, token: TokenId, now: Moment) -> Option<Duration> {
        let current = view.current.as_ref().filter(|current| current.token.id() == token)?;
        schedule::replication_lag(current.published_at, now)
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
    pub(crate) fn on_fetched(&mut self, run: Run, token: Token, policy: &Refresh, timing: Timing) -> Outcome {
        if !self.wants(run) {
            return Outcome::Discarded;
        }
        let Timing { now, .. } = timing;
        let remaining = self.view.remaining(now);
        match self.evaluate(token, policy, timing) {
            Ok(Evaluation::New(token, window)) => {
                Outcome::Fetched { token: self.publish(token, window, now), remaining }
            }
            Ok(Evaluation::Unchanged(token, error)) => {
                let mut outcome = self.on_failed(run, error, timing);
                // After a rejection the same token would not help.
                if let Outcome::Failed { answer, .. } = &mut outcome
                    && run.plan.reason != Reason::Refused
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
        let failure = Failure { error: error.clone(), retry_at: now.after(backoff), streak };
        Arc::make_mut(&mut self.view).failure = Some(Arc::new(failure));
        Outcome::Failed { answer: Err(error.clone()), error, backoff }
    }

    /// Adopts a token that no fetch of this cache brought.
    pub(crate) fn on_adopted(&mut self, token: Token, window: Window, published_at: Moment) {
        self.publish(token, window, published_at);
    }

    // --- the refresh token ---

    /// What the newest refresh token needs. A step that saves lasts until `deadline` at most.
    pub(crate) fn begin_save(&mut self, now: Moment, deadline: Moment) -> SaveStep {
        let rotation = &mut self.rotation;
        if rotation.refresh_token.is_none() || rotation.saved >= rotation.newest {
            return SaveStep::Done;
        }
        // Invariant: two saves do not overlap, so that an older one never overwrites a newer.
        if let Some((_, until)) = rotation.saving.as_deref().copied()
            && !until.reached(now)
        {
            return SaveStep::Wait(until);
        }
        rotation.attempts += 1;
        let ticket = SaveTicket { attempt: rotation.attempts, number: rotation.newest };
        rotation.saving = Some(Box::new((ticket.attempt, deadline)));
        let token = self.newest.clone().unwrap_or_else(Token::none);
        SaveStep::Save(ticket, self.with_refresh_token(token))
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
        self.view = Arc::new(View { session: self.view.session.next(), ..View::default() });
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
        self.epoch += 1;
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

    fn evaluate(&self, token: Token, policy: &Refresh, timing: Timing) -> Result<Evaluation, Error> {
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
                return Err(Error::unusable(None, "the issuer handed out the token again that an API has refused"));
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
    fn publish(&mut self, token: Token, window: Window, now: Moment) -> Token {
        // The same text with more time to live keeps its generation: what was rejected of it stays rejected, and it has
        // reached the servers of the API already.
        let same = self.view.usable_at(now).filter(|(current, _)| current.token.header_value() == token.header_value());
        let published_at = same.map_or(now, |(current, _)| current.published_at);
        self.generation += u64::from(same.is_none());
        let id = TokenId { session: self.view.session, generation: self.generation };
        let token = token.published(id, window.end().system_time());
        self.newest = Some(token.clone());
        let current = CurrentToken { token: token.clone(), window, published_at };
        self.view = Arc::new(View { current: Some(current), failure: None, session: self.view.session });
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
            Self::Usable | Self::NewerThan(_) => self.is_met_by_result(token),
            Self::Fresh => phase == Phase::Fresh,
            Self::Fetched => false,
        }
    }

    /// Whether the token that a run brought is what its waiter needs.
    pub(crate) fn is_met_by_result(self, token: &Token) -> bool {
        match self {
            Self::NewerThan(generation) => token.generation() > generation,
            Self::Usable | Self::Fresh | Self::Fetched => true,
        }
    }
}

#[cfg(test)]
mod tests;
