//! Which caches are evicted.

use std::future::ready;

use tokio::time::Instant;
use tower_bearer::{Error, KeyedTokenCache, TokenCache};

use crate::common::{MINUTE, SECOND, settle, until};
use crate::harness::{Api, Issuer, Key, ask};

/// Sessions whose refresh tokens are saved.
fn saved(issuer: &Issuer) -> KeyedTokenCache<Key> {
    let issuer = issuer.clone();
    KeyedTokenCache::new(move |key| Ok::<_, Error>(issuer.saved_session(*key)))
}

/// Uses this key repeatedly until there are this many keys. A separate thread searches for idle caches.
async fn keys_become(tenants: &KeyedTokenCache<Key>, keys: usize, in_use: Key) {
    for _ in 0..1000 {
        if tenants.status().keys == keys {
            return;
        }
        tokio::time::advance(15 * SECOND).await;
        tenants.cache(&in_use).unwrap();
        tokio::task::spawn_blocking(|| {}).await.unwrap();
    }
    panic!("there are {} keys, and not {keys}", tenants.status().keys);
}

#[tokio::test]
async fn the_number_of_keys_is_bounded() {
    let issuer = Issuer::new();
    let tenants = issuer.clients().max_keys(10);
    for key in 0..100 {
        tenants.cache(&key).unwrap().get().await.unwrap();
        settle().await;
    }
    let keys = tenants.status().keys;
    assert!((1..=10).contains(&keys), "{keys}");
}

#[tokio::test]
async fn a_cache_that_is_held_is_not_evicted() {
    let issuer = Issuer::new();
    let tenants = issuer.clients().max_keys(10);
    let held = tenants.cache(&1000).unwrap();
    held.get().await.unwrap();
    for key in 0..100 {
        tenants.cache(&key).unwrap().get().await.unwrap();
    }
    assert_eq!(tenants.cache(&1000).unwrap().get().await.unwrap().access_token(), "1000.1");
}

#[tokio::test]
async fn a_key_with_a_waiting_request_gets_no_second_session() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let tenants = issuer.sessions().max_keys(2);
    let client = api.client(&tenants);
    let gate = issuer.hold();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, 1000).await.unwrap() }
    });
    until(|| issuer.calls_of(1000) == 1).await;
    // The fetch continues without its caller, so only its task holds the cache.
    waiting.abort();
    issuer.hold_no_more();
    for key in 0..50 {
        ask(&client, key).await.unwrap();
    }
    gate.close();
    assert_eq!(ask(&client, 1000).await.unwrap(), "1000.1");
    assert_eq!((issuer.calls_of(1000), issuer.reused()), (1, 0));
}

