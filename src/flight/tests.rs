use std::future::{pending, ready};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::task::{self, Spawn};
use tokio_test::{assert_pending, assert_ready_eq};

use super::*;

const NOW: Duration = Duration::from_secs(100);
const OVERDUE: Duration = Duration::from_secs(130);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Boards at [`NOW`] with this work, which has to be wanted.
fn board<T, F>(flight: &Arc<Flight<T>>, work: F) -> Spawn<Waiter<T>>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    task::spawn(flight.board(NOW, OVERDUE, |_| Some(work)).unwrap().unwrap())
}

/// Boards where a run is under way already.
fn join<T: Clone + Send + Sync + 'static>(flight: &Arc<Flight<T>>) -> Spawn<Waiter<T>> {
    board(flight, async { panic!("a run was under way") })
}

/// Waits for a run that ends at once, in two groups and one more.
fn crowd(flight: &Arc<Flight<u8>>) -> Vec<Spawn<Waiter<u8>>> {
    let mut waiters = vec![board(flight, ready(Some(7)))];
    waiters.resize_with(2 * CHUNK + 1, || join(flight));
    waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
    waiters
}

fn is_empty<T: Clone + Send + Sync + 'static>(flight: &Arc<Flight<T>>) -> bool {
    flight.current_after(|| ()).is_none() && !flight.is_busy(Duration::ZERO)
}

#[tokio::test]
async fn who_boards_during_a_run_gets_its_answer() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    let first = board(&flight, async { answered.await.ok() });
    let second = join(&flight);
    assert!(flight.is_busy(NOW) && !flight.is_replaced(1));
    answer.send(7).unwrap();
    assert_eq!((first.await, second.await), (Some(7), Some(7)));
    assert!(is_empty(&flight) && flight.is_replaced(1));
}

#[tokio::test]
async fn where_nothing_is_to_be_done_no_run_begins() {
    let flight = Flight::<u8>::new();
    let nothing = flight.board(NOW, OVERDUE, |_| None::<std::future::Ready<_>>);
    assert!(nothing.unwrap().is_none() && is_empty(&flight));
    let first = flight.board(NOW, OVERDUE, |number| Some(async move { u8::try_from(number).ok() }));
    assert_eq!(first.unwrap().unwrap().await, Some(1));
}

#[tokio::test]
async fn a_run_goes_on_without_waiters() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    drop(board(&flight, async { answered.await.ok() }));
    yield_now().await;
    assert!(!is_empty(&flight));
    answer.send(7).unwrap();
    yield_now().await;
    assert!(is_empty(&flight));
}

#[tokio::test]
async fn a_dropped_waiter_leaves_the_list_and_no_other_with_it() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    let mut first = board(&flight, async { answered.await.ok() });
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
    assert_eq!(second.await, Some(7));
}

#[tokio::test]
async fn the_last_waker_is_the_one_that_is_woken() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    let mut former = board(&flight, async { answered.await.ok() });
    assert_pending!(former.poll());
    let mut latter = task::spawn(());
    latter.enter(|cx, _| assert!(Pin::new(&mut *former).poll(cx).is_pending()));
    answer.send(7).unwrap();
    yield_now().await;
    assert!(is_empty(&flight) && latter.is_woken() && !former.is_woken());
}

#[test]
fn wakers_are_dropped_after_the_lock() {
    // All that keeps this waiter alive is the waker of another.
    struct Holds(#[expect(dead_code, reason = "held, not read")] Mutex<Waiter<u8>>);
    impl Wake for Holds {
        fn wake(self: Arc<Self>) {}
    }
    let runtime = runtime();
    let _inside = runtime.enter();
    let flight = Flight::new();
    let mut replacing = board(&flight, pending());
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
    assert_pending!(replacing.poll());
    assert_eq!(flight.waiting().0, 1);
}

// === runs that end badly ===

#[tokio::test]
async fn a_run_that_panics_lands_void() {
    let flight = Flight::<u8>::new();
    let waiter = board(&flight, async { panic!("a panic of the test") });
    assert_eq!(waiter.await, None);
    assert!(is_empty(&flight));
    assert_eq!(board(&flight, ready(Some(2))).await, Some(2));
}

#[test]
fn the_end_of_a_runtime_lands_its_run_void_and_wakes_who_waits() {
    let flight = Flight::<u8>::new();
    let runtime = runtime();
    let inside = runtime.enter();
    let mut waiter = board(&flight, pending());
    runtime.block_on(yield_now());
    assert_pending!(waiter.poll());
    drop(inside);
    drop(runtime);
    assert!(waiter.is_woken() && is_empty(&flight));
    assert_ready_eq!(waiter.poll(), None);
}

#[test]
fn on_a_runtime_that_was_shut_down_a_run_lands_void_at_once() {
    let flight = Flight::<u8>::new();
    let runtime = runtime();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    let _inside = handle.enter();
    assert_ready_eq!(board(&flight, ready(Some(7))).poll(), None);
    assert!(is_empty(&flight));
}

#[test]
fn without_a_runtime_no_run_begins() {
    let flight = Flight::new();
    assert!(flight.board(NOW, OVERDUE, |_| Some(ready(Some(1)))).is_err());
    assert!(is_empty(&flight));
    runtime().block_on(async { assert_eq!(board(&flight, ready(Some(2))).await, Some(2)) });
}

// === replaced runs ===

#[tokio::test]
async fn an_overdue_run_is_replaced_and_does_not_land_in_the_place_of_the_newer() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    let old = board(&flight, async { answered.await.ok() });
    let just_before = flight.board(OVERDUE - Duration::from_nanos(1), OVERDUE, |_| Some(pending())).unwrap();
    assert!(Arc::ptr_eq(&just_before.unwrap().run, &old.run));
    assert!(!flight.is_busy(OVERDUE));
    let new = flight.board(OVERDUE, OVERDUE * 2, |_| Some(pending())).unwrap().unwrap();
    assert!(flight.is_replaced(1) && !flight.is_replaced(2));
    answer.send(7).unwrap();
    assert_eq!(old.await, Some(7));
    assert!(flight.is_busy(OVERDUE) && !flight.is_replaced(2));
    assert!(Arc::ptr_eq(&flight.current_after(|| ()).unwrap().run, &new.run));
}

