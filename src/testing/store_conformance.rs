//! What a store must do, checked against a store.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use crate::store::{Lease, Saved, StoreError, Stored, TokenStore};
use crate::testing::helpers::{now, unique_number};

/// How long the leases of the suite last.
const LEASE: Duration = Duration::from_millis(500);
/// Long enough for no lease of the suite to end while it is looked at.
const LONG: Duration = Duration::from_secs(60);

/// Checks that a store does what [`TokenStore`] says, through two handles, as two processes have them.
///
/// `key` begins every key that the suite uses; what it leaves under them can be deleted. It takes a second or two, by the
/// clock of the store. The two handles may be clones of one; better, each has a connection of its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tower_bearer::testing::{MemoryStore, store_conformance};
///
/// let store = MemoryStore::new();
/// store_conformance(&store, &store.clone(), "conformance").await;
/// # }
/// ```
///
/// # Panics
/// Panics with a sentence that says what the store did wrong.
///
/// # Cancel safety
/// Dropping it leaves leases that end within a minute.
pub async fn store_conformance<S: TokenStore>(first: &S, second: &S, key: &str) {
    let key = |part: &str| format!("{key}-{part}-{}-{}", std::process::id(), unique_number());
    records(first, second, &key("records")).await;
    leases(first, second, &key("leases")).await;
    ends(first, second, &key("ends")).await;
    set_aside(first, second, &key("set-aside")).await;
    expiry(first, second, &key("expiry")).await;
    keys(first, second, &key("keys")).await;
    changes(first, second, &key("changes")).await;
}

async fn records<S: TokenStore>(first: &S, second: &S, key: &str) {
    assert_eq!(ok("load", first.load(key)).await, None, "a key that was never saved has no record");
    hold(first, key, "a", LONG).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let version = save(first, key, "a", None, &bytes).await;
    let loaded = load(second, key).await;
    assert_eq!((loaded.version, loaded.bytes == bytes), (version, true), "what was saved is loaded, every byte of it");
    assert!(loaded.age < LONG, "a record that was saved just now is not {:?} old", loaded.age);
    tokio::time::sleep(LEASE).await;
    let aged = load(second, key).await.age.saturating_sub(loaded.age);
    assert!(aged >= LEASE / 2 && aged < LONG, "in {LEASE:?} a record became {aged:?} older");

    conflict(first, key, "a", None, "a record is not saved as the first if there is one").await;
    let next = save(first, key, "a", Some(version), b"next").await;
    assert_ne!(next, version, "each record has another version");
    conflict(first, key, "a", Some(version), "a record is not saved over another version than the expected one").await;
    conflict(first, key, "b", Some(next), "a record is not saved without the lease").await;
    conflict(second, key, "b", Some(next), "a record is not saved without the lease").await;
    let loaded = load(second, key).await;
    assert_eq!((loaded.version, &*loaded.bytes), (next, &b"next"[..]), "a conflict changes nothing");
    assert!(loaded.age < LEASE, "the age counts from the last save, and is {:?}", loaded.age);
    ok("release", first.release(key, "a")).await;
    conflict(first, key, "a", Some(next), "a record is not saved after the lease was released").await;
}

async fn leases<S: TokenStore>(first: &S, second: &S, key: &str) {
    hold(first, key, "a", LONG).await;
    let Lease::Busy { owner, remaining } = ok("acquire", second.acquire(key, "b", LONG)).await else {
        panic!("two owners hold the lease")
    };
    assert!(owner.is_none_or(|owner| owner == "a"), "the owner that holds the lease is named");
    assert!(remaining <= LONG && remaining > LONG / 2, "a lease of {LONG:?} ends in {remaining:?}");
    assert!(
        matches!(ok("acquire", first.acquire(key, "b", LONG)).await, Lease::Busy { .. }),
        "two owners hold the lease"
    );
    hold(first, key, "a", LONG).await;
    assert!(!ok("extend", second.extend(key, "b", LONG)).await, "a lease is extended only by its owner");
    ok("release", second.release(key, "b")).await;
    assert!(ok("extend", first.extend(key, "a", LONG)).await, "a lease is released only by its owner");
    ok("release", first.release(key, "a")).await;
    assert!(!ok("extend", first.extend(key, "a", LONG)).await, "a lease that was released is not extended");
    hold(second, key, "b", LONG).await;
    ok("release", second.release(key, "b")).await;
}

async fn ends<S: TokenStore>(first: &S, second: &S, key: &str) {
    hold(first, key, "a", LEASE).await;
    // Extended past its first end.
    tokio::time::sleep(LEASE / 2).await;
    assert!(ok("extend", first.extend(key, "a", 2 * LEASE)).await, "a lease can be extended");
    tokio::time::sleep(LEASE).await;
    let busy = ok("acquire", second.acquire(key, "b", LONG)).await;
    assert!(matches!(busy, Lease::Busy { .. }), "a lease that was extended goes on");
    // Not released by an owner that died. A store without a common clock may count from when it was looked at first.
    let start = now();
    while ok("acquire", second.acquire(key, "b", LONG)).await != Lease::Held {
        assert!(start.elapsed() < 6 * LEASE, "a lease of {:?} goes on after {:?}", 2 * LEASE, start.elapsed());
        tokio::time::sleep(LEASE / 10).await;
    }
    assert!(!ok("extend", first.extend(key, "a", LONG)).await, "a lease that has ended is not extended");
    conflict(first, key, "a", None, "a record is not saved after the lease has ended").await;
    ok("release", first.release(key, "a")).await;
    save(second, key, "b", None, b"of the next owner").await;
    ok("release", second.release(key, "b")).await;
}

