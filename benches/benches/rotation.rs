//! Requests at a fixed rate while tokens are replaced: how many of them wait, and how long.
//!
//! `cargo bench -p benches --bench rotation`; with `-- --csv FILE` the percentiles of one run are written there, for the plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use benches::arguments::argument;
use benches::rotation::{Plan, Report, on_expiry, ours, run, without};
use tokio::runtime::Builder;

const RATE: u32 = 5000;
/// Milliseconds.
const BIN: u128 = 50;

fn plan(life: u64, fetch: u64, lasts: u64, fails: bool) -> Plan {
    let millis = Duration::from_millis;
    Plan { life: millis(life), fetch: millis(fetch), lasts: millis(lasts), rate: RATE, fails }
}

fn row(name: &str, Report { latency, waited, failed, expired_sent, fetches, .. }: &Report) {
    let answered = latency.len() as f64;
    let blocked = latency.len() - latency.count_between(0, 1_000_000);
    let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "| {name} | {:.4} | {:.3} | {:.1} | {:.1} | {:.1} | {:.0} | {failed} | {expired_sent} | {fetches} |",
        *waited as f64 / (answered + *failed as f64) * 100.0,
        blocked as f64 / answered * 100.0,
        micros(0.5),
        micros(0.99),
        micros(0.999),
        latency.max() as f64 / 1000.0,
    );
}

/// The 99th percentile of each bin of 50 ms, which holds 250 requests.
fn course(name: &str, report: &Report, csv: &mut String) {
    let mut bins = BTreeMap::<u128, Vec<Duration>>::new();
    for (meant, latency) in &report.course {
        bins.entry(meant.as_millis() / BIN * BIN).or_default().push(*latency);
    }
    for (millis, mut latencies) in bins {
        latencies.sort_unstable();
        let p99 = latencies[latencies.len() * 99 / 100];
        writeln!(csv, "{millis},{name},{:.2}", p99.as_secs_f64() * 1e6).expect("a string takes all");
    }
}

fn main() -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    for (title, plan) in [
        ("life 100 ms, fetch 20 ms", plan(100, 20, 5_000, false)),
        ("life 1 s, fetch 20 ms", plan(1_000, 20, 6_000, false)),
        ("life 5 s, fetch 1 s", plan(5_000, 1_000, 12_000, false)),
        ("life 1 s, fetch 20 ms, the issuer away for the middle third", plan(1_000, 20, 9_000, true)),
    ] {
        println!("\n{title}: {RATE} requests a second each for {:?}, all at once, one thread", plan.lasts);
        println!(
            "| | waited, % | late by > 1 ms, % | p50, µs | p99, µs | p99.9, µs | max, µs | failed | expired sent | fetches |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        let [without, ours, on_expiry] = runtime.block_on(run(plan, [without, ours, on_expiry]));
        row("no auth", &without);
        row("tower-bearer", &ours);
        row("refresh on expiry", &on_expiry);
    }
    match argument("--csv") {
        Some(path) => std::fs::write(path, runtime.block_on(percentiles())),
        None => Ok(()),
    }
}

/// The file for the plot. Requests that wait together also return together, which delays the requests of the other lines, so
/// the one with waits runs alone.
async fn percentiles() -> String {
    let plan = plan(1_000, 20, 4_200, false);
    let [without, ours] = run(plan, [without, ours]).await;
    let [on_expiry] = run(plan, [on_expiry]).await;
    let mut csv = String::from("ms,peer,p99_us\n");
    for (name, report) in [("no auth", without), ("tower-bearer", ours), ("refresh on expiry", on_expiry)] {
        course(name, &report, &mut csv);
    }
    csv
}
