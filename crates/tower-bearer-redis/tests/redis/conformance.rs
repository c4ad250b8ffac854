//! The conformance suite, on each kind of server and with each kind of user.

use std::fs;

use redis::TlsCertificates;
use tower_bearer::store::TokenStore;
use tower_bearer::testing::store_conformance;
use tower_bearer_redis::RedisStore;

use crate::server::each;

/// The words of the rule in the README.
pub(crate) fn acl_rule() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let line = readme.lines().find_map(|line| line.strip_prefix("user app on ")).expect("the rule");
    ["user", "app", "on"].into_iter().chain(line.split(' ')).collect()
}

async fn check(first: RedisStore, second: RedisStore) {
    store_conformance(&first, &second, "conformance").await;
}

#[tokio::test]
async fn a_store_does_what_the_trait_says() {
    for server in each(&[]) {
        check(server.store(), server.store()).await;
        check(server.store(), server.store().prefix("another").unwrap().prefix("tower-bearer").unwrap()).await;
    }
}

/// The rule names the commands, the keys and the channel. The server denies everything else.
#[tokio::test]
async fn the_acl_rule_of_the_readme_is_enough() {
    let rule = acl_rule().join(" ").replace(">password", ">pass#word");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{rule}\nuser default on nopass sanitize-payload ~* &* +@all\n")).unwrap();
    for server in each(&["--aclfile", file.path().to_str().unwrap()]) {
        let store = || RedisStore::new(format!("redis://app:pass%23word@127.0.0.1:{}", server.port)).unwrap();
        check(store(), store()).await;
        let denied: Vec<redis::Value> = server.admin("ACL LOG").await;
        assert!(denied.is_empty(), "the rule lacks something: {denied:?}");
        let another = store().prefix("another").unwrap().load("key").await.unwrap_err();
        assert!(!another.is_transient() && another.to_string().contains("(NOPERM)"), "{another}");
    }
}

/// A node that has all slots still denies a command with keys in several slots.
#[tokio::test]
async fn the_keys_of_a_record_are_in_one_slot_of_a_cluster() {
    for server in each(&["--cluster-enabled", "yes"]) {
        server.admin::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await;
        while server.info("cluster", "cluster_enabled").await.as_deref() != Some("1") {}
        loop {
            let state: String = server.admin("CLUSTER INFO").await;
            if state.contains("cluster_state:ok") {
                break;
            }
        }
        check(server.store(), server.store()).await;
        for odd in ["}", "}{", "{}", "a}b", "{", "{a}{b}"] {
            let store = server.store();
            store.acquire(odd, "owner", std::time::Duration::from_secs(60)).await.expect(odd);
            store.save(odd, "owner", None, b"record").await.expect(odd);
            store.release(odd, "owner").await.expect(odd);
        }
    }
}

#[tokio::test]
async fn a_store_supports_tls_and_trusts_only_the_configured_certificates() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("cert.pem"), signed.cert.pem()).unwrap();
    fs::write(path("key.pem"), signed.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let options = ["--tls-cert-file", &*certificate, "--tls-key-file", &*key, "--tls-auth-clients", "no"];
    for server in each(&[&options[..], &["--requirepass", "secret"]].concat()) {
        let url = format!("rediss://:secret@127.0.0.1:{}", server.port);
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(signed.cert.pem().into_bytes()) };
        let client = redis::Client::build_with_tls(&*url, certificates).unwrap();
        let store = || RedisStore::new(client.get_connection_info().clone()).unwrap();
        check(store(), store()).await;

        let untrusted = RedisStore::new(&*url).unwrap().load("key").await.unwrap_err();
        assert!(untrusted.to_string().contains("certificate"), "{untrusted}");
    }
}
