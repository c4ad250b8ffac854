//! Every waiter is woken though the runtime that fetched stands still and others give up.

use tokio_test::{assert_pending, assert_ready, task};
use tower_bearer::TokenCache;

use crate::common::{Script, paused_runtime, text, until};

const WAITERS: usize = 2000;

#[test]
fn a_woken_waiter_that_is_dropped_wakes_the_others_in_its_place() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let (frozen, living) = (paused_runtime(), paused_runtime());
    let caller = cache.clone();
    frozen.spawn(async move { caller.get().await });
    frozen.block_on(script.called(1));
    let _inside = living.enter();
    let mut waiters: Vec<_> = (0..WAITERS).map(|_| task::spawn(cache.get())).collect();
    waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
    // From the first wake-up on the runtime of the fetch stands still.
    gate.open();
    frozen.block_on(until(|| waiters.iter().any(|waiter| waiter.is_woken())));
    while waiters.len() > 1 {
        // One is left; all others give up as soon as they are woken.
        let woken = waiters.iter().skip(1).position(|waiter| waiter.is_woken());
        drop(waiters.swap_remove(1 + woken.expect("another is woken")));
    }
    let mut last = waiters.pop().expect("one is left");
    assert!(last.is_woken());
    assert_eq!(text(assert_ready!(last.poll())), "t1");
}
