//! At most one run at a time, detached from its callers; everyone who waits gets the answer.
//!
//! # The story
//! A [`Flight`] has one *slot*. Whoever wants an answer *boards*: under the slot's lock it either joins the run that
//! lies there, or looks once more whether a run is still needed (what it read before it had the lock may be old) and, if
//! so, puts a new run into the slot. The run itself is a spawned task, so no caller's timeout, drop or panic reaches
//! it. The work publishes its result **before** the run lands, so whoever finds the slot empty finds the result too.
//!
//! Landing goes: the answer is set, the slot is cleared, then the waiters are woken, [`CHUNK`] at a time with a yield
//! between, so that the first of a million is served at once. A waiter looks at the answer, then registers its waker
//! under the list's lock and looks again; landing sets the answer before it takes the list under the same lock. So
//! either the waiter sees the answer or the landing sees the waiter: no wake-up is lost.
//!
//! A task can be dropped anywhere, by the end of its runtime. [`Lander`] is dropped with it and lands the run *void*
//! (`None`: nobody's failure, board again), so nobody is stranded. A runtime can also stand still without being
//! dropped, and drops nothing; so each run is *overdue* from a moment on, and whoever boards after that replaces it.

use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Handle;

/// How many waiters are woken before others get a turn.
const CHUNK: usize = 256;

/// The place where at most one run lies.
#[derive(Debug)]
pub(crate) struct Flight<T> {
    slot: Mutex<Slot<T>>,
    /// Until when, in nanoseconds of the caller's clock, a run lies in the slot and is not overdue; 0 without one.
    /// A hint that spares the lock: the slot is what counts.
    busy_until: AtomicU64,
}

#[derive(Debug)]
struct Slot<T> {
    run: Option<Arc<Run<T>>>,
    started: u64,
}

#[derive(Debug)]
struct Run<T> {
    number: u64,
    overdue: Duration,
    answer: OnceLock<Option<T>>,
    waiters: Mutex<Slab<Waker>>,
}

/// The answer of a run, awaited. Dropping it leaves the run alone.
#[derive(Debug)]
#[must_use = "a waiter does nothing unless awaited"]
pub(crate) struct Waiter<T> {
    run: Arc<Run<T>>,
    key: Option<usize>,
}

/// Lands its run when dropped, at the latest.
struct Lander<T> {
    flight: Arc<Flight<T>>,
    run: Arc<Run<T>>,
    to_wake: slab::IntoIter<Waker>,
}

/// No tokio runtime to run on.
#[derive(Debug)]
pub(crate) struct NoRuntime;

// === impl Flight ===

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { slot: Mutex::new(Slot { run: None, started: 0 }), busy_until: AtomicU64::new(0) })
    }

    /// Joins the run under way, or starts what `depart` returns.
    ///
    /// `depart` is called under the slot's lock, with the number of the run to come, when no run is under way; it looks
    /// once more and returns `None` where nothing is to be done after all. `overdue` is the moment, on the clock that
    /// `now` was read from, after which the run may be replaced.
    pub(crate) fn board<F>(
        self: &Arc<Self>,
        now: Duration,
        overdue: Duration,
        depart: impl FnOnce(u64) -> Option<F>,
    ) -> Result<Option<Waiter<T>>, NoRuntime>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let (run, work, runtime) = {
            let mut slot = lock(&self.slot);
            if let Some(run) = slot.run.as_ref().filter(|run| now < run.overdue) {
                return Ok(Some(Waiter::new(run)));
            }
            let number = slot.started + 1;
            let Some(work) = depart(number) else { return Ok(None) };
            let runtime = Handle::try_current().map_err(|_| NoRuntime)?;
            let run = Arc::new(Run { number, overdue, answer: OnceLock::new(), waiters: Mutex::default() });
            slot.started = number;
            slot.run = Some(Arc::clone(&run));
            self.busy_until.store(nanos(overdue), Ordering::Relaxed);
            (run, work, runtime)
        };
        let waiter = Waiter::new(&run);
        let lander = Lander { flight: Arc::clone(self), run, to_wake: Slab::new().into_iter() };
        // Outside the lock: a runtime that is shutting down drops the task, and with it the lander, right here.
        runtime.spawn(async move {
            let answer = work.await;
            lander.land(answer).await;
        });
        Ok(Some(waiter))
    }

    /// The run under way, overdue or not.
    pub(crate) fn current(&self) -> Option<Waiter<T>> {
        lock(&self.slot).run.as_ref().map(Waiter::new)
    }

    /// Whether a run is under way that boarding would join: without the lock.
    pub(crate) fn is_busy(&self, now: Duration) -> bool {
        nanos(now) < self.busy_until.load(Ordering::Relaxed)
    }

    /// Whether this run was replaced by a newer one, or cast off.
    pub(crate) fn is_replaced(&self, number: u64) -> bool {
        lock(&self.slot).run.as_ref().is_none_or(|run| run.number != number)
    }

    /// How many callers wait for the run under way.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.slot).run.as_ref().map_or(0, |run| lock(&run.waiters).len())
    }

    /// Makes a change that no run sees in part, and lands the run under way void: who waits for it boards again, and
    /// its work is left to itself.
    pub(crate) fn cast_off<R>(self: &Arc<Self>, change: impl FnOnce() -> R) -> R {
        let (changed, run) = {
            let mut slot = lock(&self.slot);
            let changed = change();
            self.busy_until.store(0, Ordering::Relaxed);
            (changed, slot.run.take())
        };
        if let Some(run) = run {
            drop(Lander { flight: Arc::clone(self), run, to_wake: Slab::new().into_iter() });
        }
        changed
    }
}

