//! One service's view of the cache, on the path of every request.
//!
//! # How it works
//! Each request needs the current token, and has to know whether the token is still fresh. The reader of its service
//! answers both, mostly from memory that no other thread writes.
//!
//! **Which token is current?** The reader keeps the last [`Snapshot`] and compares its pointer with the published one.
//! That is a relaxed load of a cache line that is written only when a snapshot is published. If the pointers differ,
//! `ArcSwap` loads the new snapshot, with the acquire ordering that makes its contents visible. A request that still
//! reads the old pointer behaves as if it had come a moment sooner.
//!
//! **Is it fresh?** The reader reads the coarse clock once, and compares it with
//! [`fresh_until`](Snapshot::fresh_until). Until that time the token is known to be fresh. The time is 100 ms ahead at
//! most, and never later than the time at which the token is due. After it, the next request reads both real clocks and
//! moves it forward for all readers. Two requests that do so at once store nearly the same time.
//!
//! A reference count that several threads write costs more than everything else here. So a reader avoids them:
//! - The first call of a service borrows the snapshot and keeps nothing, because a service that is cloned for one
//!   request has no second call.
//! - The second call keeps the snapshot.
//! - The first check of a token by a later call copies `fresh_until`. After that time, one check moves `fresh_until`
//!   forward, and the check after it copies the token, because cloning a header value writes its reference count. Then
//!   the service also gets an owner of its own ([`Reader::copy_owner`]). From then on its requests write nothing that
//!   another thread reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::cache::session::{CurrentToken, View};
use crate::clock::{self, Clock};
use crate::schedule::Phase;
use crate::token::{SessionId, Token, TokenId};

/// What requests read. It is replaced as a whole, except that `fresh_until` changes in place.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) view: Arc<View>,
    /// The time until which the token is known to be fresh, in ticks of the coarse clock.
    ///
    /// Ordering: relaxed, because the time depends only on the snapshot that contains it. If two readers write it at
    /// once, both values are correct.
    fresh_until: AtomicU64,
}

/// Gives a reader the published snapshot of one cache, and the cache's clock.
pub(crate) trait SnapshotSource {
    fn snapshot(&self) -> &ArcSwap<Snapshot>;
    fn clock(&self) -> &Clock;
}

/// One service's view of its owner's cache. It never changes to another cache.
pub(crate) struct Reader<O> {
    owner: Arc<O>,
    /// Whether `owner` was copied for this reader, so that other long-lived services have another. A clone of this
    /// reader shares it.
    owner_is_private: bool,
    /// Whether the service was called before.
    called: bool,
    /// The last snapshot that a call after the first has read.
    seen: Option<arc_swap::Cache<Owned<O>, Arc<Snapshot>>>,
    check: Option<CachedCheck>,
    /// A copy of the token, whose header value has a reference count of its own.
    local: Option<Box<Token>>,
}

/// The last check of a token that was found fresh.
#[derive(Clone, Copy)]
struct CachedCheck {
    generation: u64,
    /// The time until which the real clocks are not read, in ticks of the coarse clock.
    until: u64,
}

/// A usable token.
pub(crate) struct Usable {
    pub(crate) value: HeaderValue,
    pub(crate) token: TokenId,
    pub(crate) freshness: Freshness,
}

/// The freshness of a usable token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// `checked_again`: this call checked the token, and so did an earlier one. So the service is long-lived.
    Fresh {
        checked_again: bool,
    },
    Due,
}

/// Dereferences an owner to its snapshot, as `arc_swap::Cache` requires.
struct Owned<O>(Arc<O>);

// === impl Snapshot ===

impl Snapshot {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view, fresh_until: AtomicU64::new(0) }
    }

    /// Checks the token by the real clocks, and moves `fresh_until` forward.
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

    /// The session of a request that finds no usable token.
    pub(crate) fn session(&self) -> SessionId {
        self.owner.snapshot().load().view.session
    }

    /// Returns the usable token, if there is one.
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
                Freshness::Fresh { checked_again: false }
            }
            _ => check(&mut self.check, &mut self.local, snapshot, current, clock, tick)?,
        };
        let token = self.local.as_deref().unwrap_or(&current.token);
        Some(Usable { value: token.header_value().clone(), token: id, freshness })
    }

    /// Handles a call without a kept snapshot: the first two. The first keeps nothing, because it is nearly always the
    /// only one.
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
                Freshness::Fresh { checked_again: false }
            }
            tick => snapshot.recheck(current, clock, tick)?,
        };
        Some(Usable { value: current.token.header_value().clone(), token: current.token.id(), freshness })
    }

    /// Gives a long-lived service its own copy of the owner, so that it shares no reference count with other services.
    #[cold]
    pub(crate) fn copy_owner(&mut self)
    where
        O: Clone,
    {
        if !self.owner_is_private {
            self.owner_is_private = true;
            self.owner = Arc::new(O::clone(&self.owner));
        }
    }
}

/// A clone starts empty, because it nearly always serves one request.
impl<O: SnapshotSource> Clone for Reader<O> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.owner))
    }
}

/// Checks the token of a service after its second call, up to ten times a second. The second check of a token copies
/// the token.
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
    let checked_again = cached.is_some_and(|check| check.generation == generation);
    if !checked_again && local.is_some() {
        *local = None;
    }
    let until = snapshot.fresh_until.load(Ordering::Relaxed);
    if tick.is_none_or(|tick| tick >= until) {
        return snapshot.recheck(current, clock, tick);
    }
    *cached = Some(CachedCheck { generation, until });
    if checked_again && local.is_none() {
        *local = Some(Box::new(current.token.with_private_header()));
    }
    Some(Freshness::Fresh { checked_again })
}

impl Freshness {
    fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Fresh => Some(Self::Fresh { checked_again: false }),
            Phase::Due => Some(Self::Due),
            Phase::Expired => None,
        }
    }
}
