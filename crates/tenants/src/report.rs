//! The figures, as a table for people and as JSON for programs.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

use crate::lookups::Lookups;
use crate::{STORM, Storm};

pub(crate) struct Report {
    pub(crate) keys: usize,
    pub(crate) requests: usize,
    /// The bytes of a key and its cache, without the text of its token.
    pub(crate) bytes_per_idle_key: f64,
    pub(crate) lookups: Lookups,
    pub(crate) token_calls: usize,
    pub(crate) storm: Storm,
    pub(crate) wrong_token: usize,
    pub(crate) took: Duration,
}

/// The limits: bytes of a key without its token, and the duration of a lookup in moka's lookups.
const BUDGETS: (f64, f64) = (1000.0, 2.0);

impl Report {
    fn lookup_ratio(&self) -> f64 {
        self.lookups.keyed / self.lookups.moka
    }

    /// Each promise, whether it held, and the figure.
    fn promises(&self) -> [(&'static str, bool, String); 6] {
        let Storm { served, token_calls, max_concurrent_token_calls, .. } = self.storm;
        let (storm, limit) = STORM;
        [
            ("no request carries another tenant's token", self.wrong_token == 0, self.wrong_token.to_string()),
            (
                "one token call for each key",
                self.token_calls == self.keys && token_calls == storm,
                format!("{} for {}", self.token_calls, self.keys),
            ),
            (
                "at most 1 kB for each idle key, without token",
                self.bytes_per_idle_key <= BUDGETS.0,
                format!("{:.0} bytes", self.bytes_per_idle_key),
            ),
            (
                "a lookup takes at most twice as long as moka's",
                self.lookup_ratio() <= BUDGETS.1,
                format!("{:.0} ns : {:.0} ns", self.lookups.keyed, self.lookups.moka),
            ),
            (
                "at most 32 token calls at once in the storm",
                max_concurrent_token_calls <= limit,
                max_concurrent_token_calls.to_string(),
            ),
            ("every key of the storm is served", served == storm, format!("{served} of {storm}")),
        ]
    }

    pub(crate) fn holds(&self) -> bool {
        self.promises().iter().all(|(_, holds, _)| *holds)
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{} requests of {} tenants by Zipf's law, and 10000 tenants at once: {:.1} s\n\n",
            self.requests,
            self.keys,
            self.took.as_secs_f64()
        );
        for (promise, holds, figure) in self.promises() {
            let holds = if holds { "held  " } else { "BROKEN" };
            writeln!(table, "{holds}  {promise:<50}  {figure:>18}").expect("a string takes all");
        }
        table.pop();
        table
    }

    pub(crate) fn json(&self) -> String {
        json!({
            "keys": self.keys,
            "requests": self.requests,
            "bytes_per_idle_key": self.bytes_per_idle_key.round(),
            "lookup_ns": self.lookups.keyed.round(),
            "lookup_ns_x_moka": (self.lookup_ratio() * 100.0).round() / 100.0,
            "token_calls": self.token_calls,
            "max_concurrent_token_calls": self.storm.max_concurrent_token_calls,
            "storm_served": self.storm.served,
            "wrong_token": self.wrong_token,
            "seconds": self.took.as_secs_f64().round(),
        })
        .to_string()
    }
}
