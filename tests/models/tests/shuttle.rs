//! Many interleavings of more threads, chosen at random and by probabilistic concurrency testing.

#[path = "../../../src/singleflight.rs"]
#[allow(dead_code)]
mod singleflight;

#[path = "shared/models.rs"]
#[expect(unreachable_pub, reason = "each test of a model is its caller")]
mod models;

mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use shuttle::future::{block_on, yield_now};
    pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::spawn;

    pub(crate) const WAKE_BATCH: usize = 2;
}

const ITERATIONS: usize = 3000;

fn check(model: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_random(model, ITERATIONS);
    shuttle::check_pct(model, ITERATIONS, 3);
}

#[test]
fn two_threads_agree() {
    for model in [
        models::completion_races_registration,
        models::detach_races_completion,
        models::a_dropped_waiter_races_completion,
        models::a_woken_caller_does_not_join_the_run_that_ended,
        models::on_idle_finds_the_slot_empty,
        models::resolving_races_completion,
        models::a_dropped_task_abandons_its_run,
        models::a_superseded_run_completes_beside_its_successor,
    ] {
        check(model);
    }
}

#[test]
fn eight_waiters_wake_each_other() {
    check(|| models::waiters_wake_each_other(8));
}
