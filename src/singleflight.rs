//! At most one run at a time, detached from its callers; every caller that waits gets the result.
//!
//! # The story
//! A [`SingleFlight`] has one *slot*. A caller locks it, looks whether a run is in flight, and joins that run or starts
//! another, all in one step ([`Slot`]). The run is a task of its own, so no caller's timeout, drop or panic reaches it. The
//! work publishes its result **before** the run completes, so a caller that finds the slot empty finds the result too.
//!
//! A run completes in this order: the slot is emptied, the result is set, `on_idle` is called, then the waiters are woken.
//! So a caller that was woken never finds the run that has just ended in the slot. Waiters are woken in batches with a
//! yield between, so that the first of a million is served at once. Each woken waiter wakes [`WAKE_FANOUT`] others when it
//! takes the result or is dropped, so that all are woken even if the runtime of the run stands still from then on.
//!
//! No wake-up is lost, because a waiter registers its waker and completion sets the result under the same lock. The chain
//! has no hole, because each registered waiter that takes the result wakes others, woken or not, and from the moment of the
//! result the list can be woken from. It also removes its own waker, so that no wake-up is spent on it.
//!
//! A task can be dropped anywhere, by the end of its runtime. [`CompletionGuard`] is dropped with it and completes the run
//! as [`Abandoned`]: no failure of the work, so the waiters start over. A runtime can also stand still without being
//! dropped, so each run has a deadline, after which the next caller replaces it.
//!
//! Waiters can be given another result while the run goes on ([`InFlightHandle::resolve_waiters`]): the run keeps the slot
//! until its work ends, and [`InFlightHandle::ended`] tells of that.
//!
//! Locks: the slot, then the progress of its run. No user code runs while either is held: wakers are cloned before, and
//! woken and dropped after.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, WAKE_BATCH, yield_now};

/// How many others a woken waiter wakes.
const WAKE_FANOUT: usize = 2;

/// The place where at most one run is in flight.
pub(crate) struct SingleFlight<T> {
    current: Mutex<Current<T>>,
    /// The deadline of the run in the slot, in nanoseconds of the caller's clock; 0 without a run.
    ///
    /// Ordering: relaxed, because it is a hint that spares the lock. A caller that trusts it only leaves undone what the run
    /// in flight does anyway.
    in_flight_until: AtomicU64,
    /// Called after each run, once the slot is empty and the result is set.
    on_idle: Box<dyn Fn() + Send + Sync>,
}

struct Current<T> {
    run: Option<Arc<InFlight<T>>>,
    /// How many runs were started.
    started: u64,
}

/// The locked slot: a decision and its consequence are one step.
pub(crate) struct Slot<'a, T> {
    flight: &'a Arc<SingleFlight<T>>,
    current: MutexGuard<'a, Current<T>>,
}

struct InFlight<T> {
    /// When it may be replaced, on the caller's clock.
    deadline: Duration,
    progress: Mutex<Progress<T>>,
}

struct Progress<T> {
    /// When the first caller began to wait, on the caller's clock.
    first_wait_at: Option<Duration>,
    /// What the waiters get.
    result: Option<Result<T, Abandoned>>,
    waiters: Slab<Waker>,
    /// With a result: the waiters below this key have been woken.
    next_to_wake: usize,
    /// Whether the work has ended, or goes on by itself.
    ended: bool,
    /// Those who wait for the end and not for the result.
    end_waiters: Slab<Waker>,
}

/// The result of a run, awaited. Dropping it leaves the run alone.
#[must_use = "a waiter does nothing unless awaited"]
pub(crate) struct Waiter<T> {
    run: Arc<InFlight<T>>,
    key: Option<usize>,
}

/// The run in the slot, for a caller that needs its end and not its result.
pub(crate) struct InFlightHandle<T> {
    run: Arc<InFlight<T>>,
}

/// The end of a run, awaited.
struct Ended<'a, T> {
    run: &'a InFlight<T>,
    key: Option<usize>,
}

/// The run ended without a result: its runtime was shut down, or its result is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// Completes its run on drop at the latest.
struct CompletionGuard<T> {
    flight: Arc<SingleFlight<T>>,
    run: Arc<InFlight<T>>,
}

// === impl SingleFlight ===