// === impl Lander ===

impl<T: Clone + Send + Sync + 'static> Lander<T> {
    async fn land(mut self, answer: Option<T>) {
        self.touch_down(answer);
        while self.wake_chunk() {
            tokio::task::yield_now().await;
        }
    }
}

impl<T> Lander<T> {
    fn touch_down(&mut self, answer: Option<T>) {
        if self.run.answer.set(answer).is_err() {
            return;
        }
        let mut slot = lock(&self.flight.slot);
        if slot.run.as_ref().is_some_and(|run| Arc::ptr_eq(run, &self.run)) {
            slot.run = None;
            self.flight.busy_until.store(0, Ordering::Relaxed);
        }
        drop(slot);
        self.to_wake = mem::take(&mut *lock(&self.run.waiters)).into_iter();
    }

    /// Wakes the next waiters; `false` when all are woken.
    fn wake_chunk(&mut self) -> bool {
        for _ in 0..CHUNK {
            match self.to_wake.next() {
                Some((_, waker)) => waker.wake(),
                None => return false,
            }
        }
        true
    }
}

impl<T> Drop for Lander<T> {
    fn drop(&mut self) {
        self.touch_down(None);
        while self.wake_chunk() {}
    }
}

// === impl Waiter ===

impl<T> Waiter<T> {
    fn new(run: &Arc<Run<T>>) -> Self {
        Self { run: Arc::clone(run), key: None }
    }

    /// From when on the run may be replaced.
    pub(crate) fn overdue(&self) -> Duration {
        self.run.overdue
    }
}

/// `None` where the run ended without an answer: its runtime was shut down, or its result was no longer wanted.
impl<T: Clone> Future for Waiter<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Self { run, key } = &mut *self;
        if let Some(answer) = run.answer.get() {
            return Poll::Ready(answer.clone());
        }
        let mut waiters = lock(&run.waiters);
        if let Some(answer) = run.answer.get() {
            return Poll::Ready(answer.clone());
        }
        let former = match key.and_then(|key| waiters.get_mut(key)) {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            Some(waker) => Some(mem::replace(waker, cx.waker().clone())),
            None => {
                *key = Some(waiters.insert(cx.waker().clone()));
                None
            }
        };
        // A waker may be all that keeps another waiter alive: it is dropped after the lock.
        drop(waiters);
        drop(former);
        Poll::Pending
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        // After the landing the list is gone, and with it the meaning of the key.
        if let Some(key) = self.key
            && self.run.answer.get().is_none()
        {
            let former = lock(&self.run.waiters).try_remove(key);
            drop(former);
        }
    }
}

/// No code of a user runs under these locks, so what a panic of our own would leave behind is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
