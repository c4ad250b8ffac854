//! Each kind of outage causes an error in bounded time that says what is wrong. Afterwards the store works again
//! without any other step.

use std::time::Duration;

use tower_bearer::store::{Lease, Saved, StoreError, TokenStore};
use tower_bearer_redis::RedisStore;

use crate::proxy::{Proxy, scripted};
use crate::server::{bounded, each, recovers, save};

const TIMEOUT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

/// Returns the error of a load, which must fail.
async fn load_error(store: &RedisStore) -> StoreError {
    bounded(store.load("key")).await.expect_err("an outage")
}

fn assert_error(error: &StoreError, transient: bool, text: &str) {
    assert!(error.is_transient() == transient && error.to_string().contains(text), "{error}");
}

#[tokio::test]
async fn a_server_that_is_stopped_is_an_error_and_one_that_restarts_empty_has_no_record() {
    for mut server in each(&[]) {
        let store = server.store();
        let version = save(&store, "key", None, b"record").await;
        server.stop();
        let error = load_error(&store).await;
        assert_error(&error, true, &format!("failed to reach Redis at 127.0.0.1:{}", server.port));
        server.restart();
        assert_eq!(store.load("key").await.unwrap(), None);
        let next = save(&store, "key", None, b"record").await;
        assert!(next > version, "a version does not come again: {version}, then {next}");
    }
}

#[tokio::test]
async fn a_server_that_is_suspended_past_the_lease_answers_a_late_save_with_a_conflict() {
    for server in each(&[]) {
        let (store, patient) = (server.store().timeout(TIMEOUT), server.store().timeout(LONG));
        assert_eq!(patient.acquire("key", "late", TIMEOUT / 3).await.unwrap(), Lease::Held);
        server.signal("-STOP");
        let error = bounded(store.save("key", "late", None, b"late")).await.unwrap_err();
        server.signal("-CONT");
        assert_error(&error, true, &format!("timed out after {TIMEOUT:?}"));
        assert_eq!(patient.save("key", "late", None, b"late").await.unwrap(), Saved::Conflict);
        save(&patient, "key", None, b"of the next owner").await;
        // The store whose call timed out works again, too.
        recovers(&store).await;
    }
}

/// Leases expire during a pause.
#[tokio::test]
async fn a_server_that_pauses_its_clients_past_the_lease_answers_a_late_save_with_a_conflict() {
    for server in each(&[]) {
        let (store, patient) = (server.store().timeout(TIMEOUT), server.store().timeout(LONG));
        assert_eq!(patient.acquire("key", "late", TIMEOUT / 3).await.unwrap(), Lease::Held);
        server.admin::<()>("CLIENT PAUSE 600000 WRITE").await;
        assert_error(&load_error(&store).await, true, "timed out");
        server.admin::<()>("CLIENT UNPAUSE").await;
        assert_eq!(patient.save("key", "late", None, b"late").await.unwrap(), Saved::Conflict);
        save(&patient, "key", None, b"of the next owner").await;
        recovers(&store).await;
    }
}

#[tokio::test]
async fn a_server_without_memory_keeps_what_it_has_and_says_so() {
    for server in each(&["--maxmemory-policy", "noeviction"]) {
        let store = server.store();
        let version = save(&store, "key", None, b"record").await;
        assert_eq!(store.acquire("key", "owner", LONG).await.unwrap(), Lease::Held);
        server.admin::<()>("CONFIG SET maxmemory 1").await;
        let expected = Some(version);
        assert_error(&store.save("key", "owner", expected, b"next").await.unwrap_err(), true, "out of memory (OOM)");
        assert_error(&store.acquire("another", "owner", LONG).await.unwrap_err(), true, "out of memory (OOM)");
        let stored = store.load("key").await.unwrap().unwrap();
        assert_eq!((stored.version, &*stored.bytes), (version, &b"record"[..]), "it is not half saved");
        assert!(store.extend("key", "owner", LONG).await.unwrap(), "what needs no memory goes on");
        server.admin::<()>("CONFIG SET maxmemory 0").await;
        assert!(matches!(store.save("key", "owner", expected, b"next").await.unwrap(), Saved::Saved { .. }));
    }
}

#[tokio::test]
async fn a_read_only_replica_is_read_and_says_why_it_takes_no_lease() {
    for server in each(&[]) {
        let store = server.store();
        save(&store, "key", None, b"record").await;
        server.admin::<()>("REPLICAOF 127.0.0.1 1").await;
        assert_eq!(store.load("key").await.unwrap().unwrap().bytes, b"record");
        assert_error(&store.acquire("key", "owner", LONG).await.unwrap_err(), true, "read-only replica (READONLY)");
        server.admin::<()>("REPLICAOF NO ONE").await;
        assert_eq!(store.acquire("key", "owner", LONG).await.unwrap(), Lease::Held);
    }
}

#[tokio::test]
async fn a_password_that_changes_is_an_error_that_does_not_show_it() {
    for server in each(&[]) {
        server.admin::<()>("ACL SETUSER app on >first ~* &* +@all").await;
        let store = RedisStore::new(format!("redis://app:first@127.0.0.1:{}", server.port)).unwrap();
        save(&store, "key", None, b"record").await;
        server.admin::<()>("ACL SETUSER app resetpass >second").await;
        server.admin::<()>("CLIENT KILL USER app").await;
        let error = load_error(&store).await;
        assert_error(&error, false, "denied the user name or the password (WRONGPASS)");
        assert!(!format!("{error} {error:?} {store:?}").contains("first"), "{error:?} {store:?}");
        server.admin::<()>("ACL SETUSER app >first").await;
        assert_eq!(store.load("key").await.unwrap().unwrap().bytes, b"record");
    }
}