#[tokio::test]
async fn a_refresh_token_that_is_saved_nowhere_is_not_lost() {
    let issuer = Issuer::new();
    let tenants = issuer.sessions().max_keys(5);
    for key in 0..50 {
        tenants.cache(&key).unwrap().get().await.unwrap();
    }
    settle().await;
    for key in 0..50 {
        tenants.cache(&key).unwrap().refresh().await.unwrap();
    }
    assert_eq!((tenants.status().keys, tenants.status().unsaved, issuer.reused()), (50, 50, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_evict_each_others_keys_share_each_session() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let client = api.client(&saved(&issuer).max_keys(3));
    let callers: Vec<_> = (0..8)
        .map(|caller: Key| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..500 {
                    ask(&client, (n * (caller + 1)) % 16).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(issuer.calls() > 16, "some were evicted");
    assert_eq!((issuer.reused(), api.wrong_token()), (0, 0));
}

#[tokio::test]
async fn a_saved_session_is_evicted() {
    let issuer = Issuer::new();
    let tenants = saved(&issuer).max_keys(5);
    for key in 0..50 {
        tenants.cache(&key).unwrap().get().await.unwrap();
        settle().await;
    }
    let status = tenants.status();
    assert!(status.keys <= 5 && status.unsaved == 0, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn idle_caches_are_evicted() {
    let issuer = Issuer::new();
    let tenants = issuer.clients().max_idle(10 * MINUTE);
    for key in 0..100 {
        tenants.cache(&key).unwrap().get().await.unwrap();
    }
    let start = Instant::now();
    keys_become(&tenants, 1, 1).await;
    assert!(start.elapsed() > 9 * MINUTE, "{:?}", start.elapsed());
    assert_eq!(tenants.cache(&1).unwrap().peek().unwrap().access_token(), "1.1");
}

#[tokio::test(start_paused = true)]
async fn an_idle_cache_that_is_held_stays() {
    let issuer = Issuer::new();
    let tenants = issuer.clients().max_idle(MINUTE);
    let held = tenants.cache(&1).unwrap();
    held.get().await.unwrap();
    tenants.cache(&2).unwrap().get().await.unwrap();
    tenants.cache(&3).unwrap();
    settle().await;
    keys_become(&tenants, 2, 3).await;
    assert_eq!(tenants.cache(&1).unwrap().peek().unwrap().access_token(), "1.1");
    assert!(tenants.cache(&2).unwrap().peek().is_none());
}

#[tokio::test]
async fn dropping_the_caches_drops_the_sources() {
    let alive = std::sync::Arc::new(());
    let held = std::sync::Arc::clone(&alive);
    let tenants = KeyedTokenCache::new(move |_: &Key| {
        let held = std::sync::Arc::clone(&held);
        Ok::<_, Error>(TokenCache::new(move |_| {
            let _held = &held;
            ready(tower_bearer::Token::new("t"))
        }))
    })
    .max_keys(3);
    for key in 0..20 {
        tenants.cache(&key).unwrap().get().await.unwrap();
        settle().await;
    }
    assert!(std::sync::Arc::strong_count(&alive) <= 5);
    drop(tenants);
    settle().await;
    assert_eq!(std::sync::Arc::strong_count(&alive), 1);
}

// === signing out ===

#[tokio::test]
async fn removing_a_key_revokes_its_refresh_token_and_the_next_request_begins_anew() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let tenants = issuer.sessions();
    let client = api.client(&tenants);
    for tenant in [1, 2] {
        ask(&client, tenant).await.unwrap();
    }
    let before = tenants.cache(&1).unwrap();
    tenants.remove(&1, async |secret| issuer.revoke(secret.expose())).await.unwrap();
    assert_eq!((issuer.revoked(), tenants.status().keys), (vec!["1.r1".to_owned()], 1));
    assert!(before.get().await.unwrap_err().is_signed_out());
    assert_eq!(ask(&client, 1).await.unwrap(), "1.2");
    assert_eq!(ask(&client, 2).await.unwrap(), "2.1");
    assert_eq!(issuer.reused(), 0);
}

#[tokio::test]
async fn removing_a_key_without_a_cache_revokes_what_its_session_begins_with() {
    let issuer = Issuer::new();
    let tenants = issuer.sessions();
    tenants.remove(&7, async |secret| issuer.revoke(secret.expose())).await.unwrap();
    assert_eq!((issuer.revoked(), issuer.calls()), (vec!["7.s0".to_owned()], 0));
    assert_eq!(tenants.status().keys, 0);
}

#[tokio::test(start_paused = true)]
async fn removing_a_key_waits_for_its_fetch_and_fails_its_requests() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let tenants = issuer.sessions();
    let client = api.client(&tenants);
    let gate = issuer.hold();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, 1).await }
    });
    until(|| issuer.calls_of(1) == 1).await;
    let removing = tokio::spawn({
        let (tenants, issuer) = (tenants.clone(), issuer.clone());
        async move { tenants.remove(&1, async |secret| issuer.revoke(secret.expose())).await }
    });
    let error = waiting.await.unwrap().unwrap_err();
    assert!(Error::find(&*error).is_some_and(Error::is_signed_out), "{error}");
    settle().await;
    assert!(!removing.is_finished());
    tokio::time::advance(SECOND).await;
    issuer.hold_no_more();
    gate.close();
    removing.await.unwrap().unwrap();
    assert_eq!(issuer.revoked(), ["1.r1"]);
    assert_eq!(ask(&client, 1).await.unwrap(), "1.2");
}
