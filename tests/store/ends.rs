//! A sign-out ends the session of all processes, and a login begins one for all.

use tower_bearer::testing::{MemoryStore, StoreCall, StoreFault};
use tower_bearer::{Error, TokenCache};

use crate::harness::{Issuer, KEY, SECOND, process, session, sleep, text};

#[tokio::test(start_paused = true)]
async fn signing_out_in_one_process_ends_the_session_in_all_and_revokes_once() {
    for notify in [true, false] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        store.notify(notify);
        let processes: Vec<_> = (0..3).map(|_| process(issuer.login(), &store)).collect();
        for process in &processes {
            process.get().await.unwrap();
        }
        issuer.sign_out(&processes[0]).await.unwrap();
        sleep(if notify { 1 } else { 34 }).await;
        for process in &processes {
            assert!(process.get().await.unwrap_err().is_signed_out() && process.status().signed_out);
        }
        // A process that starts now has no session either.
        assert!(process(issuer.login(), &store).get().await.unwrap_err().is_signed_out());
        // Each process can sign out, too.
        for process in &processes {
            issuer.sign_out(process).await.unwrap();
        }
        assert_eq!((issuer.revoked(), issuer.calls()), (vec!["r1".to_owned()], 1));
        let record = String::from_utf8(store.record(KEY).unwrap()).unwrap();
        assert!(record.contains("signed_out") && !record.contains("\"r1\"") && !record.contains("\"t1\""), "{record}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_sign_out_elsewhere_no_token_of_the_ended_session_is_used() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    // Both tokens of the second process are still valid.
    second.refresh().await.unwrap();
    issuer.sign_out(&first).await.unwrap();
    sleep(1).await;
    assert!(second.status().signed_out);
    assert!(second.get().await.unwrap_err().is_signed_out());
    assert!(second.peek().is_none(), "the previous token became current");
    assert!(second.get().await.unwrap_err().is_signed_out());
    assert_eq!(second.status().phase, None);
}

#[tokio::test(start_paused = true)]
async fn after_a_sign_out_elsewhere_the_refresh_token_is_forgotten() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let fails = async |_| Err::<(), _>("the disk is full");
    let second =
        TokenCache::builder(issuer.login()).shared_session(session(&store)).on_rotation(fails).build().unwrap();
    let first = process(issuer.login(), &store);
    second.get().await.unwrap();
    assert!(second.status().not_saved.is_some());
    issuer.sign_out(&first).await.unwrap();
    sleep(1).await;
    assert!(second.status().signed_out && second.status().not_saved.is_none());
}

