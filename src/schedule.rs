//! When to refresh and how long to pause: pure functions of lifetime, time, settings and jitter.
//!
//! Nothing here reads a clock, draws a random number or waits. A token's life has three parts:
//!
//! ```text
//! asked                                   due          expired   end (issuer's figure)
//!   |--------------- Fresh ----------------|---- Due ----|--------|
//!   served                                  served, and   not sent any more
//!                                           refreshed in the background
//! ```
//!
//! *Expired* begins min(5 s, 10 % of the life) before the issuer's figure: the token still has to travel. *Due* begins
//! a margin before the end. The default margin is min(5 min, 20 % of the life), or more if *Due* would be shorter than
//! twice the duration of the fetch. Jitter makes *Due* earlier by up to a quarter of the margin; it is drawn once per
//! token, so that a fleet does not refresh in step. The margin never exceeds half the life, and *Due* never vanishes.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::token::MAX_LIFETIME;

/// When to refresh, and how long a fetch may take.
///
/// ```
/// use std::time::Duration;
/// use tower_bearer::RefreshPolicy;
///
/// let refresh = RefreshPolicy::new().margin(Duration::from_secs(60)).deadline(Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RefreshPolicy {
    margin: Option<Duration>,
    deadline: Duration,
    /// How many refreshes rejections may cause, and in what time.
    budget: (usize, Duration),
}

/// The phase of a token's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Requests use the token.
    Fresh,
    /// Requests still use the token, while a new one is fetched in the background.
    Due,
    /// Requests no longer use the token, and wait for a new one.
    Expired,
}

/// A point in time on both clocks, each counted from its own zero.
///
/// The monotonic clock stops while a machine is suspended, and the wall clock jumps. So a point in time is past as soon
/// as *either* clock has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DualInstant {
    pub(crate) mono: Duration,
    pub(crate) wall: Duration,
}

/// The three parts of one token's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    asked: DualInstant,
    /// Nanoseconds after `asked`, as the following two. A [`Duration`] has twice the size, and a million keys may have
    /// a window each.
    due: u64,
    expired: u64,
    end: u64,
}

/// The refreshes that rejections have caused within the window. It allocates at the first rejection, because most
/// caches never see one.
#[derive(Debug, Default)]
pub(crate) struct RejectionBudget(Option<Box<Rejections>>);

#[derive(Debug, Default)]
struct Rejections {
    started: VecDeque<DualInstant>,
    /// When an exhausted budget was last reported.
    reported_at: Option<DualInstant>,
}

/// How a response says that the token was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// By a 401 whose challenges do not say otherwise, or by gRPC's `UNAUTHENTICATED`.
    Standard,
    /// By a status or closure that the user added, which may have other causes, too.
    Added,
}

/// A pause of the refreshes for one sign of rejection, after a replacement that was rejected, too.
#[derive(Debug, Default)]
pub(crate) struct RejectionBackoff {
    /// How many replacements in a row were rejected.
    streak: u32,
    /// When rejections may cause a refresh again.
    until: Option<DualInstant>,
}

/// How long only one clock is read instead of both. This delays noticing a suspended machine or a jump of the wall
/// clock.
const RECHECK_AFTER: Duration = Duration::from_millis(100);
/// An upper bound for the lag of the operating systems' coarse clocks, which is 4 to 16 ms.
const COARSE_CLOCK_LAG: Duration = Duration::from_millis(20);
/// The age at which a token has reached every server of an API.
const REPLICATION_GRACE: Duration = Duration::from_secs(2);
/// How long a rejected request with a younger token waits at most.
const MAX_LAG: Duration = Duration::from_secs(1);
/// The age below which an API may reject a token because its clock is behind, or because not all of its servers know
/// the token. The previous token is then used instead.
const YOUNG: Duration = Duration::from_secs(30);
/// How long the previous token is used before the cache tries the newer one again.
const FALLBACK_TIME: Duration = Duration::from_secs(10);
/// How long rejections of one kind cause no refresh after a replacement that did not help: the first pause, and the cap
/// of the doubling. A 401 says that the token is invalid; a status that the user added often has other causes.
const STANDARD_BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
const ADDED_BACKOFF: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// A replacement that is first rejected after this time counts as one that helped.
const STANDARD_HELPED_AFTER: Duration = Duration::from_secs(30);
const ADDED_HELPED_AFTER: Duration = Duration::from_secs(10 * 60);
/// The minimum time between the fetch of a token and its refresh ahead of time.
const SOONEST_REFRESH: Duration = Duration::from_secs(1);
/// The pause after a failed fetch: the first one, and the cap of the doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The pause after a denied fetch. It is long, so that the issuer does not lock the account.
const DENIED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15 * 60));
/// The minimum pause, because a backoff of zero would spin.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The cap of an issuer's `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

