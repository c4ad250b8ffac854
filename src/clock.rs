//! The only module that reads clocks. All other code takes a [`DualInstant`] as an argument.
//!
//! Both clocks are read together. The monotonic clock is tokio's, which is the operating system's unless a test paused
//! it. So a user's test that pauses and advances tokio's time also moves the life of tokens, without a setting.
//!
//! Each request reads only a coarse clock, to check that the last reading of both clocks is still valid. The coarse
//! clock lags by some milliseconds, which [`schedule`](crate::schedule) subtracts. It cannot be paused, so it is used
//! only in builds in which tokio's clock cannot be paused either.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, Timeout};

use crate::error::Error;
use crate::schedule::{DualInstant, nanos};

/// The source of a cache's time.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    System,
    #[cfg(feature = "testing")]
    Manual(ManualClock),
}

/// The zero of the monotonic clock: a day before the operating system's time at the first use.
///
/// Each test in a process pauses and advances its own time. Time would not advance before the zero.
static START: LazyLock<Instant> = LazyLock::new(|| {
    let now = unpaused();
    now.checked_sub(Duration::from_secs(24 * 3600)).unwrap_or(now)
});

/// Whether a tick is a reading of the operating system's coarse clock, which costs a fifth of the precise one.
///
/// This needs a monotonic coarse clock, and a build in which no test can pause tokio's clock.
const COARSE: bool = cfg!(any(target_os = "linux", target_os = "android", target_os = "macos", windows)) && !PAUSABLE;

/// Whether tokio's clock can be paused in this build, which tokio's feature `test-util` decides.
///
/// With the feature, the builder has a method of this name, which hides the constant and has no size.
const PAUSABLE: bool = size_of_val(&Builder::start_paused) == 0;

trait NotPausable {
    #[allow(dead_code, non_upper_case_globals, reason = "the name is the method's, which may hide it")]
    const start_paused: u8 = 0;
}

impl NotPausable for Builder {}

// === impl Clock ===

impl Clock {
    pub(crate) fn now(&self) -> DualInstant {
        match self {
            Self::System => system(monotonic()),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => clock.now(),
        }
    }

    /// The current time by this clock and by that of tokio's timers.
    pub(crate) fn now_here(&self) -> (DualInstant, Instant) {
        let here = monotonic();
        match self {
            Self::System => (system(here), here),
            #[cfg(feature = "testing")]
            Self::Manual(clock) => (clock.now(), here),
        }
    }

    /// The monotonic time in ticks, with the lag of the coarse clock. A manual clock returns `None`, because both of
    /// its times are always read.
    #[inline]
    pub(crate) fn tick(&self) -> Option<u64> {
        match self {
            Self::System if COARSE => Some(coarsetime::Instant::now_without_cache_update().as_ticks()),
            Self::System => Some(nanos(since_start(monotonic()))),
            #[cfg(feature = "testing")]
            Self::Manual(_) => None,
        }
    }
}

/// Converts to the units of [`Clock::tick`].
pub(crate) fn ticks(span: Duration) -> u64 {
    if COARSE { coarsetime::Duration::from(span).as_ticks() } else { nanos(span) }
}

/// Adds the current wall clock time to a monotonic time. A wall clock before 1970 counts as 1970.
fn system(mono: Instant) -> DualInstant {
    DualInstant { mono: since_start(mono), wall: wall().duration_since(UNIX_EPOCH).unwrap_or_default() }
}

fn since_start(mono: Instant) -> Duration {
    mono.saturating_duration_since(*START)
}

/// The current time of tokio's timers.
#[expect(clippy::disallowed_methods, reason = "this module reads clocks")]
fn monotonic() -> Instant {
    Instant::now()
}

/// The operating system's time, even if a test paused tokio's.
#[expect(clippy::disallowed_methods, reason = "this module reads clocks")]
fn unpaused() -> Instant {
    std::time::Instant::now().into()
}

#[expect(clippy::disallowed_methods, reason = "this module reads clocks")]
fn wall() -> SystemTime {
    SystemTime::now()
}

/// How far ahead tokio puts a deadline that its clock cannot represent: 30 years.
const FAR_AHEAD: Duration = Duration::from_secs(86400 * 365 * 30);

