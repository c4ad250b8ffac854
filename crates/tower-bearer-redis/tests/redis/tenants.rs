//! A session for each key. Each has a record and a lease, over one connection.

use std::time::Duration;

use tokio::task::JoinSet;
use tower_bearer::store::SharedSession;
use tower_bearer::{Error, KeyedTokenCache, TokenCache};
use tower_bearer_redis::RedisStore;

use crate::commands::{commands, count};
use crate::issuer::Issuer;
use crate::server::{bounded, each};

const KEYS: u64 = 40;
const HOUR: Duration = Duration::from_secs(3600);

/// A cache for each key, over this store. Each key has its own issuer.
fn process(issuers: &[Issuer], store: RedisStore) -> KeyedTokenCache<u64> {
    let issuers = issuers.to_vec();
    KeyedTokenCache::new(move |key: &u64| {
        let shared = SharedSession::new(store.clone(), format!("tenant-{key}")).poll_interval(HOUR);
        let issuer = issuers.get(*key as usize).ok_or_else(|| Error::denied("there is no such tenant"))?;
        TokenCache::builder(issuer.clone()).shared_session(shared).build()
    })
}

/// Gets the tokens of all keys at once.
async fn get_all(process: &KeyedTokenCache<u64>) {
    let mut gets = JoinSet::new();
    for key in 0..KEYS {
        let cache = process.cache(&key).unwrap();
        gets.spawn(async move { bounded(cache.get()).await });
    }
    while let Some(get) = gets.join_next().await {
        assert_eq!(get.unwrap().unwrap().access_token(), "t1");
    }
}

#[tokio::test]
async fn many_keys_over_one_connection_have_a_record_and_a_lease_each() {
    for server in each(&[]) {
        let issuers: Vec<_> = (0..KEYS).map(|_| Issuer::new(HOUR)).collect();
        let first = process(&issuers, server.store());
        server.admin::<()>("CONFIG RESETSTAT").await;
        get_all(&first).await;
        let sent = commands(&server).await;
        // Each key acquires and releases a lease, and saves a mark before the call and its answer.
        let counted = ["set", "del", "hset", "publish", "subscribe"].map(|name| count(&sent, name));
        assert_eq!(counted, [KEYS, KEYS, 2 * KEYS, 2 * KEYS, 1], "{sent:?}");
        assert_eq!(server.admin::<u64>("DBSIZE").await, KEYS, "a record for each key, and no lease is left");
        // The two connections are the store's and that of this test.
        assert_eq!(server.info("clients", "connected_clients").await.as_deref(), Some("2"));

        let second = process(&issuers, server.store());
        get_all(&second).await;
        assert_eq!(count(&commands(&server).await, "set"), KEYS, "the second process adopts");
        assert!(issuers.iter().all(|issuer| issuer.calls() == 1));

        first.remove(&7, async |refresh_token| issuers[7].revoke(refresh_token).await).await.unwrap();
        let record: String = server.admin("HGET tower-bearer:{session:tenant-7} bytes").await;
        assert!(record.contains("signed_out") && !record.contains("r1"), "{record}");
        assert_eq!(issuers[7].revoked(), ["r1"]);
        let ended = second.cache(&7).unwrap();
        bounded(async {
            while !ended.status().signed_out {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(second.cache(&8).unwrap().get().await.unwrap().access_token(), "t1");
    }
}
