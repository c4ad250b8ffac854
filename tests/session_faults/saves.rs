//! Refresh tokens are saved in the order in which they were issued, and `not_saved` says whether the newest was.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_bearer::testing::ManualClock;
use tower_bearer::{FetchContext, RotatedToken, Token, TokenCache, TokenSource};

use crate::common::{MINUTE, SECOND, Script, paused_runtime, settle, text, until};

const MILLISECOND: Duration = Duration::from_millis(1);
const DELAYS: [u32; 4] = [500, 300, 100, 0];

/// How long a save takes, and whether it fails.
#[derive(Clone, Copy, Debug)]
struct Save {
    takes: Duration,
    fails: bool,
}

/// The refresh tokens that were saved, in order.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Vec<String>>>);

impl Store {
    async fn save(self, rotated: RotatedToken, save: Save) -> io::Result<()> {
        sleep(save.takes).await;
        self.write(&rotated, save.fails)
    }

    fn write(&self, rotated: &RotatedToken, fails: bool) -> io::Result<()> {
        if fails {
            return Err(io::Error::other("disk full"));
        }
        self.0.lock().expect("no panic").push(refresh_token(rotated));
        Ok(())
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    fn last(&self) -> Option<String> {
        self.all().pop()
    }
}

fn refresh_token(rotated: &RotatedToken) -> String {
    rotated.refresh_token().expose().to_owned()
}

/// A source whose tokens have the refresh token `r{number}`.
fn credentials(number: usize) -> impl TokenSource {
    move |_: FetchContext| {
        std::future::ready(Token::new(format!("t{number}")).map(|token| token.with_refresh_token(format!("r{number}"))))
    }
}

/// Four sources, each replaced after 50 ms, whose saves overlap.
async fn overlapping(saves: [Save; 4]) -> (Store, TokenCache) {
    let store = Store::default();
    let written = store.clone();
    let cache = TokenCache::builder(credentials(0))
        .on_rotation(move |rotated| {
            let number: usize = refresh_token(&rotated)[1..].parse().expect("a number");
            written.clone().save(rotated, saves[number])
        })
        .build()
        .unwrap();
    let mut callers = JoinSet::new();
    for number in 0..4 {
        cache.set_source(credentials(number));
        let cache = cache.clone();
        callers.spawn(async move { cache.get().await });
        sleep(50 * MILLISECOND).await;
    }
    for outcome in callers.join_all().await {
        outcome.expect("a token of this source or of a newer one");
    }
    sleep(MINUTE).await;
    assert_eq!(text(cache.get().await), "t3");
    (store, cache)
}

/// Every order of the four delays.
fn delays() -> impl Iterator<Item = [Duration; 4]> {
    (0..4_usize.pow(4)).filter_map(|number| {
        let order = [number % 4, number / 4 % 4, number / 16 % 4, number / 64];
        let all = (0..4).all(|index| order.contains(&index));
        all.then(|| order.map(|index| DELAYS[index] * MILLISECOND))
    })
}

#[tokio::test(start_paused = true)]
async fn a_slow_save_of_replaced_credentials_does_not_overwrite_a_newer_one() {
    let slow = Save { takes: 500 * MILLISECOND, fails: false };
    let quick = Save { takes: Duration::ZERO, fails: false };
    let (store, cache) = overlapping([slow, quick, quick, quick]).await;
    assert_eq!(store.last().as_deref(), Some("r3"), "{:?}", store.all());
    assert!(cache.status().not_saved.is_none());
}

#[tokio::test(start_paused = true)]
async fn no_refresh_token_is_saved_after_a_newer_one_if_saves_are_slow_or_fail() {
    for takes in delays() {
        for failing in 0..16 {
            let saves: [Save; 4] =
                std::array::from_fn(|number| Save { takes: takes[number], fails: failing >> number & 1 == 1 });
            let (store, cache) = overlapping(saves).await;
            assert!(store.all().is_sorted(), "{:?} of {saves:?}", store.all());
            let saved = store.last().as_deref() == Some("r3");
            assert!(saved || saves[3].fails, "{:?} of {saves:?}", store.all());
            assert_eq!(cache.status().not_saved.is_none(), saved, "{:?} of {saves:?}", store.all());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_save_is_reported_until_a_newer_refresh_token_is_saved() {
    let (script, store) = (Script::new().rotating(), Store::default());
    let written = store.clone();
    let cache = TokenCache::builder(script)
        .on_rotation(move |rotated| {
            let fails = refresh_token(&rotated) == "r2";
            std::future::ready(written.write(&rotated, fails))
        })
        .build()
        .unwrap();
    for (number, saved) in [(1, vec!["r1"]), (2, vec!["r1"]), (3, vec!["r1", "r3"])] {
        cache.refresh().await.expect("a token");
        assert_eq!(store.all(), saved);
        assert_eq!(cache.status().not_saved.is_some(), number == 2);
    }
}

// === a superseded fetch that resumes ===

/// The first save hangs, because its runtime stalls. Another runtime fetches and saves. Then the first save resumes.
fn resuming(first_fails: bool, second_fails: bool) -> (Store, TokenCache) {
    let (script, store, clock) = (Script::new().rotating(), Store::default(), ManualClock::new());
    let (written, gate) = (store.clone(), Arc::new(Semaphore::new(0)));
    let (held, begun) = (Arc::clone(&gate), Arc::new(Mutex::new(false)));
    let seen = Arc::clone(&begun);
    let cache = TokenCache::builder(script)
        .clock(clock.clone())
        .on_rotation(move |rotated| {
            let (written, held) = (written.clone(), Arc::clone(&held));
            let first = refresh_token(&rotated) == "r1";
            *seen.lock().expect("no panic") |= first;
            async move {
                if first {
                    let _ = held.acquire().await;
                }
                written.write(&rotated, if first { first_fails } else { second_fails })
            }
        })
        .build()
        .unwrap();
    let (stalled, other) = (paused_runtime(), paused_runtime());
    let caller = cache.clone();
    stalled.spawn(async move { caller.get().await });
    stalled.block_on(until(|| *begun.lock().expect("no panic")));
    // The deadlines of the fetch and of its save pass.
    clock.advance(40 * SECOND);
    let outcome =
        other.block_on(async { timeout(MINUTE, cache.get()).await.expect("the stalled fetch is superseded") });
    assert_eq!(text(outcome), "t2");
    gate.close();
    for runtime in [&stalled, &other, &stalled] {
        runtime.block_on(async {
            settle().await;
            sleep(10 * SECOND).await;
        });
    }
    (store, cache)
}

#[test]
fn a_superseded_fetch_that_resumes_does_not_leave_a_consumed_refresh_token_saved() {
    let (store, cache) = resuming(false, false);
    assert_eq!(store.last().as_deref(), Some("r2"), "{:?}", store.all());
    assert!(cache.status().not_saved.is_none());
}

#[test]
fn a_superseded_fetch_that_resumes_does_not_report_its_failed_save() {
    let (store, cache) = resuming(true, false);
    // The failed save may have written, so the newest refresh token is saved once more.
    assert!(store.all().iter().all(|saved| saved == "r2"), "{:?}", store.all());
    assert_eq!(store.last().as_deref(), Some("r2"));
    assert!(cache.status().not_saved.is_none());
}

#[test]
fn a_superseded_fetch_that_resumes_does_not_hide_that_the_newest_is_not_saved() {
    for first_fails in [false, true] {
        let (store, cache) = resuming(first_fails, true);
        let saved = store.last().as_deref() == Some("r2");
        assert_eq!(cache.status().not_saved.is_none(), saved, "{:?}", store.all());
    }
}
