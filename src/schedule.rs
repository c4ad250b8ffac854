//! When: pure functions from a lifetime, a moment, the settings and a roll of the dice to a decision.
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
/// use tower_bearer::Refresh;
///
/// let refresh = Refresh::new().margin(Duration::from_secs(60)).deadline(Duration::from_secs(10))?;
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Refresh {
    margin: Option<Duration>,
    deadline: Duration,
    /// How many refreshes refusals may cause, and in what time.
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
pub(crate) struct Moment {
    pub(crate) mono: Duration,
    pub(crate) wall: Duration,
}

/// The three parts of one token's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    asked: Moment,
    /// How long after it was asked for; so the others.
    due: Duration,
    expired: Duration,
    end: Duration,
}

/// The refreshes that rejections have caused lately. Most caches never see a rejection, so this takes no space before one.
#[derive(Debug, Default)]
pub(crate) struct RejectionBudget(Option<Box<Rejections>>);

#[derive(Debug, Default)]
struct Rejections {
    started: VecDeque<Moment>,
    /// When it was last reported that the budget is spent.
    reported_at: Option<Moment>,
}

/// How long one clock is asked instead of two: so much later is it noticed that a machine slept, or that the wall clock
/// jumped.
const BELIEVED: Duration = Duration::from_millis(100);
/// How far the coarse clocks of operating systems lag behind: four to sixteen milliseconds.
const COARSEST: Duration = Duration::from_millis(20);
/// A token younger than this may not have reached every server of an API yet.
const SETTLED: Duration = Duration::from_secs(2);
/// How long a request that was refused with such a token waits at most.
const LONGEST_LAG: Duration = Duration::from_secs(1);
/// Ours, between two fetches that failed: it starts here, doubles, and is cut at the cap.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between two fetches that were denied: long, so that no account gets locked by us.
const DENIED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15 * 60));
/// No pause is shorter: a backoff of zero spins.
const SHORTEST: Duration = Duration::from_millis(100);
/// What an issuer's `Retry-After` is cut at.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

// === impl Refresh ===

impl Refresh {
    /// The defaults: a margin that scales with the lifetime, a deadline of 30 s, and 5 refreshes a minute for refusals.
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

    /// How many refreshes refused requests may cause within `window`. Default: 5 within 60 s.
    ///
    /// Past it the 401 goes to the caller, with an error in its extensions: a server that refuses everything cannot make
    /// us hammer the issuer. Refreshes because a token nears its end do not count. Zero hands back every 401 whose token
    /// is the current one.
    #[must_use]
    pub const fn refusal_budget(mut self, most: usize, window: Duration) -> Self {
        self.budget = (most, window);
        self
    }

    pub(crate) fn fetch_deadline(&self) -> Duration {
        self.deadline
    }
}

impl Default for Refresh {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Moment ===

impl Moment {
    pub(crate) fn after(self, wait: Duration) -> Self {
        Self { mono: self.mono.saturating_add(wait), wall: self.wall.saturating_add(wait) }
    }

    /// The time of day.
    pub(crate) fn system_time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(self.wall).unwrap_or(UNIX_EPOCH)
    }

    /// Whether either clock has come this far.
    pub(crate) fn reached(self, now: Self) -> bool {
        now.mono >= self.mono || now.wall >= self.wall
    }

    /// How long until either clock has come this far; zero where one has.
    pub(crate) fn wait(self, now: Self) -> Duration {
        self.mono.saturating_sub(now.mono).min(self.wall.saturating_sub(now.wall))
    }
}

// === impl Window ===

impl Window {
    /// `asked` is the moment before the token was asked for, `took` how long its answer was on the way, `roll` a number in
    /// 0..1.
    pub(crate) fn new(settings: &Refresh, lifetime: Duration, asked: Moment, took: Duration, roll: f64) -> Self {
        let early = (lifetime / 10).min(Duration::from_secs(5));
        let enough = took.saturating_mul(2).saturating_add(early);
        let margin = settings.margin.unwrap_or((lifetime / 5).min(Duration::from_secs(5 * 60)).max(enough));
        // Twice `early` is a fifth of the life at most, so the bounds never cross.
        let margin = margin.clamp(early * 2, lifetime / 2);
        let jitter = (margin / 4).mul_f64(roll.clamp(0.0, 1.0));
        Self { asked, due: lifetime - (margin + jitter), expired: lifetime - early, end: lifetime }
    }

