//! The state behind all clones of one cache, and the way from a wish to a token.
//!
//! # The story
//! What requests need lies in one immutable [`Snapshot`] behind an `ArcSwap`; readers never lock. What fetches need
//! (source, newest refresh token) lies in the [`Book`] behind a mutex that no request takes while its token is usable.
//! Locks are taken in the order slot (of the flight), then book, and neither is held across an await.
//!
//! A fetch is one run of the flight: it reads the book, calls the source, writes the new refresh token down *before*
//! anything else can fail, hands it to `on_rotation`, and only then publishes a new snapshot. So a run that is replaced
//! because its runtime stands still leaves the newest refresh token behind, and the one after it does not spend a
//! refresh token twice.

use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tower::BoxError;

use crate::clock::{self, Clock};
use crate::error::Error;
use crate::flight::{Flight, Waiter};
use crate::schedule::{self, Moment, Phase, Refresh, Refusals, Window};
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::source::{Reason, TokenSource};
use crate::telemetry::Telemetry;
use crate::token::Token;

pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) flight: Arc<Flight<Result<Token, Error>>>,
    pub(crate) settings: Refresh,
    pub(crate) clock: Clock,
    pub(crate) telemetry: Telemetry,
    /// The newest generation that an API refused.
    pub(crate) refused: AtomicU64,
    pub(crate) closed: AtomicBool,
    /// Set under the flight's slot, as is what it ends: the session of this source.
    pub(crate) signed_out: AtomicBool,
    /// The newest generation of a session that was signed out: what was refused with it does not go again as another.
    pub(crate) bygone: AtomicU64,
    /// Locked under the flight's slot only.
    pub(crate) refusals: Mutex<Refusals>,
    pub(crate) book: Mutex<Book>,
    /// Wakes [`TokenCache::keep_warm`]; outlives this struct, to tell it of the end.
    pub(crate) changed: Arc<Notify>,
}

/// What requests look at. Replaced whole, never changed.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) held: Option<Held>,
    pub(crate) failure: Option<Failure>,
    /// Until when the token is known to be fresh, in ticks of the coarse clock.
    pub(crate) sure_until: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) token: Token,
    pub(crate) window: Window,
    /// When it was published.
    pub(crate) since: Moment,
}

/// The last fetch, where it failed.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) retry: Moment,
    pub(crate) streak: u32,
}

/// What fetches read and write.
pub(crate) struct Book {
    pub(crate) source: Arc<dyn DynSource>,
    /// Counts sources: a result for an older one is not wanted any more.
    pub(crate) epoch: u64,
    /// Whether its session is being revoked, or was: no run of it is taken any more, also not one that is overdue.
    pub(crate) ended: bool,
    pub(crate) generation: u64,
    /// The newest run whose token was taken.
    pub(crate) taken: u64,
    /// The newest token of the source, published or not: its refresh token is the one that works.
    pub(crate) newest: Option<Token>,
    pub(crate) on_rotation: Option<Arc<dyn Save>>,
    /// The refresh token that `on_rotation` was last given without an error.
    pub(crate) saved: Option<Secret>,
    pub(crate) not_saved: Option<Error>,
}

/// A user's `on_rotation`.
pub(crate) type Saving = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
pub(crate) trait Save: Fn(Token) -> Saving + Send + Sync {}
impl<F: Fn(Token) -> Saving + Send + Sync> Save for F {}

/// What a caller waits for.
#[derive(Clone, Copy)]
pub(crate) enum Want {
    /// Any token that can be sent.
    Usable,
    /// One that can be sent and is not this one, nor older.
    NewerThan(u64),
    /// Whatever a fetch brings that ends after this call.
    Fetched,
}

/// What boarding came to.
pub(crate) enum Boarded {
    Have(Token),
    Failed(Error),
    Wait(Waiter<Result<Token, Error>>),
}

/// How long `on_rotation` may take; the token is published then, saved or not.
pub(crate) const SAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long after its deadlines a run is given up: on a runtime that is driven it has landed long before.
const GRACE: Duration = Duration::from_secs(1);
/// How long `keep_warm` sleeps at most: a machine that slept is noticed when it wakes.
const LONGEST_NAP: Duration = Duration::from_secs(10);
/// How many runs a waiter sees end without an answer before it gives up.
const MOST_VOID_RUNS: u8 = 8;

// === impl Snapshot ===

impl Snapshot {
    /// What is held, where it can be sent.
    pub(crate) fn held_at(&self, now: Moment) -> Option<(&Held, Phase)> {
        let held = self.held.as_ref()?;
        match held.window.phase(now) {
            Phase::Expired => None,
            phase => Some((held, phase)),
        }
    }

