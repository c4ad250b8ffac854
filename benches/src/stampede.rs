//! A stampede: many callers need a token that is missing, and one fetch returns it. All run on one thread, so that the
//! benchmark measures the waking and not the scheduler.
#![expect(clippy::disallowed_methods, reason = "a benchmark spawns its callers, and reads the clock")]

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use moka::future::Cache;
use pin_project_lite::pin_project;
use tokio::runtime::Builder;
use tokio::sync::{Mutex, Notify, watch};
use tower_bearer::{Token, TokenCache};

use crate::allocations;

/// A way for callers to wait.
pub trait Peer: Clone + Send + Sync + 'static {
    /// Its name in tables.
    const NAME: &'static str;

    fn new(issuer: Issuer) -> Self;

    /// Returns when there is a token. The first caller starts the fetch.
    fn wait(self) -> impl Future<Output = ()> + Send + 'static;
}

/// An issuer that answers when the gate opens, and records when it did.
#[derive(Clone, Default)]
pub struct Issuer(Arc<Gate>);

#[derive(Default)]
struct Gate {
    open: Notify,
    fetches: AtomicU64,
    answered: std::sync::Mutex<Option<Instant>>,
}

impl Issuer {
    pub async fn fetch(&self) {
        self.0.fetches.fetch_add(1, Ordering::Relaxed);
        self.0.open.notified().await;
        *self.0.answered.lock().expect("no panic") = Some(now());
    }
}

/// The cost of a stampede.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub fetches: u64,
    /// Polls per waiter, on average.
    pub polls: f64,
    /// Allocated bytes per waiter while all wait, including its task.
    pub bytes: f64,
    /// The time from the issuer's answer to the first waiter's return.
    pub first: Duration,
    pub last: Duration,
    /// The nanoseconds of the whole stampede, per waiter.
    pub nanos: f64,
}

fn now() -> Instant {
    Instant::now()
}

/// The counts of one stampede. All of its tasks are on one thread.
#[derive(Clone, Copy, Default)]
struct Tally {
    polls: u64,
    returned: u64,
    waiters: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

thread_local! {
    static TALLY: Cell<Tally> = const { Cell::new(Tally { polls: 0, returned: 0, waiters: 0, first: None, last: None }) };
}

fn tally(change: impl FnOnce(&mut Tally)) {
    let mut tally = TALLY.get();
    change(&mut tally);
    TALLY.set(tally);
}

pin_project! {
    /// One caller. It is no larger than the future that it polls, which an async block would contain twice.
    struct Waiter<F> {
        #[pin]
        wait: F,
    }
}

impl<F: Future<Output = ()>> Future for Waiter<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let answer = self.project().wait.poll(cx);
        tally(|tally| {
            tally.polls += 1;
            tally.returned += u64::from(answer.is_ready());
            if answer.is_ready() && tally.returned == 1 {
                tally.first = Some(now());
            }
            if answer.is_ready() && tally.returned == tally.waiters {
                tally.last = Some(now());
            }
        });
        answer
    }
}

/// Runs one stampede. Bytes are counted only in a program whose allocator is [`allocations::Counting`].
#[inline(never)]
pub fn run<P: Peer>(waiters: u64) -> Outcome {
    let issuer = Issuer(Arc::default());
    let gate = &issuer.0;
    let peer = P::new(issuer.clone());
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    TALLY.set(Tally { waiters, ..Tally::default() });
    let begin = now();
    let held = runtime.block_on(async {
        let before = allocations::so_far();
        for _ in 0..waiters {
            drop(tokio::spawn(Waiter { wait: peer.clone().wait() }));
        }
        // Runs until all wait, and the fetch is in flight.
        while TALLY.get().polls < waiters || gate.fetches.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let held = allocations::so_far().held - before.held;
        gate.open.notify_one();
        while TALLY.get().returned < waiters {
            tokio::task::yield_now().await;
        }
        held
    });
    let whole = begin.elapsed();
    let answered = gate.answered.lock().expect("no panic").expect("an answer");
    let tally = TALLY.get();
    let since = |time: Option<Instant>| time.expect("all returned").duration_since(answered);
    Outcome {
        fetches: gate.fetches.load(Ordering::Relaxed),
        polls: tally.polls as f64 / waiters as f64,
        bytes: held as f64 / waiters as f64,
        first: since(tally.first),
        last: since(tally.last),
        nanos: whole.as_nanos() as f64 / waiters as f64,
    }
}

