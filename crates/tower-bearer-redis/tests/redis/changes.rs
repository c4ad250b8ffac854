//! Notifications of changes.

use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::task::JoinSet;
use tower_bearer::store::{Lease, TokenStore};

use crate::server::{Server, bounded, each, recovers, save};

const LONG: Duration = Duration::from_secs(60);

/// Polls once.
async fn is_done(future: &mut Pin<&mut impl Future<Output = ()>>) -> bool {
    tokio::select! {
        biased;
        () = future => true,
        () = ready(()) => false,
    }
}

async fn published(server: &Server) -> u64 {
    let calls = server.info("commandstats", "cmdstat_publish").await;
    calls.map_or(0, |calls| calls["calls=".len()..].split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_save_wakes_the_waiters_of_its_key() {
    for server in each(&[]) {
        let (first, second) = (server.store(), server.store());
        second.load("key").await.unwrap();
        let (mut key, mut another) = (pin!(second.changed("key")), pin!(second.changed("another")));
        assert!(!is_done(&mut key).await && !is_done(&mut another).await);
        save(&first, "key", None, b"record").await;
        bounded(key).await;
        assert!(!is_done(&mut another).await, "the other key has not changed");
        save(&first, "another", None, b"record").await;
        bounded(another).await;
    }
}

#[tokio::test]
async fn stores_with_other_prefixes_share_neither_records_nor_messages() {
    for server in each(&[]) {
        let (first, second) = (server.store(), server.store().prefix("another").unwrap());
        second.load("key").await.unwrap();
        let mut key = pin!(second.changed("key"));
        assert!(!is_done(&mut key).await);
        save(&first, "key", None, b"record").await;
        // The server sends messages before a later answer.
        assert_eq!(second.load("key").await.unwrap(), None);
        assert!(!is_done(&mut key).await);
    }
}

/// A refresh publishes one message. A second one would make every process check the record twice.
#[tokio::test]
async fn a_release_notifies_unless_the_save_before_it_did() {
    for server in each(&[]) {
        let (first, second) = (server.store(), server.store());
        save(&first, "key", None, b"record").await;
        assert_eq!(published(&server).await, 1);

        second.load("key").await.unwrap();
        let mut key = pin!(second.changed("key"));
        assert_eq!(first.acquire("key", "failed", LONG).await.unwrap(), Lease::Held);
        assert!(!is_done(&mut key).await);
        first.release("key", "failed").await.unwrap();
        bounded(key).await;
        assert_eq!(published(&server).await, 2);
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_or_new_wakes_all_because_a_message_may_have_been_missed() {
    for server in each(&[]) {
        let (first, second) = (server.store(), server.store());
        second.load("key").await.unwrap();
        for _ in 0..2 {
            let mut key = pin!(second.changed("key"));
            assert!(!is_done(&mut key).await);
            server.admin::<()>("CLIENT KILL TYPE normal").await;
            server.admin::<()>("CLIENT KILL TYPE pubsub").await;
            bounded(key).await;
            let mut key = pin!(second.changed("key"));
            assert!(!is_done(&mut key).await);
            // This call opens a new connection.
            second.load("key").await.unwrap();
            bounded(key).await;
        }
        let mut key = pin!(second.changed("key"));
        assert!(!is_done(&mut key).await);
        save(&first, "key", None, b"record").await;
        bounded(key).await;
    }
}

#[tokio::test]
async fn a_wait_that_is_polled_once_keeps_no_call_from_connecting() {
    for server in each(&[]) {
        let store = server.store();
        let mut key = pin!(store.changed("key"));
        assert!(!is_done(&mut key).await);
        store.load("key").await.unwrap();
        bounded(key).await;
    }
}

/// Without a server it waits, and the first call that reaches one wakes it.
#[tokio::test]
async fn a_wait_that_began_without_a_server_is_woken_by_the_next_connection() {
    for mut server in each(&[]) {
        let store = server.store().timeout(Duration::from_millis(300));
        server.stop();
        let mut key = pin!(store.changed("key"));
        assert!(!is_done(&mut key).await);
        assert!(bounded(store.load("key")).await.is_err());
        server.restart();
        assert!(!is_done(&mut key).await);
        recovers(&store).await;
        bounded(key).await;
    }
}

#[tokio::test]
async fn all_keys_share_one_connection_and_one_subscription() {
    for server in each(&[]) {
        let store = server.store();
        let mut waiting = JoinSet::new();
        for number in 0..100 {
            let store = store.clone();
            waiting.spawn(async move {
                let key = format!("key-{number}");
                store.load(&key).await.unwrap();
                store.changed(&key).await;
            });
        }
        let mut saves = 0;
        while !waiting.is_empty() {
            // The waits may not have begun.
            for number in 0..100 {
                let key = format!("key-{number}");
                let version = store.load(&key).await.unwrap().map(|stored| stored.version);
                save(&store, &key, version, b"record").await;
                saves += 1;
            }
            while waiting.try_join_next().is_some() {}
            assert!(saves < 100_000);
        }
        // The two connections are the store's and that of this test.
        assert_eq!(server.info("clients", "connected_clients").await.as_deref(), Some("2"));
        let subscribed: (String, u64) = server.admin("PUBSUB NUMSUB tower-bearer:changed").await;
        assert_eq!(subscribed.1, 1);
    }
}
