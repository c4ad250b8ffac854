//! Measures every chosen peer in every scenario. The times on the hot path come from one process, so that the turns of
//! one round can be compared. All other measurements run in one process for each peer and run.

use benches::rounds::turns;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use tokio::runtime;
use tower::BoxError;

use crate::child::measure;
use crate::counting::instructions;
use crate::figures::{Compared, HotPath, Rotation, Row, Stampede, together};
use crate::hot_path::Warm;
use crate::{BARE, Effort, Entry, PEERS, Scenario, rotation, stampede, version};

/// All figures of the chosen peers. The first is tower-bearer.
///
/// # Errors
/// Returns an error if the measurement of tower-bearer failed.
pub fn rows(chosen: &[usize], effort: &Effort) -> Result<Vec<Row>, BoxError> {
    let mut hot_paths = hot_paths(chosen, effort)?.into_iter();
    let mut stampedes: Vec<_> = chosen.iter().map(|_| Vec::new()).collect();
    let mut still = chosen.to_vec();
    for &(callers, runs) in effort.stampedes {
        for (peer, figures) in still.iter().zip(stampede_of(&still, callers, runs)) {
            let place = chosen.iter().position(|other| other == peer).ok_or("a peer that was not chosen")?;
            stampedes[place].extend(figures);
        }
        // A peer that failed, or fetched more than once, does not run with more callers.
        let did_well = |all: &Vec<Result<Stampede, String>>| {
            all.iter().all(|stampede| stampede.as_ref().is_ok_and(|stampede| stampede.fetches <= 1))
        };
        still = chosen.iter().zip(&stampedes).filter(|(_, all)| did_well(all)).map(|(&peer, _)| peer).collect();
    }
    let smallest = effort.stampedes[0].0;
    let counts: Vec<_> = chosen.iter().map(|&peer| counted(peer, Scenario::Stampede, smallest, 2 * smallest)).collect();
    for (all, count) in stampedes.iter_mut().zip(&counts) {
        if let Some(Ok(stampede)) = all.first_mut() {
            stampede.instructions = Some(against(count, &counts[0]));
        }
    }
    let rotations = in_rounds(chosen, Scenario::Rotation, effort.seconds, effort.rotations, "rotation");
    let rotations: Vec<_> = rotations.into_iter().map(together::<rotation::Outcome>).collect();
    let ours = rotations[0].clone();

    let mut rows = Vec::new();
    for ((&peer, stampedes), rotation) in chosen.iter().zip(stampedes).zip(rotations) {
        let Entry { name, package, note, .. } = PEERS[peer];
        let rotation = rotation.and_then(|runs| Ok(Rotation::of(&runs, ours.as_ref().map_err(Clone::clone)?)));
        let hot_path = hot_paths.next().ok_or("a peer without a result")?;
        rows.push(Row { name, version: version(package), note, hot_path, stampedes, rotation });
    }
    Ok(rows)
}

/// Measures all in one process, because only the turns of one round are compared.
fn hot_paths(chosen: &[usize], effort: &Effort) -> Result<Vec<Result<HotPath, String>>, BoxError> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let [mut ones, mut twos] = [Vec::new(), Vec::new()];
    let mut warm = Vec::new();
    for &peer in chosen {
        eprintln!("hot path: {}", PEERS[peer].name);
        warm.push((PEERS[peer].contenders)(PEERS[peer].name, runtime.handle()).map(
            |Warm { allocations, one, two }| {
                ones.push(one);
                twos.push(two);
                allocations
            },
        ));
    }
    for (&peer, warm) in chosen.iter().zip(&warm).take(BARE + 1) {
        if let Err(error) = warm {
            return Err(format!("{}: {error}", PEERS[peer].name).into());
        }
    }
    eprintln!("hot path: time");
    let ones = turns(effort.rounds, effort.calls, &mut ones);
    let twos = turns(effort.rounds, effort.calls, &mut twos);
    let (our_one, bare, our_two) = (ones[0].clone(), ones[BARE].clone(), twos[0].clone());
    let (mut ones, mut twos) = (ones.into_iter(), twos.into_iter());
    let counts: Vec<_> = chosen.iter().map(|&peer| counted(peer, Scenario::HotPath, 100, 1100)).collect();
    let figures = warm.into_iter().zip(&counts).map(|(warm, count)| {
        let allocations = warm.map_err(|error| error.to_string())?;
        let (one, two) = ones.next().zip(twos.next()).ok_or("a contender without a result")?;
        let added = |count: &Result<f64, String>| Ok::<_, String>(count.clone()? - counts[BARE].clone()?);
        Ok(HotPath {
            instructions: against(count, &counts[0]),
            instructions_added: against(&added(count), &added(&counts[0])),
            nanos: Compared::of(&one, &our_one),
            nanos_added: Compared::of(&without(&one, &bare), &without(&our_one, &bare)),
            nanos_on_two_threads: Compared::of(&two, &our_two),
            allocations,
        })
    });
    Ok(figures.collect())
}

/// The figure of each round without the bare call's.
fn without(own: &[f64], bare: &[f64]) -> Vec<f64> {
    own.iter().zip(bare).map(|(own, bare)| own - bare).collect()
}

fn stampede_of(chosen: &[usize], callers: u64, runs: usize) -> Vec<Option<Result<Stampede, String>>> {
    let rounds = in_rounds(chosen, Scenario::Stampede, callers, runs, "stampede");
    let rounds: Vec<_> = rounds.into_iter().map(together::<stampede::Outcome>).collect();
    let ours = rounds[0].clone();
    let figures = chosen.iter().zip(rounds).map(|(&peer, runs)| {
        (!PEERS[peer].is_static)
            .then(|| runs.and_then(|runs| Ok(Stampede::of(&runs, ours.as_ref().map_err(Clone::clone)?))))
    });
    figures.collect()
}

/// The results of each round, by peer. In a round every peer has a turn.
fn in_rounds<T: DeserializeOwned>(
    chosen: &[usize],
    scenario: Scenario,
    amount: u64,
    rounds: usize,
    title: &str,
) -> Vec<Vec<Result<T, BoxError>>> {
    let mut all: Vec<_> = chosen.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        eprintln!("{title} of {amount}: round {round} of {rounds}");
        for (all, &peer) in all.iter_mut().zip(chosen) {
            if all.last().is_none_or(Result::is_ok)
                && !(PEERS[peer].is_static && matches!(scenario, Scenario::Stampede))
            {
                all.push(measure(&once(peer, scenario, amount)));
            }
        }
    }
    all
}

/// The instructions of one more call, from two amounts. Both contain the cost of the start.
fn counted(peer: usize, scenario: Scenario, fewer: u64, more: u64) -> Result<f64, String> {
    if PEERS[peer].is_static && matches!(scenario, Scenario::Stampede) {
        return Err(String::new());
    }
    eprintln!("instructions: {}", PEERS[peer].name);
    let count = |amount| instructions(&once(peer, scenario, amount)).map_err(|error| error.to_string());
    Ok((count(more)? as f64 - count(fewer)? as f64) / (more - fewer) as f64)
}

fn once(peer: usize, scenario: Scenario, amount: u64) -> Vec<String> {
    let scenario = scenario.to_possible_value().expect("none is skipped");
    let [peer, amount] = [peer as u64, amount].map(|number| number.to_string());
    ["--measure", scenario.get_name(), "--peer", &peer, "--amount", &amount].map(str::to_owned).to_vec()
}

fn against(own: &Result<f64, String>, ours: &Result<f64, String>) -> Result<Compared, String> {
    Ok(Compared::of(&[own.clone()?], &[ours.clone()?]))
}
