//! The end of a session: what was fetched is revoked, and nothing revives it.
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to give up")]

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, Error, FetchContext, NoToken, Refresh, Secret, Token, TokenCache, TokenSource};

use common::{HOUR, MINUTE, SECOND, Script, paused_runtime, settle, text, until};

mod common;

/// An issuer that revokes, and what it revoked.
#[derive(Clone, Default)]
struct Revoked(Arc<Mutex<Vec<String>>>);

impl Revoked {
    async fn sign_out(&self, cache: &TokenCache) -> Result<(), Error> {
        cache.sign_out(async |refresh_token| self.revoke(refresh_token)).await
    }

    fn revoke(&self, refresh_token: Secret) -> Result<(), Error> {
        self.0.lock().unwrap().push(refresh_token.expose().to_owned());
        Ok(())
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Signs out where there is nothing to revoke.
async fn sign_out(cache: &TokenCache) {
    cache.sign_out(async |_| -> Result<(), Error> { panic!("there is nothing to revoke") }).await.unwrap();
}

/// A session that begins with a refresh token, which can be had or not.
struct Saved(Script, Option<&'static str>);

impl TokenSource for Saved {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.0.fetch(context).await
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        self.1.map(|saved| Some(saved.into())).ok_or_else(|| Error::transient("the vault is closed"))
    }
}

// === the end ===

#[tokio::test(start_paused = true)]
async fn the_newest_refresh_token_is_revoked_and_nothing_is_left_of_the_session() {
    let alive = Arc::new(());
    let (script, held) = (Script::new().rotating(), Arc::clone(&alive));
    let fetches = script.clone();
    let cache = TokenCache::new(move |context| {
        let (_password, script) = (Arc::clone(&held), fetches.clone());
        async move { script.fetch(context).await }
    });
    cache.get().await.unwrap();
    let token = cache.refresh().await.unwrap();
    settle().await;
    let revoked = Revoked::default();
    assert!(!cache.status().signed_out);
    revoked.sign_out(&cache).await.unwrap();

    assert_eq!(revoked.all(), ["r2"]);
    assert!(cache.peek().is_none());
    let status = cache.status();
    assert!(status.signed_out && !status.closed && !status.fetching && status.phase.is_none());
    for error in [cache.get().await, cache.refresh().await, cache.refuse(&token).await].map(Result::unwrap_err) {
        assert!(error.is_signed_out() && !error.is_transient() && !error.is_closed(), "{error}");
        assert!(error.to_string().contains("set_source"), "what to do: {error}");
    }
    assert_eq!(script.calls(), 2);
    assert_eq!(Arc::strong_count(&alive), 1, "the source is gone, and its password with it");

    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r2"], "a second one has nothing to revoke");
}

#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_there_is_nothing_to_revoke() {
    for cache in [TokenCache::new(Script::new()), TokenCache::fixed("abc").unwrap()] {
        cache.get().await.unwrap();
        sign_out(&cache).await;
        assert!(cache.get().await.unwrap_err().is_signed_out());
    }
    let cache = TokenCache::new(Script::new().rotating());
    sign_out(&cache).await;
    assert!(cache.get().await.unwrap_err().is_signed_out(), "before anything was fetched");
}

#[tokio::test(start_paused = true)]
async fn a_saved_refresh_token_is_revoked_though_nothing_was_fetched_and_a_newer_one_instead_of_it() {
    let revoked = Revoked::default();
    revoked.sign_out(&TokenCache::new(Saved(Script::new(), Some("saved")))).await.unwrap();
    let cache = TokenCache::new(Saved(Script::new().rotating(), Some("saved")));
    cache.get().await.unwrap();
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["saved", "r1"]);
}

#[tokio::test]
async fn a_saved_refresh_token_that_cannot_be_had_is_a_failure_and_the_end_all_the_same() {
    let cache = TokenCache::new(Saved(Script::new(), None));
    let error = cache.sign_out(async |_| Ok::<_, Error>(())).await.unwrap_err();
    assert!(format!("{error:?}").contains("the vault is closed"), "{error:?}");
    assert!(cache.get().await.unwrap_err().is_signed_out());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_fails_is_reported_and_the_session_is_over_all_the_same() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let cache = TokenCache::new(move |_| {
        let _password = Arc::clone(&held);
        async { Token::new("t").map(|token| token.with_refresh_token("r")) }
    });
    cache.get().await.unwrap();
    settle().await;
    let error = cache.sign_out(async |_| Err(io::Error::other("no route"))).await.unwrap_err();
    assert!(error.to_string().contains("may still work") && !error.is_transient() && !error.is_signed_out(), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "no route");

    assert!(cache.get().await.unwrap_err().is_signed_out() && cache.status().signed_out);
    assert_eq!(Arc::strong_count(&alive), 1);
    sign_out(&cache).await;
}