    /// Due no later than this long after it was asked for; a fleet is spread over the last tenth of it.
    pub(crate) fn due_within(self, refresh_in: Duration, roll: f64) -> Self {
        let due = refresh_in - (refresh_in / 10).mul_f64(roll.clamp(0.0, 1.0));
        Self { due: due.min(self.due), ..self }
    }

    pub(crate) fn phase(&self, now: Moment) -> Phase {
        if !self.due().reached(now) {
            Phase::Fresh
        } else if !self.expired().reached(now) {
            Phase::Due
        } else {
            Phase::Expired
        }
    }

    /// How long the token can still be sent.
    pub(crate) fn left(&self, now: Moment) -> Duration {
        self.expired().wait(now)
    }

    /// How long until a refresh is due.
    pub(crate) fn until_due(&self, now: Moment) -> Duration {
        self.due().wait(now)
    }

    /// How long it stays fresh for sure, going by the monotonic clock alone.
    pub(crate) fn sure_for(&self, now: Moment) -> Duration {
        self.until_due(now).saturating_sub(COARSEST).min(BELIEVED)
    }

    fn due(&self) -> Moment {
        self.asked.after(self.due)
    }

    fn expired(&self) -> Moment {
        self.asked.after(self.expired)
    }

    /// The issuer's end of life.
    pub(crate) fn end(&self) -> Moment {
        self.asked.after(self.end)
    }
}

// === impl RejectionBudget ===

impl RejectionBudget {
    /// Whether one more refresh is within the budget.
    pub(crate) fn has_room(&self, settings: &Refresh, now: Moment) -> bool {
        let (most, window) = settings.budget;
        let started = self.0.iter().flat_map(|rejections| &rejections.started);
        started.filter(|start| !start.after(window).reached(now)).count() < most
    }

    /// Takes one refresh from the budget.
    pub(crate) fn spend(&mut self, settings: &Refresh, now: Moment) {
        let (_, window) = settings.budget;
        let Rejections { started, .. } = self.0.get_or_insert_default().as_mut();
        started.retain(|start| !start.after(window).reached(now));
        started.push_back(now);
    }

    /// Notes that the budget is spent; `true` for the first time within the window.
    pub(crate) fn report(&mut self, settings: &Refresh, now: Moment) -> bool {
        let (_, window) = settings.budget;
        let Rejections { reported_at, .. } = self.0.get_or_insert_default().as_mut();
        let first = reported_at.is_none_or(|reported_at| reported_at.after(window).reached(now));
        if first {
            *reported_at = Some(now);
        }
        first
    }
}

/// How long a request waits that was refused with a token published at `since`; `None` where the token has settled, and
/// the refusal counts.
pub(crate) fn replication_lag(since: Moment, now: Moment) -> Option<Duration> {
    let settled = since.after(SETTLED);
    (!settled.reached(now)).then(|| settled.wait(now).min(LONGEST_LAG))
}

// === pauses ===

/// How long to wait after `streak` failed fetches in a row; `left` is how long the current token can still be sent.
///
/// Ours is jittered, capped by what is left of the token's life (so that the moment it ends sees an attempt), and
/// never below 100 ms. The issuer's `Retry-After`, up to 5 min, lengthens it and never shortens it.
pub(crate) fn backoff(streak: u32, left: Duration, retry_after: Option<Duration>, roll: f64) -> Duration {
    let wait = doubling(BACKOFF, streak, roll);
    let wait = if left.is_zero() { wait } else { wait.min(left) };
    wait.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)).max(SHORTEST)
}

/// How long to wait after the credentials were denied `streak` times in a row.
pub(crate) fn denied_backoff(streak: u32, retry_after: Option<Duration>) -> Duration {
    // No jitter: 30 s is a promise, and who is denied is no stampede.
    doubling(DENIED, streak, 1.0).max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
}

/// `first`, doubled with each step, cut at `cap`, then between half and all of it as the dice fall.
fn doubling((first, cap): (Duration, Duration), streak: u32, roll: f64) -> Duration {
    let steps = streak.saturating_sub(1).min(31);
    let whole = first.saturating_mul(1 << steps).min(cap);
    whole.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
