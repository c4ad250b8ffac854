//! The cache never loses a rotated refresh token: `on_rotation` (promise 19, first half).

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Error, RotatedToken, Token, TokenCache};

use crate::common::{SECOND, Script, settle, text, until};

/// The refresh tokens that were saved.
#[derive(Clone, Default)]
struct Saved(Arc<Mutex<Vec<String>>>);

impl Saved {
    /// Notes the refresh token. Returns how many there are.
    fn note(&self, rotated: &RotatedToken) -> usize {
        let mut saved = self.0.lock().unwrap();
        saved.push(rotated.refresh_token().expose().to_owned());
        saved.len()
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A cache whose saves succeed.
fn saving(script: &Script) -> (TokenCache, Saved) {
    let saved = Saved::default();
    let noted = saved.clone();
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |rotated| {
            noted.note(&rotated);
            async { Ok::<_, io::Error>(()) }
        })
        .build()
        .unwrap();
    (cache, saved)
}

// === when it is called ===

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_saved_before_its_token_can_be_seen() {
    let script = Script::new().rotating();
    let saved = Saved::default();
    let noted = saved.clone();
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |rotated| {
            noted.note(&rotated);
            async {
                sleep(2 * SECOND).await;
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    let start = Instant::now();
    assert!(timeout(SECOND, cache.get()).await.is_err());
    assert_eq!(saved.all(), ["r1"]);
    assert!(cache.peek().is_none() && cache.status().generation == 0);
    assert_eq!(text(cache.get().await), "t1");
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_a_refresh_token_that_changed_is_saved() {
    let script = Script::new();
    for refresh_token in ["a", "a", "b", "b", "a"] {
        script.queue(Token::new("t").map(|token| token.with_refresh_token(refresh_token)));
    }
    let (cache, saved) = saving(&script);
    for _ in 0..6 {
        cache.refresh().await.unwrap();
    }
    assert_eq!(saved.all(), ["a", "b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_refresh_token_is_not_saved() {
    let (cache, saved) = saving(&Script::new());
    cache.get().await.unwrap();
    assert!(saved.all().is_empty() && cache.status().not_saved.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_next_fetch_gets_the_newest_refresh_token() {
    let script = Script::new().rotating();
    let (cache, _) = saving(&script);
    assert!(cache.get().await.is_ok() && script.last_refresh_token().is_none());
    for number in 1..4 {
        script.fail(1);
        cache.refresh().await.unwrap_err();
        cache.refresh().await.unwrap();
        let newest = script.last_refresh_token().unwrap();
        assert_eq!(newest, format!("r{}", 2 * number - 1));
    }
}

// === when it fails ===

/// Tests that the cache saves again after `first`, the first call of `on_rotation`, has failed.
async fn saves_again_after<F, T>(first: F, seconds: u64, problem: &str)
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<(), io::Error>> + Send + 'static,
{
    let script = Script::new().rotating();
    let saved = Saved::default();
    let noted = saved.clone();
    let cache = TokenCache::builder(script.clone())
        .on_rotation(move |rotated| {
            let call = noted.note(&rotated);
            let first = (call == 1).then(&first);
            async move {
                match first {
                    Some(first) => first.await,
                    None => Ok(()),
                }
            }
        })
        .build()
        .unwrap();
    let start = Instant::now();
    assert_eq!(text(cache.get().await), "t1");
    assert_eq!(start.elapsed().as_secs(), seconds);
    let status = cache.status();
    let error = status.not_saved.expect("the error is shown");
    assert!(error.is_transient() && format!("{error:?}").contains(problem), "{error:?}");
    assert!(status.last_failure.is_none(), "the fetch did not fail");

    // The refresh token is in memory, and the next fetch uses it. The issuer does not rotate it this time.
    script.queue(Token::new("t2").map(|token| token.with_refresh_token("r1")));
    cache.refresh().await.unwrap();
    assert_eq!(script.last_refresh_token().as_deref(), Some("r1"));
    assert_eq!(saved.all(), ["r1", "r1"]);
    assert!(cache.status().not_saved.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failed_save_is_reported_and_retried_while_the_token_is_used() {
    saves_again_after(async || Err(io::Error::other("disk full")), 0, "disk full").await;
}

#[tokio::test(start_paused = true)]
async fn a_save_times_out_after_five_seconds() {
    saves_again_after(pending, 5, "5s").await;
}

#[tokio::test(start_paused = true)]
async fn a_save_that_panics_when_called_is_a_failed_save() {
    saves_again_after(|| -> std::future::Ready<_> { panic!("a panic of the test") }, 0, "panicked").await;
}

#[tokio::test(start_paused = true)]
async fn a_save_that_panics_later_is_a_failed_save() {
    let panics = async || {
        sleep(SECOND).await;
        panic!("a panic of the test")
    };
    saves_again_after(panics, 1, "panicked").await;
}

// === cases that lose no refresh token ===

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_does_not_stop_the_save() {
    let done = Saved::default();
    let noted = done.clone();
    let cache = TokenCache::builder(Script::new().rotating())
        .on_rotation(move |rotated| {
            let noted = noted.clone();
            async move {
                sleep(3 * SECOND).await;
                noted.note(&rotated);
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    assert!(timeout(SECOND, cache.get()).await.is_err());
    sleep(3 * SECOND).await;
    assert_eq!(done.all(), ["r1"]);
    assert_eq!(cache.peek().unwrap().access_token(), "t1");
}

#[tokio::test(start_paused = true)]
async fn the_refresh_token_of_an_expired_token_is_saved_and_used() {
    let script = Script::new().rotating();
    script.queue(Token::new("dead").map(|token| token.with_lifetime(Duration::ZERO).with_refresh_token("r-dead")));
    let (cache, saved) = saving(&script);
    cache.get().await.unwrap_err();
    assert_eq!(saved.all(), ["r-dead"]);
    sleep(SECOND).await;
    assert_eq!(text(cache.get().await), "t2");
    assert_eq!(script.last_refresh_token().as_deref(), Some("r-dead"));
    assert_eq!(saved.all(), ["r-dead", "r2"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_refresh_token_with_the_same_access_token_is_saved_and_used() {
    let script = Script::new();
    for (life, refresh_token) in [(100, "r1"), (15, "r2")] {
        let token = Token::new("same").unwrap().with_lifetime(life * SECOND).with_refresh_token(refresh_token);
        script.queue(Ok(token));
    }
    let clock = ManualClock::new();
    let saved = Saved::default();
    let noted = saved.clone();
    let cache = TokenCache::builder(script.clone())
        .clock(clock.clone())
        .on_rotation(move |rotated| {
            noted.note(&rotated);
            async { Ok::<_, io::Error>(()) }
        })
        .build()
        .unwrap();
    cache.get().await.unwrap();
    clock.advance(85 * SECOND);
    cache.get().await.unwrap();
    until(|| cache.status().last_failure.is_some()).await;
    assert_eq!((saved.all(), cache.status().generation), (vec!["r1".to_owned(), "r2".to_owned()], 1));
    cache.refresh().await.unwrap();
    assert_eq!(script.last_refresh_token().as_deref(), Some("r2"));
}

#[tokio::test(start_paused = true)]
async fn a_save_has_its_own_deadline_after_a_slow_fetch() {
    let script = Script::new().rotating();
    script.delay(29 * SECOND);
    let cache = TokenCache::builder(script.clone())
        .on_rotation(|_| async {
            sleep(4 * SECOND).await;
            Ok::<_, Error>(())
        })
        .build()
        .unwrap();
    assert!(cache.get().await.unwrap_err().is_timeout(), "a caller waits for 30 s");
    assert_eq!(text(cache.get().await), "t1");
    settle().await;
    assert!(script.calls() == 1 && cache.status().not_saved.is_none());
}
