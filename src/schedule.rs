//! When: pure functions from a lifetime, a moment, the settings and a jitter of the dice to a decision.
//!
//! Nothing here reads a clock, draws a random number or waits. A token's life has three parts:
//!
//! ```text
//! asked                                   due          expired   end (issuer's figure)
//!   |--------------- Fresh ----------------|---- Due ----|--------|
//!   served                                  served, and   not sent any more
//!                                           refreshed beside
//! ```
//!
//! *Expired* begins min(5 s, 10 % of the life) before the issuer's figure: the token still has to travel. *Due* begins
//! a margin before the end, by default min(5 min, 20 % of the life), or twice what the fetch took where Due would be
//! shorter than that, earlier by up to a quarter of the margin as the dice fall (once per token, so that a fleet does not
//! refresh in step). The margin never exceeds half the life, and never comes so near to the end that Due would vanish.

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
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RefreshPolicy {
    margin: Option<Duration>,
    deadline: Duration,
    /// How many refreshes rejections may cause, and in what time.
    budget: (usize, Duration),
}

/// How far a token's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Served as it is.
    Fresh,
    /// Served, while a new one is fetched beside.
    Due,
    /// Not sent any more; requests wait for a new one.
    Expired,
}

/// A point in time on both clocks, each counted from its own zero.
///
/// The monotonic clock stands still while a machine sleeps, the wall clock jumps; so what happens at a moment happens
/// as soon as *either* clock has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DualInstant {
    pub(crate) mono: Duration,
    pub(crate) wall: Duration,
}

/// The three parts of one token's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    due: DualInstant,
    expired: DualInstant,
    end: DualInstant,
}

/// The refreshes that rejections have caused lately.
#[derive(Debug, Default)]
pub(crate) struct RejectionBudget {
    started: VecDeque<DualInstant>,
    /// When it was last reported that the budget is spent.
    reported_at: Option<DualInstant>,
}

/// How long one clock is asked instead of two: so much later is it noticed that a machine slept, or that the wall clock
/// jumped.
const RECHECK_AFTER: Duration = Duration::from_millis(100);
/// How far the coarse clocks of operating systems lag behind: four to sixteen milliseconds.
const COARSE_CLOCK_LAG: Duration = Duration::from_millis(20);
/// A token younger than this may not have reached every server of an API yet.
const REPLICATION_GRACE: Duration = Duration::from_secs(2);
/// How long a request that was rejected with such a token waits at most.
const LONGEST_LAG: Duration = Duration::from_secs(1);
/// Ours, between two fetches that failed: it starts here, doubles, and is cut at the cap.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between two fetches that were denied: long, so that no account gets locked by us.
const DENIED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15 * 60));
/// No pause is shorter: a backoff of zero spins.
const SHORTEST: Duration = Duration::from_millis(100);
/// What an issuer's `Retry-After` is cut at.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

// === impl RefreshPolicy ===

impl RefreshPolicy {
    /// The defaults: a margin that scales with the lifetime, a deadline of 30 s, and 5 refreshes a minute for rejections.
    pub const fn new() -> Self {
        Self { margin: None, deadline: Duration::from_secs(30), budget: (5, Duration::from_secs(60)) }
    }

    /// How long before the issuer's end of life a refresh begins. Default: min(5 min, 20 % of the life), and early enough
    /// for a fetch that takes twice as long as the last one did.
    ///
    /// Any value is safe: for a token too short for it the margin is cut to half the token's life.
    #[must_use]
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    /// How long one fetch may take before it counts as failed, and how long a caller waits at most. Default: 30 s.
    ///
    /// # Errors
    /// Zero: every fetch would fail.
    pub fn deadline(mut self, deadline: Duration) -> Result<Self, Error> {
        if deadline.is_zero() {
            return Err(Error::invalid("deadline", "zero leaves no time to fetch a token"));
        }
        self.deadline = deadline.min(MAX_LIFETIME);
        Ok(self)
    }

    /// How many refreshes rejected requests may cause within `window`. Default: 5 within 60 s.
    ///
    /// Past it the 401 goes to the caller, with an error in its extensions: a server that rejects everything cannot make
    /// us hammer the issuer. Refreshes because a token nears its end do not count. Zero hands back every 401 whose token
    /// is the current one.
    #[must_use]
    pub const fn rejection_budget(mut self, most: usize, window: Duration) -> Self {
        self.budget = (most, window);
        self
    }

    pub(crate) fn fetch_deadline(&self) -> Duration {
        self.deadline
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

    /// This long ago; the zero of a clock that has not run so long.
    #[cfg(feature = "store")]
    pub(crate) fn before(self, ago: Duration) -> Self {
        Self { mono: self.mono.saturating_sub(ago), wall: self.wall.saturating_sub(ago) }
    }

    /// The time of day.
    pub(crate) fn system_time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(self.wall).unwrap_or(UNIX_EPOCH)
    }