/// The time in this long, for tokio's timers.
pub(crate) fn from_now(wait: Duration) -> Instant {
    let now = monotonic();
    now.checked_add(wait).unwrap_or(now + FAR_AHEAD)
}

/// The current tokio runtime, on which a task can be started.
pub(crate) fn runtime() -> Option<Handle> {
    Handle::try_current().ok()
}

/// Whether there is a current tokio runtime.
pub(crate) fn has_runtime() -> bool {
    runtime().is_some()
}

/// Bounds the future by a deadline.
///
/// # Errors
/// Returns an error if there is no current tokio runtime, or if its timers are not enabled.
pub(crate) fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<Timeout<F>, Error> {
    if !has_runtime() {
        return Err(Error::no_runtime());
    }
    // tokio panics if timers are not enabled, and has no method to check it.
    catch_unwind(AssertUnwindSafe(|| tokio::time::timeout_at(deadline, future))).map_err(|_| Error::no_timers())
}

/// Bounds the future by a duration.
///
/// # Errors
/// Returns an error if there is no current tokio runtime, or if its timers are not enabled.
pub(crate) fn timeout<F: Future>(wait: Duration, future: F) -> Result<Timeout<F>, Error> {
    timeout_at(from_now(wait), future)
}

/// Waits for the future, at most this long. Without a runtime with timers, waits until it completes.
pub(crate) async fn at_most(wait: Duration, future: impl Future) {
    let mut future = pin!(future);
    match timeout(wait, future.as_mut()) {
        Ok(bounded) => drop(bounded.await),
        Err(_) => drop(future.await),
    }
}

/// Waits this long.
///
/// # Errors
/// Returns an error at once if there is no runtime with timers.
pub(crate) async fn pause(wait: Duration) -> Result<(), Error> {
    let _ = timeout(wait, std::future::pending::<()>())?.await;
    Ok(())
}

/// Waits this long. Without a runtime with timers, waits for ever.
#[cfg(feature = "store")]
pub(crate) async fn sleep(wait: Duration) {
    at_most(wait, std::future::pending::<()>()).await;
}

/// The wall clock time, for a file's age.
#[cfg(feature = "store")]
pub(crate) fn wall_time() -> SystemTime {
    wall()
}

/// A manual clock, for tests of a suspended machine or a wall clock that jumps.
///
/// To let time pass, `tokio::time::pause` and `advance` are enough. They also move tokio's timers, which this clock
/// does not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// use std::time::Duration;
/// use tower_bearer::testing::ManualClock;
/// use tower_bearer::{RefreshPolicy, Token, TokenCache};
///
/// let clock = ManualClock::new();
/// let source = async |_| Token::new("t").map(|token| token.with_lifetime(Duration::from_secs(60)));
/// let cache = TokenCache::builder(source).clock(clock.clone()).build()?;
/// assert_eq!(cache.get().await?.generation(), 1);
/// clock.sleep(Duration::from_secs(60));
/// assert_eq!(cache.get().await?.generation(), 2);
/// # Ok(()) }
/// ```
#[cfg(feature = "testing")]
#[derive(Clone, Debug, Default)]
pub struct ManualClock(std::sync::Arc<std::sync::Mutex<Times>>);

#[cfg(feature = "testing")]
#[derive(Debug)]
struct Times {
    mono: Duration,
    wall: Duration,
}

#[cfg(feature = "testing")]
impl Default for Times {
    fn default() -> Self {
        // Far from zero, so that a wall clock can be set back.
        Self { mono: Duration::ZERO, wall: Duration::from_secs(1_700_000_000) }
    }
}

#[cfg(feature = "testing")]
impl ManualClock {
    /// Creates a clock that does not move by itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances both clocks, as on a running machine.
    pub fn advance(&self, by: Duration) {
        let mut times = self.lock();
        times.mono += by;
        times.wall += by;
    }

    /// Suspends the machine: only the wall clock advances.
    pub fn sleep(&self, by: Duration) {
        self.lock().wall += by;
    }

    /// Sets the wall clock back, as NTP or a person does.
    pub fn set_back(&self, by: Duration) {
        let mut times = self.lock();
        times.wall = times.wall.saturating_sub(by);
    }

    fn now(&self) -> DualInstant {
        let times = self.lock();
        DualInstant { mono: times.mono, wall: times.wall }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
