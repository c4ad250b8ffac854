//! Compares the duration of a lookup with moka's.

use std::hint::black_box;
use std::time::Instant;

use moka::sync::Cache;
use tower_bearer::{KeyedTokenCache, TokenCache};

use crate::fake::{self, Key};

/// The medians of the rounds, in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct Lookups {
    pub(crate) keyed: f64,
    pub(crate) moka: f64,
}

const ROUNDS: usize = 15;
const PER_ROUND: usize = 200_000;

/// Looks up the same keys in both by turns, so that other work on the machine affects both equally.
pub(crate) fn compare(tenants: &KeyedTokenCache<Key>, keys: usize, choose: fn(usize, usize) -> usize) -> Lookups {
    let moka: Cache<Key, TokenCache> = Cache::new(2 * keys as u64);
    for number in 0..keys {
        let key = fake::key(number);
        let cache = tenants.cache(&key).expect("it exists");
        moka.insert(key, cache);
    }
    moka.run_pending_tasks();
    let (mut keyed_times, mut moka_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let wanted: Vec<_> = (0..PER_ROUND).map(|number| fake::key(choose(number, keys))).collect();
        keyed_times.push(time(&wanted, |key| drop(black_box(tenants.cache(key)))));
        moka_times.push(time(&wanted, |key| drop(black_box(moka.get(key)))));
    }
    Lookups { keyed: median(keyed_times), moka: median(moka_times) }
}

fn time(keys: &[Key], lookup: impl Fn(&Key)) -> f64 {
    let start = Instant::now();
    keys.iter().for_each(lookup);
    start.elapsed().as_nanos() as f64 / keys.len() as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