impl<T> SingleFlight<T> {
    /// `on_idle` is called after each run, once the slot is empty and the result is set; no lock is held then.
    pub(crate) fn new(on_idle: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            current: Mutex::new(Current { run: None, started: 0 }),
            in_flight_until: AtomicU64::new(0),
            on_idle: Box::new(on_idle),
        })
    }

    /// Locks the slot.
    pub(crate) fn lock(this: &Arc<Self>) -> Slot<'_, T> {
        Slot { flight: this, current: lock(&this.current) }
    }

    /// Whether a run is in flight that a caller would join: without the lock, so it may have just ended.
    pub(crate) fn is_in_flight(&self, now: Duration) -> bool {
        nanos(now) < self.in_flight_until.load(Ordering::Relaxed)
    }

    /// How many callers wait for the run in flight, and since when the first.
    pub(crate) fn waiting(&self) -> (usize, Option<Duration>) {
        let current = lock(&self.current);
        let Some(run) = &current.run else { return (0, None) };
        let progress = lock(&run.progress);
        (progress.waiters.len(), progress.first_wait_at)
    }
}

// === impl Slot ===

impl<'a, T> Slot<'a, T> {
    /// Whether a run is in flight whose deadline has not passed.
    pub(crate) fn is_in_flight(&self, now: Duration) -> bool {
        self.joinable(now).is_some()
    }

    /// The number of the run that is started next: 1 for the first.
    pub(crate) fn next_run(&self) -> u64 {
        self.current.started + 1
    }

    /// Joins the run in flight; `None` without one, or if its deadline has passed.
    pub(crate) fn join(&self, now: Duration) -> Option<Waiter<T>> {
        self.joinable(now).map(|run| Waiter { run: Arc::clone(run), key: None })
    }

    fn joinable(&self, now: Duration) -> Option<&Arc<InFlight<T>>> {
        self.current.run.as_ref().filter(|run| now < run.deadline)
    }

    /// The run in the slot, before its deadline or after.
    pub(crate) fn handle(&self) -> Option<InFlightHandle<T>> {
        self.current.run.clone().map(|run| InFlightHandle { run })
    }

    /// Starts a run, in the place of one whose deadline has passed, and unlocks. Returns its waiter, and the task to be
    /// spawned: dropped before its end, it abandons the run. `work` returns `None` for a result that is not wanted.
    pub(crate) fn start<F>(mut self, deadline: Duration, work: F) -> (Waiter<T>, impl Future<Output = ()> + use<F, T>)
    where
        F: Future<Output = Option<T>>,
    {
        let progress = Progress {
            first_wait_at: None,
            result: None,
            waiters: Slab::new(),
            next_to_wake: 0,
            ended: false,
            end_waiters: Slab::new(),
        };
        let run = Arc::new(InFlight { deadline, progress: Mutex::new(progress) });
        self.current.started += 1;
        // A run that is replaced goes on, and its waiters wait on.
        let replaced = self.current.run.replace(Arc::clone(&run));
        self.flight.in_flight_until.store(nanos(deadline), Ordering::Relaxed);
        let guard = CompletionGuard { flight: Arc::clone(self.flight), run: Arc::clone(&run) };
        drop(self);
        drop(replaced);
        let task = async move {
            let guard = guard;
            let result = work.await;
            guard.complete(result.ok_or(Abandoned)).await;
        };
        (Waiter { run, key: None }, task)
    }

    /// Empties the slot and unlocks: the waiters start over, and the work goes on by itself.
    pub(crate) fn detach(mut self) {
        self.flight.in_flight_until.store(0, Ordering::Relaxed);
        let run = self.current.run.take();
        let flight = Arc::clone(self.flight);
        drop(self);
        if let Some(run) = run {
            drop(CompletionGuard { flight, run });
        }
    }
}

// === impl CompletionGuard ===

impl<T> CompletionGuard<T> {
    async fn complete(self, result: Result<T, Abandoned>) {
        self.finish(result);
        while self.run.wake(WAKE_BATCH) {
            yield_now().await;
        }
    }

