//! Times that can be compared on a noisy machine. In each round every contender has a turn, in another order, and only
//! the turns of one round are compared.

use std::time::Duration;

/// A contender: it runs a number of calls, and returns their duration.
pub struct Contender<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Contender<'a> {
    pub fn new(name: &'static str, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Prints the nanoseconds of a call for each contender, and the difference to the first contender's. The figures are
/// medians over the rounds, with the middle half of the rounds as the spread.
pub fn compare(title: &str, rounds: usize, calls: u64, mut contenders: Vec<Contender<'_>>) {
    let nanos = turns(rounds, calls, &mut contenders);
    println!("\n{title}: {rounds} rounds of {calls} calls each");
    println!("| | ns | (spread) | ns above the first | (spread) | ratio | (spread) |\n|---|--:|--:|--:|--:|--:|--:|");
    for (contender, own) in contenders.iter().zip(&nanos) {
        let above: Vec<_> = own.iter().zip(&nanos[0]).map(|(own, first)| own - first).collect();
        let ratio: Vec<_> = own.iter().zip(&nanos[0]).map(|(own, first)| own / first).collect();
        let (own, above, ratio) = (quartiles(own), quartiles(&above), quartiles(&ratio));
        println!(
            "| {} | {:.1} | {:.1}..{:.1} | {:.1} | {:.1}..{:.1} | {:.3} | {:.3}..{:.3} |",
            contender.name, own[1], own[0], own[2], above[1], above[0], above[2], ratio[1], ratio[0], ratio[2],
        );
    }
}

/// The nanoseconds of a call, for each contender in each round.
pub fn turns(rounds: usize, calls: u64, contenders: &mut [Contender<'_>]) -> Vec<Vec<f64>> {
    let mut nanos = vec![Vec::with_capacity(rounds); contenders.len()];
    for contender in contenders.iter_mut() {
        (contender.run)(calls);
    }
    for round in 0..rounds {
        // Each round begins with another contender and changes direction, so that no contender always follows the same
        // one.
        let mut order: Vec<_> = (0..contenders.len()).collect();
        order.rotate_left(round % contenders.len());
        if round % 2 == 1 {
            order.reverse();
        }
        for turn in order {
            nanos[turn].push((contenders[turn].run)(calls).as_nanos() as f64 / calls as f64);
        }
    }
    nanos
}

/// The three quartiles.
pub fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| sorted[(sorted.len() - 1) * quarter / 4])
}
