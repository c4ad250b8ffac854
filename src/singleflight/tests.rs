use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::task::{self, Spawn};
use tokio_test::{assert_pending, assert_ready_eq};

use crate::singleflight::{Abandoned, InFlightHandle, SingleFlight, Waiter};
use crate::sync::WAKE_BATCH;

const NOW: Duration = Duration::from_secs(100);
const DEADLINE: Duration = Duration::from_secs(130);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

fn flight<T: Clone + Send + Sync + 'static>() -> Arc<SingleFlight<T>> {
    SingleFlight::new(|| {})
}

/// Starts a run and spawns its task on this runtime.
fn start<T, F>(flight: &Arc<SingleFlight<T>>, work: F) -> Spawn<Waiter<T>>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    let (waiter, task) = SingleFlight::lock(flight).start(DEADLINE, work);
    tokio::runtime::Handle::current().spawn(task);
    task::spawn(waiter)
}

fn join<T>(flight: &Arc<SingleFlight<T>>) -> Spawn<Waiter<T>> {
    task::spawn(SingleFlight::lock(flight).join(NOW).expect("a run is in flight"))
}

fn handle<T>(flight: &Arc<SingleFlight<T>>) -> Option<InFlightHandle<T>> {
    SingleFlight::lock(flight).handle()
}

fn is_empty<T>(flight: &Arc<SingleFlight<T>>) -> bool {
    handle(flight).is_none() && !flight.is_in_flight(Duration::ZERO)
}

/// Waits for a run that ends at once, in two batches and one more.
fn crowd(flight: &Arc<SingleFlight<u8>>) -> Vec<Spawn<Waiter<u8>>> {
    let mut waiters = vec![start(flight, ready(Some(7)))];
    waiters.resize_with(2 * WAKE_BATCH + 1, || join(flight));
    waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
    waiters
}

#[tokio::test]
async fn a_caller_that_joins_gets_the_result() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let first = start(&flight, async { answered.await.ok() });
    let second = join(&flight);
    assert!(flight.is_in_flight(NOW) && SingleFlight::lock(&flight).is_in_flight(NOW));
    assert_eq!(SingleFlight::lock(&flight).next_run(), 2);
    answer.send(7).unwrap();
    assert_eq!((first.await, second.await), (Ok(7), Ok(7)));
    assert!(is_empty(&flight));
}

#[tokio::test]
async fn a_run_goes_on_without_waiters() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    drop(start(&flight, async { answered.await.ok() }));
    yield_now().await;
    assert!(!is_empty(&flight));
    answer.send(7).unwrap();
    yield_now().await;
    assert!(is_empty(&flight));
}

#[tokio::test]
async fn a_dropped_waiter_leaves_the_list_and_takes_no_other_with_it() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let mut first = start(&flight, async { answered.await.ok() });
    let mut second = join(&flight);
    let never_polled = join(&flight);
    for _ in 0..2 {
        assert_pending!(first.poll());
        assert_pending!(second.poll());
        assert_eq!(flight.waiting().0, 2);
    }
    drop((first, never_polled));
    assert_eq!(flight.waiting().0, 1);
    answer.send(7).unwrap();
    assert_eq!(second.await, Ok(7));
}

#[tokio::test]
async fn the_last_waker_is_the_one_that_is_woken() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let mut former = start(&flight, async { answered.await.ok() });
    assert_pending!(former.poll());
    let mut latter = task::spawn(());
    latter.enter(|cx, _| assert!(Pin::new(&mut *former).poll(cx).is_pending()));
    answer.send(7).unwrap();
    yield_now().await;
    assert!(is_empty(&flight) && latter.is_woken() && !former.is_woken());
}

#[tokio::test]
async fn the_first_caller_to_wait_is_remembered() {
    let flight = flight::<u8>();
    let waiter = start(&flight, pending()).into_inner();
    assert_eq!(flight.waiting(), (0, None));
    let (waiter, remaining) = waiter.start_waiting(NOW);
    assert_eq!(remaining, DEADLINE - NOW);
    let (_later, remaining) = join(&flight).into_inner().start_waiting(DEADLINE * 2);
    assert_eq!((remaining, flight.waiting().1), (Duration::ZERO, Some(NOW)));
    drop(waiter);
}

#[test]
fn a_waiter_is_three_words() {
    assert!(size_of::<Waiter<u8>>() <= 3 * size_of::<usize>());
}

// === wakers are user code ===

/// Looks at the flight when it is woken or dropped, which deadlocks if a lock is held.
struct Looks(Arc<SingleFlight<u8>>);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        self.0.waiting();
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.0.waiting();
    }
}

