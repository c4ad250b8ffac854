//! Single flight: at most one run at a time, and every waiter gets its result.
//!
//! # How it works
//! A [`SingleFlight`] has one *slot*. In one step, a caller locks the slot, checks whether a run is in flight, and
//! joins that run or starts another ([`Slot`]). The run is a separate task, so a caller's timeout, drop or panic does
//! not stop it. The work publishes its result **before** the run completes. So a caller that finds the slot empty can
//! also see the published result.
//!
//! A run completes in this order:
//! 1. It empties the slot, unless a newer run has replaced it there.
//! 2. It sets the result.
//! 3. It calls `on_idle`.
//! 4. It wakes the waiters, in batches. It yields after each batch, so that the first of a million waiters runs at
//!    once.
//!
//! So a waiter that is woken by the end of a run never finds that run in the slot. Each woken waiter wakes
//! [`WAKE_FANOUT`] others when it takes the result or is dropped. So all waiters are woken even if the run's runtime
//! stalls after the first.
//!
//! No wake-up is lost, because a waiter registers its waker under the same lock under which the run sets the result.
//! Once the result is set, any task may wake the registered waiters. A registered waiter that takes the result wakes
//! others even if it was not woken itself. It also removes its own waker, so that no other waiter wakes it again.
//!
//! A runtime that shuts down may drop the task at any await. The [`CompletionGuard`] is dropped with it, and completes
//! the run as [`Abandoned`]. That is not a failure of the work, so the waiters start over. A runtime may also stall
//! without dropping the task. So each run has a deadline, after which the next caller replaces it.
//!
//! [`InFlightHandle::resolve_waiters`] gives the waiters a result early, while the run continues. The run keeps the
//! slot until its work ends, so these waiters may find it there. [`InFlightHandle::ended`] waits for its end.
//!
//! Locks: the slot, then the progress of its run. No user code runs while either is held. Wakers are cloned before
//! locking, and woken or dropped after unlocking.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, WAKE_BATCH, yield_now};

/// How many other waiters each woken waiter wakes.
const WAKE_FANOUT: usize = 2;

/// Runs work at most once at a time, and shares the result.
pub(crate) struct SingleFlight<T> {
    current: Mutex<Current<T>>,
    /// The deadline of the run in the slot, in nanoseconds on the caller's clock. It is 0 without a run.
    ///
    /// Ordering: relaxed, because it is a hint that saves a lock. A caller that relies on it skips only work that the
    /// run in flight does anyway.
    in_flight_until: AtomicU64,
    /// Called when a run completes or is detached.
    on_idle: Box<dyn Fn() + Send + Sync>,
}

struct Current<T> {
    run: Option<Arc<InFlight<T>>>,
    /// The number of runs so far.
    started: u64,
}

/// The locked slot, so that a caller decides and acts in one step.
pub(crate) struct Slot<'a, T> {
    flight: &'a Arc<SingleFlight<T>>,
    current: MutexGuard<'a, Current<T>>,
}

struct InFlight<T> {
    /// When a caller may replace the run, on the caller's clock.
    deadline: Duration,
    progress: Mutex<Progress<T>>,
}

struct Progress<T> {
    /// When the first waiter began to wait, on the caller's clock.
    first_wait_at: Option<Duration>,
    /// What the waiters get.
    result: Option<Result<T, Abandoned>>,
    waiters: Slab<Waker>,
    /// Once there is a result: no registered waiter has a smaller key.
    next_to_wake: usize,
    /// Whether the work has ended, or was detached.
    ended: bool,
    /// The tasks that wait for the end instead of the result.
    end_waiters: Slab<Waker>,
}

/// A future of a run's result. Dropping it does not affect the run.
#[must_use = "a waiter does nothing unless awaited"]
pub(crate) struct Waiter<T> {
    run: Arc<InFlight<T>>,
    key: Option<usize>,
}

/// A handle on the run in the slot, for a caller that needs its end instead of its result.
pub(crate) struct InFlightHandle<T> {
    run: Arc<InFlight<T>>,
}