// === a fetch under way ===

#[tokio::test(start_paused = true)]
async fn a_fetch_under_way_is_waited_for_and_its_refresh_token_is_the_one_revoked() {
    let script = Script::new().rotating();
    let saves = Revoked::default();
    let saving = saves.clone();
    let cache = TokenCache::new(script.clone()).on_rotation(move |token| {
        let saving = saving.clone();
        async move {
            sleep(3 * SECOND).await;
            saving.revoke(token.refresh_token().unwrap())
        }
    });
    cache.get().await.unwrap();
    script.delay(10 * SECOND);
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let (start, revoked) = (Instant::now(), Revoked::default());
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!((start.elapsed().as_secs(), revoked.all()), (13, vec!["r2".to_owned()]));
    assert_eq!(saves.all(), ["r1", "r2"], "what was saved is what was revoked");
    assert!(assert_ready!(refresh.poll()).unwrap_err().is_signed_out());
    assert!(cache.peek().is_none() && cache.status().last_failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_asks_or_waits_meanwhile_fails_at_once() {
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
        for asked in [task::spawn(cache.get()).poll(), task::spawn(cache.refresh()).poll()] {
            assert!(assert_ready!(asked).unwrap_err().is_signed_out());
        }
        gate.open();
        signing_out.await;
        assert!(cache.status().last_failure.is_none() && cache.peek().is_none());
        assert_eq!(script.calls(), 1);
    }
}

#[test]
fn a_fetch_whose_runtime_ends_is_waited_for_no_longer() {
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

/// A fetch for `r2` on a runtime that stands still, in a session that has `r1`; the clock moves by hand.
struct Frozen {
    script: Script,
    cache: TokenCache,
    saves: Arc<AtomicUsize>,
    gate: common::Gate,
    runtime: tokio::runtime::Runtime,
}

impl Frozen {
    fn new() -> Self {
        let (script, clock, saves) = (Script::new().rotating(), ManualClock::new(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&saves);
        let cache = TokenCache::with_clock(script.clone(), Refresh::new(), clock.clone()).on_rotation(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Err(io::Error::other("disk full")) }
        });
        let runtime = paused_runtime();
        runtime.block_on(cache.get()).unwrap();
        let gate = script.hold();
        runtime.block_on(async {
            assert_pending!(task::spawn(cache.refresh()).poll());
            script.called(2).await;
        });
        script.hold_no_more();
        clock.advance(MINUTE);
        Self { script, cache, saves, gate, runtime }
    }

    /// The runtime goes on, and the fetch comes to its end.
    fn thaw(&self) {
        self.gate.open();
        self.runtime.block_on(until(|| self.script.finished() == 2));
        self.runtime.block_on(settle());
    }
}

#[test]
fn an_overdue_fetch_that_ends_late_revives_nothing() {
    let frozen = Frozen::new();
    let (cache, revoked) = (&frozen.cache, Revoked::default());
    paused_runtime().block_on(revoked.sign_out(cache)).unwrap();
    assert_eq!(revoked.all(), ["r1"]);
    assert!(cache.status().not_saved.is_none());
    frozen.thaw();
    let status = cache.status();
    assert!(cache.peek().is_none() && status.not_saved.is_none() && status.signed_out && status.last_failure.is_none());
    assert_eq!(frozen.saves.load(Ordering::SeqCst), 1, "what it brought is not saved");

    let next = Script::new().rotating();
    cache.set_source(next.clone());
    assert_eq!(text(paused_runtime().block_on(cache.get())), "t1");
    assert!(next.last_refresh_token().is_none());
}

#[test]
fn an_overdue_fetch_that_ends_in_the_next_session_changes_nothing_there() {
    let frozen = Frozen::new();
    paused_runtime().block_on(Revoked::default().sign_out(&frozen.cache)).unwrap();
    let next = Script::new();
    frozen.cache.set_source(next.clone());
    let token = paused_runtime().block_on(frozen.cache.get()).unwrap();
    frozen.thaw();
    assert_eq!(frozen.cache.peek().unwrap().generation(), token.generation());
    assert_eq!((frozen.saves.load(Ordering::SeqCst), next.calls()), (1, 1));
}

#[test]
fn an_overdue_fetch_that_ends_while_its_session_is_revoked_revives_nothing() {
    let frozen = Frozen::new();
    let (called, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let elsewhere = paused_runtime();
    let signing_out = elsewhere.spawn({
        let (cache, called, answer) = (frozen.cache.clone(), Arc::clone(&called), Arc::clone(&answer));
        async move {
            let revoke = |refresh_token: Secret| async move {
                called.fetch_add(usize::from(refresh_token.expose() == "r1"), Ordering::SeqCst);
                answer.notified().await;
                Ok::<_, Error>(())
            };
            cache.sign_out(revoke).await
        }
    });
    elsewhere.block_on(until(|| called.load(Ordering::SeqCst) == 1));
    frozen.thaw();
    assert!(frozen.cache.peek().is_none());
    assert_eq!(frozen.saves.load(Ordering::SeqCst), 1);
    answer.notify_one();
    elsewhere.block_on(signing_out).unwrap().unwrap();
    assert!(elsewhere.block_on(frozen.cache.get()).unwrap_err().is_signed_out());
}

#[test]
fn a_save_that_fails_late_leaves_nothing_behind() {
    let (saving, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let clock = ManualClock::new();
    let cache = TokenCache::with_clock(Script::new().rotating(), Refresh::new(), clock.clone()).on_rotation({
        let (saving, answer) = (Arc::clone(&saving), Arc::clone(&answer));
        move |_| {
            let (saving, answer) = (Arc::clone(&saving), Arc::clone(&answer));
            async move {
                saving.notify_one();
                answer.notified().await;
                Err(io::Error::other("disk full"))
            }
        }
    });
    let frozen = paused_runtime();
    frozen.block_on(async {
        assert_pending!(task::spawn(cache.get()).poll());
        saving.notified().await;
    });
    clock.advance(MINUTE);
    let revoked = Revoked::default();
    paused_runtime().block_on(revoked.sign_out(&cache)).unwrap();
    assert_eq!(revoked.all(), ["r1"]);
    answer.notify_one();
    frozen.block_on(settle());
    assert!(cache.status().not_saved.is_none() && cache.peek().is_none());
}

// === whoever calls it ===

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_is_dropped_can_be_called_again() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    let gate = script.hold();
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let revoked = Revoked::default();
    assert_pending!(task::spawn(revoked.sign_out(&cache)).poll(), "dropped while it waits for the fetch");
    assert!(cache.get().await.unwrap_err().is_signed_out());
    gate.open();
    assert!(refresh.await.unwrap_err().is_signed_out());
    let mut revoking = task::spawn(cache.sign_out(|_| std::future::pending::<Result<(), Error>>()));
    assert_pending!(revoking.poll());
    drop(revoking);
    assert!(cache.get().await.unwrap_err().is_signed_out(), "dropped while it revokes");
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r2"]);
    sign_out(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn two_at_once_are_one_end_and_neither_fails() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    script.delay(SECOND);
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let revoked = Revoked::default();
    let (one, other) = tokio::join!(revoked.sign_out(&cache), revoked.sign_out(&cache));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert!(revoked.all().iter().all(|refresh_token| refresh_token == "r2"), "{:?}", revoked.all());
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_was_shut_down_is_signed_out_too() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    cache.shutdown().await;
    assert_eq!(text(cache.get().await), "t1");
    let revoked = Revoked::default();
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r1"]);
    assert!(cache.get().await.unwrap_err().is_signed_out());
    cache.set_source(script);
    assert!(cache.get().await.unwrap_err().is_closed());
}

#[test]
fn outside_any_runtime_a_session_ends_too() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    let runtime = paused_runtime();
    runtime.block_on(cache.get()).unwrap();
    let gate = script.hold();
    let mut refresh = task::spawn(cache.refresh());
    runtime.block_on(async {
        assert_pending!(refresh.poll());
        script.called(2).await;
    });
    let revoked = Revoked::default();
    let mut signing_out = task::spawn(revoked.sign_out(&cache));
    assert_pending!(signing_out.poll());
    gate.open();
    runtime.block_on(until(|| signing_out.is_woken()));
    assert_ready!(signing_out.poll()).unwrap();
    assert_eq!(revoked.all(), ["r2"]);
    assert!(assert_ready!(task::spawn(cache.get()).poll()).unwrap_err().is_signed_out());
}

// === the next session ===

#[tokio::test(start_paused = true)]
async fn another_source_begins_another_session() {
    let cache = TokenCache::new(Script::new().rotating());
    cache.get().await.unwrap();
    Revoked::default().sign_out(&cache).await.unwrap();
    let next = Script::new().rotating();
    cache.set_source(next.clone());
    assert!(!cache.status().signed_out);
    let token = cache.get().await.unwrap();
    assert_eq!((token.access_token(), token.generation()), ("t1", 2));
    assert!(next.last_context().replaced().is_none(), "nothing of the old one");
    let revoked = Revoked::default();
    cache.refresh().await.unwrap();
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r2"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_while_the_sign_out_waits_is_kept_and_the_sign_out_says_so() {
    let script = Script::new().rotating();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let mut waiter = task::spawn(cache.get());
    assert_pending!(waiter.poll());
    script.called(1).await;
    let mut signing_out = task::spawn(sign_out(&cache));
    assert_pending!(signing_out.poll());
    let mut said = task::spawn(cache.sign_out(async |_| -> Result<(), Error> { panic!("not of this session") }));
    assert_pending!(said.poll());
    drop(signing_out);
    cache.set_source(Script::new().rotating());
    let error = assert_ready!(said.poll()).unwrap_err();
    assert!(error.to_string().contains("another session began") && !error.is_signed_out(), "{error}");
    assert!(waiter.await.unwrap_err().is_signed_out());
    assert_eq!(text(cache.get().await), "t1");
    gate.open();
    settle().await;
    assert!(!cache.status().signed_out && cache.peek().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_while_the_old_one_is_revoked_is_kept() {
    let cache = TokenCache::new(Script::new().rotating());
    cache.get().await.unwrap();
    let next = Script::living(MINUTE);
    let begin = async |_| {
        cache.set_source(next.clone());
        cache.get().await.map(drop)
    };
    cache.sign_out(begin).await.unwrap();
    assert_eq!(cache.get().await.unwrap().lifetime(), MINUTE);
    cache.refresh().await.unwrap();
    assert_eq!(next.calls(), 2, "its source is still there");
}

#[tokio::test(start_paused = true)]
async fn keep_warm_fetches_nothing_until_the_next_session_and_then_at_once() {
    let script = Script::living(MINUTE);
    let cache = TokenCache::new(script.clone());
    tokio::spawn(cache.keep_warm());
    script.called(1).await;
    settle().await;
    sign_out(&cache).await;
    sleep(HOUR).await;
    assert_eq!(script.calls(), 1);
    let next = Script::new();
    cache.set_source(next.clone());
    settle().await;
    assert_eq!(next.calls(), 1);
}

// === requests ===

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_of_ours_fails_and_one_that_needs_no_token_passes() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let api = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap().layer(tower::service_fn(
        move |request: Request<Full<Bytes>>| {
            log.lock().unwrap().push(request.uri().to_string());
            async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())) }
        },
    ));
    api.clone().oneshot(get("https://api.example.com/1")).await.unwrap();
    sign_out(&cache).await;
    let error = api.clone().oneshot(get("https://api.example.com/2")).await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_signed_out(), "{error}");
    api.clone().oneshot(get("https://elsewhere.example.com/3")).await.unwrap();
    let mut without = get("https://api.example.com/4");
    without.extensions_mut().insert(NoToken);
    api.clone().oneshot(without).await.unwrap();
    cache.set_source(script);
    api.oneshot(get("https://api.example.com/5")).await.unwrap();
    let paths: Vec<_> = sent.lock().unwrap().iter().map(|url| url.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(paths, ["1", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_because_its_session_ended_gets_its_401_back() {
    for another_begins in [false, true] {
        let (script, next) = (Script::new(), Script::new());
        let cache = TokenCache::new(script.clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, ending, follower) = (Arc::clone(&calls), cache.clone(), next.clone());
        let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap();
        let api = layer.layer(tower::service_fn(move |_: Request<Full<Bytes>>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let (cache, next) = (ending.clone(), follower.clone());
            async move {
                sign_out(&cache).await;
                if another_begins {
                    cache.set_source(next);
                    cache.get().await?;
                }
                let refused = Response::builder().status(401).body(Full::<Bytes>::default());
                Ok::<_, BoxError>(refused.unwrap())
            }
        }));
        let response = api.oneshot(get("https://api.example.com/")).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.extensions().get::<Error>().unwrap().is_signed_out());
        assert_eq!((calls.load(Ordering::SeqCst), script.calls()), (1, 1), "it does not go again as somebody else");
        assert_eq!(next.calls(), usize::from(another_begins), "nor is the token of another refused by it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_old_session_is_not_replaced_by_one_of_the_new() {
    let cache = TokenCache::new(Script::new());
    let old = cache.get().await.unwrap();
    sign_out(&cache).await;
    let next = Script::new();
    cache.set_source(next.clone());
    let new = cache.get().await.unwrap();
    assert!(cache.refuse(&old).await.unwrap_err().is_signed_out());
    assert_eq!(text(cache.refuse(&new).await), "t2", "one of the new session is");
    let handmade = Token::new("handmade").unwrap();
    assert_eq!(text(cache.refuse(&handmade).await), "t2", "nor does one that was never published know of a session");
}

#[tokio::test(start_paused = true)]
async fn who_waited_does_not_go_on_with_the_next_session() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let mut waiter = task::spawn(cache.get());
    assert_pending!(waiter.poll());
    script.called(1).await;
    assert_pending!(task::spawn(sign_out(&cache)).poll());
    cache.set_source(Script::new());
    assert!(waiter.await.unwrap_err().is_signed_out());
    gate.open();
    assert_eq!(text(cache.get().await), "t1");
}
