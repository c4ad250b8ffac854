//! At most one run at a time, detached from its callers; everyone who waits gets the answer.
//!
//! # The story
//! A [`Flight`] has one *slot*. Whoever wants an answer *boards*: under the slot's lock it either joins the run that
//! lies there, or looks once more whether a run is still needed (what it read before it had the lock may be old) and, if
//! so, puts a new run into the slot. The run itself is a spawned task, so no caller's timeout, drop or panic reaches
//! it. The work publishes its result **before** the run lands, so whoever finds the slot empty finds the result too.
//!
//! Landing goes: the answer is set, the slot is cleared, then the waiters are woken, [`CHUNK`] at a time with a yield
//! between, so that the first of a million is served at once. Who has been woken wakes two more when it takes the answer
//! or is dropped, so that all are woken though the runtime of the run stands still from then on. A waiter registers its waker
//! under the list's lock, and landing takes the list under the same lock, once the answer is set. So either the waiter
//! finds the list gone and the answer there, or the landing finds the waiter: no wake-up is lost. All of this is ordered
//! by the two locks and by the answer's `OnceLock`; the one atomic, `busy_until`, is relaxed, because whoever trusts it
//! only leaves undone what the run under way does anyway.
//!
//! Those who wait can be turned away with another answer while the run goes on: it keeps the slot until its work ends, and
//! who asked for its end ([`Current`]) hears of that.
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
use tokio::sync::Semaphore;

/// How many waiters are woken before others get a turn.
const CHUNK: usize = 256;
/// How many others a woken waiter wakes.
const HELP: usize = 2;

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
    /// Since when somebody waits for it, on the caller's clock.
    awaited: OnceLock<Duration>,
    answer: OnceLock<Option<T>>,
    waiters: Mutex<Waiters>,
    /// Closed when the work ends, or is left to itself.
    ended: Semaphore,
}

#[derive(Debug)]
enum Waiters {
    /// For the landing.
    Waiting(Slab<Waker>),
    /// For their turn to be woken.
    Landed(slab::IntoIter<Waker>),
}

/// The answer of a run, awaited. Dropping it leaves the run alone.
#[derive(Debug)]
#[must_use = "a waiter does nothing unless awaited"]
pub(crate) struct Waiter<T> {
    run: Arc<Run<T>>,
    key: Option<usize>,
}

/// The run under way, for whoever cares for its end and not for its answer.
#[derive(Debug)]
pub(crate) struct Current<T> {
    run: Arc<Run<T>>,
}

/// Lands its run when dropped, at the latest.
struct Lander<T> {
    flight: Arc<Flight<T>>,
    run: Arc<Run<T>>,
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
            let run = Arc::new(Run {
                number,
                overdue,
                awaited: OnceLock::new(),
                answer: OnceLock::new(),
                waiters: Mutex::new(Waiters::Waiting(Slab::new())),
                ended: Semaphore::new(0),
            });
            slot.started = number;
            slot.run = Some(Arc::clone(&run));
            self.busy_until.store(nanos(overdue), Ordering::Relaxed);
            (run, work, runtime)
        };
        let waiter = Waiter::new(&run);
        let lander = Lander { flight: Arc::clone(self), run };
        // Outside the lock: a runtime that is shutting down drops the task, and with it the lander, right here.
        runtime.spawn(async move {
            let answer = work.await;
            lander.land(answer).await;
        });
        Ok(Some(waiter))
    }

    /// Makes a change that no boarding sees in part, and returns the run under way, overdue or not.
    pub(crate) fn current_after(&self, change: impl FnOnce()) -> Option<Current<T>> {
        let slot = lock(&self.slot);
        change();
        slot.run.clone().map(|run| Current { run })
    }

    /// Whether a run is under way that boarding would join: without the lock.
    pub(crate) fn is_busy(&self, now: Duration) -> bool {
        nanos(now) < self.busy_until.load(Ordering::Relaxed)
    }

    /// Whether this run was replaced by a newer one, or cast off.
    pub(crate) fn is_replaced(&self, number: u64) -> bool {
        lock(&self.slot).run.as_ref().is_none_or(|run| run.number != number)
    }

    /// How many callers wait for the run under way, and since when.
    pub(crate) fn waiting(&self) -> (usize, Option<Duration>) {
        let slot = lock(&self.slot);
        let Some(run) = &slot.run else { return (0, None) };
        (lock(&run.waiters).waiting().map_or(0, |list| list.len()), run.awaited.get().copied())
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
            drop(Lander { flight: Arc::clone(self), run });
        }
        changed
    }
}

