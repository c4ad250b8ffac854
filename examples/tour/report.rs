//! What became of the requests: collected, and shown as a table or as JSON.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// One request, from the call until its answer was read.
pub(crate) struct Trip {
    pub(crate) took: Duration,
    /// It had to wait for a token before it could be sent.
    pub(crate) waited: bool,
    pub(crate) sent_again: bool,
    /// A token call was in progress when it began or when it ended.
    pub(crate) refreshing: bool,
    pub(crate) failure: Option<String>,
}

/// All requests so far.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    failed: u64,
    first_failure: Option<String>,
    waited: u64,
    sent_again: u64,
    /// Went straight through: while no token call was in progress, and while one was.
    quiet: Histogram<u64>,
    refreshing: Histogram<u64>,
    /// Had to wait for a token, before the first send or before the second.
    held_up: Histogram<u64>,
}

/// All there is to tell about one provider.
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) tally: Tally,
    pub(crate) token_calls: usize,
    pub(crate) token_calls_failed: usize,
    pub(crate) max_concurrent_token_calls: usize,
    pub(crate) refused: u64,
    pub(crate) expired_tokens_sent: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let microseconds = Histogram::new_with_max(60_000_000, 3).expect("up to a minute, in three digits");
        Self {
            requests: 0,
            failed: 0,
            first_failure: None,
            waited: 0,
            sent_again: 0,
            quiet: microseconds.clone(),
            refreshing: microseconds.clone(),
            held_up: microseconds,
        }
    }
}

impl Tally {
    pub(crate) fn add(&mut self, trip: Trip) {
        self.requests += 1;
        self.waited += u64::from(trip.waited);
        self.sent_again += u64::from(trip.sent_again);
        let latencies = match trip {
            Trip { waited: true, .. } | Trip { sent_again: true, .. } => &mut self.held_up,
            Trip { refreshing: true, .. } => &mut self.refreshing,
            _ => &mut self.quiet,
        };
        latencies.saturating_record(trip.took.as_micros() as u64);
        if let Some(failure) = trip.failure {
            self.failed += 1;
            self.first_failure.get_or_insert(failure);
        }
    }
}

impl Figures {
    /// What should not have been.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let Self { name, tally, max_concurrent_token_calls, expired_tokens_sent, .. } = self;
        let mut complaints = Vec::new();
        if let Some(first) = &tally.first_failure {
            complaints.push(format!("{name}: {} requests failed; the first: {first}", tally.failed));
        }
        if *max_concurrent_token_calls > 1 {
            complaints.push(format!("{name}: {max_concurrent_token_calls} token calls ran at once"));
        }
        if *expired_tokens_sent > 0 {
            complaints.push(format!("{name}: {expired_tokens_sent} requests were sent with an expired token"));
        }
        complaints
    }

    fn to_json(&self) -> Value {
        json!({
            "requests": self.tally.requests,
            "failed": self.tally.failed,
            "token_calls": self.token_calls,
            "token_calls_failed": self.token_calls_failed,
            "max_concurrent_token_calls": self.max_concurrent_token_calls,
            "refused": self.refused,
            "sent_again": self.tally.sent_again,
            "waited": self.tally.waited,
            "expired_tokens_sent": self.expired_tokens_sent,
            "latency_ms": {
                "no_refresh": Latency::of(&self.tally.quiet).to_json(),
                "refresh_in_progress": Latency::of(&self.tally.refreshing).to_json(),
                "waited_or_sent_again": Latency::of(&self.tally.held_up).to_json(),
            },
        })
    }

    /// In the order of [`ROWS`].
    fn cells(&self) -> [String; ROWS.len()] {
        let Self { tally, .. } = self;
        [
            tally.requests.to_string(),
            tally.failed.to_string(),
            self.token_calls.to_string(),
            self.token_calls_failed.to_string(),
            self.max_concurrent_token_calls.to_string(),
            self.refused.to_string(),
            tally.sent_again.to_string(),
            tally.waited.to_string(),
            self.expired_tokens_sent.to_string(),
            Latency::of(&tally.quiet).to_text(),
            Latency::of(&tally.refreshing).to_text(),
            Latency::of(&tally.held_up).to_text(),
        ]
    }
}

const ROWS: [&str; 12] = [
    "requests",
    "failed",
    "token calls",
    "  of them failed, in the outage",
    "  most at once",
    "401s seen by the layer",
    "sent again",
    "waited for a token",
    "expired tokens sent",
    "ms (p50 / p99 / max): no refresh in progress",
    "  while a refresh is in progress",
    "  waited for a token, or sent again",
];

/// In milliseconds.
struct Latency {
    count: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    fn of(microseconds: &Histogram<u64>) -> Self {
        let ms = |microseconds: u64| microseconds as f64 / 1000.0;
        Self {
            count: microseconds.len(),
            p50: ms(microseconds.value_at_quantile(0.5)),
            p99: ms(microseconds.value_at_quantile(0.99)),
            max: ms(microseconds.max()),
        }
    }

    fn to_json(&self) -> Value {
        json!({ "requests": self.count, "p50": self.p50, "p99": self.p99, "max": self.max })
    }

    fn to_text(&self) -> String {
        if self.count == 0 {
            return "none".to_owned();
        }
        format!("{:.1} / {:.1} / {:.1}", self.p50, self.p99, self.max)
    }
}

pub(crate) fn json([meshydb, mesh_connect]: &[Figures; 2]) -> Value {
    json!({ "meshydb": meshydb.to_json(), "mesh_connect": mesh_connect.to_json() })
}

pub(crate) fn table(figures: &[Figures; 2]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["", figures[0].name, figures[1].name]);
    let [left, right] = figures.each_ref().map(Figures::cells);
    for ((row, left), right) in ROWS.into_iter().zip(left).zip(right) {
        table.add_row([row.to_owned(), left, right]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}
