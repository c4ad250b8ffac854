//! One service's view of the cache, on the path of every request.
//!
//! # The story
//! A request asks two questions: which token, and is it still fresh? Each service answers them from what it saw last.
//!
//! *Which*: it keeps the [`Snapshot`] and compares its pointer with the one that is published now, a relaxed load of a
//! cache line that is written when a token is published and at no other time. Only if they differ, `ArcSwap` loads the
//! newer snapshot, with the acquire that makes its contents visible. A request that still finds the older pointer is a
//! request that came a moment sooner.
//!
//! *Fresh*: one reading of the coarse clock, compared with a time until which the snapshot is known to be fresh:
//! [`fresh_until`](Snapshot::fresh_until), 100 ms ahead at most, and never past due. A later request reads both real
//! clocks, and moves that time on for all.
//!
//! Counts that several threads write cost more than everything else here, so a reader counts as little as possible. A
//! service that is cloned for one request borrows the snapshot and keeps nothing. One that is called again keeps the
//! snapshot; a moment later it copies the time, and the token too, because cloning a header value counts references. From
//! then on its requests write to nothing that another thread reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::cache::session::{CurrentToken, View};
use crate::clock::{self, Clock};
use crate::schedule::Phase;
use crate::token::{SessionId, Token, TokenId};

/// What requests look at. Replaced whole; only `fresh_until` changes.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) view: Arc<View>,
    /// Until when the token is known to be fresh, in ticks of the coarse clock.
    ///
    /// Ordering: relaxed, because the time is true of the snapshot that it lies in, whatever else the reader has seen. If
    /// two readers write it at once, both times are right.
    fresh_until: AtomicU64,
}

/// Where the snapshots of one cache are published, and the clock that they are read by.
pub(crate) trait SnapshotSource {
    fn snapshot(&self) -> &ArcSwap<Snapshot>;
    fn clock(&self) -> &Clock;
}

/// One service's view of one cache: that of its owner, for all its life.
pub(crate) struct Reader<O> {
    owner: Arc<O>,
    /// Whether no other reader has this `owner`.
    owner_is_private: bool,
    called: bool,
    seen: Option<arc_swap::Cache<Owned<O>, Arc<Snapshot>>>,
    check: Option<CachedCheck>,
    /// The token with a header value that no other service counts.
    local: Option<Box<Token>>,
}

/// The last check of a token that was found fresh.
#[derive(Clone, Copy)]
struct CachedCheck {
    generation: u64,
    /// Until when the real clocks are not read, in ticks of the coarse clock.
    until: u64,
}

/// A token that can be sent.
pub(crate) struct Usable {
    pub(crate) value: HeaderValue,
    pub(crate) token: TokenId,
    pub(crate) freshness: Freshness,
}

/// How a token that can be sent was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// `seen_before`: not for the first time, so this service is kept.
    Fresh {
        seen_before: bool,
    },
    Due,
}

/// The way from an owner to its snapshot, for `arc_swap::Cache`.
struct Owned<O>(Arc<O>);

// === impl Snapshot ===

impl Snapshot {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view, fresh_until: AtomicU64::new(0) }
    }

    /// Checks by the real clocks, and moves on until when the token is known to be fresh.
    #[inline(never)]
    fn recheck(&self, current: &CurrentToken, clock: &Clock, tick: Option<u64>) -> Option<Freshness> {
        let now = clock.now();
        if let Some(tick) = tick {
            let until = tick.saturating_add(clock::ticks(current.window.recheck_after(now)));
            self.fresh_until.store(until, Ordering::Relaxed);
        }
        Freshness::of(current.window.phase(now))
    }
}

impl<O: SnapshotSource> std::ops::Deref for Owned<O> {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &Self::Target {
        self.0.snapshot()
    }
}

// === impl Reader ===

impl<O: SnapshotSource> Reader<O> {
    pub(crate) fn new(owner: Arc<O>) -> Self {
        Self { owner, owner_is_private: false, called: false, seen: None, check: None, local: None }
    }

    pub(crate) fn owner(&self) -> &Arc<O> {
        &self.owner
    }

    /// Which session a request begins in that finds no usable token.
    pub(crate) fn session(&self) -> SessionId {
        self.owner.snapshot().load().view.session
    }

    /// A token that can be sent now.
    #[inline(always)]
    pub(crate) fn usable(&mut self) -> Option<Usable> {
        let Some(seen) = &mut self.seen else { return self.borrow() };
        let snapshot = seen.load();
        let current = snapshot.view.current.as_ref()?;
        let clock = self.owner.clock();
        let tick = clock.tick();
        let id = current.token.id();
        let freshness = match (&self.check, tick) {
            (Some(check), Some(tick)) if check.generation == id.generation && tick < check.until => {
                Freshness::Fresh { seen_before: false }
            }
            _ => check(&mut self.check, &mut self.local, snapshot, current, clock, tick)?,
        };
        let token = self.local.as_deref().unwrap_or(&current.token);
        Some(Usable { value: token.header_value().clone(), token: id, freshness })
    }

    /// The first call, and nearly always the only one: the snapshot is given back.
    #[inline(never)]
    fn borrow(&mut self) -> Option<Usable> {
        if self.called {
            self.seen = Some(arc_swap::Cache::new(Owned(Arc::clone(&self.owner))));
        }
        self.called = true;
        let snapshot = self.owner.snapshot().load();
        let current = snapshot.view.current.as_ref()?;
        let clock = self.owner.clock();
        let freshness = match clock.tick() {
            Some(tick) if tick < snapshot.fresh_until.load(Ordering::Relaxed) => {
                Freshness::Fresh { seen_before: false }
            }
            tick => snapshot.recheck(current, clock, tick)?,
        };
        Some(Usable { value: current.token.header_value().clone(), token: current.token.id(), freshness })
    }

    /// Gives a service that is kept an owner of its own, so that it writes to no count that others write to as well.
    #[cold]
    pub(crate) fn detach(&mut self)
    where
        O: Clone,
    {
        if !self.owner_is_private {
            self.owner_is_private = true;
            self.owner = Arc::new(O::clone(&self.owner));
        }
    }
}

/// A clone is nearly always for one request: what its original has seen stays with that.
impl<O: SnapshotSource> Clone for Reader<O> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.owner))
    }
}

/// A service that is kept comes here ten times a second. Its second check of a token copies the token.
#[inline(never)]
fn check(
    cached: &mut Option<CachedCheck>,
    local: &mut Option<Box<Token>>,
    snapshot: &Snapshot,
    current: &CurrentToken,
    clock: &Clock,
    tick: Option<u64>,
) -> Option<Freshness> {
    let generation = current.token.generation();
    let seen_before = cached.is_some_and(|check| check.generation == generation);
    if !seen_before && local.is_some() {
        *local = None;
    }
    let until = snapshot.fresh_until.load(Ordering::Relaxed);
    if tick.is_none_or(|tick| tick >= until) {
        return snapshot.recheck(current, clock, tick);
    }
    *cached = Some(CachedCheck { generation, until });
    if seen_before && local.is_none() {
        *local = Some(Box::new(current.token.with_private_header()));
    }
    Some(Freshness::Fresh { seen_before })
}

impl Freshness {
    fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Fresh => Some(Self::Fresh { seen_before: false }),
            Phase::Due => Some(Self::Due),
            Phase::Expired => None,
        }
    }
}
