//! Every waiter is woken, even if the fetching runtime stalls and other waiters are dropped.

use tokio_test::{assert_pending, assert_ready, task};
use tower_bearer::TokenCache;

use crate::common::{Script, paused_runtime, text, until};

const WAITERS: usize = 2000;

#[test]
fn a_woken_waiter_that_is_dropped_wakes_others() {
    let script = Script::new();
    let gate = script.hold();
    let cache = TokenCache::new(script.clone());
    let (stalled, running) = (paused_runtime(), paused_runtime());
    let caller = cache.clone();
    stalled.spawn(async move { caller.get().await });
    stalled.block_on(script.called(1));
    let _inside = running.enter();
    let mut waiters: Vec<_> = (0..WAITERS).map(|_| task::spawn(cache.get())).collect();
    waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
    // The fetching runtime stalls after the first wake-up.
    gate.open();
    stalled.block_on(until(|| waiters.iter().any(|waiter| waiter.is_woken())));
    while waiters.len() > 1 {
        // All waiters but one are dropped as soon as they are woken.
        let woken = waiters.iter().skip(1).position(|waiter| waiter.is_woken());
        drop(waiters.swap_remove(1 + woken.expect("another is woken")));
    }
    let mut last = waiters.pop().expect("one is left");
    assert!(last.is_woken());
    assert_eq!(text(assert_ready!(last.poll())), "t1");
}
