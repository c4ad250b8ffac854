//! The commands that the store sends, and their number.

use std::collections::BTreeSet;
use std::time::Duration;

use tower_bearer::store::{Lease, TokenStore};
use tower_bearer::testing::store_conformance;

use crate::conformance::acl_rule;
use crate::server::{Server, each, save};

const LONG: Duration = Duration::from_secs(60);

/// The commands that the server has run, with their counts. They include those that scripts called.
pub(crate) async fn commands(server: &Server) -> Vec<(String, u64)> {
    let info: String = server.admin("INFO commandstats").await;
    let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let counted = lines.map(|(name, rest)| (name.to_owned(), rest.split(',').next().unwrap().parse().unwrap()));
    // The connection of this test sends these.
    counted.filter(|(name, _)| !["config|resetstat", "info", "client|setinfo"].contains(&&**name)).collect()
}

pub(crate) fn count(commands: &[(String, u64)], name: &str) -> u64 {
    commands.iter().find(|(of, _)| of == name).map_or(0, |(_, count)| *count)
}

/// One command is one round trip, because the store sends the next after its answer.
#[tokio::test]
async fn a_check_that_finds_no_new_record_is_one_round_trip() {
    for server in each(&[]) {
        let store = server.store();
        save(&store, "key", None, b"record").await;
        server.admin::<()>("CONFIG RESETSTAT").await;
        for _ in 0..10 {
            store.load("key").await.unwrap().unwrap();
            store.load("nothing").await.unwrap();
        }
        let mut commands = commands(&server).await;
        commands.sort();
        // A missing record has no age.
        assert_eq!(commands, [("eval".to_owned(), 20), ("hmget".to_owned(), 20), ("time".to_owned(), 10)]);
    }
}

#[tokio::test]
async fn each_operation_is_one_round_trip() {
    for server in each(&[]) {
        let store = server.store();
        store.load("key").await.unwrap();
        server.admin::<()>("CONFIG RESETSTAT").await;
        store.load("key").await.unwrap();
        assert_eq!(store.acquire("key", "owner", LONG).await.unwrap(), Lease::Held);
        store.load("key").await.unwrap();
        store.save("key", "owner", None, b"record").await.unwrap();
        store.release("key", "owner").await.unwrap();
        let commands = commands(&server).await;
        assert_eq!((count(&commands, "eval"), count(&commands, "publish")), (5, 1), "{commands:?}");
    }
}

/// The rule must not allow more than the store needs.
#[tokio::test]
async fn the_acl_rule_of_the_readme_names_the_commands_that_are_sent_and_no_others() {
    for server in each(&[]) {
        server.admin::<()>("CONFIG RESETSTAT").await;
        store_conformance(&server.store(), &server.store(), "commands").await;
        let sent: BTreeSet<_> = commands(&server).await.into_iter().map(|(name, _)| name).collect();
        let named = acl_rule().into_iter().filter_map(|word| word.strip_prefix('+')).map(str::to_owned);
        // Every user may send `HELLO`.
        assert_eq!(sent, named.chain(["hello".to_owned()]).collect());
    }
}

/// Keys that are left behind expire.
#[tokio::test]
async fn every_key_has_a_time_to_live() {
    for server in each(&[]) {
        let store = server.store().keep_for(2 * LONG);
        let version = save(&store, "aside", None, b"unreadable").await;
        assert_eq!(store.acquire("aside", "owner", LONG).await.unwrap(), Lease::Held);
        let name = store.set_aside("aside", "owner", version).await.unwrap().unwrap();
        save(&store, "key", None, b"record").await;
        let left = async |key: &str| server.admin::<i64>(&format!("TTL {key}")).await;
        assert!((61..=120).contains(&left("tower-bearer:{session:key}").await));
        assert!((1..=60).contains(&left("tower-bearer:{session:aside}:lease").await));
        assert_eq!(name, "tower-bearer:{session:aside}:set-aside");
        assert!(left(&name).await > 29 * 24 * 60 * 60);
        assert_eq!(server.admin::<u64>("DBSIZE").await, 3);
        // This is the record of a session that has ended.
        assert_eq!(store.acquire("key", "owner", LONG).await.unwrap(), Lease::Held);
        let version = store.load("key").await.unwrap().unwrap().version;
        store.expire("key", "owner", version, LONG).await.unwrap();
        assert!((1..=60).contains(&left("tower-bearer:{session:key}").await));
        store.expire("key", "owner", version, 4 * LONG).await.unwrap();
        assert!((61..=120).contains(&left("tower-bearer:{session:key}").await), "not longer than any record");
        // These are the longest possible times.
        let store = server.store().keep_for(Duration::MAX);
        assert_eq!(store.acquire("long", "owner", Duration::MAX).await.unwrap(), Lease::Held);
        store.save("long", "owner", None, b"record").await.unwrap();
    }
}