// === impl RefreshPolicy ===

impl RefreshPolicy {
    /// Returns the defaults.
    ///
    /// They are a margin that scales with the lifetime, a deadline of 30 s, and 5 refreshes a minute for rejections.
    pub const fn new() -> Self {
        Self { margin: None, deadline: Duration::from_secs(30), budget: (5, Duration::from_secs(60)) }
    }

    /// Sets how long before the token's end a refresh begins.
    ///
    /// The end is the one that the issuer named. Default: min(5 min, 20 % of the life), and early enough for a fetch
    /// that takes twice as long as the last one. Any value is safe, because the margin is capped at half the token's
    /// life.
    #[must_use]
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    /// Sets how long a fetch may take, and how long a caller waits. Default: 30 s.
    ///
    /// [`TokenCacheBuilder::build`](crate::TokenCacheBuilder::build) returns an error for zero, because every fetch
    /// would fail.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many refreshes rejections may cause within `window`.
    ///
    /// Default: 5 within 60 s. If the budget is exhausted, the caller gets the 401, with an error in its extensions. So
    /// an API that rejects every token cannot make the cache flood the issuer. Refreshes because a token is due do not
    /// count. With zero, the caller gets every 401 whose token is the current one.
    #[must_use]
    pub const fn rejection_budget(mut self, most: usize, window: Duration) -> Self {
        self.budget = (most, window);
        self
    }

    /// Checks the settings, because the setters do not.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.deadline.is_zero() {
            return Err(Error::invalid("deadline", "zero leaves no time to fetch a token"));
        }
        Ok(())
    }

    pub(crate) fn fetch_deadline(&self) -> Duration {
        self.deadline.min(MAX_LIFETIME)
    }
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self::new()
    }
}

// === impl DualInstant ===

impl DualInstant {
    pub(crate) fn after(self, wait: Duration) -> Self {
        Self { mono: self.mono.saturating_add(wait), wall: self.wall.saturating_add(wait) }
    }

    /// The time this long ago, or the zero of a clock that started later.
    #[cfg(feature = "store")]
    pub(crate) fn before(self, ago: Duration) -> Self {
        Self { mono: self.mono.saturating_sub(ago), wall: self.wall.saturating_sub(ago) }
    }

    /// The wall clock time.
    pub(crate) fn system_time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(self.wall).unwrap_or(UNIX_EPOCH)
    }

    /// Whether either clock has reached this time.
    pub(crate) fn is_past(self, now: Self) -> bool {
        now.mono >= self.mono || now.wall >= self.wall
    }

    /// How long until either clock reaches this time; zero if one has.
    pub(crate) fn wait(self, now: Self) -> Duration {
        self.mono.saturating_sub(now.mono).min(self.wall.saturating_sub(now.wall))
    }
}

// === impl Window ===