    /// Everything but the waking of the waiters. Does nothing the second time.
    fn finish(&self, result: Result<T, Abandoned>) {
        // Invariant: the slot is emptied before the result is set, so that no caller that was woken joins this run again.
        let mut current = lock(&self.flight.current);
        let is_current = current.run.as_ref().is_some_and(|run| Arc::ptr_eq(run, &self.run));
        let emptied = if is_current {
            self.flight.in_flight_until.store(0, Ordering::Relaxed);
            current.run.take()
        } else {
            None
        };
        drop(current);
        drop(emptied);
        let mut progress = lock(&self.run.progress);
        if progress.ended {
            return;
        }
        progress.ended = true;
        let unused = progress.set_result(result);
        let end_waiters = mem::take(&mut progress.end_waiters);
        drop(progress);
        drop(unused);
        (self.flight.on_idle)();
        end_waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl<T> Drop for CompletionGuard<T> {
    fn drop(&mut self) {
        self.finish(Err(Abandoned));
        while self.run.wake(WAKE_BATCH) {}
    }
}

// === impl InFlight ===

impl<T> InFlight<T> {
    /// Wakes the next of the waiters; `false` if all have been woken.
    fn wake(&self, most: usize) -> bool {
        for _ in 0..most {
            let next = lock(&self.progress).next_waker();
            match next {
                Some(waker) => waker.wake(),
                None => return false,
            }
        }
        true
    }
}

impl<T> Progress<T> {
    /// Sets what the waiters get, and returns it if they have a result already.
    fn set_result(&mut self, result: Result<T, Abandoned>) -> Option<Result<T, Abandoned>> {
        if self.result.is_some() {
            return Some(result);
        }
        self.result = Some(result);
        None
    }

    /// The waker of the next waiter that has not been woken. Its place in the list is free then.
    fn next_waker(&mut self) -> Option<Waker> {
        if self.result.is_none() || self.waiters.is_empty() {
            return None;
        }
        // No waker is added once there is a result, so the keys only become fewer.
        loop {
            let key = self.next_to_wake;
            self.next_to_wake += 1;
            if let Some(waker) = self.waiters.try_remove(key) {
                return Some(waker);
            }
        }
    }
}

// === impl InFlightHandle ===

impl<T> InFlightHandle<T> {
    /// From when on the run may be replaced, on the caller's clock.
    pub(crate) fn deadline(&self) -> Duration {
        self.run.deadline
    }

    /// Gives the waiters this result at once. The run keeps the slot until its work ends.
    pub(crate) fn resolve_waiters(&self, result: T) {
        let mut progress = lock(&self.run.progress);
        let unused = progress.set_result(Ok(result));
        drop(progress);
        drop(unused);
        while self.run.wake(WAKE_BATCH) {}
    }

    /// Waits until the work ends, or goes on by itself.
    pub(crate) async fn ended(&self) {
        Ended { run: &self.run, key: None }.await;
    }
}

impl<T> Future for Ended<'_, T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut progress = lock(&self.run.progress);
        if progress.ended {
            return Poll::Ready(());
        }
        let former = register(&mut progress.end_waiters, &mut self.key, waker);
        drop(progress);
        drop(former);
        Poll::Pending
    }
}

impl<T> Drop for Ended<'_, T> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let waker = lock(&self.run.progress).end_waiters.try_remove(key);
        drop(waker);
    }
}

// === impl Waiter ===

impl<T> Waiter<T> {
    /// Says that its caller waits from now on, and returns how long until the run may be replaced. All at once, for an
    /// async function: it would keep a borrowed waiter in addition to this one.
    pub(crate) fn start_waiting(self, now: Duration) -> (Self, Duration) {
        lock(&self.run.progress).first_wait_at.get_or_insert(now);
        let remaining = self.run.deadline.saturating_sub(now);
        (self, remaining)
    }
}

impl<T: Clone> Future for Waiter<T> {
    type Output = Result<T, Abandoned>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { run, key } = &mut *self;
        // Nearly every waiter registers once.
        let mut waker = key.is_none().then(|| cx.waker().clone());
        loop {
            let mut progress = lock(&run.progress);
            if let Some(result) = progress.result.clone() {
                // A waker that stayed in the list would take a wake-up from another waiter.
                let own = key.and_then(|key| progress.waiters.try_remove(key));
                let others = match key.take() {
                    Some(_) => std::array::from_fn::<_, WAKE_FANOUT, _>(|_| progress.next_waker()),
                    None => [const { None }; WAKE_FANOUT],
                };
                drop(progress);
                drop((waker, own));
                others.into_iter().flatten().for_each(Waker::wake);
                return Poll::Ready(result);
            }
            let registered = key.and_then(|key| progress.waiters.get(key));
            if registered.is_some_and(|registered| registered.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if let Some(waker) = waker.take() {
                let former = register(&mut progress.waiters, key, waker);
                drop(progress);
                drop(former);
                return Poll::Pending;
            }
            drop(progress);
            waker = Some(cx.waker().clone());
        }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut progress = lock(&self.run.progress);
        let own = progress.waiters.try_remove(key);
        let has_result = progress.result.is_some();
        drop(progress);
        drop(own);
        if has_result {
            // It may have been woken, and the others with it.
            self.run.wake(WAKE_FANOUT);
        }
    }
}

/// Puts the waker into the list, in the place of the former one, which is returned to be dropped after the lock.
fn register(list: &mut Slab<Waker>, key: &mut Option<usize>, waker: Waker) -> Option<Waker> {
    match key.and_then(|key| list.get_mut(key)) {
        Some(former) => Some(mem::replace(former, waker)),
        None => {
            *key = Some(list.insert(waker));
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No user code runs under these locks, so a panic of our own leaves the state whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
