//! A store in memory, with faults on demand.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::{Lease, Saved, StoreError, Stored, TokenStore};
use crate::testing::helpers::{lock, now, pause};

/// A [`TokenStore`] in memory, for caches of one process: tests of an application, and of the protocol itself.
///
/// Clones share the records. It reads time from tokio, so a test with paused time decides when leases end. Faults are
/// injected through `&self` and hold for the calls that come afterwards.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_bearer::store::{Lease, Saved, TokenStore};
/// use tower_bearer::testing::MemoryStore;
///
/// let store = MemoryStore::new();
/// assert_eq!(store.acquire("ada", "process-1", Duration::from_secs(10)).await?, Lease::Held);
/// assert_eq!(store.save("ada", "process-1", None, b"record").await?, Saved::Saved { version: 1 });
/// assert_eq!(store.save("ada", "process-2", Some(1), b"late").await?, Saved::Conflict);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

/// An operation of a [`TokenStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// [`TokenStore::load`].
    Load,
    /// [`TokenStore::acquire`].
    Acquire,
    /// [`TokenStore::extend`].
    Extend,
    /// [`TokenStore::release`].
    Release,
    /// [`TokenStore::save`].
    Save,
    /// [`TokenStore::set_aside`].
    SetAside,
    /// [`TokenStore::expire`].
    Expire,
}

/// What goes wrong with one call of a [`MemoryStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// It fails, and nothing happened.
    Fails,
    /// It happened, and its answer is an error.
    AnswerLost,
    /// It never happens and is never answered.
    Hangs,
    /// It happens this much later.
    Late(Duration),
    /// It is answered with a conflict, or that the lease is lost, and nothing happened.
    Conflict,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    calls: HashMap<StoreCall, usize>,
    /// What goes wrong with the next calls of each kind.
    queue: HashMap<StoreCall, VecDeque<StoreFault>>,
    down: bool,
    delay: Duration,
    has_no_notifications: bool,
}

#[derive(Debug, Default)]
struct Entry {
    record: Option<Record>,
    lease: Option<(String, Instant)>,
    versions: u64,
    set_aside: Vec<Vec<u8>>,
    changed: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct Record {
    bytes: Vec<u8>,
    version: u64,
    saved_at: Instant,
    /// When it is removed.
    until: Option<Instant>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues what goes wrong with the next call of this kind, after what was queued before.
    pub fn inject(&self, call: StoreCall, fault: StoreFault) {
        lock(&self.0).queue.entry(call).or_default().push_back(fault);
    }

    /// Begins or ends an outage: each call fails.
    pub fn set_down(&self, down: bool) {
        lock(&self.0).down = down;
    }

    /// Ends the outage, and forgets the faults that are queued.
    pub fn recover(&self) {
        let mut state = lock(&self.0);
        state.down = false;
        state.queue.clear();
    }

    /// How long each call takes; it happens at the end of it.
    pub fn delay(&self, delay: Duration) {
        lock(&self.0).delay = delay;
    }

    /// Whether changes are told: without, the caches look again from time to time.
    pub fn notify(&self, notify: bool) {
        lock(&self.0).has_no_notifications = !notify;
    }

    /// The bytes of the record of this key, without a call.
    pub fn record(&self, key: &str) -> Option<Vec<u8>> {
        lock(&self.0).entries.get(key)?.record_at(now()).map(|record| record.bytes.clone())
    }

    /// Replaces the record of this key, as a person would by hand or a failover that lost a write; `None` removes it.
    pub fn set_record(&self, key: &str, bytes: Option<Vec<u8>>) {
        let mut state = lock(&self.0);
        let entry = state.entries.entry(key.to_owned()).or_default();
        entry.versions += 1;
        let version = entry.versions;
        entry.record = bytes.map(|bytes| Record { bytes, version, saved_at: now(), until: None });
        entry.changed.notify_waiters();
    }

    /// Ends the lease of this key, as when a failover lost it.
    pub fn drop_lease(&self, key: &str) {
        if let Some(entry) = lock(&self.0).entries.get_mut(key) {
            entry.lease = None;
        }
    }

    /// The owner that holds the lease of this key.
    pub fn lease_owner(&self, key: &str) -> Option<String> {
        lock(&self.0).entries.get(key)?.lease_at(now()).map(|(owner, _)| owner.clone())
    }

    /// What was set aside under this key.
    pub fn set_aside_records(&self, key: &str) -> Vec<Vec<u8>> {
        lock(&self.0).entries.get(key).map(|entry| entry.set_aside.clone()).unwrap_or_default()
    }

    /// How many calls of this kind were made.
    pub fn calls(&self, call: StoreCall) -> usize {
        lock(&self.0).calls.get(&call).copied().unwrap_or_default()
    }

    /// One call, with what goes wrong with it. `conflict` is the answer of [`StoreFault::Conflict`].
    async fn call<T>(
        &self,
        call: StoreCall,
        key: &str,
        conflict: T,
        act: impl FnOnce(&mut Entry, Instant) -> T,
    ) -> Result<T, StoreError> {
        let (fault, delay, down) = {
            let mut state = lock(&self.0);
            *state.calls.entry(call).or_default() += 1;
            let fault = state.queue.get_mut(&call).and_then(VecDeque::pop_front);
            (fault, state.delay, state.down)
        };
        pause(delay).await;
        match fault {
            _ if down => return Err(StoreError::transient("the store is down")),
            Some(StoreFault::Fails) => return Err(StoreError::transient("the store failed")),
            Some(StoreFault::Hangs) => std::future::pending().await,
            Some(StoreFault::Late(late)) => pause(late).await,
            Some(StoreFault::Conflict) => return Ok(conflict),
            Some(StoreFault::AnswerLost) | None => {}
        }
        let answer = {
            let mut state = lock(&self.0);
            let tells = !state.has_no_notifications;
            let entry = state.entries.entry(key.to_owned()).or_default();
            let answer = act(entry, now());
            if tells && matches!(call, StoreCall::Save | StoreCall::Release | StoreCall::SetAside) {
                entry.changed.notify_waiters();
            }
            answer
        };
        match fault {
            Some(StoreFault::AnswerLost) => Err(StoreError::transient("the answer was lost")),
            _ => Ok(answer),
        }
    }
}

impl TokenStore for MemoryStore {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let load = |entry: &mut Entry, now: Instant| {
            let record = entry.record_at(now)?;
            Some(Stored::new(record.bytes.clone(), record.version, now.saturating_duration_since(record.saved_at)))
        };
        self.call(StoreCall::Load, key, None, load).await
    }