#[tokio::test(start_paused = true)]
async fn two_that_sign_out_at_once_revoke_once() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.delay(SECOND / 100);
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    let (one, other) = tokio::join!(issuer.sign_out(&first), issuer.sign_out(&second));
    one.unwrap();
    other.unwrap();
    assert_eq!(issuer.revoked(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_revokes_what_another_process_rotated() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    second.refresh().await.unwrap();
    issuer.sign_out(&first).await.unwrap();
    assert_eq!(issuer.revoked(), ["r2"]);
}

#[tokio::test(start_paused = true)]
async fn any_process_can_repeat_a_sign_out_that_was_dropped() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    let hangs = first.sign_out(async |_| std::future::pending::<Result<(), Error>>().await);
    assert!(tokio::time::timeout(5 * SECOND, hangs).await.is_err());
    sleep(11).await;
    assert!(second.get().await.unwrap_err().is_signed_out());
    issuer.sign_out(&second).await.unwrap();
    assert_eq!(issuer.revoked(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_without_the_store_revokes_the_token_of_this_process() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let process = process(issuer.login(), &store);
    process.get().await.unwrap();
    store.set_down(true);
    let error = issuer.sign_out(&process).await.unwrap_err();
    assert!(error.to_string().contains("store"), "{error}");
    assert_eq!(issuer.revoked(), ["r1"]);
    assert!(process.get().await.unwrap_err().is_signed_out());
}

#[tokio::test(start_paused = true)]
async fn a_login_in_one_process_is_used_by_the_others() {
    for notify in [true, false] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        store.notify(notify);
        let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
        first.get().await.unwrap();
        second.get().await.unwrap();
        first.sign_in(issuer.login_with("new-login"));
        assert_eq!(text(first.get().await), "t2");
        sleep(if notify { 1 } else { 34 }).await;
        assert_eq!(text(second.get().await), "t2");
        assert_eq!(text(second.refresh().await), "t3");
        let asked = issuer.asked_with();
        assert_eq!(asked[1..], [Some("new-login".to_owned()), Some("r2".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_sign_out_a_login_in_any_process_revives_the_others() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    let old = second.get().await.unwrap();
    issuer.sign_out(&first).await.unwrap();
    sleep(1).await;
    assert!(second.get().await.unwrap_err().is_signed_out());
    first.sign_in(issuer.login_with("new-login"));
    first.get().await.unwrap();
    sleep(1).await;
    assert_eq!(text(second.get().await), "t2");
    // A request of the former session is not sent with the new token.
    assert!(second.report_rejected(&old).await.unwrap_err().is_signed_out());
    assert!(!second.status().signed_out);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_with_a_new_refresh_token_brings_a_login_and_one_with_an_old_does_not() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    process(issuer.login(), &store).get().await.unwrap();
    let redeployed = process(issuer.login_with("seed-2"), &store);
    assert_eq!(text(redeployed.get().await), "t2");
    let of_the_former_release = process(issuer.login(), &store);
    assert_eq!(text(of_the_former_release.get().await), "t2");
    assert_eq!((issuer.calls(), issuer.reused()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_leaves_the_session_of_the_others_alone() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    let before = store.record(KEY);
    first.sign_in(issuer.login_with("wrong"));
    issuer.fail(Error::denied("wrong"));
    first.get().await.unwrap_err();
    assert_eq!(store.record(KEY), before);
    assert_eq!(text(second.refresh().await), "t2");
}

const DAY: u64 = 24 * 60 * 60;

#[tokio::test(start_paused = true)]
async fn the_record_of_a_session_that_has_ended_expires_when_no_process_knows_it() {
    for signs_out in [true, false] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        let shared = session(&store).poll_interval(3600 * SECOND);
        let cache = TokenCache::builder(issuer.login()).shared_session(shared).build().unwrap();
        cache.get().await.unwrap();
        if signs_out {
            issuer.sign_out(&cache).await.unwrap();
        } else {
            issuer.end_session();
            cache.refresh().await.unwrap_err();
        }
        let end = if signs_out { "signed_out" } else { "denied" };
        let says_so = || store.record(KEY).map(|record| String::from_utf8(record).unwrap().contains(end));
        assert_eq!(says_so(), Some(true));
        sleep(29 * DAY).await;
        assert_eq!(says_so(), Some(true), "{end}");
        // A process that knows of a denied refresh token writes the record again, because the refresh token would
        // otherwise be sent again.
        sleep(2 * DAY).await;
        assert_eq!(says_so(), if signs_out { None } else { Some(true) }, "{end}");
        drop(cache);
        sleep(31 * DAY).await;
        assert_eq!(says_so(), None, "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_session_does_not_expire_nor_does_one_that_follows_an_end() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let cache = process(issuer.login(), &store);
    cache.get().await.unwrap();
    assert_eq!(store.calls(StoreCall::Expire), 0);
    issuer.sign_out(&cache).await.unwrap();
    assert!(store.calls(StoreCall::Expire) > 0);
    drop(cache);
    process(issuer.login_with("seed-2"), &store).get().await.unwrap();
    sleep(100 * DAY).await;
    assert!(String::from_utf8(store.record(KEY).unwrap()).unwrap().contains("\"r2\""));
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_does_not_need_the_expiry() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let cache = process(issuer.login(), &store);
    cache.get().await.unwrap();
    store.inject(StoreCall::Expire, StoreFault::Fails);
    store.inject(StoreCall::Expire, StoreFault::Hangs);
    issuer.sign_out(&cache).await.unwrap();
    assert_eq!((issuer.revoked(), store.calls(StoreCall::Expire)), (vec!["r1".to_owned()], 2));
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_save() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.delay(SECOND);
    let process = process(issuer.login(), &store);
    assert!(tokio::time::timeout(4 * SECOND, process.get()).await.is_err());
    process.shutdown().await;
    assert!(String::from_utf8(store.record(KEY).unwrap()).unwrap().contains("\"t1\""));
    let looks = store.calls(StoreCall::Load);
    sleep(300).await;
    assert_eq!(store.calls(StoreCall::Load), looks);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_the_former_session_fails_after_another_person_logs_in_elsewhere() {
    for signs_out in [false, true] {
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        // The second process reads only when it has to.
        store.notify(false);
        let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
        first.get().await.unwrap();
        let old = second.get().await.unwrap();
        if signs_out {
            issuer.sign_out(&first).await.unwrap();
        }
        first.sign_in(issuer.login_with("bob"));
        first.get().await.unwrap();
        let answer = second.report_rejected(&old).await;
        assert!(answer.as_ref().is_err_and(Error::is_signed_out), "signs_out {signs_out}: {answer:?}");
        // The next request belongs to the new session.
        assert_eq!(issuer.login_of(&second.get().await.unwrap()), "bob");
        assert!(!second.status().signed_out);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_does_not_use_its_token_in_the_session_of_the_next_person() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let share = || session(&store).lease(5 * SECOND);
    let stopped = issuer.login().stopped(20 * SECOND);
    let first = TokenCache::builder(stopped).shared_session(share()).build().unwrap();
    let second = TokenCache::builder(issuer.login()).shared_session(share()).build().unwrap();
    second.get().await.unwrap();
    first.get().await.unwrap();
    sleep(120).await;
    // The first process is stopped before its token call, and loses the lease.
    (0..20).for_each(|_| store.inject(StoreCall::Extend, StoreFault::Fails));
    let waiting = tokio::spawn({
        let first = first.clone();
        async move { first.get().await }
    });
    sleep(12).await;
    issuer.lifetime(SECOND);
    second.sign_in(issuer.login_with("bob"));
    second.get().await.unwrap();
    issuer.lifetime(100 * SECOND);
    let answer = waiting.await.unwrap();
    assert!(answer.as_ref().is_err_and(Error::is_signed_out), "{answer:?}");
    assert!(first.peek().is_none());
    assert_eq!(issuer.login_of(&first.get().await.unwrap()), "bob");
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_does_not_end_the_session_of_the_next_person_elsewhere() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    second.sign_in(issuer.login_with("bob"));
    second.get().await.unwrap();
    issuer.sign_out(&first).await.unwrap();
    assert_eq!(issuer.revoked(), ["r1"]);
    assert_eq!(issuer.login_of(&second.refresh().await.unwrap()), "bob");
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_waits_for_the_lease_does_not_end_the_session_of_the_next_person() {
    for seed in 0..20 {
        // The pauses between two attempts to take the lease are random.
        fastrand::seed(seed);
        let (issuer, store) = (Issuer::new(), MemoryStore::new());
        let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
        first.get().await.unwrap();
        second.get().await.unwrap();
        issuer.delay(3 * SECOND);
        let (refreshed, _, token) = tokio::join!(
            second.refresh(),
            async {
                sleep(1).await;
                issuer.sign_out(&first).await
            },
            async {
                sleep(2).await;
                first.sign_in(issuer.login_with("bob"));
                first.get().await
            }
        );
        refreshed.unwrap();
        assert_eq!(issuer.login_of(&token.unwrap()), "bob");
        sleep(10).await;
        assert_eq!(issuer.login_of(&first.refresh().await.unwrap()), "bob", "seed {seed}");
        assert_eq!(issuer.login_of(&second.get().await.unwrap()), "bob", "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_revocation_no_process_keeps_the_refresh_token() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    second.get().await.unwrap();
    let revoke = async |refresh_token| {
        // The other process reads the record before the refresh token is revoked.
        sleep(1).await;
        issuer.revoke(refresh_token).await
    };
    first.sign_out(revoke).await.unwrap();
    sleep(1).await;
    assert!(second.status().signed_out);
    // The store loses the record, and the other process writes it again.
    store.set_record(KEY, None);
    sleep(70).await;
    let record = String::from_utf8(store.record(KEY).unwrap()).unwrap();
    assert!(record.contains("signed_out") && !record.contains("\"r1\""), "{record}");
}

#[tokio::test(start_paused = true)]
async fn a_request_continues_after_another_process_gets_new_credentials_for_the_same_login() {
    let (issuer, store) = (Issuer::new(), MemoryStore::new());
    store.notify(false);
    let (first, second) = (process(issuer.login(), &store), process(issuer.login(), &store));
    first.get().await.unwrap();
    let old = second.get().await.unwrap();
    first.set_source(issuer.login_with("again"));
    first.get().await.unwrap();
    assert_eq!(text(second.report_rejected(&old).await), "t2");
}