#[tokio::test]
async fn a_channel_that_the_user_may_not_read_is_an_error_that_names_the_rule() {
    for server in each(&[]) {
        server.admin::<()>("ACL SETUSER app on nopass ~* resetchannels +@all").await;
        let store = RedisStore::new(format!("redis://app:x@127.0.0.1:{}", server.port)).unwrap();
        assert_error(&load_error(&store).await, false, "see the ACL rule in the README (NOPERM)");
    }
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_an_error() {
    for server in each(&[]) {
        server.admin::<()>("SET tower-bearer:{session:key} text").await;
        assert_error(&load_error(&server.store()).await, false, "has something else under the key");
    }
}

#[tokio::test]
async fn a_slow_server_is_an_error_in_bounded_time_and_works_when_it_is_fast_again() {
    for server in each(&[]) {
        let proxy = Proxy::start(server.port).await;
        let store = proxy.store(TIMEOUT);
        save(&server.store(), "key", None, b"record").await;
        proxy.hold();
        assert_error(&load_error(&store).await, true, "timed out");
        assert_error(&load_error(&store).await, true, "timed out");
        proxy.resume();
        recovers(&store).await;
    }
}

/// The connection stays open and carries no data, as after a failover of a router.
#[tokio::test]
async fn a_connection_that_is_dead_is_replaced_by_the_next_call() {
    for server in each(&[]) {
        let proxy = Proxy::start(server.port).await;
        let store = proxy.store(TIMEOUT);
        recovers(&store).await;
        proxy.kill_silently();
        assert_error(&load_error(&store).await, true, "timed out");
        recovers(&store).await;
    }
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_with_its_connection_is_repeated_and_answers_as_the_first_would() {
    for server in each(&[]) {
        let proxy = Proxy::start(server.port).await;
        let store = proxy.store(LONG);
        assert_eq!(store.load("key").await.unwrap(), None);
        proxy.lose_answer();
        assert_eq!(store.acquire("key", "owner", LONG).await.unwrap(), Lease::Held);
        proxy.lose_answer();
        let saved = store.save("key", "owner", None, b"record").await.unwrap();
        let version = server.store().load("key").await.unwrap().unwrap().version;
        assert_eq!(saved, Saved::Saved { version }, "it is saved once");
        proxy.lose_answer();
        store.release("key", "owner").await.unwrap();
        assert_eq!(store.acquire("key", "next", LONG).await.unwrap(), Lease::Held);
        // A save by the same owner with other bytes is not a repetition.
        assert_eq!(store.acquire("twice", "owner", LONG).await.unwrap(), Lease::Held);
        store.save("twice", "owner", None, b"record").await.unwrap();
        assert_eq!(store.save("twice", "owner", None, b"another").await.unwrap(), Saved::Conflict);
    }
}

const HELLO: &str = "%0\r\n";
const SUBSCRIBED: &str = ">3\r\n$9\r\nsubscribe\r\n$20\r\ntower-bearer:changed\r\n:1\r\n";

#[tokio::test]
async fn a_node_of_a_cluster_that_does_not_have_the_key_is_an_error() {
    let (port, _tasks) = scripted(&[HELLO, SUBSCRIBED, "-MOVED 866 127.0.0.1:1\r\n"]).await;
    let store = RedisStore::new(format!("redis://127.0.0.1:{port}")).unwrap();
    assert_error(&load_error(&store).await, false, "another node has the key; see the feature `cluster` (MOVED)");
}

/// Servers repeat commands that they do not understand.
#[tokio::test]
async fn no_error_repeats_a_command_or_an_answer() {
    let cases: [&'static [&'static str]; 6] = [
        &["-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `app`, `s3cret`\r\n"],
        &["-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'app' 's3cret'\r\n"],
        &["-S3CRET s3cret\r\n"],
        &["-s3cret\r\n"],
        &[HELLO, SUBSCRIBED, "-ERR unknown command 'EVAL', with args beginning with: 's3cret'\r\n"],
        &[HELLO, SUBSCRIBED, "$6\r\ns3cret\r\n"],
    ];
    for answers in cases {
        let (port, _tasks) = scripted(answers).await;
        let store = RedisStore::new(format!("redis://app:s3cret@127.0.0.1:{port}")).unwrap();
        let error = load_error(&store).await;
        let shown = format!("{error} {error:?} {:?} {store:?}", std::error::Error::source(&error));
        assert!(!shown.to_lowercase().contains("s3cret"), "{shown}");
        assert!(!error.is_transient(), "{error}");
    }
    for url in ["redis//app:s3cret@host", "redis://app:s3cret@host:port", "redis://app:s3cret@host/s3cret", "s3cret"] {
        let error = RedisStore::new(url).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn a_store_works_after_the_end_of_the_runtime_that_connected_it() {
    for server in each(&[]) {
        let store = server.store();
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            assert_eq!(runtime.block_on(store.load("key")).unwrap(), None);
        }
    }
}