    async fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let acquire = |entry: &mut Entry, now: Instant| match entry.lease_at(now) {
            Some((holder, until)) if holder != owner => {
                Lease::Busy { owner: Some(holder.clone()), remaining: until.saturating_duration_since(now) }
            }
            _ => {
                entry.lease = Some((owner.to_owned(), now + ttl));
                Lease::Held
            }
        };
        let busy = Lease::Busy { owner: None, remaining: Duration::from_secs(1) };
        self.call(StoreCall::Acquire, key, busy, acquire).await
    }

    async fn extend(&self, key: &str, owner: &str, ttl: Duration) -> Result<bool, StoreError> {
        let extend = |entry: &mut Entry, now: Instant| {
            let held = entry.is_held_by(owner, now);
            if held {
                entry.lease = Some((owner.to_owned(), now + ttl));
            }
            held
        };
        self.call(StoreCall::Extend, key, false, extend).await
    }

    async fn release(&self, key: &str, owner: &str) -> Result<(), StoreError> {
        let release = |entry: &mut Entry, now: Instant| {
            if entry.is_held_by(owner, now) {
                entry.lease = None;
            }
        };
        self.call(StoreCall::Release, key, (), release).await
    }

    async fn save(&self, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> Result<Saved, StoreError> {
        let save = |entry: &mut Entry, now: Instant| {
            if !entry.is_held_by(owner, now) || entry.version_at(now) != expected {
                return Saved::Conflict;
            }
            entry.versions += 1;
            let version = entry.versions;
            entry.record = Some(Record { bytes: bytes.to_vec(), version, saved_at: now, until: None });
            Saved::Saved { version }
        };
        self.call(StoreCall::Save, key, Saved::Conflict, save).await
    }

    async fn set_aside(&self, key: &str, owner: &str, expected: u64) -> Result<Option<String>, StoreError> {
        let set_aside = |entry: &mut Entry, now: Instant| {
            if !entry.is_held_by(owner, now) || entry.version_at(now) != Some(expected) {
                return None;
            }
            let record = entry.record.take()?;
            entry.set_aside.push(record.bytes);
            Some(format!("{key}.set-aside"))
        };
        self.call(StoreCall::SetAside, key, None, set_aside).await
    }

    async fn expire(&self, key: &str, owner: &str, expected: u64, after: Duration) -> Result<(), StoreError> {
        let expire = |entry: &mut Entry, now: Instant| {
            let expires = entry.is_held_by(owner, now) && entry.version_at(now) == Some(expected);
            if let Some(record) = entry.record.as_mut().filter(|_| expires) {
                record.until = Some(now + after);
            }
        };
        self.call(StoreCall::Expire, key, (), expire).await
    }

    async fn changed(&self, key: &str) {
        let changed = {
            let mut state = lock(&self.0);
            Arc::clone(&state.entries.entry(key.to_owned()).or_default().changed)
        };
        changed.notified().await;
    }
}

// === impl Entry ===

impl Entry {
    fn record_at(&self, now: Instant) -> Option<&Record> {
        self.record.as_ref().filter(|record| record.until.is_none_or(|until| now < until))
    }

    fn version_at(&self, now: Instant) -> Option<u64> {
        self.record_at(now).map(|record| record.version)
    }

    fn lease_at(&self, now: Instant) -> Option<&(String, Instant)> {
        self.lease.as_ref().filter(|(_, until)| now < *until)
    }

    fn is_held_by(&self, owner: &str, now: Instant) -> bool {
        self.lease_at(now).is_some_and(|(holder, _)| holder == owner)
    }
}
