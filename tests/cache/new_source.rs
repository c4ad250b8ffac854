//! A new source takes effect at once, and nothing of the old one is used (promises 9 and 19).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower_bearer::{Error, FetchContext, Reason, Token, TokenCache, TokenSource};

use crate::common::{MINUTE, SECOND, Script, settle, text, until};

fn named(name: &str) -> Script {
    let script = Script::new();
    script.queue(Token::new(name).map(|token| token.with_refresh_token(format!("refresh-{name}"))));
    script
}

#[tokio::test(start_paused = true)]
async fn waiters_of_the_old_source_get_the_token_of_the_new_one_at_once() {
    let old = named("old");
    let gate = old.hold();
    let saves = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&saves);
    let cache = TokenCache::builder(old.clone())
        .on_rotation(move |rotated| {
            counted.fetch_add(1, Ordering::SeqCst);
            assert_eq!(rotated.token().unwrap().access_token(), "new");
            async { Ok::<_, io::Error>(()) }
        })
        .build()
        .unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..10 {
        let cache = cache.clone();
        waiters.spawn(async move { cache.get().await });
    }
    old.called(1).await;
    settle().await;

    let new = named("new");
    cache.set_source(new.clone());
    let start = Instant::now();
    for answer in waiters.join_all().await {
        assert_eq!(text(answer), "new");
    }
    assert_eq!(start.elapsed().as_millis(), 0, "the old source has not answered yet");
    assert_eq!((new.calls(), new.most_at_once()), (1, 1));

    gate.open();
    until(|| old.finished() == 1).await;
    settle().await;
    assert_eq!((cache.peek().unwrap().access_token(), cache.status().generation), ("new", 1));
    assert_eq!(saves.load(Ordering::SeqCst), 1);
    assert!(cache.status().not_saved.is_none());
    cache.refresh().await.unwrap();
    assert_eq!(new.last_refresh_token().as_deref(), Some("refresh-new"));
}

#[tokio::test(start_paused = true)]
async fn a_late_token_of_the_old_source_is_neither_saved_nor_used() {
    let old = named("old");
    let gate = old.hold();
    let cache = TokenCache::builder(old.clone())
        .on_rotation(async |_| Err(io::Error::other("not to be called")))
        .build()
        .unwrap();
    assert!(timeout(SECOND, cache.get()).await.is_err());
    let new = named("new");
    cache.set_source(new.clone());
    gate.open();
    until(|| old.finished() == 1).await;
    settle().await;
    assert!(cache.peek().is_none() && cache.status().not_saved.is_none());
    cache.get().await.unwrap();
    assert!(new.last_refresh_token().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_source_is_replaced_while_it_is_saved_is_not_used() {
    let cache = TokenCache::builder(named("old"))
        .on_rotation(async |_| {
            sleep(SECOND).await;
            Err(io::Error::other("disk full"))
        })
        .build()
        .unwrap();
    assert!(timeout(SECOND / 2, cache.get()).await.is_err());
    cache.set_source(Script::new());
    sleep(SECOND).await;
    let status = cache.status();
    assert!(cache.peek().is_none() && status.generation == 0 && status.not_saved.is_none());
    assert_eq!(text(cache.get().await), "t1");
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_of_the_old_source_is_not_remembered() {
    let old = Script::new();
    old.deny(1);
    let gate = old.hold();
    let cache = TokenCache::new(old.clone());
    let mut waiter = tokio_test::task::spawn(cache.get());
    assert!(waiter.poll().is_pending());
    old.called(1).await;
    cache.set_source(named("new"));
    gate.open();
    until(|| old.finished() == 1).await;
    settle().await;
    assert!(cache.status().last_failure.is_none());
    assert_eq!(text(waiter.await), "new");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_was_about_to_start_does_not_call_the_new_source() {
    let (old, new) = (Script::new(), named("new"));
    let cache = TokenCache::new(old.clone());
    let mut waiter = tokio_test::task::spawn(cache.get());
    assert!(waiter.poll().is_pending());
    cache.set_source(new.clone());
    assert_eq!(text(waiter.await), "new");
    settle().await;
    assert_eq!((old.calls(), new.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_old_source_reaches_the_new_one() {
    let cache = TokenCache::new(named("old"));
    cache.get().await.unwrap();
    let new = named("new");
    cache.set_source(new.clone());
    assert!(cache.peek().is_none() && cache.status().phase.is_none());
    assert_eq!(text(cache.get().await), "new");
    let context = new.last_context();
    assert!(context.replaced().is_none() && context.refresh_token().is_none());
    assert_eq!(context.reason(), Reason::First);
    assert_eq!(cache.status().generation, 2, "generations continue, so that a late rejection cannot hit another token");
}

#[tokio::test(start_paused = true)]
async fn the_same_refresh_token_is_saved_again_for_a_new_source() {
    let saves = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&saves);
    let cache = TokenCache::builder(named("same"))
        .on_rotation(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Err(io::Error::other("disk full")) }
        })
        .build()
        .unwrap();
    cache.get().await.unwrap();
    assert!(cache.status().not_saved.is_some());
    cache.set_source(named("same"));
    assert!(cache.status().not_saved.is_none());
    cache.get().await.unwrap();
    assert_eq!(saves.load(Ordering::SeqCst), 2);
}

/// A source that uses its cache when it is dropped.
struct UsesCacheOnDrop(TokenCache);

impl TokenSource for UsesCacheOnDrop {
    async fn fetch(&self, _: FetchContext) -> Result<Token, Error> {
        Token::new("t")
    }
}

impl Drop for UsesCacheOnDrop {
    fn drop(&mut self) {
        let _ = self.0.status();
        self.0.set_source(Script::new());
    }
}

#[test]
fn a_source_may_use_its_cache_when_it_is_dropped() {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let cache = TokenCache::new(Script::new());
        cache.set_source(UsesCacheOnDrop(cache.clone()));
        cache.set_source(Script::new());
        done.send(()).unwrap();
    });
    finished.recv_timeout(MINUTE).expect("there is no deadlock");
}
