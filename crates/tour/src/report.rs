//! The results of the requests, as tables or as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// One request, from the call until its response was read.
pub(crate) struct Observed {
    pub(crate) took: Duration,
    /// Whether it waited for a token before it was sent.
    pub(crate) waited: bool,
    /// Whether it waited although the cache had a usable token.
    pub(crate) waited_needlessly: bool,
    pub(crate) retried: bool,
    /// Whether a token call was in flight when it began or when it ended.
    pub(crate) refreshing: bool,
    pub(crate) failure: Option<String>,
}

/// All requests so far.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    requests: u64,
    failed: u64,
    first_failure: Option<String>,
    waited: u64,
    waited_needlessly: u64,
    retried: u64,
    /// The latencies of requests sent at once, while no token call was in flight.
    quiet: Vec<Duration>,
    /// The latencies of requests sent at once, while a token call was in flight.
    refreshing: Vec<Duration>,
    /// The latencies of requests that waited for a token, before the first send or before the second.
    delayed: Vec<Duration>,
}

/// The measurements of one provider.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) tally: Tally,
    pub(crate) token_calls: usize,
    pub(crate) token_calls_failed: usize,
    pub(crate) max_concurrent_token_calls: usize,
    pub(crate) fetched_ahead_of_expiry: u64,
    pub(crate) fetched_after_rejection: u64,
    pub(crate) revoked: u64,
    pub(crate) rejected: u64,
    pub(crate) expired_tokens_sent: u64,
}

pub(crate) struct Promise {
    pub(crate) text: &'static str,
    /// Whether it held for both providers.
    pub(crate) held: bool,
    figures: [String; 2],
}

impl Tally {
    pub(crate) fn add(&mut self, observed: Observed) {
        self.requests += 1;
        self.waited += u64::from(observed.waited);
        self.waited_needlessly += u64::from(observed.waited_needlessly);
        self.retried += u64::from(observed.retried);
        let latencies = match observed {
            Observed { waited: true, .. } | Observed { retried: true, .. } => &mut self.delayed,
            Observed { refreshing: true, .. } => &mut self.refreshing,
            _ => &mut self.quiet,
        };
        latencies.push(observed.took);
        if let Some(failure) = observed.failure {
            self.failed += 1;
            self.first_failure.get_or_insert(failure);
        }
    }
}

impl Figures {
    pub(crate) fn first_failure(&self) -> Option<String> {
        let first = self.tally.first_failure.as_ref()?;
        Some(format!("{}: {} requests failed; the first: {first}", self.name, self.tally.failed))
    }

    fn to_json(&self) -> Value {
        json!({
            "requests": self.tally.requests,
            "failed": self.tally.failed,
            "token_calls": self.token_calls,
            "token_calls_failed": self.token_calls_failed,
            "max_concurrent_token_calls": self.max_concurrent_token_calls,
            "refused": self.rejected,
            "sent_again": self.tally.retried,
            "waited": self.tally.waited,
            "expired_tokens_sent": self.expired_tokens_sent,
            "latency_ms": {
                "no_refresh": Latency::of(&self.tally.quiet).to_json(),
                "refresh_in_progress": Latency::of(&self.tally.refreshing).to_json(),
                "waited_or_sent_again": Latency::of(&self.tally.delayed).to_json(),
            },
        })
    }
}

/// Latencies in milliseconds.
struct Latency {
    count: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    fn of(latencies: &[Duration]) -> Self {
        let mut sorted = latencies.to_vec();
        sorted.sort_unstable();
        // The smallest latency that this share of the requests did not exceed.
        let quantile = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).map_or(0.0, |latency| latency.as_micros() as f64 / 1000.0)
        };
        Self { count: sorted.len(), p50: quantile(0.5), p99: quantile(0.99), max: quantile(1.0) }
    }

    fn to_json(&self) -> Value {
        json!({ "requests": self.count, "p50": self.p50, "p99": self.p99, "max": self.max })
    }

    fn to_text(&self) -> String {
        if self.count == 0 {
            return "none".to_owned();
        }
        // Short, so that three of them fit their column.
        let digits = |ms: f64| if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
        format!("{} / {} / {}", digits(self.p50), digits(self.p99), digits(self.max))
    }
}

pub(crate) fn json([meshydb, mesh_connect]: &[Figures; 2]) -> Value {
    json!({ "meshydb": meshydb.to_json(), "mesh_connect": mesh_connect.to_json() })
}

/// One line of at most 80 columns.
fn line(text: &mut String, label: &str, [left, right]: [&str; 2]) {
    writeln!(text, "{label:<42} {left:>18} {right:>18}").expect("a string takes all text");
}

