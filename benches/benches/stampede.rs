//! A stampede of 1 000 to 1 000 000 callers on one thread: who is served when, and what each costs.
//!
//! `cargo bench -p benches --bench stampede`; `-- --most N` stops at N callers.

use std::time::Duration;

use benches::allocations::Counting;
use benches::arguments::argument;
use benches::stampede::{BareNotify, Locked, Moka, NotifyWithDeadline, Ours, Outcome, Peer, Watch, run};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RUNS: usize = 5;

/// The outcome with the median time to the first waiter; the others stand beside it as the spread.
fn measure<P: Peer>(waiters: u64) {
    let mut outcomes: Vec<Outcome> = (0..RUNS).map(|_| run::<P>(waiters)).collect();
    outcomes.sort_by_key(|outcome| outcome.first);
    let Outcome { fetches, polls, bytes, first, last, nanos } = outcomes[RUNS / 2];
    let (least, most) = (micros(outcomes[0].first), micros(outcomes[RUNS - 1].first));
    let (name, first, last) = (P::NAME, micros(first), micros(last));
    println!(
        "| {waiters} | {name} | {fetches} | {polls:.2} | {bytes:.0} | {nanos:.0} | {first:.1} | {least:.1}..{most:.1} | {last:.0} |"
    );
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn main() {
    let most: u64 = argument("--most").map_or(1_000_000, |most| most.parse().expect("a number"));
    println!("medians of {RUNS} runs; times from the issuer's answer to a waiter's return");
    println!("| waiters | | fetches | polls each | bytes each | ns each | first, µs | (spread) | last, µs |");
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|");
    for waiters in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|waiters| *waiters <= most) {
        measure::<Ours>(waiters);
        measure::<BareNotify>(waiters);
        measure::<NotifyWithDeadline>(waiters);
        measure::<Watch>(waiters);
        measure::<Locked>(waiters);
        measure::<Moka>(waiters);
    }
}
