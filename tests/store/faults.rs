//! Faults of a shared session.

use std::time::Duration;

use tower_bearer::testing::{MemoryStore, StoreCall, StoreFault};
use tower_bearer::{Error, TokenCache};

use crate::harness::{Issuer, KEY, Mortal, SECOND, Steps, process, session, sleep, text};

fn record(store: &MemoryStore) -> String {
    String::from_utf8(store.record(KEY).expect("a record")).expect("JSON")
}

// === the store fails ===

#[tokio::test(start_paused = true)]
async fn a_live_token_is_sent_on_while_the_store_fails() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(issuer.login(), &store);
    process.get().await.unwrap();
    store.set_down(true);
    for _ in 0..8 {
        sleep(11).await;
        assert_eq!(text(process.get().await), "t1");
    }
    let error = process.status().store.unwrap().error.expect("the error is shown");
    assert!(error.is_transient(), "{error}");
    assert_eq!(issuer.calls(), 1, "the refresh token was not used");
    store.set_down(false);
    sleep(15).await;
    assert_eq!(text(process.get().await), "t2");
    assert!(process.status().store.unwrap().error.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_refresh_token_is_not_used_unless_a_setting_allows_it() {
    for allow in [false, true] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        let process = TokenCache::builder(issuer.login())
            .shared_session(session(&store).refresh_without_store(allow))
            .build()
            .unwrap();
        process.get().await.unwrap();
        store.set_down(true);
        sleep(120).await;
        let answer = process.get().await;
        assert_eq!(issuer.calls(), if allow { 2 } else { 1 });
        if !allow {
            let error = answer.expect_err("the store is down");
            assert!(error.is_transient() && error.to_string().contains("store"), "{error}");
            continue;
        }
        assert_eq!(text(answer), "t2");
        assert!(process.status().store.unwrap().unsaved.is_some());
        // The record is written when the store works again.
        store.set_down(false);
        sleep(40).await;
        assert!(process.status().store.unwrap().unsaved.is_none() && record(&store).contains("\"t2\""));
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_a_process_uses_the_refresh_token_that_another_rotated() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let share = || session(&store).refresh_without_store(true);
    let [first, second] =
        [share(), share()].map(|shared| TokenCache::builder(issuer.login()).shared_session(shared).build().unwrap());
    first.get().await.unwrap();
    second.get().await.unwrap();
    first.refresh().await.unwrap();
    sleep(1).await;
    store.set_down(true);
    sleep(120).await;
    assert_eq!(text(second.get().await), "t3");
    assert_eq!((issuer.asked_with().pop().unwrap(), issuer.reused()), (Some("r2".to_owned()), 0));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_needs_no_refresh_token_fetches_for_its_process_alone() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.set_down(true);
    let processes = [process(issuer.password(), &store), process(issuer.password(), &store)];
    for (number, process) in processes.iter().enumerate() {
        assert_eq!(text(process.get().await), format!("t{}", number + 1));
    }
    store.set_down(false);
    sleep(80).await;
    // All processes continue with one of the two logins.
    let [a, b] = &processes;
    assert_eq!(a.peek().unwrap().access_token(), b.peek().unwrap().access_token());
    let calls = issuer.calls();
    sleep(30).await;
    assert_eq!(text(a.get().await), text(b.get().await));
    assert!(issuer.calls() <= calls + 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_a_store_that_fails() {
    for call in [StoreCall::Load, StoreCall::Acquire, StoreCall::Save] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        for _ in 0..20 {
            store.inject(call, StoreFault::Hangs);
        }
        let process = process(issuer.login(), &store);
        let error = process.get().await.expect_err("nothing was used");
        assert!(error.is_transient(), "{call:?}: {error}");
        assert_eq!(issuer.calls(), 0, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_extension_or_a_release_that_fails_harms_nothing() {
    for fault in [StoreFault::Fails, StoreFault::AnswerLost, StoreFault::Hangs] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        issuer.delay(4 * SECOND);
        store.inject(StoreCall::Extend, fault);
        store.inject(StoreCall::Release, fault);
        let first = process(issuer.login(), &store);
        assert_eq!(text(first.get().await), "t1");
        let second = process(issuer.login(), &store);
        assert_eq!(text(second.get().await), "t1");
        assert_eq!(text(second.refresh().await), "t2", "after the lease has ended");
    }
}

// === a save that goes wrong ===

#[tokio::test(start_paused = true)]
async fn a_save_is_repeated_while_the_lease_lives() {
    let faults = [StoreFault::Fails, StoreFault::AnswerLost, StoreFault::Hangs];
    for fault in faults {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        // The first save marks the refresh token as in use.
        store.inject(StoreCall::Save, fault);
        store.inject(StoreCall::Save, StoreFault::Late(SECOND / 100));
        store.inject(StoreCall::Save, fault);
        let cache = process(issuer.login(), &store);
        assert_eq!(text(cache.get().await), "t1", "{fault:?}");
        assert!(cache.status().store.unwrap().unsaved.is_none() && record(&store).contains("\"t1\""), "{fault:?}");
        assert_eq!(text(process(issuer.login(), &store).get().await), "t1");
        assert_eq!(issuer.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_saved_is_used_and_saved_later() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(issuer.login(), &store);
    store.inject(StoreCall::Save, StoreFault::Late(SECOND / 100));
    (0..200).for_each(|_| store.inject(StoreCall::Save, StoreFault::Fails));
    assert_eq!(text(process.get().await), "t1");
    assert!(process.status().store.unwrap().unsaved.is_some());
    assert!(!record(&store).contains("\"t1\""));
    for _ in 0..6 {
        sleep(10).await;
        assert_eq!(text(process.get().await), "t1");
    }
    assert!(process.status().store.unwrap().unsaved.is_none() && record(&store).contains("\"t1\""));
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_the_newer_record_stands() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    issuer.forgive();
    // The process is stopped past its lease while another process refreshes. Its extensions do not arrive, either.
    (0..20).for_each(|_| store.inject(StoreCall::Extend, StoreFault::Fails));
    let stopped = process(issuer.login().stopped(20 * SECOND), &store);
    let other = process(issuer.login(), &store);
    let (late, newer) = tokio::join!(stopped.get(), async {
        sleep(15).await;
        other.get().await
    });
    assert_eq!((text(newer), issuer.calls()), ("t1".into(), 2));
    assert_eq!(text(late), "t1", "what is there is adopted");
    assert!(record(&store).contains("\"t1\"") && stopped.status().store.unwrap().unsaved.is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_with_an_older_record_the_token_stays_in_memory_and_is_saved_later() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(issuer.login(), &store);
    store.inject(StoreCall::Save, StoreFault::Late(SECOND / 100));
    // The second fault is for the first attempt in the background, which may run before this task is polled.
    (0..2).for_each(|_| store.inject(StoreCall::Save, StoreFault::Conflict));
    assert_eq!(text(process.get().await), "t1");
    assert!(process.status().store.unwrap().unsaved.is_some() && !record(&store).contains("\"t1\""));
    sleep(40).await;
    assert!(process.status().store.unwrap().unsaved.is_none() && record(&store).contains("\"t1\""));
}

// === invalid_grant ===

#[tokio::test(start_paused = true)]
async fn a_loser_that_is_denied_adopts_what_the_winner_saved() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    (0..20).for_each(|_| store.inject(StoreCall::Extend, StoreFault::Fails));
    let loser = process(issuer.login().stopped(20 * SECOND), &store);
    let winner = process(issuer.login(), &store);
    let (late, won) = tokio::join!(loser.get(), async {
        sleep(15).await;
        winner.get().await
    });
    assert_eq!((text(won), text(late)), ("t1".into(), "t1".into()));
    assert!(record(&store).contains("\"t1\""), "the winner's record is untouched");
}

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_is_marked_so_that_siblings_do_not_send_it() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    issuer.end_session();
    sleep(101).await;
    assert!(first.get().await.unwrap_err().is_denied());
    let calls = issuer.calls();
    let error = second.get().await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("log in again"), "{error}");
    let restarted = process(issuer.login(), &store);
    assert!(restarted.get().await.unwrap_err().is_denied());
    assert_eq!(issuer.calls(), calls);
    assert!(!record(&store).contains("\"r1\""));
    // All processes adopt the new login of one process.
    let fresh = process(issuer.login_with("seed-2"), &store);
    assert_eq!(text(fresh.get().await), "t2");
    sleep(31).await;
    assert_eq!((text(first.get().await), text(second.get().await)), ("t2".into(), "t2".into()));
}

#[tokio::test(start_paused = true)]
async fn a_denied_client_does_not_end_the_session_of_the_others() {
    use tower_bearer::oauth2::{Issuer, RefreshTokenGrant};
    use tower_bearer::testing::{Answer, TokenServer};
    let (issuer, store) = (TokenServer::new(), MemoryStore::new());
    issuer.rotate_refresh_tokens(true);
    let at = Issuer::new(issuer.clone()).token_endpoint("https://issuer.test/token");
    let source = || RefreshTokenGrant::builder(&at, "app", "seed").build().unwrap();
    let share = || TokenCache::builder(source()).shared_session(session(&store)).build().unwrap();
    share().get().await.unwrap();
    issuer.queue(Answer::json(401, serde_json::json!({ "error": "invalid_client" })));
    let misconfigured = share();
    misconfigured.get().await.unwrap();
    assert!(misconfigured.refresh().await.unwrap_err().is_denied());
    assert_eq!(text(share().get().await), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_each_time_is_an_error_and_no_loop() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.delay(SECOND / 10);
    let dropped = store.clone();
    tokio::spawn(async move {
        loop {
            dropped.drop_lease(KEY);
            tokio::time::sleep(SECOND / 50).await;
        }
    });
    let process = process(issuer.login(), &store);
    assert!(process.get().await.is_err());
    sleep(100).await;
    let leases = store.calls(StoreCall::Acquire);
    sleep(100).await;
    assert_eq!(store.calls(StoreCall::Acquire), leases, "no run is left that goes on trying");
    assert_eq!(issuer.calls(), 0);
}

// === the record ===

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_set_aside() {
    let newer = br#"{"format":"tower-bearer-session-2"}"#.to_vec();
    for bytes in [b"{\"format\":\"tower-bear".to_vec(), newer, b"tower-bearer-sealed-1 x".to_vec(), Vec::new()] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        store.set_record(KEY, Some(bytes.clone()));
        let process = process(issuer.login(), &store);
        assert_eq!(text(process.get().await), "t1");
        assert_eq!(store.set_aside_records(KEY), std::slice::from_ref(&bytes));
        // While a token lives, the error is in the status, and the record stays.
        store.set_record(KEY, Some(bytes.clone()));
        sleep(40).await;
        assert_eq!(store.set_aside_records(KEY).len(), 1);
        sleep(40).await;
        process.get().await.unwrap();
        sleep(1).await;
        assert_eq!((text(process.get().await), issuer.reused()), ("t2".into(), 0));
        assert_eq!(store.set_aside_records(KEY), [bytes.clone(), bytes]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_of_another_user_is_an_error_and_stays_as_it_is() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    process(issuer.login(), &store).get().await.unwrap();
    let before = record(&store);
    let other = process(issuer.login_with("other").of("grace"), &store);
    let error = other.get().await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("another user"), "{error}");
    let named = session(&store).identity("tenant-2");
    let other = TokenCache::builder(issuer.login()).shared_session(named).build().unwrap();
    other.get().await.unwrap_err();
    assert_eq!((issuer.calls(), record(&store)), (1, before));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_vanished_or_is_older_is_written_again() {
    for vanished in [true, false] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        let process = process(issuer.login(), &store);
        process.get().await.unwrap();
        let older = store.record(KEY);
        process.refresh().await.unwrap();
        store.set_record(KEY, if vanished { None } else { older });
        sleep(2).await;
        assert!(record(&store).contains("\"t2\"") && record(&store).contains("\"r2\""));
        assert_eq!(issuer.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_goes_on_with_the_newest_refresh_token_although_the_record_vanished() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let cache = process(issuer.login(), &store);
    cache.get().await.unwrap();
    store.set_record(KEY, None);
    assert_eq!(text(cache.refresh().await), "t2");
    assert_eq!(issuer.asked_with(), [Some("seed".to_owned()), Some("r1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_worse_record_is_not_written() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let cache = process(issuer.login(), &store);
    cache.get().await.unwrap();
    issuer.lifetime(Duration::ZERO);
    cache.refresh().await.unwrap_err();
    // The record has a new refresh token and the current token.
    assert!(record(&store).contains("\"t1\"") && record(&store).contains("\"r2\""), "{}", record(&store));
    let before = record(&store);
    issuer.fail(Error::transient("down"));
    cache.refresh().await.unwrap_err();
    assert!(record(&store).contains("\"t1\"") && before.contains("\"r2\""));
}

// === the death of a process ===

#[tokio::test(start_paused = true)]
async fn a_process_may_die_at_any_step() {
    let mut windows = 0;
    for steps in 0.. {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        process(issuer.login(), &store).get().await.unwrap();
        sleep(1).await;
        let life = Steps::new(steps);
        let dying = process(issuer.login().mortal(&life), &Mortal::new(store.clone(), &life));
        let task = tokio::spawn({
            let dying = dying.clone();
            async move { (dying.get().await.is_ok(), dying.refresh().await.is_ok()) }
        });
        sleep(5).await;
        let died = life.are_over();
        let called = issuer.calls() == 2;
        let saved = record(&store).contains("\"t2\"");
        // The next process continues within one lease.
        let next = process(issuer.login(), &store);
        next.get().await.unwrap();
        let start = tokio::time::Instant::now();
        let answer = next.refresh().await;
        assert!(start.elapsed() <= 11 * SECOND, "after {steps} steps: {:?}", start.elapsed());
        if called && !saved {
            windows += 1;
            let error = answer.unwrap_err();
            assert!(error.is_denied() && error.to_string().contains("a process died"), "{error}");
        } else {
            answer.unwrap();
            assert_eq!(issuer.reused(), 0, "after {steps} steps");
        }
        if !died {
            task.await.unwrap();
            break;
        }
        task.abort();
    }
    assert_eq!(windows, 2, "the answer on its way, and the save on its way");
}
