//! The budgets that hold on any machine, instructions and allocations, as ratios within one run. Fails when one is broken.
//!
//! `cargo run --release -p benches --bin budgets`; needs valgrind and gungraun-runner, as the benchmarks it starts.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use benches::allocations::{self, Counting};
use benches::layers::{added, never, retried, twice};
use benches::world::{Client, SMALL, call, call_cloned, request};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Instructions of `ours`, at most so many times those of `floor`.
struct Budget {
    number: &'static str,
    what: &'static str,
    ours: &'static str,
    floor: &'static str,
    most: f64,
}

const fn budget(
    number: &'static str,
    what: &'static str,
    (ours, floor): (&'static str, &'static str),
    most: f64,
) -> Budget {
    Budget { number, what, ours, floor, most }
}

const BUDGETS: [Budget; 5] = [
    budget("1", "cached path, one-word inner future", ("small.never", "small.added"), 1.5),
    budget("1", "the same, 136-byte inner future", ("large.never", "large.added"), 1.5),
    budget("1", "the same, any origin", ("small.anywhere", "small.added"), 1.1),
    budget("2", "service cloned per request", ("cloned.never", "cloned.added"), 1.7),
    budget("5", "second send kept ready, 6 headers", ("six_headers.twice", "six_headers.retried"), 1.0),
];

/// The instructions of each case, by `function.case`.
fn instructions() -> Result<BTreeMap<String, u64>, Box<dyn std::error::Error>> {
    let mut instructions = BTreeMap::new();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = Command::new(cargo)
        .args(["bench", "--quiet", "-p", "benches", "--bench", "instructions", "--", "--output-format=json"])
        .stderr(Stdio::inherit())
        .output()?;
    if !run.status.success() {
        return Err(format!("cargo bench: {}", run.status).into());
    }
    for line in String::from_utf8(run.stdout)?.lines().filter(|line| line.starts_with('{')) {
        let case: Value = serde_json::from_str(line)?;
        let text = |pointer| case.pointer(pointer).and_then(Value::as_str).ok_or("another shape of gungraun's summary");
        let name = format!("{}.{}", text("/function_name")?, text("/id")?);
        let count = case.pointer("/profiles/0/data/total/metrics/Ir/values/new").and_then(Value::as_u64);
        instructions.insert(name, count.ok_or("a summary without a count of instructions")?);
    }
    Ok(instructions)
}

/// The allocations of one call, from the request to its answer.
fn allocations<S: Client>(mut service: S, cloned: bool) -> usize {
    let mut once = || {
        let request = request(6);
        let (count, _answer) = allocations::of(|| match cloned {
            true => call_cloned(&service, request),
            false => call(&mut service, request),
        });
        count.times
    };
    for _ in 0..3 {
        once();
    }
    once()
}

fn verdict(broken: bool) -> &'static str {
    if broken { "BROKEN" } else { "ok" }
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let instructions = instructions()?;
    let mut failed = false;
    let of = |case: &str| instructions.get(case).copied().ok_or_else(|| format!("no case {case} was measured"));

    println!("| budget | what | instructions | floor | ratio | at most | |\n|---|---|--:|--:|--:|--:|---|");
    for Budget { number, what, ours, floor, most } in BUDGETS {
        let (ours, floor) = (of(ours)?, of(floor)?);
        let ratio = ours as f64 / floor as f64;
        let broken = ratio > most;
        failed |= broken;
        println!("| {number} | {what} | {ours} | {floor} | {ratio:.2} | {most:.2} | {} |", verdict(broken));
    }

    println!("\n| budget | what | allocations | floor | above it | at most | |\n|---|---|--:|--:|--:|--:|---|");
    let copy = allocations::of(|| request(6).clone()).0.times - allocations::of(|| request(6)).0.times;
    let floor = allocations(added(SMALL), false);
    let floor_cloned = allocations(added(SMALL), true);
    for (what, ours, floor, most) in [
        ("cached path, `Never`", allocations(never(SMALL), false), floor, 0),
        ("service cloned per request, `Never`", allocations(never(SMALL), true), floor_cloned, 0),
        ("second send kept ready", allocations(twice(SMALL), false), floor, copy),
        ("(tower's retry, for comparison)", allocations(retried(SMALL), false), floor, copy),
    ] {
        let broken = ours > floor + most;
        failed |= broken;
        println!("| 4 | {what} | {ours} | {floor} | {} | {most} | {} |", ours as i64 - floor as i64, verdict(broken));
    }

    println!("\n| case | instructions |\n|---|--:|");
    for (case, count) in &instructions {
        println!("| {case} | {count} |");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
