//! The figures: a row of the live table, the promises, and JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::processes::Counts;

/// The header of the live table. No line is wider than 80 columns.
pub(crate) const HEAD: &str = "  time  processes  killed  token calls  adopted  lease waits  requests  failed";

pub(crate) struct Report {
    pub(crate) processes: usize,
    pub(crate) expiries: usize,
    pub(crate) kill: bool,
    pub(crate) token_calls: usize,
    /// Token calls with a refresh token that had been presented before.
    pub(crate) repeated: usize,
    pub(crate) max_concurrent_token_calls: usize,
    pub(crate) logged_out: usize,
    pub(crate) killed: usize,
    pub(crate) counts: Counts,
}

impl Report {
    pub(crate) fn row(&self, elapsed: Duration) -> String {
        let Counts { requests, failed, adopted, lease_waits, .. } = self.counts;
        format!(
            "{:>4.0} s  {:>9}  {:>6}  {:>11}  {adopted:>7}  {lease_waits:>11}  {requests:>8}  {failed:>6}",
            elapsed.as_secs_f32(),
            self.processes,
            self.killed,
            self.token_calls,
        )
    }

    /// Each promise, whether it held, and the figure.
    fn promises(&self) -> [(&'static str, bool, String); 5] {
        let Self { expiries, token_calls, repeated, max_concurrent_token_calls, killed, .. } = *self;
        // The issuer may still process the call of a killed process when the next one calls.
        let at_once = if repeated > 0 { 2 } else { 1 };
        [
            (
                "one token call for the login and each expiry",
                token_calls == expiries + 1 + repeated,
                format!("{token_calls} for {expiries} expiries"),
            ),
            ("only a kill causes a repeated call", repeated <= killed, format!("{repeated} repeated, {killed} kills")),
            (
                "one token call at a time",
                (1..=at_once).contains(&max_concurrent_token_calls),
                format!("at most {max_concurrent_token_calls}"),
            ),
            ("the session is never lost", self.logged_out == 0, format!("{} times", self.logged_out)),
            (
                "no request fails",
                self.counts.failed == 0 && self.counts.requests > 0,
                format!("{} of {}", self.counts.failed, self.counts.requests),
            ),
        ]
    }

    pub(crate) fn holds(&self) -> bool {
        self.promises().iter().all(|(_, held, _)| *held)
    }

    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (promise, held, figure) in self.promises() {
            let held = if held { "held" } else { "BROKEN" };
            writeln!(text, "{held:<6} {promise:<45} {figure:>27}").expect("a string takes all text");
        }
        text.trim_end().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "processes": self.processes,
            "expiries": self.expiries,
            "kill": self.kill,
            "killed": self.killed,
            "token_calls": self.token_calls,
            "repeated_token_calls": self.repeated,
            "max_concurrent_token_calls": self.max_concurrent_token_calls,
            "adopted": self.counts.adopted,
            "lease_waits": self.counts.lease_waits,
            "logged_out": self.logged_out,
            "failed": self.counts.failed,
            "requests": self.counts.requests,
            "holds": self.holds(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl Fn(&mut Report)) -> Report {
        let counts = Counts { requests: 1_000_000, adopted: 490, ..Counts::default() };
        let mut report = Report {
            processes: 50,
            expiries: 10,
            kill: false,
            token_calls: 11,
            repeated: 0,
            max_concurrent_token_calls: 1,
            logged_out: 0,
            killed: 0,
            counts,
        };
        change(&mut report);
        report
    }

    #[test]
    fn the_json_holds_every_figure() {
        let json = report(|_| {}).json();
        for (name, figure) in [
            ("processes", 50),
            ("expiries", 10),
            ("token_calls", 11),
            ("max_concurrent_token_calls", 1),
            ("adopted", 490),
            ("logged_out", 0),
            ("failed", 0),
            ("requests", 1_000_000),
        ] {
            assert_eq!(json[name], figure, "{name}");
        }
    }

    #[test]
    fn each_promise_can_break() {
        assert!(report(|_| {}).holds());
        assert!(report(|r| (r.token_calls, r.repeated, r.killed) = (12, 1, 1)).holds());
        assert!(!report(|r| r.token_calls = 12).holds());
        assert!(!report(|r| r.token_calls = 10).holds());
        assert!(!report(|r| (r.token_calls, r.repeated) = (12, 1)).holds());
        assert!(!report(|r| r.max_concurrent_token_calls = 2).holds());
        assert!(!report(|r| r.logged_out = 1).holds());
        assert!(!report(|r| r.counts.failed = 1).holds());
        assert!(!report(|r| r.counts.requests = 0).holds());
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let report = report(|r| (r.processes, r.token_calls, r.killed) = (1000, 10_000, 10_000));
        for line in [HEAD, &report.row(Duration::from_secs(1000))].into_iter().chain(report.summary().lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
