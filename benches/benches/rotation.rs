//! Load at a fixed rate while tokens come and go: how many requests are held up, and by how much.
//!
//! `cargo bench -p benches --bench rotation`; with `-- --csv FILE` the course of one run is written there, for the plot.

use std::fmt::Write as _;
use std::time::Duration;

use benches::arguments::argument;
use benches::rotation::{Plan, Report, on_expiry, ours, run, without};
use tokio::runtime::Builder;

const RATE: u32 = 5000;

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

/// The slowest request of each millisecond.
fn course(name: &str, report: &Report, csv: &mut String) {
    let mut slowest = std::collections::BTreeMap::<u128, Duration>::new();
    for (meant, latency) in &report.course {
        let slot = slowest.entry(meant.as_millis()).or_default();
        *slot = (*slot).max(*latency);
    }
    for (millis, latency) in slowest {
        writeln!(csv, "{millis},{name},{}", latency.as_secs_f64() * 1e6).expect("a string takes all");
    }
}

fn main() -> std::io::Result<()> {
    let mut csv = String::from("ms,peer,slowest_us\n");
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
        if plan.life == Duration::from_secs(1) && !plan.fails {
            course("tower-bearer", &ours, &mut csv);
            course("refresh on expiry", &on_expiry, &mut csv);
        }
    }
    match argument("--csv") {
        Some(path) => std::fs::write(path, csv),
        None => Ok(()),
    }
}