#[tokio::test]
async fn who_waits_is_turned_away_at_once_and_the_run_goes_on_to_its_end() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    let mut waiter = board(&flight, async { answered.await.ok() });
    assert_pending!(waiter.poll());
    let current = flight.current_after(|| ()).unwrap();
    let mut end = task::spawn(current.ended());
    assert_pending!(end.poll());
    for _ in 0..2 {
        current.turn_away(3);
    }
    assert!(waiter.is_woken() && flight.is_busy(NOW) && !flight.is_replaced(1));
    assert_ready_eq!(waiter.poll(), Some(3));
    assert_ready_eq!(join(&flight).poll(), Some(3));
    assert_pending!(end.poll());
    answer.send(7).unwrap();
    end.await;
    assert!(is_empty(&flight));
}

#[tokio::test]
async fn the_end_of_a_run_that_is_cast_off_is_not_waited_for() {
    let flight = Flight::<u8>::new();
    let _waiter = board(&flight, pending());
    let current = flight.current_after(|| ()).unwrap();
    flight.cast_off(|| ());
    current.ended().await;
}

#[tokio::test]
async fn who_waits_for_a_run_that_is_cast_off_boards_again_at_once() {
    let flight = Flight::new();
    let (answer, answered) = oneshot::channel();
    let mut old = board(&flight, async { answered.await.ok() });
    assert_pending!(old.poll());
    assert_eq!(flight.cast_off(|| "changed"), "changed");
    assert!(old.is_woken() && is_empty(&flight) && flight.is_replaced(1));
    assert_ready_eq!(old.poll(), None);
    let mut new = board(&flight, pending());
    answer.send(7).unwrap();
    yield_now().await;
    assert_pending!(new.poll());
    assert!(flight.is_busy(NOW), "the old one's end is nothing to the new one");
}

// === landing ===

#[tokio::test]
async fn who_waits_is_woken_in_groups_with_others_in_between() {
    let flight = Flight::new();
    let mut waiters = crowd(&flight);
    for woken in [CHUNK, 2 * CHUNK, 2 * CHUNK + 1] {
        yield_now().await;
        assert_eq!(waiters.iter().filter(|waiter| waiter.is_woken()).count(), woken);
        assert!(is_empty(&flight));
    }
    assert_ready_eq!(waiters[2 * CHUNK].poll(), Some(7));
}

#[test]
fn a_runtime_that_ends_between_two_groups_leaves_nobody_asleep() {
    let flight = Flight::new();
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
fn a_runtime_that_stands_still_between_two_groups_leaves_nobody_asleep() {
    let flight = Flight::new();
    let runtime = runtime();
    let mut waiters = runtime.block_on(async {
        let waiters = crowd(&flight);
        yield_now().await;
        waiters
    });
    assert!(!waiters.iter().all(Spawn::is_woken));
    // Nobody drives the runtime any more: whoever is woken wakes others, by taking the answer or by being dropped.
    while let Some(woken) = waiters.iter().position(Spawn::is_woken) {
        let mut waiter = waiters.swap_remove(woken);
        if waiters.len().is_multiple_of(2) {
            assert_ready_eq!(waiter.poll(), Some(7));
        }
    }
    assert_eq!(waiters.len(), 0);
    drop(runtime);
}

#[test]
fn a_waiter_that_comes_to_the_list_while_the_run_lands_sees_the_answer() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for _ in 0..200 {
        let mut waiter = board(&Flight::new(), pending()).into_inner();
        let run = Arc::clone(&waiter.run);
        let meeting = Barrier::new(2);
        thread::scope(|scope| {
            let list = lock(&run.waiters);
            let polled = scope.spawn(|| {
                meeting.wait();
                Pin::new(&mut waiter).poll(&mut Context::from_waker(Waker::noop()))
            });
            meeting.wait();
            // Time for it to come as far as the list; too short a time does no harm.
            (0..50).for_each(|_| thread::yield_now());
            run.answer.set(Some(7)).unwrap();
            drop(list);
            assert_eq!(polled.join().unwrap(), Poll::Ready(Some(7)));
        });
    }
}

#[test]
fn no_wake_up_is_lost_between_threads_that_race() {
    let runtime = Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let flight = Flight::<u64>::new();
    let live = Arc::new(AtomicUsize::new(0));
    let racers: Vec<_> = (0..4)
        .map(|_| {
            let (flight, live) = (Arc::clone(&flight), Arc::clone(&live));
            runtime.spawn(async move {
                for _ in 0..5000 {
                    let live = Arc::clone(&live);
                    let run = |number| {
                        Some(async move {
                            assert_eq!(live.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                            yield_now().await;
                            live.fetch_sub(1, Ordering::SeqCst);
                            Some(number)
                        })
                    };
                    let waiter = flight.board(NOW, OVERDUE, run).unwrap().unwrap();
                    assert!(waiter.await.is_some());
                }
            })
        })
        .collect();
    for racer in racers {
        runtime.block_on(racer).unwrap();
    }
    assert!(is_empty(&flight));
}
