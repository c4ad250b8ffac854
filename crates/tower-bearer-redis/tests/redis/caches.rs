//! Caches that share a session. Each has its own store and connection, as in a separate process.

use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tower_bearer::TokenCache;

use crate::issuer::Issuer;
use crate::server::{Server, bounded, each};

const HOUR: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(100);

async fn until(condition: impl AsyncFn() -> bool) {
    bounded(async {
        while !condition().await {
            yield_now().await;
        }
    })
    .await;
}

fn token(cache: &TokenCache) -> Option<String> {
    cache.peek().map(|token| token.access_token().to_owned())
}

async fn record(server: &Server) -> String {
    let bytes: Option<Vec<u8>> = server.admin("HGET tower-bearer:{session:key} bytes").await;
    String::from_utf8(bytes.unwrap_or_default()).unwrap()
}

#[tokio::test]
async fn two_caches_share_a_session_and_notify_each_other() {
    for server in each(&[]) {
        let issuer = Issuer::new(HOUR);
        let (first, second) = (issuer.process(server.store(), HOUR), issuer.process(server.store(), HOUR));
        first.get().await.unwrap();
        second.get().await.unwrap();
        assert_eq!((token(&first), token(&second), issuer.calls()), (Some("t1".into()), Some("t1".into()), 1));
        // A message notified them, because they check the record only once in an hour.
        second.refresh().await.unwrap();
        until(async || token(&first).as_deref() == Some("t2")).await;
        first.refresh().await.unwrap();
        until(async || token(&second).as_deref() == Some("t3")).await;
        assert_eq!((issuer.calls(), issuer.reused()), (3, 0));

        second.sign_out(async |refresh_token| issuer.revoke(refresh_token).await).await.unwrap();
        until(async || first.status().signed_out).await;
        assert!(first.get().await.unwrap_err().is_signed_out());
        assert_eq!(issuer.revoked(), ["r3"]);
        let left: i64 = server.admin("TTL tower-bearer:{session:key}").await;
        assert!((1..=30 * 24 * 60 * 60).contains(&left), "the end is forgotten in {left} s");
    }
}

#[tokio::test]
async fn twelve_caches_over_several_expiries_use_no_refresh_token_twice() {
    for server in each(&[]) {
        let issuer = Issuer::new(Duration::from_secs(1));
        let mut processes = JoinSet::new();
        for _ in 0..12 {
            let (issuer, cache) = (issuer.clone(), issuer.process(server.store(), OFTEN));
            processes.spawn(async move {
                while issuer.calls() < 5 {
                    bounded(cache.get()).await.unwrap();
                    // Requests with a token do not wait.
                    yield_now().await;
                }
            });
        }
        while let Some(process) = processes.join_next().await {
            process.unwrap();
        }
        assert_eq!((issuer.reused(), issuer.most_at_once()), (0, 1));
    }
}

#[tokio::test]
async fn requests_with_a_token_do_not_ask_the_server() {
    for server in each(&[]) {
        let cache = Issuer::new(HOUR).process(server.store(), HOUR);
        cache.get().await.unwrap();
        // The messages of its own saves make the cache check the record.
        until(async || {
            let before = server.info("commandstats", "cmdstat_eval").await;
            for _ in 0..10_000 {
                cache.get().await.unwrap();
            }
            before == server.info("commandstats", "cmdstat_eval").await
        })
        .await;
    }
}

#[tokio::test]
async fn requests_have_a_live_token_in_every_outage_and_the_record_is_restored() {
    for mut server in each(&["--maxmemory-policy", "noeviction"]) {
        let issuer = Issuer::new(HOUR);
        let cache = issuer.process(server.store().timeout(Duration::from_millis(300)), OFTEN);
        let failed = async || cache.status().store.unwrap().error.is_some();
        let works = async || cache.status().store.unwrap().error.is_none();
        cache.get().await.unwrap();

        server.signal("-STOP");
        until(failed).await;
        assert_eq!(cache.get().await.unwrap().access_token(), "t1");
        server.signal("-CONT");
        until(works).await;

        server.stop();
        until(failed).await;
        assert_eq!(cache.get().await.unwrap().access_token(), "t1");
        // The server restarts without its data.
        server.restart();
        until(async || record(&server).await.contains("\"t1\"")).await;
        until(works).await;

        server.admin::<()>("CONFIG SET maxmemory 1").await;
        cache.refresh().await.unwrap_err();
        assert_eq!((cache.get().await.unwrap().access_token(), issuer.calls()), ("t1", 1));
        server.admin::<()>("CONFIG SET maxmemory 0").await;

        server.admin::<()>("REPLICAOF 127.0.0.1 1").await;
        cache.refresh().await.unwrap_err();
        assert_eq!((cache.get().await.unwrap().access_token(), issuer.calls()), ("t1", 1));
        server.admin::<()>("REPLICAOF NO ONE").await;

        until(async || cache.refresh().await.is_ok()).await;
        assert_eq!((issuer.reused(), token(&cache).as_deref()), (0, Some("t2")));
    }
}

#[tokio::test]
async fn a_record_that_was_deleted_or_put_back_by_a_failover_is_written_again() {
    for server in each(&[]) {
        let issuer = Issuer::new(HOUR);
        let cache = issuer.process(server.store(), OFTEN);
        cache.get().await.unwrap();
        server.admin::<()>("COPY tower-bearer:{session:key} replica").await;
        cache.refresh().await.unwrap();
        server.admin::<()>("COPY replica tower-bearer:{session:key} REPLACE").await;
        until(async || record(&server).await.contains("\"t2\"")).await;
        server.admin::<()>("DEL tower-bearer:{session:key}").await;
        until(async || record(&server).await.contains("\"t2\"")).await;
        assert_eq!(issuer.calls(), 2);
    }
}