    /// Whether either clock has come this far.
    pub(crate) fn is_past(self, now: Self) -> bool {
        now.mono >= self.mono || now.wall >= self.wall
    }

    /// How long until either clock has come this far; zero where one has.
    pub(crate) fn wait(self, now: Self) -> Duration {
        self.mono.saturating_sub(now.mono).min(self.wall.saturating_sub(now.wall))
    }
}

// === impl Window ===

impl Window {
    /// `asked` is the moment before the token was asked for, `took` how long its answer was on the way, `jitter` a number in
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
        let end = asked.after(lifetime);
        let before_end = |part: Duration| asked.after(lifetime - part);
        Self { due: before_end(margin + jitter), expired: before_end(early), end }
    }

    /// Due no later than this long after it was asked for; a fleet is spread over the last tenth of it.
    pub(crate) fn due_within(mut self, refresh_in: Duration, asked: DualInstant, jitter: f64) -> Self {
        let due = asked.after(refresh_in - (refresh_in / 10).mul_f64(jitter.clamp(0.0, 1.0)));
        if due.mono < self.due.mono {
            self.due = due;
        }
        self
    }

    pub(crate) fn phase(&self, now: DualInstant) -> Phase {
        if !self.due.is_past(now) {
            Phase::Fresh
        } else if !self.expired.is_past(now) {
            Phase::Due
        } else {
            Phase::Expired
        }
    }

    /// How long the token can still be sent.
    pub(crate) fn left(&self, now: DualInstant) -> Duration {
        self.expired.wait(now)
    }

    /// How long until a refresh is due.
    pub(crate) fn until_due(&self, now: DualInstant) -> Duration {
        self.due.wait(now)
    }

    /// How long it stays fresh for sure, going by the monotonic clock alone.
    pub(crate) fn sure_for(&self, now: DualInstant) -> Duration {
        self.until_due(now).saturating_sub(COARSE_CLOCK_LAG).min(RECHECK_AFTER)
    }

    /// The issuer's end of life.
    pub(crate) fn end(&self) -> DualInstant {
        self.end
    }
}

// === impl RejectionBudget ===

impl RejectionBudget {
    /// Whether one more refresh is within the budget.
    pub(crate) fn has_room(&self, settings: &RefreshPolicy, now: DualInstant) -> bool {
        let (most, window) = settings.budget;
        self.started.iter().filter(|start| !start.after(window).is_past(now)).count() < most
    }

    /// Takes one refresh from the budget.
    pub(crate) fn spend(&mut self, settings: &RefreshPolicy, now: DualInstant) {
        let (_, window) = settings.budget;
        self.started.retain(|start| !start.after(window).is_past(now));
        self.started.push_back(now);
    }

    /// Gives back the refresh that was taken last: it made no call.
    #[cfg(feature = "store")]
    pub(crate) fn refund(&mut self) {
        self.started.pop_back();
    }

    /// Notes that the budget is spent; `true` for the first time within the window.
    pub(crate) fn report(&mut self, settings: &RefreshPolicy, now: DualInstant) -> bool {
        let (_, window) = settings.budget;
        let first = self.reported_at.is_none_or(|reported_at| reported_at.after(window).is_past(now));
        if first {
            self.reported_at = Some(now);
        }
        first
    }
}

/// How long a request waits that was rejected with a token published at `since`; `None` where the token has settled, and
/// the rejection counts.
pub(crate) fn replication_lag(since: DualInstant, now: DualInstant) -> Option<Duration> {
    let settled = since.after(REPLICATION_GRACE);
    (!settled.is_past(now)).then(|| settled.wait(now).min(LONGEST_LAG))
}

// === pauses ===

/// How long to wait after `streak` failed fetches in a row; `left` is how long the current token can still be sent.
///
/// Ours is jittered, capped by what is left of the token's life (so that the moment it ends sees an attempt), and
/// never below 100 ms. The issuer's `Retry-After`, up to 5 min, lengthens it and never shortens it.
pub(crate) fn backoff(streak: u32, left: Duration, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let wait = exponential(BACKOFF, streak, jitter);
    let wait = if left.is_zero() { wait } else { wait.min(left) };
    wait.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)).max(SHORTEST)
}

/// How long to wait after the credentials were denied `streak` times in a row.
pub(crate) fn denied_backoff(streak: u32, retry_after: Option<Duration>) -> Duration {
    // No jitter: 30 s is a promise, and who is denied is no stampede.
    exponential(DENIED, streak, 1.0).max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
}

/// `first`, doubled with each step, cut at `cap`, then between half and all of it as the dice fall.
fn exponential((first, cap): (Duration, Duration), streak: u32, jitter: f64) -> Duration {
    let steps = streak.saturating_sub(1).min(31);
    let whole = first.saturating_mul(1 << steps).min(cap);
    whole.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