impl Window {
    /// `asked` is the time before the token was requested, `took` the duration of the fetch, and `jitter` a number in
    /// 0..1.
    pub(crate) fn new(
        settings: &RefreshPolicy,
        lifetime: Duration,
        asked: DualInstant,
        took: Duration,
        jitter: f64,
    ) -> Self {
        let early = (lifetime / 10).min(Duration::from_secs(5));
        let enough = took.saturating_mul(2).saturating_add(early);
        let margin = settings.margin.unwrap_or((lifetime / 5).min(Duration::from_secs(5 * 60)).max(enough));
        // Twice `early` is a fifth of the life at most, so the bounds never cross.
        let margin = margin.clamp(early * 2, lifetime / 2);
        let jitter = (margin / 4).mul_f64(jitter.clamp(0.0, 1.0));
        Self { asked, due: nanos(lifetime - (margin + jitter)), expired: nanos(lifetime - early), end: nanos(lifetime) }
    }

    /// Makes the token due no later than this long after it was requested. Jitter spreads a fleet over the last tenth.
    pub(crate) fn due_within(self, refresh_in: Duration, jitter: f64) -> Self {
        // A tiny value would cause a token call for each request.
        let refresh_in = refresh_in.max(SOONEST_REFRESH);
        let due = refresh_in - (refresh_in / 10).mul_f64(jitter.clamp(0.0, 1.0));
        Self { due: nanos(due).min(self.due), ..self }
    }

    /// Makes the token due soon, because the cache then tries the newer token again.
    pub(crate) fn for_fallback(self, now: DualInstant) -> Self {
        let (expired, end) = (self.expired().wait(now), self.end().wait(now));
        // A token that becomes due after its end would count as fresh forever.
        Self { asked: now, due: nanos(FALLBACK_TIME.min(expired)), expired: nanos(expired), end: nanos(end) }
    }

    pub(crate) fn phase(&self, now: DualInstant) -> Phase {
        if !self.due().is_past(now) {
            Phase::Fresh
        } else if !self.expired().is_past(now) {
            Phase::Due
        } else {
            Phase::Expired
        }
    }

    /// How long the token is still usable.
    pub(crate) fn remaining(&self, now: DualInstant) -> Duration {
        self.expired().wait(now)
    }

    /// How long until a refresh is due.
    pub(crate) fn until_due(&self, now: DualInstant) -> Duration {
        self.due().wait(now)
    }

    /// How long the token is certainly fresh, if only the monotonic clock is read.
    pub(crate) fn recheck_after(&self, now: DualInstant) -> Duration {
        self.until_due(now).saturating_sub(COARSE_CLOCK_LAG).min(RECHECK_AFTER)
    }

    fn due(&self) -> DualInstant {
        self.asked.after(Duration::from_nanos(self.due))
    }

    fn expired(&self) -> DualInstant {
        self.asked.after(Duration::from_nanos(self.expired))
    }

    /// The issuer's end of life.
    pub(crate) fn end(&self) -> DualInstant {
        self.asked.after(Duration::from_nanos(self.end))
    }
}

// === impl RejectionBudget ===

impl RejectionBudget {
    /// Whether one more refresh is within the budget.
    pub(crate) fn has_capacity(&self, settings: &RefreshPolicy, now: DualInstant) -> bool {
        let (most, window) = settings.budget;
        let started = self.0.iter().flat_map(|rejections| &rejections.started);
        started.filter(|start| !start.after(window).is_past(now)).count() < most
    }

    /// Records a refresh that starts now.
    pub(crate) fn record(&mut self, settings: &RefreshPolicy, now: DualInstant) {
        let (_, window) = settings.budget;
        let Rejections { started, .. } = self.0.get_or_insert_default().as_mut();
        started.retain(|start| !start.after(window).is_past(now));
        started.push_back(now);
    }

    /// Removes the last recorded refresh, because it made no token call.
    #[cfg(feature = "store")]
    pub(crate) fn remove_last(&mut self) {
        if let Some(rejections) = &mut self.0 {
            rejections.started.pop_back();
        }
    }

