//! Every caller gets a token if a runtime ends or the source is replaced.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::task::Poll;
use std::thread::{self, JoinHandle};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_test::{assert_pending, task};
use tower_bearer::{Error, FetchContext, Token, TokenCache};

use crate::common::{Script, paused_runtime, runtime, settle, text, threaded_runtime, until};

const CALLERS: usize = 6000;

/// Polls a future again and again, as a task does that waits for several futures.
async fn polled_often<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let poll = future.as_mut().poll(cx);
        if poll.is_pending() {
            cx.waker().wake_by_ref();
        }
        poll
    })
    .await
}

/// Threads that call again and again.
struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Starts three threads. Each calls this within the runtime again and again while it returns `true`.
    fn new(runtime: &Runtime, call: impl FnMut() -> bool + Clone + Send + 'static) -> Self {
        let thread = |_| {
            let (mut call, runtime) = (call.clone(), runtime.handle().clone());
            thread::spawn(move || {
                let _inside = runtime.enter();
                while call() {}
            })
        };
        Self((0..3).map(thread).collect())
    }

    fn join(self) {
        self.0.into_iter().for_each(|thread| thread.join().expect("no caller fails"));
    }
}

/// One round of the next test.
fn end_the_fetching_runtime() {
    let script = Script::new();
    script.hold();
    let cache = TokenCache::new(script.clone());
    let (ending, living) = (paused_runtime(), threaded_runtime());
    let caller = cache.clone();
    ending.spawn(async move { caller.get().await });
    ending.block_on(script.called(1));
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (cache, waiting) = (cache.clone(), Arc::clone(&waiting));
        let caller = async move {
            let mut get = task::spawn(cache.get());
            assert_pending!(get.poll());
            waiting.fetch_add(1, Ordering::SeqCst);
            polled_often(get).await
        };
        callers.spawn_on(caller, living.handle());
    }
    runtime().block_on(until(|| waiting.load(Ordering::SeqCst) == CALLERS));
    script.stop_holding();
    drop(ending);
    living.block_on(async {
        while let Some(outcome) = callers.join_next().await {
            assert_eq!(text(outcome.expect("no panic")), "t2");
        }
    });
    assert_eq!(script.calls(), 2);
}

#[test]
fn six_thousand_callers_get_a_token_if_the_fetching_runtime_ends() {
    for _ in 0..3 {
        end_the_fetching_runtime();
    }
}

#[test]
fn a_caller_that_comes_while_the_fetching_runtime_ends_gets_no_shutdown_error() {
    let silent = |_: FetchContext| std::future::pending::<Result<Token, Error>>();
    let (cache, living) = (TokenCache::new(silent), threaded_runtime());
    let (round, calls, over) =
        (Arc::new(RwLock::new(())), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let threads = Threads::new(&living, {
        let (cache, round, calls, over) = (cache.clone(), Arc::clone(&round), Arc::clone(&calls), Arc::clone(&over));
        move || {
            let _round = round.read().expect("no panic");
            if let Poll::Ready(outcome) = task::spawn(cache.get()).poll() {
                over.store(true, Ordering::SeqCst);
                outcome.expect("no caller fails");
            }
            calls.fetch_add(1, Ordering::SeqCst);
            !over.load(Ordering::SeqCst)
        }
    });
    for _ in 0..1000 {
        let ending = paused_runtime();
        {
            let _no_other_caller = round.write().expect("no panic");
            cache.set_source(silent);
            let _inside = ending.enter();
            assert_pending!(task::spawn(cache.get()).poll(), "it fetches on the runtime that ends");
        }
        let before = calls.load(Ordering::SeqCst);
        while calls.load(Ordering::SeqCst) < before + 10 && !over.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        drop(ending);
    }
    over.store(true, Ordering::SeqCst);
    threads.join();
}

#[test]
fn each_refresh_fetches_even_if_another_has_just_completed() {
    let (cache, newest) = (TokenCache::new(Script::new()), Arc::new(AtomicU64::new(0)));
    let fetching = threaded_runtime();
    let mut calls = 0;
    let threads = Threads::new(&fetching, move || {
        let before = newest.load(Ordering::SeqCst);
        if let Poll::Ready(outcome) = task::spawn(cache.refresh()).poll() {
            let generation = outcome.expect("a token").generation();
            assert!(generation > before, "the token of a refresh that had completed");
            newest.fetch_max(generation, Ordering::SeqCst);
        }
        calls += 1;
        calls < 150_000
    });
    threads.join();
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_while_the_source_is_replaced_many_times_get_a_token() {
    let silent = |_: FetchContext| std::future::pending::<Result<Token, Error>>();
    let cache = TokenCache::new(silent);
    let mut callers = JoinSet::new();
    for number in 0..100 {
        let cache = cache.clone();
        callers.spawn(async move { if number % 2 == 0 { cache.get().await } else { cache.refresh().await } });
    }
    settle().await;
    for _ in 0..20 {
        cache.set_source(silent);
        settle().await;
    }
    cache.set_source(Script::new());
    for outcome in callers.join_all().await {
        assert_eq!(text(outcome), "t1");
    }
}