#[test]
fn wakers_are_woken_and_dropped_after_the_locks() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let _first = start(&flight, async { answered.await.ok() });
    let poll = |waiter: &mut Waiter<u8>| {
        let waker = Waker::from(Arc::new(Looks(Arc::clone(&flight))));
        Pin::new(waiter).poll(&mut Context::from_waker(&waker))
    };
    let mut waiters: Vec<_> = (0..8).map(|_| join(&flight).into_inner()).collect();
    for waiter in &mut waiters {
        assert!(poll(waiter).is_pending());
        assert!(poll(waiter).is_pending(), "in the place of the former waker");
    }
    drop(waiters.pop());
    let current = handle(&flight).unwrap();
    let mut end = Box::pin(current.ended());
    for _ in 0..2 {
        let waker = Waker::from(Arc::new(Looks(Arc::clone(&flight))));
        assert!(end.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    answer.send(7).unwrap();
    runtime.block_on(end);
    assert!(poll(&mut waiters[6]).is_ready());
    drop(waiters);
}

#[test]
fn a_waker_may_be_all_that_keeps_another_waiter() {
    struct Holds(#[expect(dead_code, reason = "held, not read")] Mutex<Waiter<u8>>);
    impl Wake for Holds {
        fn wake(self: Arc<Self>) {}
    }
    let runtime = runtime();
    let _inside = runtime.enter();
    let flight = flight();
    let mut first = start(&flight, pending());
    for by_drop in [false, true] {
        let mut held = join(&flight);
        assert_pending!(held.poll());
        let waker = Waker::from(Arc::new(Holds(Mutex::new(held.into_inner()))));
        let mut waiter = join(&flight).into_inner();
        assert!(Pin::new(&mut waiter).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        if by_drop {
            drop(waiter);
        } else {
            assert!(Pin::new(&mut waiter).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    }
    assert_pending!(first.poll());
    assert_eq!(flight.waiting().0, 1);
}

// === runs that end badly ===

#[tokio::test]
async fn a_run_that_panics_is_abandoned() {
    let flight = flight::<u8>();
    let waiter = start(&flight, async { panic!("a panic of the test") });
    assert_eq!(waiter.await, Err(Abandoned));
    assert!(is_empty(&flight));
    assert_eq!(start(&flight, ready(Some(2))).await, Ok(2));
}

#[tokio::test]
async fn a_result_that_is_not_wanted_abandons_the_run() {
    let flight = flight::<u8>();
    assert_eq!(start(&flight, ready(None)).await, Err(Abandoned));
    assert!(is_empty(&flight));
}

#[test]
fn the_end_of_a_runtime_abandons_its_run_and_wakes_the_waiters() {
    let flight = flight::<u8>();
    let runtime = runtime();
    let inside = runtime.enter();
    let mut waiter = start(&flight, pending());
    runtime.block_on(yield_now());
    assert_pending!(waiter.poll());
    drop(inside);
    drop(runtime);
    assert!(waiter.is_woken() && is_empty(&flight));
    assert_ready_eq!(waiter.poll(), Err(Abandoned));
}

#[test]
fn on_a_runtime_that_was_shut_down_a_run_is_abandoned_at_once() {
    let flight = flight::<u8>();
    let runtime = runtime();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    let _inside = handle.enter();
    assert_ready_eq!(start(&flight, ready(Some(7))).poll(), Err(Abandoned));
    assert!(is_empty(&flight));
}

// === superseded and detached runs ===

#[tokio::test]
async fn a_run_past_its_deadline_is_replaced_and_does_not_empty_the_slot_of_the_newer() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let old = start(&flight, async { answered.await.ok() });
    assert!(SingleFlight::lock(&flight).join(DEADLINE - Duration::from_nanos(1)).is_some());
    assert!(SingleFlight::lock(&flight).join(DEADLINE).is_none() && !flight.is_in_flight(DEADLINE));
    assert!(handle(&flight).is_some(), "it is still there for callers that wait for its end");
    let (new, task) = SingleFlight::lock(&flight).start(DEADLINE * 2, pending());
    answer.send(7).unwrap();
    assert_eq!(old.await, Ok(7));
    assert!(flight.is_in_flight(DEADLINE));
    assert_eq!(handle(&flight).unwrap().deadline(), DEADLINE * 2);
    drop((new, task));
}

#[tokio::test]
async fn waiters_are_resolved_at_once_and_the_run_goes_on_to_its_end() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let mut waiter = start(&flight, async { answered.await.ok() });
    assert_pending!(waiter.poll());
    let current = handle(&flight).unwrap();
    let mut end = task::spawn(current.ended());
    assert_pending!(end.poll());
    for _ in 0..2 {
        current.resolve_waiters(3);
    }
    assert!(waiter.is_woken() && flight.is_in_flight(NOW));
    assert_ready_eq!(waiter.poll(), Ok(3));
    assert_ready_eq!(join(&flight).poll(), Ok(3));
    assert_pending!(end.poll());
    answer.send(7).unwrap();
    end.await;
    assert!(is_empty(&flight));
}

#[tokio::test]
async fn the_end_of_a_detached_run_is_not_waited_for() {
    let flight = flight::<u8>();
    let _waiter = start(&flight, pending());
    let current = handle(&flight).unwrap();
    SingleFlight::lock(&flight).detach();
    current.ended().await;
}

#[tokio::test]
async fn the_waiters_of_a_detached_run_start_over_at_once() {
    let flight = flight();
    let (answer, answered) = oneshot::channel();
    let mut old = start(&flight, async { answered.await.ok() });
    assert_pending!(old.poll());
    SingleFlight::lock(&flight).detach();
    assert!(old.is_woken() && is_empty(&flight));
    assert_ready_eq!(old.poll(), Err(Abandoned));
    let mut new = start(&flight, pending());
    answer.send(7).unwrap();
    yield_now().await;
    assert_pending!(new.poll());
    assert!(flight.is_in_flight(NOW), "the end of the old run does not empty the slot of the new one");
}

// === completion ===

#[tokio::test]
async fn on_idle_finds_the_slot_empty_and_the_result_set() {
    let seen = Arc::new(AtomicBool::new(false));
    type Watched = (Arc<SingleFlight<u8>>, Spawn<Waiter<u8>>);
    let place: Arc<Mutex<Option<Watched>>> = Arc::default();
    let (noted, looked) = (Arc::clone(&seen), Arc::clone(&place));
    let flight = SingleFlight::new(move || {
        if let Some((flight, mut waiter)) = looked.lock().unwrap().take() {
            assert!(is_empty(&flight));
            assert_ready_eq!(waiter.poll(), Ok(7));
            noted.store(true, Ordering::SeqCst);
        }
    });
    let first = start(&flight, ready(Some(7)));
    *place.lock().unwrap() = Some((Arc::clone(&flight), join(&flight)));
    assert_eq!(first.await, Ok(7));
    assert!(seen.load(Ordering::SeqCst));
}

#[tokio::test]
async fn waiters_are_woken_in_batches_with_others_in_between() {
    let flight = flight();
    let mut waiters = crowd(&flight);
    for woken in [WAKE_BATCH, 2 * WAKE_BATCH, 2 * WAKE_BATCH + 1] {
        yield_now().await;
        assert_eq!(waiters.iter().filter(|waiter| waiter.is_woken()).count(), woken);
        assert!(is_empty(&flight));
    }
    assert_ready_eq!(waiters[2 * WAKE_BATCH].poll(), Ok(7));
}

#[test]
fn a_runtime_that_ends_between_two_batches_wakes_all_waiters() {
    let flight = flight();
    let runtime = runtime();
    let waiters = runtime.block_on(async {
        let waiters = crowd(&flight);
        yield_now().await;
        assert!(!waiters.iter().all(Spawn::is_woken));
        waiters
    });
    drop(runtime);
    assert!(waiters.iter().all(Spawn::is_woken));
}

#[test]
fn a_runtime_that_stalls_between_two_batches_wakes_all_waiters() {
    for spurious in [false, true] {
        let flight = flight();
        let runtime = runtime();
        let mut waiters = runtime.block_on(async {
            let waiters = crowd(&flight);
            yield_now().await;
            waiters
        });
        assert!(!waiters.iter().all(Spawn::is_woken));
        if spurious {
            // The next in the list take the result without having been woken, and their tasks end.
            for _ in 0..WAKE_BATCH / 8 {
                let next = waiters.iter().position(|waiter| !waiter.is_woken()).expect("some sleep");
                assert_ready_eq!(waiters.remove(next).poll(), Ok(7));
            }
        }
        // The runtime is no longer driven. Each woken waiter wakes others, by taking the result or by being dropped.
        while let Some(woken) = waiters.iter().position(Spawn::is_woken) {
            let mut waiter = waiters.swap_remove(woken);
            if waiters.len().is_multiple_of(2) {
                assert_ready_eq!(waiter.poll(), Ok(7));
            }
        }
        assert_eq!(waiters.len(), 0);
        drop(runtime);
    }
}

#[test]
fn no_wake_up_is_lost_between_threads_that_race() {
    let runtime = Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let flight = flight::<u64>();
    let live = Arc::new(AtomicUsize::new(0));
    let racers: Vec<_> = (0..4)
        .map(|_| {
            let (flight, live) = (Arc::clone(&flight), Arc::clone(&live));
            runtime.spawn(async move {
                for _ in 0..5000 {
                    let waiter = {
                        let slot = SingleFlight::lock(&flight);
                        if let Some(waiter) = slot.join(NOW) {
                            waiter
                        } else {
                            let (number, live) = (slot.next_run(), Arc::clone(&live));
                            let (waiter, task) = slot.start(DEADLINE, async move {
                                assert_eq!(live.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                                yield_now().await;
                                live.fetch_sub(1, Ordering::SeqCst);
                                Some(number)
                            });
                            tokio::runtime::Handle::current().spawn(task);
                            waiter
                        }
                    };
                    assert!(waiter.await.is_ok());
                }
            })
        })
        .collect();
    for racer in racers {
        runtime.block_on(racer).unwrap();
    }
    assert!(is_empty(&flight));
}