async fn set_aside<S: TokenStore>(first: &S, second: &S, key: &str) {
    hold(first, key, "a", LONG).await;
    let version = save(first, key, "a", None, b"unreadable").await;
    assert_eq!(ok("set_aside", second.set_aside(key, "b", version)).await, None, "only with the lease");
    assert_eq!(ok("set_aside", first.set_aside(key, "a", version + 1)).await, None, "only the expected version");
    assert!(ok("load", second.load(key)).await.is_some(), "what was not set aside is there");
    assert!(ok("set_aside", first.set_aside(key, "a", version)).await.is_some(), "a record can be set aside");
    assert_eq!(ok("load", second.load(key)).await, None, "what was set aside is not loaded");
    save(first, key, "a", None, b"new").await;
    assert_eq!(load(second, key).await.bytes, b"new");
    ok("release", first.release(key, "a")).await;
}

/// A store may keep every record, as the default does.
async fn expiry<S: TokenStore>(first: &S, second: &S, key: &str) {
    hold(first, key, "a", LONG).await;
    let version = save(first, key, "a", None, b"record").await;
    ok("expire", second.expire(key, "b", version, LEASE / 10)).await;
    ok("expire", first.expire(key, "a", version + 1, LEASE / 10)).await;
    tokio::time::sleep(LEASE / 5).await;
    assert_eq!(load(second, key).await.bytes, b"record", "only with the lease, and only the expected version expires");
    ok("expire", first.expire(key, "a", version, LEASE)).await;
    let kept = load(second, key).await;
    assert_eq!((kept.version, &*kept.bytes), (version, &b"record"[..]), "until it expires, a record is what it was");
    let next = save(first, key, "a", Some(version), b"next").await;
    tokio::time::sleep(2 * LEASE).await;
    assert_eq!(load(second, key).await.bytes, b"next", "a record that was saved again is kept");
    ok("expire", first.expire(key, "a", next, LEASE / 10)).await;
    tokio::time::sleep(LEASE / 5).await;
    let left = ok("load", second.load(key)).await.map(|stored| stored.version);
    assert!(left.is_none_or(|version| version == next), "a record expires as a whole");
    save(first, key, "a", left, b"new").await;
    assert_eq!(load(second, key).await.bytes, b"new", "after a record has expired, another is saved");
    ok("release", first.release(key, "a")).await;
}

async fn keys<S: TokenStore>(first: &S, second: &S, key: &str) {
    // Names that a path, a pattern or a capital could confuse.
    let names = ["Tenant", "tenant", "a/b", "a:b", "..", "a b", "a*", "{a}", "é", "a.lock"];
    let names = names.map(|name| format!("{key}/{name}"));
    for name in &names {
        hold(first, name, "a", LONG).await;
        assert_eq!(ok("load", second.load(name)).await, None, "each key has a record of its own: {name}");
        save(first, name, "a", None, name.as_bytes()).await;
    }
    for name in &names {
        assert_eq!(load(second, name).await.bytes, name.as_bytes(), "each key has a record of its own");
        ok("release", first.release(name, "a")).await;
    }
}

/// A store without notifications waits for ever, and passes; one that has them tells the other handle in time.
async fn changes<S: TokenStore>(first: &S, second: &S, key: &str) {
    hold(first, key, "a", LONG).await;
    let mut changed = pin!(second.changed(key));
    // Time for a subscription to be made.
    let early = tokio::time::timeout(LEASE, changed.as_mut()).await;
    save(first, key, "a", None, b"changed").await;
    if early.is_err() {
        let _ = tokio::time::timeout(LEASE, changed).await;
    }
    assert_eq!(load(second, key).await.bytes, b"changed", "what was saved is loaded after the notification");
    ok("release", first.release(key, "a")).await;
}

// === what the checks share ===

async fn ok<T>(call: &str, answer: impl Future<Output = Result<T, StoreError>>) -> T {
    answer.await.unwrap_or_else(|error| panic!("{call}: {error}"))
}

async fn load<S: TokenStore>(store: &S, key: &str) -> Stored {
    ok("load", store.load(key)).await.expect("what was saved is there")
}

async fn hold<S: TokenStore>(store: &S, key: &str, owner: &str, ttl: Duration) {
    assert_eq!(ok("acquire", store.acquire(key, owner, ttl)).await, Lease::Held, "a lease that is free can be taken");
}

async fn save<S: TokenStore>(store: &S, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> u64 {
    match ok("save", store.save(key, owner, expected, bytes)).await {
        Saved::Saved { version } => version,
        Saved::Conflict => panic!("the owner of the lease saves over the expected version"),
    }
}

async fn conflict<S: TokenStore>(store: &S, key: &str, owner: &str, expected: Option<u64>, rule: impl Debug) {
    assert_eq!(ok("save", store.save(key, owner, expected, b"x")).await, Saved::Conflict, "{rule:?}");
}