/// A future of a run's end.
struct Ended<'a, T> {
    run: &'a InFlight<T>,
    key: Option<usize>,
}

/// The run ended without a result, because its runtime shut down or because its result was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// Completes its run, at the latest when it is dropped.
struct CompletionGuard<T> {
    flight: Arc<SingleFlight<T>>,
    run: Arc<InFlight<T>>,
}

// === impl SingleFlight ===

impl<T> SingleFlight<T> {
    /// `on_idle` is called when a run completes or is detached. No lock is held then.
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

    /// Whether a run is in flight that a caller would join. It does not lock, so the run may have just ended.
    pub(crate) fn is_in_flight(&self, now: Duration) -> bool {
        nanos(now) < self.in_flight_until.load(Ordering::Relaxed)
    }

    /// The number of waiters of the run in flight, and when the first began to wait.
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

    /// The number of the next run. The first run has the number 1.
    pub(crate) fn next_run(&self) -> u64 {
        self.current.started + 1
    }

    /// Joins the run in flight. Returns `None` if there is none or its deadline has passed.
    pub(crate) fn join(&self, now: Duration) -> Option<Waiter<T>> {
        self.joinable(now).map(|run| Waiter { run: Arc::clone(run), key: None })
    }

    fn joinable(&self, now: Duration) -> Option<&Arc<InFlight<T>>> {
        self.current.run.as_ref().filter(|run| now < run.deadline)
    }

    /// The run in the slot, even if its deadline has passed.
    pub(crate) fn handle(&self) -> Option<InFlightHandle<T>> {
        self.current.run.clone().map(|run| InFlightHandle { run })
    }

    /// Starts a run and unlocks the slot. The new run replaces one whose deadline has passed.
    ///
    /// Returns a waiter, and the task, which the caller spawns. A task that is dropped before it ends abandons the run.
    /// `work` returns `None` to discard its result.
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
        // A replaced run continues, and its result wakes those of its waiters that still wait.
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

    /// Empties the slot and unlocks it. The waiters start over, and the work continues detached.
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

    /// Completes the run without waking those that wait for its result. The second call has no effect.
    fn finish(&self, result: Result<T, Abandoned>) {
        // Invariant: the slot is emptied before the result is set, so that no woken waiter joins this run again.
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
    /// Wakes up to `most` waiters. Returns `false` if none is left to wake.
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
    /// Sets the result of the waiters. Returns it unused if they already have one.
    fn set_result(&mut self, result: Result<T, Abandoned>) -> Option<Result<T, Abandoned>> {
        if self.result.is_some() {
            return Some(result);
        }
        self.result = Some(result);
        None
    }

    /// Takes the waker of the next waiter out of the list.
    fn next_waker(&mut self) -> Option<Waker> {
        if self.result.is_none() || self.waiters.is_empty() {
            return None;
        }
        // Invariant: no waker is added once there is a result, so `next_to_wake` passes each waiter.
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
    /// When a caller may replace the run, on the caller's clock.
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

    /// Waits until the work ends or is detached.
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
        let previous = register(&mut progress.end_waiters, &mut self.key, waker);
        drop(progress);
        drop(previous);
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
    /// Records that its caller waits from now on. Also returns how long until the run may be replaced.
    ///
    /// It takes and returns the waiter, because a caller that is an async function would store a borrowed waiter twice:
    /// as its own variable, and moved into the await.
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
        // Cloned before locking, because nearly every waiter registers once.
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
                let previous = register(&mut progress.waiters, key, waker);
                drop(progress);
                drop(previous);
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
            // It may have been woken, and then it has to wake others.
            self.run.wake(WAKE_FANOUT);
        }
    }
}

/// Registers the waker in place of the previous one. Returns that one, which the caller drops after unlocking.
fn register(list: &mut Slab<Waker>, key: &mut Option<usize>, waker: Waker) -> Option<Waker> {
    match key.and_then(|key| list.get_mut(key)) {
        Some(previous) => Some(mem::replace(previous, waker)),
        None => {
            *key = Some(list.insert(waker));
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No user code runs while these locks are held, so a poisoned lock still guards consistent state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
