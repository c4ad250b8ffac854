//! What the fakes share: locks, time, and texts that are used once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A panic in one test's thread must not turn every later look at a fake into another panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time by tokio, not by the clock of the code under test: a fake evaluates on its own.
#[expect(clippy::disallowed_methods, reason = "the one door of the fakes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A number no other fake hands out in this process, so that a token of one is unknown to all others, a restarted
/// one among them.
pub(crate) fn unique_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A text in the shape of a JWT, three base64url parts, that nobody has seen before.
pub(crate) fn jwt_like() -> String {
    let number = unique_number();
    format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJqdGkiOiI{number:012}In0.lookalike-{number:012}")
}

/// Sleeps, but a fake without a delay needs no timer, nor even a runtime.
pub(crate) async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
