//! Every interleaving of a few threads, with at most three preemptions.

#[path = "../../../src/singleflight.rs"]
#[allow(dead_code)]
mod singleflight;

#[path = "shared/models.rs"]
#[expect(unreachable_pub, reason = "each test of a model is its caller")]
mod models;

mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::future::block_on;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use loom::thread::spawn;

    pub(crate) const WAKE_BATCH: usize = 1;

    /// Yields to other threads, as tokio's function does.
    pub(crate) async fn yield_now() {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn completion_races_registration() {
    check(models::completion_races_registration);
}

#[test]
fn detach_races_completion() {
    check(models::detach_races_completion);
}

#[test]
fn a_dropped_waiter_races_completion() {
    check(models::a_dropped_waiter_races_completion);
}

#[test]
fn a_woken_caller_does_not_join_the_run_that_ended() {
    check(models::a_woken_caller_does_not_join_the_run_that_ended);
}

#[test]
fn on_idle_finds_the_slot_empty() {
    check(models::on_idle_finds_the_slot_empty);
}

#[test]
fn resolving_races_completion() {
    check(models::resolving_races_completion);
}

#[test]
fn a_dropped_task_abandons_its_run() {
    check(models::a_dropped_task_abandons_its_run);
}

#[test]
fn a_superseded_run_completes_beside_its_successor() {
    check(models::a_superseded_run_completes_beside_its_successor);
}

#[test]
fn three_waiters_wake_each_other() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| models::waiters_wake_each_other(3));
}