pub(crate) fn table(figures: &[Figures; 2]) -> String {
    let mut text = String::new();
    line(&mut text, "", figures.each_ref().map(|figures| figures.name));
    let mut row = |label: &str, cell: fn(&Figures) -> String| {
        let cells = figures.each_ref().map(cell);
        line(&mut text, label, cells.each_ref().map(String::as_str));
    };
    row("requests", |figures| figures.tally.requests.to_string());
    row("  waited for a token", |figures| figures.tally.waited.to_string());
    row("  answered 401, and sent again", |figures| figures.tally.retried.to_string());
    row("token calls", |figures| figures.token_calls.to_string());
    row("  failed in the outage", |figures| figures.token_calls_failed.to_string());
    row("latency in ms", |_| "p50 / p99 / max".to_owned());
    row("  no token call in flight", |figures| Latency::of(&figures.tally.quiet).to_text());
    row("  a token call in flight", |figures| Latency::of(&figures.tally.refreshing).to_text());
    row("  waited for a token, or sent again", |figures| Latency::of(&figures.tally.delayed).to_text());
    text
}

/// Each promise of the layer that the tour can check.
pub(crate) fn promises(both: &[Figures; 2]) -> Vec<Promise> {
    let promise = |text, held: fn(&Figures) -> bool, figure: fn(&Figures) -> String| {
        let held = both.iter().all(held);
        Promise { text, held, figures: both.each_ref().map(figure) }
    };
    vec![
        promise("no request failed", |f| f.tally.failed == 0, |f| format!("{} failed", f.tally.failed)),
        promise(
            "tokens are refreshed before expiry",
            |f| f.fetched_ahead_of_expiry > 0,
            |f| format!("{} refreshes", f.fetched_ahead_of_expiry),
        ),
        promise(
            "no wait while a token is usable",
            |f| f.tally.waited_needlessly == 0,
            |f| format!("{} waited", f.tally.waited_needlessly),
        ),
        promise(
            "one token call at a time",
            |f| f.max_concurrent_token_calls == 1,
            |f| format!("at most {}", f.max_concurrent_token_calls),
        ),
        promise(
            "no expired token is sent",
            |f| f.expired_tokens_sent == 0,
            |f| format!("{} sent", f.expired_tokens_sent),
        ),
        promise(
            "a rejected token is replaced once",
            |f| f.fetched_after_rejection <= f.revoked,
            |f| format!("{} after {} 401s", f.fetched_after_rejection, f.rejected),
        ),
        promise(
            "a rejected request is sent again",
            |f| f.tally.retried > 0 && f.tally.retried == f.rejected,
            |f| format!("{} of {}", f.tally.retried, f.rejected),
        ),
    ]
}

pub(crate) fn promise_table(figures: &[Figures; 2], promises: &[Promise]) -> String {
    let mut text = String::new();
    line(&mut text, "promise", figures.each_ref().map(|figures| figures.name));
    for Promise { text: promise, held, figures } in promises {
        let label = format!("{:<6} {promise}", if *held { "held" } else { "BROKEN" });
        line(&mut text, &label, figures.each_ref().map(String::as_str));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(change: impl Fn(&mut Figures)) -> [Figures; 2] {
        ["MeshyDB", "Mesh Connect"].map(|name| {
            let mut figures = Figures { name, max_concurrent_token_calls: 1, ..Figures::default() };
            (figures.fetched_ahead_of_expiry, figures.fetched_after_rejection, figures.revoked) = (4, 1, 1);
            (figures.rejected, figures.tally.retried) = (7, 7);
            change(&mut figures);
            figures
        })
    }

    fn broken(change: impl Fn(&mut Figures)) -> Vec<&'static str> {
        promises(&both(change)).into_iter().filter(|promise| !promise.held).map(|promise| promise.text).collect()
    }

    #[test]
    fn each_promise_can_break() {
        assert!(broken(|_| {}).is_empty());
        assert_eq!(broken(|f| f.tally.failed = 1), ["no request failed"]);
        assert_eq!(broken(|f| f.fetched_ahead_of_expiry = 0), ["tokens are refreshed before expiry"]);
        assert_eq!(broken(|f| f.tally.waited_needlessly = 1), ["no wait while a token is usable"]);
        assert_eq!(broken(|f| f.max_concurrent_token_calls = 2), ["one token call at a time"]);
        assert_eq!(broken(|f| f.expired_tokens_sent = 1), ["no expired token is sent"]);
        assert_eq!(broken(|f| f.fetched_after_rejection = 2), ["a rejected token is replaced once"]);
        assert_eq!(broken(|f| f.tally.retried = 6), ["a rejected request is sent again"]);
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let figures = both(|figures| {
            figures.tally.requests = 10_000_000;
            figures.tally.delayed = vec![Duration::from_millis(1234); 3];
            (figures.rejected, figures.max_concurrent_token_calls) = (10_000, 1000);
        });
        let text = table(&figures) + &promise_table(&figures, &promises(&figures));
        assert!(text.contains("1234 / 1234 / 1234") && text.contains("BROKEN"), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn quantiles_are_observed_latencies() {
        let latencies: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let Latency { count, p50, p99, max } = Latency::of(&latencies);
        assert_eq!((count, p50, p99, max), (200, 100.0, 198.0, 200.0));
        assert_eq!(Latency::of(&[Duration::from_millis(3)]).p99, 3.0);
        assert_eq!(Latency::of(&[]).to_text(), "none");
    }
}