    /// Notes that the budget is exhausted. Returns whether this is the first time within the window.
    pub(crate) fn report(&mut self, settings: &RefreshPolicy, now: DualInstant) -> bool {
        let (_, window) = settings.budget;
        let Rejections { reported_at, .. } = self.0.get_or_insert_default().as_mut();
        let first = reported_at.is_none_or(|reported_at| reported_at.after(window).is_past(now));
        if first {
            *reported_at = Some(now);
        }
        first
    }
}

// === impl RejectionBackoff ===

impl RejectionBackoff {
    /// Counts one more replacement that was rejected.
    pub(crate) fn add(&mut self, sign: Sign, now: DualInstant) {
        self.streak = self.streak.saturating_add(1);
        let pauses = match sign {
            Sign::Standard => STANDARD_BACKOFF,
            Sign::Added => ADDED_BACKOFF,
        };
        let pause = exponential(pauses, self.streak, 1.0);
        self.until = Some(now.after(pause));
    }

    /// Whether rejections cause no refresh now.
    pub(crate) fn is_active(&self, now: DualInstant) -> bool {
        self.until.is_some_and(|until| !until.is_past(now))
    }
}

/// The time in nanoseconds, which fits for five centuries.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When the token after one that was fetched at `asked` may be fetched, if the reason is only its age.
///
/// A third of the lifetime passes first, at most 1 s. *Due* begins later than that, so this delays no refresh ahead of
/// time. A lifetime below 100 ms is too short for a request and is probably in another unit. It counts as 3 s, because
/// otherwise each request would cause a token call.
pub(crate) fn next_refresh(asked: DualInstant, lifetime: Duration) -> DualInstant {
    let pause = if lifetime < MIN_PAUSE { SOONEST_REFRESH } else { (lifetime / 3).min(SOONEST_REFRESH) };
    asked.after(pause)
}

/// Whether a replacement that is rejected now has helped for some time.
pub(crate) fn has_helped(sign: Sign, since: DualInstant, now: DualInstant) -> bool {
    let enough = match sign {
        Sign::Standard => STANDARD_HELPED_AFTER,
        Sign::Added => ADDED_HELPED_AFTER,
    };
    since.after(enough).is_past(now)
}

/// Whether a token published at `since` may be rejected only because it is young.
pub(crate) fn is_young(since: DualInstant, now: DualInstant) -> bool {
    !since.after(YOUNG).is_past(now)
}

/// How long a rejected request waits, if its token was published at `since`.
///
/// Returns `None` if the token is old enough that the rejection counts. `is_early`: the API is expected to accept the
/// token later.
pub(crate) fn replication_lag(since: DualInstant, is_early: bool, now: DualInstant) -> Option<Duration> {
    let known_everywhere = since.after(if is_early { YOUNG } else { REPLICATION_GRACE });
    (!known_everywhere.is_past(now)).then(|| known_everywhere.wait(now).min(MAX_LAG))
}

// === pauses ===

/// How long to wait after `streak` failed fetches in a row. `remaining` is how long the current token is still usable.
///
/// The backoff is jittered, capped by the remaining life of the token (so that there is an attempt when it ends), and
/// never below 100 ms. The issuer's `Retry-After`, up to 5 min, lengthens it and never shortens it.
pub(crate) fn backoff(streak: u32, remaining: Duration, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let wait = exponential(BACKOFF, streak, jitter);
    let wait = if remaining.is_zero() { wait } else { wait.min(remaining) };
    wait.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)).max(MIN_PAUSE)
}

/// How long to wait after the credentials were denied `streak` times in a row.
pub(crate) fn denied_backoff(streak: u32, retry_after: Option<Duration>) -> Duration {
    // No jitter, because the documented pause is 30 s, and a denied client causes no stampede.
    exponential(DENIED, streak, 1.0).max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
}

/// Doubles `first` with each step, up to `cap`. Jitter chooses between half and all of that.
fn exponential((first, cap): (Duration, Duration), streak: u32, jitter: f64) -> Duration {
    let steps = streak.saturating_sub(1).min(31);
    let longest = first.saturating_mul(1 << steps).min(cap);
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
