//! Checks the budgets that hold on any machine: instructions and allocations, as ratios within one run. It fails if one
//! is exceeded.
//!
//! `cargo run --release -p benches --bin budgets`. It needs valgrind and gungraun-runner for the benchmarks that it
//! runs.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use benches::allocations::{self, Counting};
use benches::fixtures::{Client, SMALL, call, call_cloned, request};
use benches::layers::{added, never, retried, twice};
use benches::stampede::{NotifyWithDeadline, Ours, run};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The instructions of `ours` as a multiple of those of `floor`.
struct Budget {
    number: &'static str,
    what: &'static str,
    ours: &'static str,
    floor: &'static str,
    /// The aim; RESULTS.md says why some are not reached. `None` if the row only accompanies a budget.
    aim: Option<f64>,
    /// The gate: the present value, with a little room for another compiler.
    most: f64,
}

const fn budget(
    number: &'static str,
    what: &'static str,
    (ours, floor): (&'static str, &'static str),
    aim: Option<f64>,
    most: f64,
) -> Budget {
    Budget { number, what, ours, floor, aim, most }
}

const NOTIFY_WITH_DEADLINE: &str = "stampede_notify_with_deadline";

/// The instructions that a subject adds to the same loop without a layer, as a multiple of those that the floor adds or
/// in absolute numbers.
struct Added {
    number: &'static str,
    what: &'static str,
    ours: &'static str,
    /// The case without a layer.
    none: &'static str,
    floor: Option<&'static str>,
    aim: f64,
    most: f64,
}

const fn added_to(
    number: &'static str,
    what: &'static str,
    (ours, none, floor): (&'static str, &'static str, Option<&'static str>),
    aim: f64,
    most: f64,
) -> Added {
    Added { number, what, ours, none, floor, aim, most }
}

/// The budgets over a client with the size and the clone cost of hyper-util's.
const ADDED: [Added; 6] = [
    added_to("1", "cached, `Never`", ("over_client.never", "over_client.none", Some("over_client.added")), 1.8, 1.9),
    added_to("8", "own URL with `:443`, over the usual", ("odd_request.port", "over_client.never", None), 400.0, 400.0),
    added_to("8", "own URL in capitals, likewise", ("odd_request.capitals", "over_client.never", None), 400.0, 400.0),
    added_to("8", "to another origin", ("odd_request.another", "odd_request.another_none", None), 400.0, 400.0),
    added_to("8", "its own `Authorization`", ("odd_request.own", "odd_request.own_none", None), 400.0, 400.0),
    added_to("8", "`NoToken`", ("odd_request.exempt", "odd_request.exempt_none", None), 400.0, 180.0),
];

const BUDGETS: [Budget; 14] = [
    budget("1", "client: cached, `Never`", ("over_client.never", "over_client.added"), Some(1.38), 1.42),
    budget("2", "client: second send kept ready", ("over_client.twice", "over_client.retried"), Some(1.05), 1.06),
    budget("3", "client: cloned per request", ("client_cloned.never", "client_cloned.added"), Some(1.6), 1.38),
    budget(
        "7",
        "client: a late 401, from the first send to the second answer",
        ("early_401.ours + late_401.ours", "early_401.retried + late_401.retried"),
        Some(1.25),
        1.25,
    ),
    budget("1", "cached path, one-word inner future", ("small.never", "small.added"), Some(1.5), 1.48),
    budget("1", "the same, 136-byte inner future", ("large.never", "large.added"), None, 1.64),
    budget("1", "the same, any origin", ("small.anywhere", "small.added"), Some(1.1), 1.6),
    budget("2", "cloned per request from a service in use", ("cloned.never", "cloned.added"), Some(1.7), 1.54),
    budget("2", "cloned from one never called", ("cloned.never_template", "cloned.added"), Some(1.7), 1.54),
    budget("5", "second send kept ready, 6 headers", ("six_headers.twice", "six_headers.retried"), Some(1.0), 1.1),
    budget(
        "6",
        "1000 waiters, to Notify each with a timeout",
        ("stampede_ours", NOTIFY_WITH_DEADLINE),
        Some(1.15),
        1.3,
    ),
    budget("6", "1000 waiters, to bare Notify", ("stampede_ours", "stampede_notify"), Some(1.1), 1.75),
    budget("8", "loopback HTTP/1.1, `Never`", ("http1.never", "http1.added"), Some(1.02), 1.02),
    budget("8", "loopback HTTP/1.1, second send kept ready", ("http1.twice", "http1.added"), Some(1.05), 1.06),
];

/// The instructions of each case. The keys are `function.case`.
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
        let id = text("/id").map(|id| format!(".{id}")).unwrap_or_default();
        let name = format!("{}{id}", text("/function_name")?);
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
    // A path that is measured in parts is their sum.
    let of = |cases: &str| {
        let count = |case| instructions.get(case).copied().ok_or_else(|| format!("no case {case} was measured"));
        cases.split(" + ").map(count).sum::<Result<u64, _>>()
    };

    println!("| budget | what | instructions | floor | ratio | aim | gate | |\n|---|---|--:|--:|--:|--:|--:|---|");
    for Budget { number, what, ours, floor, aim, most } in BUDGETS {
        let (ours, floor) = (of(ours)?, of(floor)?);
        let ratio = ours as f64 / floor as f64;
        let broken = ratio > most;
        failed |= broken;
        let aim = aim.map_or("-".to_owned(), |aim| format!("{aim:.2}"));
        println!("| {number} | {what} | {ours} | {floor} | {ratio:.3} | {aim} | {most:.2} | {} |", verdict(broken));
    }

    println!("\n| budget | over a client of hyper-util's size | added | floor | times | aim | gate | |");
    println!("|---|---|--:|--:|--:|--:|--:|---|");
    for Added { number, what, ours, none, floor, aim, most } in ADDED {
        let none = of(none)?;
        let ours = of(ours)? - none;
        let floor = floor.map(of).transpose()?.map(|floor| floor - none);
        let measured = ours as f64 / floor.unwrap_or(1) as f64;
        let broken = measured > most;
        failed |= broken;
        let (floor, times) =
            floor.map_or(("-".to_owned(), "-".to_owned()), |floor| (floor.to_string(), format!("{measured:.3}")));
        println!("| {number} | {what} | {ours} | {floor} | {times} | {aim} | {most} | {} |", verdict(broken));
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

    println!("\n| budget | 10 000 waiters | ours | floor | at most | |\n|---|---|--:|--:|--:|---|");
    let (ours, floor) = (run::<Ours>(10_000), run::<NotifyWithDeadline>(10_000));
    for (what, ours, floor, most) in [
        ("fetches", ours.fetches as f64, floor.fetches as f64, 1.0),
        ("polls each", ours.polls, floor.polls, 2.0),
        ("bytes each, to Notify each with a timeout", ours.bytes, floor.bytes, 1.1 * floor.bytes),
    ] {
        let broken = ours > most;
        failed |= broken;
        println!("| 6 | {what} | {ours:.2} | {floor:.2} | {most:.2} | {} |", verdict(broken));
    }

    println!("\n| case | instructions |\n|---|--:|");
    for (case, count) in &instructions {
        println!("| {case} | {count} |");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
