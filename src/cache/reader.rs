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
//! A service that is kept copies that time, and a moment later the token too. From then on its requests write to nothing
//! that another thread reads: cloning a header value counts references, and a count that several threads write costs
//! more than all else here. A service that is cloned for one request does without.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use crate::cache::TokenCache;
use crate::cache::shared::{Held, Shared, Snapshot};
use crate::clock::{self, Clock};
use crate::schedule::Phase;
use crate::token::Token;

/// One service's own view of the cache.
pub(crate) struct Reader {
    seen: arc_swap::Cache<Door, Arc<Snapshot>>,
    look: Option<Look>,
    own: Option<Box<Token>>,
}

/// A look at a token that was found fresh.
#[derive(Clone, Copy)]
struct Look {
    generation: u64,
    /// Until when the real clocks are not asked, in ticks of the coarse one.
    until: u64,
    /// Whether it was this service that looked, and not the one that it was cloned from.
    own: bool,
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
#[derive(Clone)]
struct Door(Arc<Shared>);

impl std::ops::Deref for Door {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &Self::Target {
        &self.0.snapshot
    }
}

impl Reader {
    pub(crate) fn new(cache: &TokenCache) -> Self {
        Self { seen: arc_swap::Cache::new(Door(Arc::clone(&cache.shared))), look: None, own: None }
    }

    /// A token that can be sent now.
    pub(crate) fn usable(&mut self, cache: &TokenCache) -> Option<(&Token, Found)> {
        let snapshot = self.seen.load();
        let held = snapshot.held.as_ref()?;
        let clock = &cache.shared.clock;
        let tick = clock.tick();
        let found = match (&self.look, tick) {
            (Some(look), Some(tick)) if look.generation == held.token.generation() && tick < look.until => Found::Fresh,
            (_, Some(tick)) => look(&mut self.look, &mut self.own, snapshot, held, clock, tick)?,
            (_, None) => Found::of(held.window.phase(clock.now()))?,
        };
        Some((self.own.as_deref().unwrap_or(&held.token), found))
    }
}

impl Clone for Reader {
    #[inline]
    fn clone(&self) -> Self {
        Self { seen: self.seen.clone(), look: self.look.map(|look| Look { own: false, ..look }), own: None }
    }
}

/// Services that are cloned for each request look here once in their lives, and share one reading of the wall clock.
#[inline(never)]
fn look(
    seen: &mut Option<Look>,
    own: &mut Option<Box<Token>>,
    snapshot: &Snapshot,
    held: &Held,
    clock: &Clock,
    tick: u64,
) -> Option<Found> {
    let generation = held.token.generation();
    let again = seen.is_some_and(|look| look.own && look.generation == generation);
    if !again && own.is_some() {
        *own = None;
    }
    let until = snapshot.sure_until.load(Ordering::Relaxed);
    if tick < until {
        *seen = Some(Look { generation, until, own: true });
        if again && own.is_none() {
            *own = Some(Box::new(held.token.apart()));
        }
        return Some(if again { Found::FreshAgain } else { Found::Fresh });
    }
    let now = clock.now();
    snapshot.sure_until.store(tick.saturating_add(clock::ticks(held.window.sure_for(now))), Ordering::Relaxed);
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
