//! Helpers of the fakes: locks, time, and unique strings.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Ignores poisoning, because a panic in one test's thread must not make each later use of a fake panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// tokio's time, because a fake does not depend on the clock of the code under test.
#[expect(clippy::disallowed_methods, reason = "the only place where fakes read the time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A number that is unique in this process, so that a token of one fake is unknown to all others, also after a restart.
pub(crate) fn unique_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A unique string in the form of a JWT: three base64url parts.
pub(crate) fn jwt_like() -> String {
    let number = unique_number();
    format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJqdGkiOiI{number:012}In0.signature-{number:012}")
}

/// Sleeps for the delay. Without a delay it needs no timer and no runtime.
pub(crate) async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