// === impl Lander ===

impl<T: Clone + Send + Sync + 'static> Lander<T> {
    async fn land(self, answer: Option<T>) {
        self.touch_down(answer);
        while self.run.wake(CHUNK) {
            tokio::task::yield_now().await;
        }
    }
}

impl<T> Lander<T> {
    fn touch_down(&self, answer: Option<T>) {
        if self.run.ended.is_closed() {
            return;
        }
        // Where its waiters were turned away, they have their answer.
        let _ = self.run.answer.set(answer);
        let mut slot = lock(&self.flight.slot);
        if slot.run.as_ref().is_some_and(|run| Arc::ptr_eq(run, &self.run)) {
            slot.run = None;
            self.flight.busy_until.store(0, Ordering::Relaxed);
        }
        drop(slot);
        lock(&self.run.waiters).land();
        self.run.ended.close();
    }
}

impl<T> Drop for Lander<T> {
    fn drop(&mut self) {
        self.touch_down(None);
        while self.run.wake(CHUNK) {}
    }
}

// === impl Run ===

impl<T> Run<T> {
    /// Wakes the next of those who waited for the landing; `false` when all are woken.
    fn wake(&self, most: usize) -> bool {
        for _ in 0..most {
            // Woken after the lock: a waker is a user's code.
            let next = lock(&self.waiters).next();
            match next {
                Some(waker) => waker.wake(),
                None => return false,
            }
        }
        true
    }
}

impl Waiters {
    fn waiting(&mut self) -> Option<&mut Slab<Waker>> {
        match self {
            Self::Waiting(list) => Some(list),
            Self::Landed(_) => None,
        }
    }

    fn land(&mut self) {
        if let Self::Waiting(list) = self {
            *self = Self::Landed(mem::take(list).into_iter());
        }
    }

    fn next(&mut self) -> Option<Waker> {
        match self {
            Self::Waiting(_) => None,
            Self::Landed(list) => list.next().map(|(_, waker)| waker),
        }
    }
}

// === impl Current ===

impl<T> Current<T> {
    /// From when on the run may be replaced.
    pub(crate) fn overdue(&self) -> Duration {
        self.run.overdue
    }

    /// Gives those who wait for the run this answer. It stays in the slot until its work ends.
    pub(crate) fn turn_away(&self, answer: T) {
        let _ = self.run.answer.set(Some(answer));
        lock(&self.run.waiters).land();
        while self.run.wake(CHUNK) {}
    }

    /// Waits until the work ends, or is left to itself.
    pub(crate) async fn ended(&self) {
        // There are no permits: this waits for the closing.
        let _ = self.run.ended.acquire().await;
    }
}

// === impl Waiter ===

impl<T> Waiter<T> {
    fn new(run: &Arc<Run<T>>) -> Self {
        Self { run: Arc::clone(run), key: None }
    }

    /// Says that its caller waits from now on, and returns how long until the run may be replaced. All at once, for an
    /// async function: a waiter that was lent before the wait would be kept beside it.
    pub(crate) fn waiting_from(self, now: Duration) -> (Self, Duration) {
        self.run.awaited.get_or_init(|| now);
        let left = self.run.overdue.saturating_sub(now);
        (self, left)
    }
}

/// `None` where the run ended without an answer: its runtime was shut down, or its result was no longer wanted.
impl<T: Clone> Future for Waiter<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Self { run, key } = &mut *self;
        if let Some(answer) = run.answer.get() {
            if key.take().is_some() {
                run.wake(HELP);
            }
            return Poll::Ready(answer.clone());
        }
        let mut waiters = lock(&run.waiters);
        // The landing sets the answer before it takes the list.
        let (None, Some(waiting)) = (run.answer.get(), waiters.waiting()) else {
            drop(waiters);
            return self.poll(cx);
        };
        let former = match key.and_then(|key| waiting.get_mut(key)) {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            Some(waker) => Some(mem::replace(waker, cx.waker().clone())),
            None => {
                *key = Some(waiting.insert(cx.waker().clone()));
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
        let Some(key) = self.key else { return };
        let former = lock(&self.run.waiters).waiting().map(|waiting| waiting.try_remove(key));
        if former.is_none() {
            // Landed: perhaps woken, and the others with it.
            self.run.wake(HELP);
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
