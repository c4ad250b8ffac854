//! Processes share a session for each key. Each key has a record and a lease in one store.

use tower_bearer::store::{Lease, TokenStore};
use tower_bearer::testing::{MemoryStore, StoreCall, StoreFault};
use tower_bearer::{Error, KeyedTokenCache};

use crate::common::{SECOND, settle};
use crate::harness::{Api, Issuer, Key, ask};

const KEYS: Key = 50;

/// A process with a cache for each key, over this store.
fn process(issuer: &Issuer, store: &MemoryStore) -> KeyedTokenCache<Key> {
    let (issuer, store) = (issuer.clone(), store.clone());
    KeyedTokenCache::new(move |key| Ok::<_, Error>(issuer.shared_session(*key, &store)))
}

fn record(store: &MemoryStore, key: Key) -> String {
    String::from_utf8(store.record(&key.to_string()).expect("there is a record")).unwrap()
}

async fn get(process: &KeyedTokenCache<Key>, key: Key) -> String {
    process.cache(&key).unwrap().get().await.unwrap().access_token().to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_record_and_takes_one_lease() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(&issuer, &store), process(&issuer, &store));
    for key in 0..KEYS {
        assert_eq!(get(&first, key).await, format!("{key}.1"));
    }
    let keys = KEYS as usize;
    // A call makes two saves: a mark before it, and its answer.
    for (call, times) in [(StoreCall::Acquire, keys), (StoreCall::Save, 2 * keys), (StoreCall::Release, keys)] {
        assert_eq!(store.calls(call), times, "{call:?}");
    }
    for key in 0..KEYS {
        let text = record(&store, key);
        assert!(text.contains(&format!("\"{key}.1\"")) && text.contains(&format!("\"{key}.r1\"")), "{key}: {text}");
        assert_eq!(store.lease_owner(&key.to_string()), None);
        assert_eq!(get(&second, key).await, format!("{key}.1"));
    }
    assert_eq!((issuer.calls(), store.calls(StoreCall::Acquire)), (keys, keys), "the second process adopts");
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_lease_is_taken_delays_no_other() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    assert_eq!(store.acquire("7", "elsewhere", 20 * SECOND).await.unwrap(), Lease::Held);
    let process = process(&issuer, &store);
    let waits = process.cache(&7).unwrap();
    let waits = tokio::spawn(async move { waits.get().await });
    for key in (0..KEYS).filter(|key| *key != 7) {
        assert_eq!(get(&process, key).await, format!("{key}.1"));
    }
    assert!(!waits.is_finished() && issuer.calls_of(7) == 0);
    store.release("7", "elsewhere").await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().access_token(), "7.1");
}

#[tokio::test(start_paused = true)]
async fn an_eviction_loses_no_rotated_refresh_token() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(&issuer, &store).max_keys(5);
    for round in 1..4 {
        for key in 0..KEYS {
            let cache = process.cache(&key).unwrap();
            let token = cache.get().await.unwrap();
            // The cache has been evicted, and made again with the refresh token of its login.
            if round > 1 {
                assert_eq!(token.access_token(), format!("{key}.{}", round - 1));
                assert_eq!(cache.refresh().await.unwrap().access_token(), format!("{key}.{round}"));
            }
            drop(cache);
            settle().await;
        }
        let status = process.status();
        assert!(status.keys <= 5 && status.unsaved == 0, "{status:?}");
    }
    assert_eq!((issuer.calls(), issuer.reused()), (3 * KEYS as usize, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_could_not_be_saved_keeps_its_cache_until_it_is() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(&issuer, &store).max_keys(2);
    // The store saves the mark, and not the answer.
    store.inject(StoreCall::Save, StoreFault::Late(SECOND / 100));
    (0..1000).for_each(|_| store.inject(StoreCall::Save, StoreFault::Fails));
    assert_eq!(get(&process, 1000).await, "1000.1");
    assert!(!record(&store, 1000).contains("1000.r1"));
    store.set_down(true);
    for key in 0..KEYS {
        process.cache(&key).unwrap().get().await.expect_err("the refresh token is not used");
        settle().await;
    }
    assert!(process.status().unsaved == 1 && issuer.calls() == 1, "{:?}", process.status());
    assert_eq!(process.cache(&1000).unwrap().peek().unwrap().access_token(), "1000.1");
    store.recover();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(process.status().unsaved, 0);
    for key in 0..KEYS {
        get(&process, key).await;
        settle().await;
    }
    assert!(process.status().keys <= 2, "now it may be evicted");
    assert_eq!(get(&process, 1000).await, "1000.1");
    process.cache(&1000).unwrap().refresh().await.unwrap();
    assert_eq!((issuer.calls_of(1000), issuer.reused()), (2, 0));
    assert!(record(&store, 1000).contains("1000.r2"));
}

#[tokio::test(start_paused = true)]
async fn removing_a_key_ends_its_record_for_all_processes_and_no_other() {
    let (issuer, store, api) = (Issuer::new(), MemoryStore::new(), Api::new());
    let processes = [process(&issuer, &store), process(&issuer, &store)];
    for process in &processes {
        for key in [1, 2] {
            get(process, key).await;
        }
    }
    let [first, second] = &processes;
    let (before, other) = (second.cache(&1).unwrap(), record(&store, 2));
    first.remove(&1, async |secret| issuer.revoke(secret.expose())).await.unwrap();
    assert_eq!(issuer.revoked(), ["1.r1"]);
    let ended = record(&store, 1);
    assert!(ended.contains("signed_out") && !ended.contains("1.1") && !ended.contains("1.r1"), "{ended}");
    tokio::time::sleep(SECOND).await;
    assert!(before.get().await.unwrap_err().is_signed_out());
    assert_eq!((get(second, 2).await, record(&store, 2)), ("2.1".to_owned(), other));
    // The next login begins with another refresh token, and the other processes use it.
    assert_eq!(ask(&api.client(first), 1).await.unwrap(), "1.2");
    tokio::time::sleep(SECOND).await;
    assert_eq!(ask(&api.client(second), 1).await.unwrap(), "1.2");
    // The refresh token is revoked once for all processes.
    for process in &processes {
        process.remove(&2, async |secret| issuer.revoke(secret.expose())).await.unwrap();
    }
    assert_eq!(issuer.revoked(), ["1.r1", "2.r1"]);
    assert_eq!((issuer.calls(), issuer.reused()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn removing_a_key_without_a_cache_revokes_what_others_rotated() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let other = process(&issuer, &store);
    get(&other, 1).await;
    other.cache(&1).unwrap().refresh().await.unwrap();
    let fresh = process(&issuer, &store);
    fresh.remove(&1, async |secret| issuer.revoke(secret.expose())).await.unwrap();
    assert_eq!((issuer.revoked(), issuer.calls()), (vec!["1.r2".to_owned()], 2));
    assert!(record(&store, 1).contains("signed_out") && fresh.status().keys == 0);
}
