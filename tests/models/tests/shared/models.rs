//! The models: properties that hold for every interleaving of the threads.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::singleflight::{Abandoned, SingleFlight, Waiter};
use crate::sync::{Arc, AtomicU64, Ordering, block_on, spawn};

type Flight = Arc<SingleFlight<u32>>;

const NOW: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(2);

fn flight() -> Flight {
    SingleFlight::new(|| {})
}

/// Starts a run with this result.
fn start(flight: &Flight, result: u32) -> (Waiter<u32>, impl Future<Output = ()> + Send + 'static) {
    SingleFlight::lock(flight).start(DEADLINE, async move { Some(result) })
}

fn join(flight: &Flight) -> Option<Waiter<u32>> {
    SingleFlight::lock(flight).join(NOW)
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A waiter whose task is polled twice each time, as by a `select!`.
async fn polled_twice(waiter: Waiter<u32>) -> Result<u32, Abandoned> {
    let mut waiter = pin!(waiter);
    poll_fn(|cx| match waiter.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => waiter.as_mut().poll(cx),
    })
    .await
}

/// A waiter that registers while the run completes gets the result.
pub fn completion_races_registration() {
    let flight = flight();
    let (first, task) = start(&flight, 7);
    let second = join(&flight);
    let completes = spawn(move || block_on(task));
    let waits = spawn(move || block_on(polled_twice(first)));
    if let Some(second) = second {
        assert_eq!(block_on(second), Ok(7));
    }
    assert_eq!(waits.join().unwrap(), Ok(7));
    completes.join().unwrap();
}

/// A waiter whose run is detached while it completes starts over or gets the result, and does not wait for ever.
pub fn detach_races_completion() {
    let flight = flight();
    let (waiter, task) = start(&flight, 7);
    let completes = spawn(move || block_on(task));
    let other = Arc::clone(&flight);
    let detaches = spawn(move || SingleFlight::lock(&other).detach());
    let result = block_on(waiter);
    assert!(matches!(result, Ok(7) | Err(Abandoned)));
    assert!(join(&flight).is_none(), "the run leaves the slot before its waiters are notified");
    completes.join().unwrap();
    detaches.join().unwrap();
}

/// A waiter that is dropped while the run completes does not lose another waiter's wake-up.
pub fn a_dropped_waiter_races_completion() {
    let flight = flight();
    let (first, task) = start(&flight, 7);
    let second = join(&flight).expect("a run is in flight");
    let completes = spawn(move || {
        // The runtime of the run stalls after the first waiter was woken.
        let mut task = Box::pin(task);
        let _ = poll_once(task.as_mut());
        task
    });
    let drops = spawn(move || {
        let mut first = Box::pin(first);
        let _ = poll_once(first.as_mut());
    });
    assert_eq!(block_on(second), Ok(7));
    drops.join().unwrap();
    drop(completes.join().unwrap());
}

/// A woken caller never joins the run that woke it.
pub fn a_woken_caller_does_not_join_the_run_that_ended() {
    let flight = flight();
    let (waiter, task) = start(&flight, 7);
    let completes = spawn(move || block_on(task));
    assert_eq!(block_on(waiter), Ok(7));
    assert!(join(&flight).is_none());
    assert!(!flight.is_in_flight(NOW));
    assert_eq!(SingleFlight::lock(&flight).next_run(), 2);
    completes.join().unwrap();
}

/// `on_idle` finds the slot empty.
pub fn on_idle_finds_the_slot_empty() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let flight: Flight = SingleFlight::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let (waiter, task) = start(&flight, 7);
    let other = Arc::clone(&flight);
    let seen = Arc::clone(&calls);
    let watches = spawn(move || {
        if seen.load(Ordering::SeqCst) == 1 {
            assert!(SingleFlight::lock(&other).join(NOW).is_none());
        }
    });
    let completes = spawn(move || block_on(task));
    assert_eq!(block_on(waiter), Ok(7));
    watches.join().unwrap();
    completes.join().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// Waiters that are resolved early get one of the two results, and the end of the run is reported.
pub fn resolving_races_completion() {
    let flight = flight();
    let (waiter, task) = start(&flight, 7);
    let handle = SingleFlight::lock(&flight).handle().expect("a run is in flight");
    let completes = spawn(move || block_on(task));
    let waits = spawn(move || block_on(waiter));
    handle.resolve_waiters(8);
    block_on(handle.ended());
    assert!(join(&flight).is_none());
    assert!(matches!(waits.join().unwrap(), Ok(7 | 8)));
    completes.join().unwrap();
}

/// If a runtime drops the task, no waiter waits for ever.
pub fn a_dropped_task_abandons_its_run() {
    let flight = flight();
    let (waiter, task) = start(&flight, 7);
    let drops = spawn(move || drop(task));
    let waits = spawn(move || block_on(waiter));
    if let Some(joined) = join(&flight) {
        assert_eq!(block_on(joined), Err(Abandoned));
    }
    assert_eq!(waits.join().unwrap(), Err(Abandoned));
    drops.join().unwrap();
}

/// A run that is past its deadline is replaced. Both runs end, and each waiter gets the result of its own run.
pub fn a_superseded_run_completes_beside_its_successor() {
    let flight = flight();
    let (slow, slow_task) = start(&flight, 1);
    let (fast, fast_task) = SingleFlight::lock(&flight).start(2 * DEADLINE, async { Some(2) });
    let completes = spawn(move || block_on(slow_task));
    let succeeds = spawn(move || block_on(fast_task));
    assert_eq!(block_on(slow), Ok(1));
    assert_eq!(block_on(fast), Ok(2));
    completes.join().unwrap();
    succeeds.join().unwrap();
    assert!(join(&flight).is_none() && !flight.is_in_flight(NOW));
}

/// The runtime of the run stalls after the first wake-ups. The waiters wake each other, also if some are polled without
/// having been woken.
pub fn waiters_wake_each_other(waiters: usize) {
    let flight = flight();
    let (first, task) = start(&flight, 7);
    let mut all = vec![first];
    all.extend((1..waiters).map(|_| join(&flight).expect("a run is in flight")));
    let threads: Vec<_> = all
        .into_iter()
        .enumerate()
        .map(|(number, waiter)| {
            spawn(move || if number % 2 == 0 { block_on(polled_twice(waiter)) } else { block_on(waiter) })
        })
        .collect();
    let mut task = Box::pin(task);
    let _ = poll_once(task.as_mut());
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Ok(7));
    }
    drop(task);
}