// === the peers ===

/// `TokenCache::get`, which keeps a deadline for each waiter.
#[derive(Clone)]
pub struct Ours(TokenCache);

impl Peer for Ours {
    const NAME: &'static str = "tower-bearer";

    fn new(issuer: Issuer) -> Self {
        Self(TokenCache::new(move |_| {
            let issuer = issuer.clone();
            async move {
                issuer.fetch().await;
                Token::new("t")
            }
        }))
    }

    async fn wait(self) {
        self.0.get().await.expect("a token");
    }
}

/// The baseline: a `Notify` that the fetching task notifies. It keeps no answer, no failure and no deadline.
#[derive(Clone)]
pub struct BareNotify(Arc<(Notify, Issuer, AtomicBool)>);

impl BareNotify {
    fn start(&self) {
        let Self(shared) = self;
        if !shared.2.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(shared);
            drop(tokio::spawn(async move {
                shared.1.fetch().await;
                shared.0.notify_waiters();
            }));
        }
    }
}

impl Peer for BareNotify {
    const NAME: &'static str = "tokio Notify";

    fn new(issuer: Issuer) -> Self {
        Self(Arc::new((Notify::new(), issuer, AtomicBool::new(false))))
    }

    async fn wait(self) {
        self.start();
        self.0.0.notified().await;
    }
}

/// The same, with a deadline for each waiter, as `TokenCache` has.
#[derive(Clone)]
pub struct NotifyWithDeadline(BareNotify);

impl Peer for NotifyWithDeadline {
    const NAME: &'static str = "tokio Notify with timeouts";

    fn new(issuer: Issuer) -> Self {
        Self(BareNotify::new(issuer))
    }

    async fn wait(self) {
        self.0.start();
        let wait = self.0.0.0.notified();
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("in time");
    }
}

/// A `watch` channel.
#[derive(Clone)]
pub struct Watch(Arc<(watch::Sender<bool>, Issuer, AtomicBool)>);

impl Peer for Watch {
    const NAME: &'static str = "tokio watch";

    fn new(issuer: Issuer) -> Self {
        Self(Arc::new((watch::Sender::new(false), issuer, AtomicBool::new(false))))
    }

    async fn wait(self) {
        let Self(shared) = self;
        let mut receiver = shared.0.subscribe();
        if !shared.2.swap(true, Ordering::Relaxed) {
            drop(tokio::spawn(async move {
                shared.1.fetch().await;
                shared.0.send_replace(true);
            }));
        }
        receiver.wait_for(|there| *there).await.expect("the sender lives");
    }
}

/// An async lock held across the fetch.
#[derive(Clone)]
pub struct Locked(Arc<(Mutex<bool>, Issuer)>);

impl Peer for Locked {
    const NAME: &'static str = "tokio Mutex held across the fetch";

    fn new(issuer: Issuer) -> Self {
        Self(Arc::new((Mutex::new(false), issuer)))
    }

    async fn wait(self) {
        let mut there = self.0.0.lock().await;
        if !*there {
            self.0.1.fetch().await;
            *there = true;
        }
    }
}

/// moka's `get_with`.
#[derive(Clone)]
pub struct Moka(Cache<(), ()>, Issuer);

impl Peer for Moka {
    const NAME: &'static str = "moka get_with";

    fn new(issuer: Issuer) -> Self {
        Self(Cache::new(1), issuer)
    }

    async fn wait(self) {
        self.0.get_with((), self.1.fetch()).await;
    }
}
