//! A sign-out waits for a fetch in flight, and uses nothing of it but the refresh token to revoke.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, Secret, TokenCache};

use crate::common::{Gate, MINUTE, SECOND, Script, paused_runtime, settle, text, until};
use crate::{Revoked, sign_out};

#[tokio::test(start_paused = true)]
async fn a_sign_out_waits_for_a_fetch_in_flight_and_revokes_its_refresh_token() {
    let script = Script::new().rotating();
    let saves = Revoked::default();
    let saving = saves.clone();
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |rotated| {
            let saving = saving.clone();
            async move {
                sleep(3 * SECOND).await;
                saving.revoke(rotated.refresh_token().clone())
            }
        })
        .build()
        .unwrap();
    cache.get().await.unwrap();
    script.delay(10 * SECOND);
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let (start, revoked) = (Instant::now(), Revoked::default());
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!((start.elapsed().as_secs(), revoked.all()), (13, vec!["r2".to_owned()]));
    assert_eq!(saves.all(), ["r1", "r2"], "the saved refresh token is the revoked one");
    assert!(assert_ready!(refresh.poll()).unwrap_err().is_signed_out());
    assert!(cache.peek().is_none() && cache.status().last_failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn callers_and_waiters_fail_at_once_during_a_sign_out() {
    for fails in [false, true] {
        let script = Script::new();
        script.fail(usize::from(fails));
        let gate = script.hold();
        let cache = TokenCache::new(script.clone());
        let mut waiters = [task::spawn(cache.get()), task::spawn(cache.get())];
        waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
        script.called(1).await;
        let mut signing_out = task::spawn(sign_out(&cache));
        assert_pending!(signing_out.poll());
        assert!(cache.status().signed_out && cache.status().fetching);
        for waiter in &mut waiters {
            assert!(waiter.is_woken());
            assert!(assert_ready!(waiter.poll()).unwrap_err().is_signed_out());
        }
        for answer in [task::spawn(cache.get()).poll(), task::spawn(cache.refresh()).poll()] {
            assert!(assert_ready!(answer).unwrap_err().is_signed_out());
        }
        gate.open();
        signing_out.await;
        assert!(cache.status().last_failure.is_none() && cache.peek().is_none());
        assert_eq!(script.calls(), 1);
    }
}

#[test]
fn a_sign_out_stops_waiting_for_a_fetch_whose_runtime_ends() {
    let script = Script::new();
    script.hold();
    let cache = TokenCache::new(script.clone());
    let ending = paused_runtime();
    let mut waiter = task::spawn(cache.get());
    ending.block_on(async {
        assert_pending!(waiter.poll());
        script.called(1).await;
    });
    let mut signing_out = task::spawn(sign_out(&cache));
    assert_pending!(signing_out.poll());
    drop(ending);
    assert_ready!(signing_out.poll());
    let _inside = paused_runtime();
    assert!(assert_ready!(waiter.poll()).unwrap_err().is_signed_out());
}

/// A fetch for `r2` on a stalled runtime, in a session with `r1` and a manual clock.
struct Stalled {
    script: Script,
    cache: TokenCache,
    saves: Arc<AtomicUsize>,
    gate: Gate,
    runtime: tokio::runtime::Runtime,
}

impl Stalled {
    fn new() -> Self {
        let (script, clock, saves) = (Script::new().rotating(), ManualClock::new(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&saves);
        let cache = TokenCache::builder(script.clone())
            .clock(clock.clone())
            .on_rotation(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                async { Err(io::Error::other("disk full")) }
            })
            .build()
            .unwrap();
        let runtime = paused_runtime();
        runtime.block_on(cache.get()).unwrap();
        let gate = script.hold();
        runtime.block_on(async {
            assert_pending!(task::spawn(cache.refresh()).poll());
            script.called(2).await;
        });
        script.stop_holding();
        clock.advance(MINUTE);
        Self { script, cache, saves, gate, runtime }
    }

    /// Drives the runtime until the fetch has completed.
    fn resume(&self) {
        self.gate.open();
        self.runtime.block_on(until(|| self.script.finished() == 2));
        self.runtime.block_on(settle());
    }
}

#[test]
fn an_overdue_fetch_that_completes_late_revives_nothing() {
    let stalled = Stalled::new();
    let (cache, revoked) = (&stalled.cache, Revoked::default());
    paused_runtime().block_on(revoked.sign_out(cache)).unwrap();
    assert_eq!(revoked.all(), ["r1"]);
    assert!(cache.status().not_saved.is_none());
    stalled.resume();
    let status = cache.status();
    assert!(cache.peek().is_none() && status.not_saved.is_none() && status.signed_out && status.last_failure.is_none());
    assert_eq!(stalled.saves.load(Ordering::SeqCst), 1, "its refresh token is not saved");

    let next = Script::new().rotating();
    cache.set_source(next.clone());
    assert_eq!(text(paused_runtime().block_on(cache.get())), "t1");
    assert!(next.last_refresh_token().is_none());
}

#[test]
fn an_overdue_fetch_that_completes_in_the_next_session_changes_nothing() {
    let stalled = Stalled::new();
    paused_runtime().block_on(Revoked::default().sign_out(&stalled.cache)).unwrap();
    let next = Script::new();
    stalled.cache.set_source(next.clone());
    let token = paused_runtime().block_on(stalled.cache.get()).unwrap();
    stalled.resume();
    assert_eq!(stalled.cache.peek().unwrap().generation(), token.generation());
    assert_eq!((stalled.saves.load(Ordering::SeqCst), next.calls()), (1, 1));
}

#[test]
fn an_overdue_fetch_that_completes_during_the_revocation_revives_nothing() {
    let stalled = Stalled::new();
    let (called, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let other = paused_runtime();
    let signing_out = other.spawn({
        let (cache, called, answer) = (stalled.cache.clone(), Arc::clone(&called), Arc::clone(&answer));
        async move {
            let revoke = |refresh_token: Secret| async move {
                called.fetch_add(usize::from(refresh_token.expose() == "r1"), Ordering::SeqCst);
                answer.notified().await;
                Ok::<_, Error>(())
            };
            cache.sign_out(revoke).await
        }
    });
    other.block_on(until(|| called.load(Ordering::SeqCst) == 1));
    stalled.resume();
    assert!(stalled.cache.peek().is_none());
    assert_eq!(stalled.saves.load(Ordering::SeqCst), 1);
    answer.notify_one();
    other.block_on(signing_out).unwrap().unwrap();
    assert!(other.block_on(stalled.cache.get()).unwrap_err().is_signed_out());
}

#[test]
fn a_save_that_fails_late_is_not_reported() {
    let (saving, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let clock = ManualClock::new();
    let cache = TokenCache::builder(Script::new().rotating())
        .clock(clock.clone())
        .on_rotation({
            let (saving, answer) = (Arc::clone(&saving), Arc::clone(&answer));
            move |_| {
                let (saving, answer) = (Arc::clone(&saving), Arc::clone(&answer));
                async move {
                    saving.notify_one();
                    answer.notified().await;
                    Err(io::Error::other("disk full"))
                }
            }
        })
        .build()
        .unwrap();
    let stalled = paused_runtime();
    stalled.block_on(async {
        assert_pending!(task::spawn(cache.get()).poll());
        saving.notified().await;
    });
    clock.advance(MINUTE);
    let revoked = Revoked::default();
    paused_runtime().block_on(revoked.sign_out(&cache)).unwrap();
    assert_eq!(revoked.all(), ["r1"]);
    answer.notify_one();
    stalled.block_on(settle());
    assert!(cache.status().not_saved.is_none() && cache.peek().is_none());
}
