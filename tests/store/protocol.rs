//! One refresh serves all processes that share a session.

use std::time::Duration;

use tower_bearer::store::SharedSession;
use tower_bearer::testing::{MemoryStore, StoreCall, StoreFault};
use tower_bearer::{RefreshPolicy, Token, TokenCache};

use crate::harness::{Issuer, KEY, SECOND, process, session, sleep, text};

#[tokio::test(start_paused = true)]
async fn the_second_process_adopts_what_the_first_fetched() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    assert_eq!(text(first.get().await), "t1");
    sleep(10).await;
    let saves = store.calls(StoreCall::Acquire);
    let token = second.get().await.unwrap();
    assert_eq!((token.access_token(), issuer.calls()), ("t1", 1));
    assert_eq!(store.calls(StoreCall::Acquire), saves, "adopting takes no lease");
    assert_eq!(token.refresh_token().unwrap().expose(), "r1");
    // The record keeps the remaining lifetime.
    let usable = second.status().usable_for.unwrap();
    assert!(usable > 84 * SECOND && usable < 86 * SECOND, "{usable:?}");
    let store = second.status().store.unwrap();
    assert!(store.error.is_none() && store.unsaved.is_none() && store.serial == first.status().store.unwrap().serial);
}

#[tokio::test(start_paused = true)]
async fn twenty_four_processes_make_one_call_per_expiry_and_none_is_logged_out() {
    for notify in [true, false] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        store.notify(notify);
        store.delay(SECOND / 100);
        let processes: Vec<_> = (0..24).map(|_| process(issuer.login(), &store)).collect();
        for process in &processes {
            tokio::spawn(process.keep_warm());
        }
        for _ in 0..100 {
            sleep(10).await;
            for process in &processes {
                process.get().await.unwrap();
            }
        }
        // A token of 100 s is due after 75 to 80 s. The first process refreshes for all.
        let calls = issuer.calls();
        assert!((12..=14).contains(&calls), "{calls} calls in 1000 s");
        assert_eq!((issuer.reused(), issuer.most_at_once()), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_while_another_refreshes_waits_for_it() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    issuer.delay(8 * SECOND);
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    let (one, other) = tokio::join!(first.get(), second.get());
    assert_eq!((text(one), text(other)), ("t1".into(), "t1".into()));
    assert_eq!(issuer.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_shorter_than_the_call_is_extended() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    issuer.delay(3 * SECOND);
    let share = || {
        let session = session(&store).lease(SECOND);
        TokenCache::builder(issuer.login()).shared_session(session).build().unwrap()
    };
    let processes = [share(), share(), share()];
    let [a, b, c] = &processes;
    let (a, b, c) = tokio::join!(a.get(), b.get(), c.get());
    assert_eq!([text(a), text(b), text(c)], ["t1", "t1", "t1"]);
    assert_eq!(issuer.calls(), 1);
    assert!(store.lease_owner(KEY).is_none(), "it was released");
}

#[tokio::test(start_paused = true)]
async fn a_taken_lease_is_an_error_that_names_its_owner_and_no_process_refreshes() {
    use tower_bearer::store::TokenStore;
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.acquire(KEY, "4711-elsewhere", 3600 * SECOND).await.unwrap();
    let process = process(issuer.login(), &store);
    process.get().await.expect_err("the caller's deadline");
    sleep(5).await;
    let error = process.status().last_failure.expect("the run has failed");
    assert!(error.is_transient() && error.to_string().contains("4711-elsewhere"), "{error}");
    assert_eq!(issuer.calls(), 0);
    store.drop_lease(KEY);
    sleep(5).await;
    assert_eq!(text(process.get().await), "t1");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_rejections_costs_one_lease_and_one_call() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(issuer.login(), &store);
    let token = process.get().await.unwrap();
    let leases = store.calls(StoreCall::Acquire);
    let burst = (0..8).map(|_| {
        let (process, token) = (process.clone(), token.clone());
        tokio::spawn(async move { process.report_rejected(&token).await })
    });
    for rejection in burst.collect::<Vec<_>>() {
        assert_eq!(text(rejection.await.unwrap()), "t2");
    }
    assert_eq!((issuer.calls(), store.calls(StoreCall::Acquire) - leases), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn adopting_costs_no_rejection_budget() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let policy = RefreshPolicy::new().rejection_budget(1, 3600 * SECOND);
    let looks_late = || session(&store).poll_interval(3600 * SECOND);
    let other = process(issuer.login(), &store);
    other.get().await.unwrap();
    let process =
        TokenCache::builder(issuer.login()).refresh_policy(policy).shared_session(looks_late()).build().unwrap();
    let mut token = process.get().await.unwrap();
    for number in 2..5 {
        other.refresh().await.unwrap();
        // By now, the token has reached every server of the API.
        sleep(3).await;
        token = process.report_rejected(&token).await.unwrap();
        assert_eq!((token.access_token(), issuer.calls()), (&*format!("t{number}"), number));
    }
    token = process.report_rejected(&token).await.unwrap();
    assert_eq!((token.access_token(), issuer.calls()), ("t5", 5), "one is paid for");
    process.report_rejected(&token).await.expect_err("and no more");
}

#[tokio::test(start_paused = true)]
async fn a_process_continues_with_the_refresh_token_that_others_rotated() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let long_running = process(issuer.login(), &store);
    long_running.get().await.unwrap();
    for _ in 0..5 {
        let short_lived = process(issuer.login(), &store);
        short_lived.get().await.unwrap();
        short_lived.refresh().await.unwrap();
        drop(short_lived);
    }
    sleep(90).await;
    assert!(long_running.get().await.is_ok());
    sleep(20).await;
    assert!(long_running.get().await.is_ok());
    assert_eq!(issuer.reused(), 0);
}

#[tokio::test(start_paused = true)]
async fn siblings_learn_by_notification_or_at_the_next_look() {
    for (notify, after) in [(true, 1), (false, 34)] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        store.notify(notify);
        let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
        first.get().await.unwrap();
        second.get().await.unwrap();
        first.refresh().await.unwrap();
        sleep(after).await;
        assert_eq!(second.peek().unwrap().access_token(), "t2");
        assert_eq!(issuer.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_token_does_not_ask_the_store() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let process = process(issuer.login(), &store);
    process.get().await.unwrap();
    let looks = store.calls(StoreCall::Load);
    for _ in 0..1000 {
        process.get().await.unwrap();
    }
    assert_eq!(store.calls(StoreCall::Load), looks);
}

#[tokio::test(start_paused = true)]
async fn the_watching_ends_with_the_cache() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let cache = process(issuer.login(), &store);
    cache.get().await.unwrap();
    drop(cache);
    sleep(1).await;
    let looks = store.calls(StoreCall::Load);
    sleep(600).await;
    assert_eq!(store.calls(StoreCall::Load), looks);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_saved_before_its_token_is_used() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(issuer.login(), &store);
    // The first save marks the refresh token as in use.
    store.inject(StoreCall::Save, StoreFault::Late(SECOND / 10));
    store.inject(StoreCall::Save, StoreFault::Late(2 * SECOND));
    assert!(tokio::time::timeout(SECOND, process.get()).await.is_err());
    assert!(process.peek().is_none() && issuer.calls() == 1);
    assert_eq!(text(process.get().await), "t1");
    assert!(String::from_utf8(store.record(KEY).unwrap()).unwrap().contains("\"t1\""));
}

#[test]
fn a_key_is_not_empty_nor_long_nor_of_control_characters() {
    let built = |session| TokenCache::builder(async |_| Token::new("t")).shared_session(session).build();
    for key in ["", "a\nb", &"x".repeat(257)] {
        let error = built(SharedSession::new(MemoryStore::new(), key)).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("key"), "{error}");
    }
    assert!(built(session(&MemoryStore::new()).lease(SECOND / 100)).unwrap_err().is_invalid());
    assert!(built(session(&MemoryStore::new()).poll_interval(Duration::ZERO)).unwrap_err().is_invalid());
}
