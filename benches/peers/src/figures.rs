//! All figures of all peers, each as a ratio to tower-bearer's in the same round.

use benches::rounds::quartiles;
use serde::Serialize;
use tower::BoxError;

use crate::{rotation, stampede};

/// The median over the rounds, and the spread. The spread is the middle half of many rounds, or all of a few.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// A figure and its ratio to tower-bearer's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Compared {
    pub own: Figure,
    pub ratio: Figure,
}

/// One peer. A failed measurement has its reason instead of a figure.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub version: &'static str,
    pub note: &'static str,
    pub hot_path: Result<HotPath, String>,
    pub stampedes: Vec<Result<Stampede, String>>,
    pub rotation: Result<Rotation, String>,
}

#[derive(Debug, Serialize)]
pub struct HotPath {
    pub instructions: Result<Compared, String>,
    /// Without those of the bare call.
    pub instructions_added: Result<Compared, String>,
    pub nanos: Compared,
    /// Without those of the bare call.
    pub nanos_added: Compared,
    pub nanos_on_two_threads: Compared,
    pub allocations: usize,
}

#[derive(Debug, Serialize)]
pub struct Stampede {
    pub callers: u64,
    /// The minimum of all runs.
    pub waiting: u64,
    pub runs: usize,
    /// The maximum of all runs.
    pub fetches: u64,
    pub failed: u64,
    pub expired: u64,
    /// Only measured for the smallest stampede, because callgrind is slow.
    pub instructions: Option<Result<Compared, String>>,
    pub nanos: Compared,
    pub bytes: Compared,
}

#[derive(Debug, Serialize)]
pub struct Rotation {
    pub runs: usize,
    pub requests: u64,
    pub waited: Figure,
    pub p999: Compared,
    pub fetches: Figure,
    /// The sum of all runs.
    pub expired: u64,
    pub failed: u64,
    pub unfinished: u64,
}

/// From this number of rounds on, outliers are not part of the spread.
const MANY: usize = 8;

// === impl Figure ===

impl Figure {
    pub fn of(values: &[f64]) -> Self {
        let [low, median, high] = quartiles(values);
        if values.len() >= MANY {
            return Self { low, median, high };
        }
        let [low, high] = [f64::min, f64::max].map(|more| values.iter().copied().fold(median, more));
        Self { low, median, high }
    }
}

impl Compared {
    /// Compares figures by round with tower-bearer's.
    pub fn of(own: &[f64], ours: &[f64]) -> Self {
        let ratios: Vec<_> = own.iter().zip(ours).map(|(own, ours)| own / ours).collect();
        Self { own: Figure::of(own), ratio: Figure::of(&ratios) }
    }
}

impl Stampede {
    /// From the runs of one peer, and ours.
    pub fn of(runs: &[stampede::Outcome], ours: &[stampede::Outcome]) -> Self {
        let pick = |figure: fn(&stampede::Outcome) -> f64| {
            let [own, ours] = [runs, ours].map(|runs| runs.iter().map(figure).collect::<Vec<_>>());
            Compared::of(&own, &ours)
        };
        let most = |figure: fn(&stampede::Outcome) -> u64| runs.iter().map(figure).max().unwrap_or_default();
        Self {
            callers: runs[0].callers,
            waiting: runs.iter().map(|run| run.waiting).min().unwrap_or_default(),
            runs: runs.len(),
            fetches: most(|run| run.fetches),
            failed: most(|run| run.failed),
            expired: most(|run| run.expired),
            instructions: None,
            nanos: pick(|run| run.nanos),
            bytes: pick(|run| run.bytes),
        }
    }
}

impl Rotation {
    /// From the runs of one peer, and ours.
    pub fn of(runs: &[rotation::Outcome], ours: &[rotation::Outcome]) -> Self {
        let all = |runs: &[rotation::Outcome], figure: fn(&rotation::Outcome) -> f64| {
            runs.iter().map(figure).collect::<Vec<_>>()
        };
        let sum = |figure: fn(&rotation::Outcome) -> u64| runs.iter().map(figure).sum();
        Self {
            runs: runs.len(),
            requests: sum(|run| run.requests),
            waited: Figure::of(&all(runs, |run| run.waited)),
            p999: Compared::of(&all(runs, |run| run.p999), &all(ours, |run| run.p999)),
            fetches: Figure::of(&all(runs, |run| run.fetches)),
            expired: sum(|run| run.expired),
            failed: sum(|run| run.failed),
            unfinished: sum(|run| run.unfinished),
        }
    }
}

/// Collects the results of all rounds, or returns the first error.
pub fn together<T>(rounds: Vec<Result<T, BoxError>>) -> Result<Vec<T>, String> {
    rounds.into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())
}
