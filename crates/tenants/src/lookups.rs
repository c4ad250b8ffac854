//! How long a lookup takes, beside that of moka.

use std::hint::black_box;
use std::time::Instant;

use moka::sync::Cache;
use tower_bearer::{KeyedTokenCache, TokenCache};

use crate::fake::{self, Key};

/// In nanoseconds: the median of the rounds.
#[derive(Clone, Copy)]
pub(crate) struct Lookups {
    pub(crate) ours: f64,
    pub(crate) moka: f64,
}

const ROUNDS: usize = 15;
const PER_ROUND: usize = 200_000;

/// Looks the same keys up in both, in turns, so that other work on the machine meets both alike.
pub(crate) fn compare(tenants: &KeyedTokenCache<Key>, keys: usize, choose: fn(usize, usize) -> usize) -> Lookups {
    let moka: Cache<Key, TokenCache> = Cache::new(2 * keys as u64);
    for number in 0..keys {
        let key = fake::key(number);
        let cache = tenants.cache(&key).expect("it has been made");
        moka.insert(key, cache);
    }
    moka.run_pending_tasks();
    let (mut ours, mut mokas) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let wanted: Vec<_> = (0..PER_ROUND).map(|number| fake::key(choose(number, keys))).collect();
        ours.push(time(&wanted, |key| drop(black_box(tenants.cache(key)))));
        mokas.push(time(&wanted, |key| drop(black_box(moka.get(key)))));
    }
    Lookups { ours: median(ours), moka: median(mokas) }
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
