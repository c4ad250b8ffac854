//! The hot path, a stampede and the rotation of tokens, for crates that a user could choose instead. `cargo run
//! --release -p peers` prints one table with ratios to tower-bearer. `--markdown` prints it in the form of
//! `RESULTS.md`, and `--json` prints all figures.
//!
//! Instructions need valgrind. Without it their cells say so.

use std::time::{Duration, Instant, SystemTime};

use benches::allocations::Counting;
use clap::{Parser, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use tokio::runtime;
use tower::BoxError;

use crate::adapters::*;
use crate::collect::rows;
use crate::figures::Row;
use crate::hot_path::Warm;
use crate::peer::Peer;

mod adapters;
mod child;
mod collect;
mod counting;
mod figures;
mod hot_path;
mod issuer;
mod peer;
mod report;
mod rotation;
mod stampede;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One peer, with its scenarios.
struct Entry {
    name: &'static str,
    package: &'static str,
    note: &'static str,
    is_static: bool,
    contenders: fn(&'static str, &runtime::Handle) -> Result<Warm, BoxError>,
    counted: fn(u64) -> Result<(), BoxError>,
    stampede: fn(u64) -> Result<stampede::Outcome, BoxError>,
    rotation: fn(u64) -> Result<rotation::Outcome, BoxError>,
}

const fn entry<P: Peer>() -> Entry {
    Entry {
        name: P::NAME,
        package: P::CRATE,
        note: P::NOTE,
        is_static: P::STATIC,
        contenders: hot_path::contenders::<P>,
        counted: hot_path::counted::<P>,
        stampede: stampede::run::<P>,
        rotation: rotation::run::<P>,
    }
}

/// All peers. The first is tower-bearer, with which the others are compared, and the second is the bare call.
const PEERS: [Entry; 16] = [
    entry::<Ours>(),
    entry::<Bare>(),
    entry::<OursNever>(),
    entry::<Floor>(),
    entry::<Middle>(),
    entry::<ByHand>(),
    entry::<Aliri>(),
    entry::<Kube>(),
    entry::<Azure>(),
    entry::<ObjectStore>(),
    entry::<Huskarl>(),
    entry::<Aws>(),
    entry::<Yup>(),
    entry::<Google>(),
    entry::<CfGears>(),
    entry::<CfGearsAutoRefresh>(),
];

/// The bare call among the peers.
const BARE: usize = 1;

#[derive(Parser)]
struct Arguments {
    /// Print all figures as JSON.
    #[arg(long)]
    json: bool,
    /// Print the table in the form of `RESULTS.md`.
    #[arg(long)]
    markdown: bool,
    /// Fewer and shorter runs, to check that all peers work.
    #[arg(long)]
    quick: bool,
    /// Only tower-bearer, and the peers whose name contains one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Measure one peer once, in this process.
    #[arg(long, hide = true, requires_all = ["peer", "amount"])]
    measure: Option<Scenario>,
    #[arg(long, hide = true)]
    peer: Option<usize>,
    #[arg(long, hide = true)]
    amount: Option<u64>,
    /// Act as kube-client's exec plugin.
    #[arg(long, hide = true)]
    exec_credential: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scenario {
    HotPath,
    Stampede,
    Rotation,
}

/// The number and the length of the runs.
struct Effort {
    rounds: usize,
    calls: u64,
    /// The number of callers, and the number of runs.
    stampedes: &'static [(u64, usize)],
    rotations: usize,
    seconds: u64,
}

const FULL: Effort = Effort {
    rounds: 40,
    calls: 20 * hot_path::BATCH,
    stampedes: &[(1_000, 5), (10_000, 3), (100_000, 1)],
    rotations: 3,
    seconds: 4,
};

const QUICK: Effort =
    Effort { rounds: 8, calls: 4 * hot_path::BATCH, stampedes: &[(1_000, 1)], rotations: 1, seconds: 3 };

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    if let Some(address) = &arguments.exec_credential {
        return exec_credential(address);
    }
    // Two dependencies enable two crypto providers of rustls, so one has to be chosen. Neither is used here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let (Some(scenario), Some(peer), Some(amount)) = (arguments.measure, arguments.peer, arguments.amount) {
        let peer = PEERS.get(peer).ok_or("no such peer")?;
        let answer = match scenario {
            Scenario::HotPath => serde_json::to_string(&(peer.counted)(amount)?)?,
            Scenario::Stampede => serde_json::to_string(&(peer.stampede)(amount)?)?,
            Scenario::Rotation => serde_json::to_string(&(peer.rotation)(amount)?)?,
        };
        println!("{answer}");
        return Ok(());
    }

    let effort = if arguments.quick { QUICK } else { FULL };
    let chosen = |peer: &Entry| arguments.only.is_empty() || arguments.only.iter().any(|name| peer.name.contains(name));
    let chosen: Vec<_> = (0..PEERS.len()).filter(|&index| index <= BARE || chosen(&PEERS[index])).collect();
    let rows = rows(&chosen, &effort)?;
    if arguments.json {
        println!("{}", json!({ "date": date(), "machine": machine(), "peers": rows }));
    } else {
        print(&rows, &effort, arguments.markdown);
    }
    Ok(())
}

fn print(rows: &[Row], effort: &Effort, markdown: bool) {
    let callers: Vec<_> = effort.stampedes.iter().map(|(callers, runs)| format!("{callers} (runs: {runs})")).collect();
    if markdown {
        println!("# The peers, as measured by `cargo run --release -p peers -- --markdown`\n");
    }
    println!("{}, {}\n", date(), machine());
    println!(
        "Ratios (x) are to tower-bearer in the same round; medians, and in brackets the middle half of the rounds, or all \
         where they are fewer than 8. Hot path: {} rounds of {} calls each; *whole* is the call, and *added* is the call minus \
         that of the API without a layer. Stampede: callers {}; instructions of the \
         smallest, time and bytes of the largest that was measured, which is the smallest for peers that fetched more \
         than once. Rotation: {} runs of {} s, 2000 requests per second, tokens of 1 s that take 20 ms to fetch; expired, \
         failed and unfinished requests are those of all runs.\n",
        effort.rounds,
        effort.calls,
        callers.join(" / "),
        effort.rotations,
        effort.seconds,
    );
    println!("{}\n", report::table(rows, markdown));
    for Row { name, note, .. } in rows {
        println!("- {name}: {note}.");
    }
}

/// The version in the lock file. Of several it is the newest, which comes last.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let line = format!("name = \"{package}\"");
    let mut lines = lock.lines();
    let mut version = "";
    while lines.any(|other| other == line) {
        version = lines.next().and_then(|line| line.split('"').nth(1)).unwrap_or_default();
    }
    version
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (info, load) = (read("/proc/cpuinfo"), read("/proc/loadavg"));
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rustc = std::process::Command::new("rustc").arg("--version").output();
    let rustc = rustc.map(|run| String::from_utf8_lossy(&run.stdout).trim().to_owned()).unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} cores of {}, load {load}, {rustc}", model.trim_start_matches(['\t', ' ', ':']))
}

fn date() -> String {
    Timestamp::from_second(wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64)
        .map_or_else(|_| String::new(), |now| now.strftime("%Y-%m-%d").to_string())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "tokens end at a time of day")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "callers are tasks")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

/// The time this far ahead, in the form of RFC 3339.
fn timestamp(ahead: Duration) -> String {
    Timestamp::try_from(wall_clock() + ahead).map_or_else(|_| String::new(), |time| time.to_string())
}
