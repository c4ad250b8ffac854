//! Many keys fetch at once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tower_bearer::Error;

use crate::common::{MINUTE, SECOND, until};
use crate::harness::{Api, Issuer, Key, ask};

#[tokio::test(start_paused = true)]
async fn concurrent_token_calls_are_bounded_and_every_key_is_served() {
    const KEYS: Key = 10_000;
    let issuer = Issuer::new();
    issuer.delay(Duration::from_millis(50));
    let tenants = issuer.clients().max_token_calls(32);
    let callers: Vec<_> = (0..KEYS)
        .map(|key| {
            let cache = tenants.cache(&key).unwrap();
            tokio::spawn(async move { cache.get().await.map(|token| token.access_token().to_owned()) })
        })
        .collect();
    for (key, caller) in callers.into_iter().enumerate() {
        assert_eq!(caller.await.unwrap().unwrap(), format!("{key}.1"));
    }
    assert_eq!((issuer.calls(), issuer.most_in_progress()), (KEYS as usize, 32));
}

#[tokio::test(start_paused = true)]
async fn many_callers_of_one_key_wait_for_one_fetch_in_one_turn() {
    let (issuer, api) = (Issuer::new(), Api::new());
    issuer.delay(SECOND);
    let client = api.client(&issuer.clients().max_token_calls(1));
    let callers: Vec<_> = (0..1000)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, n % 4).await.unwrap() })
        })
        .collect();
    let mut tokens = HashSet::new();
    for caller in callers {
        tokens.insert(caller.await.unwrap());
    }
    assert_eq!((tokens.len(), issuer.calls(), issuer.most_in_progress(), api.wrong_token()), (4, 4, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn keys_are_served_in_the_order_in_which_they_asked() {
    let issuer = Issuer::new();
    issuer.delay(SECOND);
    let tenants = issuer.clients().max_token_calls(2);
    let mut callers = Vec::new();
    for key in [5, 5, 3, 5, 9, 1, 3, 7] {
        let cache = tenants.cache(&key).unwrap();
        callers.push(tokio::spawn(async move { cache.get().await }));
        crate::common::settle().await;
    }
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(issuer.order(), [5, 3, 9, 1, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_key_delays_no_more_than_its_own_turn() {
    let issuer = Issuer::new();
    let tenants = issuer.clients().max_token_calls(2);
    let _gate = issuer.hold();
    let slow = tenants.cache(&1000).unwrap();
    let slow = tokio::spawn(async move { slow.get().await });
    until(|| issuer.calls() == 1).await;
    issuer.hold_no_more();
    issuer.delay(Duration::from_millis(100));
    let start = Instant::now();
    let callers: Vec<_> = (0..50)
        .map(|key| {
            let cache = tenants.cache(&key).unwrap();
            tokio::spawn(async move { cache.get().await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    // The other turn serves one key at a time.
    assert!(start.elapsed() < 6 * SECOND, "{:?}", start.elapsed());
    assert!(!slow.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_fails_alone_and_its_failure_is_remembered() {
    let (issuer, api) = (Issuer::new(), Api::new());
    issuer.fail(1);
    let client = api.client(&issuer.clients());
    for _ in 0..5 {
        let error = ask(&client, 1).await.unwrap_err();
        assert!(Error::find(&*error).is_some_and(Error::is_transient), "{error}");
        assert_eq!(ask(&client, 2).await.unwrap(), "2.1");
    }
    assert_eq!(issuer.calls_of(1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_whose_turn_does_not_come_fails_and_makes_no_call() {
    let issuer = Issuer::new();
    let tenants = issuer.clients().max_token_calls(1);
    issuer.delay(20 * SECOND);
    let caches: Vec<_> = (0..3).map(|key| tenants.cache(&key).unwrap()).collect();
    let callers: Vec<_> = caches.iter().cloned().map(|cache| tokio::spawn(async move { cache.get().await })).collect();
    let mut results = Vec::new();
    for caller in callers {
        results.push(caller.await.unwrap());
    }
    // The second key's turn comes after 20 s. Its call has the whole deadline, so it ends after its caller's 30 s.
    assert!(results[0].is_ok());
    assert!(results[1].as_ref().is_err_and(Error::is_timeout) && results[2].as_ref().is_err_and(Error::is_timeout));
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(caches[1].peek().expect("its call went on").access_token(), "1.1");
    let failure = caches[2].status().last_failure.expect("its turn did not come");
    assert!(failure.to_string().contains("max_token_calls") && failure.is_transient(), "{failure}");
    assert_eq!(issuer.order(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_signed_out_while_it_waits_makes_no_call() {
    let issuer = Issuer::new();
    let tenants = issuer.sessions().max_token_calls(1);
    issuer.delay(10 * SECOND);
    let (first, second) = (tenants.cache(&1).unwrap(), tenants.cache(&2).unwrap());
    let first = tokio::spawn(async move { first.get().await });
    until(|| issuer.calls() == 1).await;
    let second = tokio::spawn(async move { second.get().await });
    crate::common::settle().await;
    tenants.remove(&2, async |secret| issuer.revoke(secret.expose())).await.unwrap();
    assert!(second.await.unwrap().unwrap_err().is_signed_out());
    first.await.unwrap().unwrap();
    assert_eq!((issuer.order(), issuer.revoked()), (vec![1], vec!["2.s0".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn one_call_for_each_key_and_lifetime_and_no_growth_over_an_hour() {
    const KEYS: Key = 300;
    let (issuer, api) = (Issuer::new(), Api::new());
    issuer.lifetime(20 * MINUTE);
    let tenants = issuer.clients().max_keys(10 * KEYS as usize).max_idle(10 * MINUTE);
    let client = api.client(&tenants);
    let mut most = 0;
    for minute in 0..60 {
        for key in 0..KEYS {
            ask(&client, key).await.unwrap();
        }
        // Each of these keys sends one request.
        for key in 0..KEYS {
            ask(&client, 1_000_000 + minute * KEYS + key).await.unwrap();
        }
        tokio::time::advance(MINUTE).await;
        crate::common::settle().await;
        if minute > 20 {
            most = most.max(tenants.status().keys);
        }
    }
    let calls: Vec<_> = (0..KEYS).map(|key| issuer.calls_of(key)).collect();
    // Each token is due after 15 to 16 minutes.
    assert!(calls.iter().all(|calls| *calls == 4), "{calls:?}");
    // At most the keys of the last 10 minutes remain, and those of the interval between two searches.
    assert!(most <= 15 * KEYS as usize, "{most}");
    assert_eq!(api.wrong_token(), 0);
}
