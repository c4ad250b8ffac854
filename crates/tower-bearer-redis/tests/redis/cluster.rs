//! A cluster of three nodes.

use std::time::Duration;

use tower_bearer::store::TokenStore;
use tower_bearer::testing::store_conformance;
use tower_bearer_redis::RedisStore;

use crate::commands::commands;
use crate::conformance::acl_rule;
use crate::issuer::Issuer;
use crate::server::{Server, bounded, each, save};

const LONG: Duration = Duration::from_secs(60);
const KEYS: usize = 30;

/// Three nodes with a third of the slots each, for each installed program.
async fn clusters() -> Vec<Vec<Server>> {
    let mut nodes = [(); 3].map(|()| each(&["--cluster-enabled", "yes"]).into_iter());
    let mut clusters = Vec::new();
    while let [Some(first), Some(second), Some(third)] = nodes.each_mut().map(Iterator::next) {
        let cluster = vec![first, second, third];
        for (node, slots) in cluster.iter().zip(["0 5461", "5462 10922", "10923 16383"]) {
            node.admin::<()>(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
            let bus = node.cluster_port.expect("it is of a cluster");
            cluster[0].admin::<()>(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port)).await;
        }
        bounded(async {
            for node in &cluster {
                // The nodes know each other's slots.
                while !node.admin::<String>("CLUSTER INFO").await.contains("cluster_state:ok") {}
            }
        })
        .await;
        clusters.push(cluster);
    }
    clusters
}

fn store(cluster: &[Server]) -> RedisStore {
    // One node is enough.
    RedisStore::cluster([cluster[0].url()]).unwrap()
}

async fn keys_of(node: &Server) -> usize {
    node.admin("DBSIZE").await
}

#[tokio::test]
async fn a_store_in_a_cluster_does_what_the_trait_says_on_every_node() {
    for cluster in clusters().await {
        for node in &cluster {
            node.admin::<()>("CONFIG RESETSTAT").await;
        }
        store_conformance(&store(&cluster), &store(&cluster), "conformance").await;
        let named = acl_rule().into_iter().filter_map(|word| word.strip_prefix('+')).map(str::to_owned);
        let named: Vec<_> = named.chain(["hello", "ping", "cluster|slots"].map(str::to_owned)).collect();
        for node in &cluster {
            let sent = commands(node).await;
            assert!(sent.iter().all(|(name, _)| named.contains(name)), "the README names what is sent: {sent:?}");
        }
        let store = store(&cluster).prefix("another").unwrap();
        for number in 0..KEYS {
            save(&store, &format!("key-{number}"), None, b"record").await;
        }
        for node in &cluster {
            assert!(keys_of(node).await > 1, "the keys are spread");
        }
    }
}

/// Processes are notified of changes on every node.
#[tokio::test]
async fn caches_over_a_cluster_share_a_session_and_notify_each_other() {
    for cluster in clusters().await {
        let issuer = Issuer::new(60 * LONG);
        let (first, second) = (issuer.process(store(&cluster), 60 * LONG), issuer.process(store(&cluster), 60 * LONG));
        first.get().await.unwrap();
        second.get().await.unwrap();
        second.refresh().await.unwrap();
        bounded(async {
            while first.peek().is_none_or(|token| token.access_token() != "t2") {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!((issuer.calls(), issuer.reused()), (2, 0));
    }
}

/// In a store for one server, the keys of that node work, and other keys are an error.
#[tokio::test]
async fn a_store_for_one_server_says_that_another_node_has_the_key() {
    for cluster in clusters().await {
        let (single, whole) = (cluster[0].store(), store(&cluster));
        let mut moved = 0;
        for number in 0..KEYS {
            let key = format!("key-{number}");
            save(&whole, &key, None, b"record").await;
            match single.load(&key).await {
                Ok(found) => assert_eq!(found.unwrap().bytes, b"record"),
                Err(error) => {
                    assert!(!error.is_transient() && error.to_string().contains("feature `cluster`"), "{error}");
                    moved += 1;
                }
            }
        }
        assert!(moved > 0 && moved < KEYS, "{moved}");
    }
}

#[tokio::test]
async fn a_node_that_stops_is_an_error_for_its_keys_alone() {
    for mut cluster in clusters().await {
        let store = store(&cluster).timeout(Duration::from_millis(500));
        // With this setting, the other nodes still serve their slots.
        for node in &cluster {
            node.admin::<()>("CONFIG SET cluster-require-full-coverage no").await;
        }
        for number in 0..KEYS {
            save(&store, &format!("key-{number}"), None, b"record").await;
        }
        let lost = keys_of(&cluster[2]).await;
        cluster[2].stop();
        let (mut served, mut failed) = (0, 0);
        for number in 0..KEYS {
            match bounded(store.load(&format!("key-{number}"))).await {
                Ok(Some(_)) => served += 1,
                Ok(None) => panic!("a record is not taken for lost"),
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(served > 0 && failed >= lost, "{served} of {KEYS} served, {failed} failed, {lost} on the node");
    }
}

#[test]
fn a_cluster_without_a_node_or_with_an_invalid_url_is_an_error() {
    assert!(RedisStore::cluster(<[&str; 0]>::default()).is_err());
    let error = RedisStore::cluster(["redis://127.0.0.1", "redis//app:s3cret@host"]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}
