//! A cache can be built without a runtime, and leaves nothing behind (promise 25).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, Phase, TokenCache};
use tracing::span;

use crate::common::{MINUTE, SECOND, Script, paused_runtime, settle, text, until};

// === no runtime ===

#[test]
fn everything_but_fetching_works_without_a_runtime() {
    let script = Script::new();
    let cache = TokenCache::builder(script.clone()).on_rotation(async |_| Ok::<_, Error>(())).build().unwrap();
    assert!(cache.peek().is_none());
    let status = cache.status();
    assert!(status.phase.is_none() && status.generation == 0 && status.usable_for.is_none());
    assert!(!status.suspect && !status.fetching && !status.closed);
    assert!(format!("{cache:?}").contains("generation: 0"));
    cache.set_source(script.clone());
    drop(cache.keep_warm());
    let _ = assert_ready!(task::spawn(cache.refresh()).poll()).unwrap_err();
    assert_ready!(task::spawn(cache.shutdown()).poll());
    assert!(cache.status().closed);
    drop(cache);
    assert_eq!(script.calls(), 0);
}

#[test]
fn a_fixed_token_is_served_without_a_runtime_and_for_ever() {
    let cache = TokenCache::fixed("abc").unwrap();
    assert_eq!(text(assert_ready!(task::spawn(cache.get()).poll())), "abc");
    let status = cache.status();
    assert_eq!((status.phase, status.generation), (Some(Phase::Fresh), 1));
    assert!(TokenCache::fixed("two words").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_fixed_token_is_denied_and_still_served() {
    let cache = TokenCache::fixed("abc").unwrap();
    let token = cache.get().await.unwrap();
    assert!(cache.report_rejected(&token).await.unwrap_err().is_denied());
    assert_eq!(text(cache.get().await), "abc");
}

// === nothing left behind ===

#[tokio::test(start_paused = true)]
async fn building_and_dropping_spawn_nothing_and_a_fetch_leaves_no_task() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let cache = TokenCache::new(Script::new());
    cache.set_source(Script::new());
    assert_eq!(tasks(), 0);
    cache.get().await.unwrap();
    until(|| tasks() == 0).await;
    drop(cache);
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_source_is_dropped_with_the_last_clone() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let cache = TokenCache::new(move |_| {
        let _held = Arc::clone(&held);
        async { tower_bearer::Token::new("t") }
    });
    cache.get().await.unwrap();
    settle().await;
    drop(cache);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_in_flight_completes_and_saves_after_the_last_clone_is_dropped() {
    let script = Script::living(SECOND).rotating();
    script.delay(10 * SECOND);
    let saved = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&saved);
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, io::Error>(()) }
        })
        .build()
        .unwrap();
    assert!(timeout(SECOND, cache.get()).await.is_err());
    drop(cache);
    sleep(10 * MINUTE).await;
    assert_eq!((script.finished(), script.calls(), saved.load(Ordering::SeqCst)), (1, 1, 1));
}

// === shutdown ===

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_fetch_in_flight_and_its_save() {
    let script = Script::new().rotating();
    script.delay(10 * SECOND);
    let saved = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&saved);
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |_| {
            let flag = Arc::clone(&flag);
            async move {
                sleep(3 * SECOND).await;
                flag.store(true, Ordering::SeqCst);
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    let start = Instant::now();
    let mut waiter = task::spawn(cache.get());
    assert_pending!(waiter.poll());
    cache.shutdown().await;
    assert!(saved.load(Ordering::SeqCst) && cache.status().closed);
    assert_eq!(start.elapsed().as_secs(), 13);
    assert_eq!(text(waiter.await), "t1");
    cache.shutdown().await;
    assert_eq!(start.elapsed().as_secs(), 13, "a second shutdown has nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn after_shutdown_a_usable_token_is_served_until_it_expires_and_nothing_is_fetched() {
    let script = Script::living(100 * SECOND);
    let clock = ManualClock::new();
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    cache.get().await.unwrap();
    cache.shutdown().await;
    clock.advance(90 * SECOND);
    let token = cache.get().await.unwrap();
    assert_eq!(token.access_token(), "t1");
    for error in [cache.refresh().await.unwrap_err(), cache.report_rejected(&token).await.unwrap_err()] {
        assert!(error.is_closed() && !error.is_transient(), "{error}");
    }
    assert_eq!(text(cache.get().await), "t1");
    clock.advance(10 * SECOND);
    assert!(cache.get().await.unwrap_err().is_closed());
    cache.set_source(script.clone());
    assert!(cache.get().await.unwrap_err().is_closed());
    settle().await;
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_dropped_still_closes_the_cache() {
    let script = Script::new();
    script.delay(SECOND);
    let cache = TokenCache::new(script.clone());
    let clone = cache.clone();
    let mut waiter = task::spawn(cache.get());
    assert_pending!(waiter.poll());
    assert_pending!(task::spawn(clone.shutdown()).poll());
    assert_eq!(text(waiter.await), "t1");
    assert!(cache.refresh().await.unwrap_err().is_closed());
}

#[test]
fn shutdown_waits_without_a_runtime() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let runtime = paused_runtime();
    let mut waiter = task::spawn(cache.get());
    runtime.block_on(async {
        assert_pending!(waiter.poll());
        script.called(1).await;
    });
    let mut shutdown = task::spawn(cache.shutdown());
    assert_pending!(shutdown.poll());
    gate.open();
    runtime.block_on(until(|| cache.peek().is_some()));
    runtime.block_on(settle());
    assert!(shutdown.is_woken());
    assert_ready!(shutdown.poll());
}

#[test]
fn shutdown_stops_waiting_for_a_fetch_on_a_stalled_runtime() {
    let script = Script::new();
    script.hold();
    let cache = TokenCache::new(script.clone());
    let stalled = paused_runtime();
    let mut waiter = task::spawn(cache.get());
    stalled.block_on(async {
        assert_pending!(waiter.poll());
        script.called(1).await;
    });
    paused_runtime().block_on(async {
        let start = Instant::now();
        cache.shutdown().await;
        assert!((30..32).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert!(cache.get().await.unwrap_err().is_closed());
    });
    assert_eq!(script.calls(), 1);
}

// === no lock is held while user code runs ===

/// A subscriber that reads the cache's status at every event.
struct Watcher(TokenCache, Arc<AtomicUsize>);

impl tracing::Subscriber for Watcher {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "tower_bearer"
    }

    fn event(&self, _: &tracing::Event<'_>) {
        let _ = self.0.status();
        self.1.fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_subscriber_may_use_the_cache() {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let script = Script::new().rotating();
        script.fail(1);
        let cache =
            TokenCache::builder(script).on_rotation(async |_| Err(io::Error::other("disk full"))).build().unwrap();
        let events = Arc::new(AtomicUsize::new(0));
        // The events are a failure, a save that failed, a token and a rejection.
        tracing::subscriber::with_default(Watcher(cache.clone(), Arc::clone(&events)), || {
            paused_runtime().block_on(async {
                cache.get().await.unwrap_err();
                let token = cache.refresh().await.unwrap();
                cache.report_rejected(&token).await.unwrap();
            });
        });
        done.send(events.load(Ordering::SeqCst)).unwrap();
    });
    let events = finished.recv_timeout(MINUTE).expect("there is no deadlock");
    assert!(events >= 4, "{events}");
}
