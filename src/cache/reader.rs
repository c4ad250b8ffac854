//! One service's look at the cache, on the way of every request.
//!
//! # The story
//! A request asks two questions: which token, and is it still fresh? Each service answers them from what it saw last.
//!
//! *Which*: it keeps the [`Snapshot`] and compares one pointer with the one that requests look at now, a relaxed load of
//! a line that is written when a token comes and at no other time. Only where they differ does `ArcSwap` load the newer
//! one, with the acquire that makes its contents visible. A request that still finds the older pointer is a request that
//! came a moment sooner.
//!
//! *Fresh*: one reading of the coarse clock, held against a time until which the snapshot is sure to be fresh. That time
//! lies in the snapshot, as [`sure_until`](Snapshot::sure_until): 100 ms ahead at most, and never past due. Whoever comes
//! later reads both real clocks, and moves it on for all. It is a relaxed atomic of its own, for it is true of the
//! snapshot it lies in, whatever else has been seen; of two who write it at once, both are right.
//!
//! Counts that several threads write cost more than all else here, so who looks counts as little as can be. A service that
//! is cloned for one request borrows the snapshot and keeps nothing. One that is called again keeps it; a moment later it
//! copies the time, and the token too, since cloning a header value counts references. From then on its requests write to
//! nothing that another thread reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::cache::TokenCache;
use crate::cache::shared::{Held, Shared, Snapshot};
use crate::clock::{self, Clock};
use crate::schedule::Phase;
use crate::token::Token;

/// One service's own view of the cache.
#[derive(Default)]
pub(crate) struct Reader {
    called: bool,
    seen: Option<arc_swap::Cache<Door, Arc<Snapshot>>>,
    look: Option<Look>,
    own: Option<Box<Token>>,
}

/// A look at a token that was found fresh.
#[derive(Clone, Copy)]
struct Look {
    generation: u64,
    /// Until when the real clocks are not asked, in ticks of the coarse one.
    until: u64,
}

/// A token that can be sent.
pub(crate) struct Usable {
    pub(crate) value: HeaderValue,
    pub(crate) generation: u64,
    pub(crate) found: Found,
}

/// What a look came to, at a token that can be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Fresh,
    /// Fresh, and not for the first time: this service is kept.
    FreshAgain,
    Due,
}

/// The way from a handle to its snapshot, for `arc_swap::Cache`.
struct Door(Arc<Shared>);

impl std::ops::Deref for Door {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &Self::Target {
        &self.0.snapshot
    }
}

impl Reader {
    /// A token that can be sent now.
    pub(crate) fn usable(&mut self, cache: &TokenCache) -> Option<Usable> {
        let Some(seen) = &mut self.seen else { return self.borrow(&cache.shared) };
        let snapshot = seen.load();
        let held = snapshot.held.as_ref()?;
        let clock = &cache.shared.clock;
        let tick = clock.tick();
        let generation = held.token.generation();
        let found = match (&self.look, tick) {
            (Some(look), Some(tick)) if look.generation == generation && tick < look.until => Found::Fresh,
            _ => look(&mut self.look, &mut self.own, snapshot, held, clock, tick)?,
        };
        let token = self.own.as_deref().unwrap_or(&held.token);
        Some(Usable { value: token.header_value().clone(), generation, found })
    }

    /// The first call, and nearly always the only one: the snapshot is given back.
    #[inline(never)]
    fn borrow(&mut self, shared: &Arc<Shared>) -> Option<Usable> {
        if self.called {
            self.seen = Some(arc_swap::Cache::new(Door(Arc::clone(shared))));
        }
        self.called = true;
        let snapshot = shared.snapshot.load();
        let held = snapshot.held.as_ref()?;
        let found = match shared.clock.tick() {
            Some(tick) if tick < snapshot.sure_until.load(Ordering::Relaxed) => Found::Fresh,
            tick => found(&snapshot, held, &shared.clock, tick)?,
        };
        Some(Usable { value: held.token.header_value().clone(), generation: held.token.generation(), found })
    }
}

/// A service that is kept comes here ten times a second. Its second look at a token copies it.
#[inline(never)]
fn look(
    seen: &mut Option<Look>,
    own: &mut Option<Box<Token>>,
    snapshot: &Snapshot,
    held: &Held,
    clock: &Clock,
    tick: Option<u64>,
) -> Option<Found> {
    let generation = held.token.generation();
    let again = seen.is_some_and(|look| look.generation == generation);
    if !again && own.is_some() {
        *own = None;
    }
    let until = snapshot.sure_until.load(Ordering::Relaxed);
    if tick.is_none_or(|tick| tick >= until) {
        return found(snapshot, held, clock, tick);
    }
    *seen = Some(Look { generation, until });
    if again && own.is_none() {
        *own = Some(Box::new(held.token.apart()));
    }
    Some(if again { Found::FreshAgain } else { Found::Fresh })
}

/// By the real clocks; and for all who come after, until when it is so for sure.
#[inline(never)]
fn found(snapshot: &Snapshot, held: &Held, clock: &Clock, tick: Option<u64>) -> Option<Found> {
    let now = clock.now();
    if let Some(tick) = tick {
        snapshot.sure_until.store(tick.saturating_add(clock::ticks(held.window.sure_for(now))), Ordering::Relaxed);
    }
    Found::of(held.window.phase(now))
}

impl Found {
    fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Fresh => Some(Self::Fresh),
            Phase::Due => Some(Self::Due),
            Phase::Expired => None,
        }
    }
}