    /// The failure whose pause is not over.
    pub(crate) fn pausing(&self, now: Moment) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| !failure.retry.reached(now))
    }

    pub(crate) fn left(&self, now: Moment) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| held.window.left(now))
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(source: impl TokenSource, settings: Refresh, clock: Clock) -> Arc<Self> {
        let book = Book {
            source: Arc::new(source),
            epoch: 0,
            ended: false,
            generation: 0,
            taken: 0,
            newest: None,
            on_rotation: None,
            saved: None,
            not_saved: None,
        };
        Arc::new(Self {
            snapshot: ArcSwap::default(),
            flight: Flight::new(),
            settings,
            clock,
            telemetry: Telemetry::default(),
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            signed_out: AtomicBool::new(false),
            bygone: AtomicU64::new(0),
            refusals: Mutex::default(),
            book: Mutex::new(book),
            changed: Arc::default(),
        })
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // No code of a user runs under the lock.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a request waits that was refused with this token, where the token may not have reached the API yet.
    pub(crate) fn replication_lag(&self, generation: u64) -> Option<Duration> {
        let snapshot = self.snapshot.load();
        let held = snapshot.held.as_ref().filter(|held| held.token.generation() == generation)?;
        schedule::replication_lag(held.since, self.clock.now())
    }

    /// Whether the session of this token was signed out.
    pub(crate) fn is_bygone(&self, generation: u64) -> bool {
        (1..=self.bygone.load(Ordering::SeqCst)).contains(&generation)
    }

    /// Notes a refusal; returns what replaces the token, `None` where its session was signed out.
    pub(crate) fn note_refusal(&self, generation: u64) -> Option<Want> {
        if self.is_bygone(generation) {
            return None;
        }
        // A number that is still to come is that of another cache's token: it says nothing of ours.
        if self.snapshot.load().held.as_ref().is_some_and(|held| held.token.generation() < generation) {
            return Some(Want::NewerThan(0));
        }
        self.refused.fetch_max(generation, Ordering::Relaxed);
        self.telemetry.refused(generation);
        Some(Want::NewerThan(generation))
    }

    /// Waits until there is what is wanted, or an error that says why not.
    pub(crate) async fn obtain(self: &Arc<Self>, want: Want) -> Result<Token, Error> {
        let mut limit = None;
        for _ in 0..MOST_VOID_RUNS {
            // What is lent or used after the wait is kept by every caller that waits; so all is settled before it.
            let now = self.clock.now();
            let (waiter, left) = match self.board(want, now)? {
                Boarded::Have(token) => return Ok(token),
                Boarded::Failed(error) => return Err(error),
                Boarded::Wait(waiter) => waiter.waiting_from(now.mono),
            };
            // Ours, on our own runtime: the one that fetches may stand still.
            let here = clock::monotonic();
            let limit = *limit.get_or_insert(here + self.settings.fetch_deadline());
            let until = limit.min(here + left);
            let last = until == limit;
            match tokio::time::timeout_at(until, waiter).await {
                Ok(Some(Ok(token))) if want.is_met_by(&token) => return Ok(token),
                Ok(Some(Err(error))) => return Err(error),
                Ok(_) => {}
                Err(_) if last => return Err(Error::timed_out(self.settings.fetch_deadline())),
                Err(_) => {}
            }
        }
        Err(Error::lost())
    }

    /// Starts what is wanted without waiting for it.
    pub(crate) fn board_beside(self: &Arc<Self>, want: Want) {
        let now = self.clock.now();
        if !self.flight.is_busy(now.mono) && self.snapshot.load().pausing(now).is_none() {
            // Without a runtime nothing can be started; the token is good for a while yet, and who has to wait is told.
            let _ = self.board_at(want, now, true);
        }
    }

    fn board(self: &Arc<Self>, want: Want, now: Moment) -> Result<Boarded, Error> {
        // A token that is there is not waited for, though a fetch may be under way.
        if !matches!(want, Want::Fetched)
            && let Some((held, phase)) = self.snapshot.load().held_at(now)
            && want.is_met_by(&held.token)
        {
            if phase == Phase::Due {
                self.board_beside(Want::Usable);
            }
            return Ok(Boarded::Have(held.token.clone()));
        }
        match self.board_at(want, now, false)? {
            // No timer to wait with.
            Boarded::Wait(_) if !clock::has_runtime() => Err(Error::no_runtime()),
            boarded => Ok(boarded),
        }
    }

    /// Finds what is wanted, joins the fetch under way, or starts one. `ahead`: a token that is due is not enough.
    pub(crate) fn board_at(self: &Arc<Self>, want: Want, now: Moment, ahead: bool) -> Result<Boarded, Error> {
        if self.signed_out.load(Ordering::SeqCst) {
            // Also where a fetch is under way: its token will not be used.
            return Ok(Boarded::Failed(Error::signed_out()));
        }
        let saving = if self.book().on_rotation.is_some() { SAVE_DEADLINE } else { Duration::ZERO };
        let overdue = now.mono + self.settings.fetch_deadline() + saving + GRACE;
        let (mut found, mut spent) = (None, false);
        let waiter = self.flight.board(now.mono, overdue, |number| {
            let snapshot = self.snapshot.load();
            let held = snapshot.held_at(now);
            let enough = |(held, phase): &(&Held, Phase)| match want {
                Want::Usable => !ahead || *phase == Phase::Fresh,
                Want::NewerThan(generation) => held.token.generation() > generation,
                Want::Fetched => false,
            };
            found = if let Some((held, _)) = held.filter(enough) {
                Some(Boarded::Have(held.token.clone()))
            } else if self.signed_out.load(Ordering::SeqCst) {
                Some(Boarded::Failed(Error::signed_out()))
            } else if self.closed.load(Ordering::SeqCst) {
                Some(Boarded::Failed(Error::closed()))
            } else if let Some(failure) = snapshot.pausing(now).filter(|_| !matches!(want, Want::Fetched)) {
                Some(Boarded::Failed(failure.error.clone()))
            } else if !clock::has_runtime() {
                // Before anything is spent on a run that cannot start.
                Some(Boarded::Failed(Error::no_runtime()))
            } else if matches!(want, Want::NewerThan(_)) && !self.refusals().spend(&self.settings, now) {
                spent = true;
                Some(Boarded::Failed(Error::too_many_refusals()))
            } else {
                None
            };
            found.is_none().then(|| {
                // Here and not when the run is first polled: the source may be another by then.
                let epoch = self.book().epoch;
                Arc::clone(self).run(number, epoch, want.reason(&snapshot, held))
            })
        });
        if spent {
            // Whoever listens to events is a user's code, and comes after the lock.
            self.telemetry.budget_exhausted();
        }
        match waiter {
            Ok(Some(waiter)) => Ok(Boarded::Wait(waiter)),
            Ok(None) => Ok(found.expect("nothing departs only where something was found")),
            Err(_) => Err(Error::no_runtime()),
        }
    }

    /// Starts what is due; returns how long to sleep then, `None` where there is nothing to keep warm any more.
    pub(crate) fn warm(self: &Arc<Self>) -> Option<Duration> {
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        self.board_beside(Want::Usable);
        let now = self.clock.now();
        let snapshot = self.snapshot.load();
        let nap = match (snapshot.pausing(now), &snapshot.held) {
            (Some(failure), _) => failure.retry.wait(now),
            (None, Some(held)) if held.window.phase(now) == Phase::Fresh => held.window.until_due(now),
            // A fetch is under way; its end is a change.
            (None, _) => LONGEST_NAP,
        };
        Some(nap.min(LONGEST_NAP))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

// === impl Book ===

impl Book {
    /// Whether what a run of this epoch brings is still of use.
    pub(crate) fn wants(&self, epoch: u64) -> bool {
        self.epoch == epoch && !self.ended
    }

    /// Puts another source in the place of this one, of which nothing is left; returns the old one, to be dropped outside
    /// the lock.
    pub(crate) fn forget(&mut self, source: Arc<dyn DynSource>) -> Arc<dyn DynSource> {
        (self.newest, self.saved, self.not_saved) = (None, None, None);
        mem::replace(&mut self.source, source)
    }
}

// === impl Want ===

impl Want {
    fn is_met_by(self, token: &Token) -> bool {
        match self {
            Self::NewerThan(generation) => token.generation() > generation,
            Self::Usable | Self::Fetched => true,
        }
    }

    fn reason(self, snapshot: &Snapshot, held: Option<(&Held, Phase)>) -> Reason {
        match self {
            Self::NewerThan(_) => Reason::Refused,
            Self::Fetched => Reason::Asked,
            Self::Usable if held.is_some() => Reason::Due,
            Self::Usable if snapshot.held.is_some() => Reason::Expired,
            Self::Usable => Reason::First,
        }
    }
}
