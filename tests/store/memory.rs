//! The store in memory passes the conformance suite.

use std::time::Duration;

use tower_bearer::store::{Lease, Saved, StoreError, TokenStore};
use tower_bearer::testing::{MemoryStore, StoreCall, StoreFault, store_conformance};

const LEASE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn it_passes_the_conformance_suite() {
    let store = MemoryStore::new();
    store_conformance(&store, &store.clone(), "key").await;
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let store = MemoryStore::new();
    assert_eq!(store.acquire("k", "a", LEASE).await.unwrap(), Lease::Held);
    store.inject(StoreCall::Save, StoreFault::Fails);
    assert!(store.save("k", "a", None, b"1").await.unwrap_err().is_transient());
    assert_eq!(store.record("k"), None);
    store.inject(StoreCall::Save, StoreFault::AnswerLost);
    store.save("k", "a", None, b"1").await.unwrap_err();
    assert_eq!(store.record("k").unwrap(), b"1");
    store.inject(StoreCall::Save, StoreFault::Conflict);
    assert_eq!(store.save("k", "a", Some(1), b"2").await.unwrap(), Saved::Conflict);
    store.inject(StoreCall::Load, StoreFault::Hangs);
    assert!(tokio::time::timeout(LEASE / 2, store.load("k")).await.is_err());
    store.set_down(true);
    store.load("k").await.unwrap_err();
    store.set_down(false);
    store.inject(StoreCall::Save, StoreFault::Late(LEASE));
    assert_eq!(store.save("k", "a", Some(1), b"late").await.unwrap(), Saved::Conflict, "the lease has ended meanwhile");
    assert_eq!((store.calls(StoreCall::Load), store.calls(StoreCall::Save)), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_change_notifies_unless_notifications_are_off() {
    let store = MemoryStore::new();
    let is_notified = async || tokio::time::timeout(LEASE / 10, store.changed("k")).await.is_ok();
    store.acquire("k", "a", LEASE).await.unwrap();
    let (was_notified, ()) = tokio::join!(is_notified(), async { drop(store.save("k", "a", None, b"1").await) });
    assert!(was_notified);
    store.notify(false);
    let (was_notified, ()) = tokio::join!(is_notified(), async { drop(store.save("k", "a", Some(1), b"2").await) });
    assert!(!was_notified);
}

#[test]
fn an_error_says_whether_it_may_pass_and_a_record_shows_nothing() {
    let (passes, stays) = (StoreError::transient("no route"), StoreError::permanent("wrong password"));
    assert!(passes.is_transient() && !stays.is_transient());
    assert_eq!(passes.to_string(), "the token store is unavailable: no route");
    assert_eq!(stays.to_string(), "the token store is not usable: wrong password");
    let stored = tower_bearer::store::Stored::new("the-secret", 7, LEASE);
    assert_eq!(format!("{stored:?}"), "Stored { version: 7, age: 10s, .. }");
}
