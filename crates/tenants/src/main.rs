//! Many tenants in one client stack: the cost of a key, the duration of a lookup, and the right token.
//!
//! ```text
//! cargo run --release -p tenants -- --keys 100000
//! ```
//!
//! Everything is in one process without sockets: an issuer whose tokens name their tenant, an API that compares them
//! with the tenant of the request, and one client with one layer. Requests choose their tenant by Zipf's law. Then 10
//! 000 keys request their first token at once.
//!
//! The exit status is 1 if a promise did not hold.
#![expect(clippy::disallowed_methods, reason = "a separate program may read the clock and spawn tasks")]

mod allocations;
mod fake;
mod lookups;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::{BearerLayer, Error, KeyedTokenCache, TokenCache};

use crate::fake::{API, Api, Issuer, Key, TOKEN_LENGTH};
use crate::report::Report;

const USAGE: &str = "\
Usage: tenants [--keys N] [--json]

  --keys N  how many keys have a token, 1000 to 10000000 [default: 1000000]
  --json    print the figures as one line of JSON instead of a table";

/// How many requests are in flight at once.
const WORKERS: usize = 64;
/// How many keys request their first token at once, and how many token calls are allowed at once.
const STORM: (usize, usize) = (10_000, 32);

fn main() -> ExitCode {
    let (mut keys, mut json) = (1_000_000, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--json" => json = true,
            "--keys" => match arguments.next().and_then(|keys| keys.parse().ok()) {
                Some(number @ 1000..=10_000_000) => keys = number,
                _ => return usage(),
            },
            _ => return usage(),
        }
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(run(keys)) {
        Ok(report) => {
            println!("{}", if json { report.json() } else { report.table() });
            if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

async fn run(keys: usize) -> Result<Report, BoxError> {
    let start = Instant::now();
    let (issuer, api) = (Issuer::new(Duration::ZERO), Api::default());
    let tenants = tenants(&issuer).max_keys(2 * keys);
    let empty = allocations::held();
    // The second pass requests each key once, so that all have a token.
    let requests = serve(&tenants, &api, keys, zipf).await? + serve(&tenants, &api, keys, |n, _| n).await?;
    until(|| tenants.status().fetching == 0).await;
    let held = allocations::held() - empty;
    let lookups = lookups::compare(&tenants, keys, zipf);
    let status = tenants.status();
    let (token_calls, stormed) = (issuer.calls(), storm().await?);
    Ok(Report {
        keys: status.keys,
        requests,
        bytes_per_idle_key: held as f64 / keys as f64 - TOKEN_LENGTH as f64,
        lookups,
        token_calls,
        wrong_token: api.wrong_token() + stormed.wrong_token,
        storm: stormed,
        took: start.elapsed(),
    })
}

fn tenants(issuer: &Issuer) -> KeyedTokenCache<Key> {
    let issuer = issuer.clone();
    KeyedTokenCache::new(move |key: &Key| {
        let (issuer, key) = (issuer.clone(), key.clone());
        Ok::<_, Error>(TokenCache::new(move |_| issuer.clone().grant(key.clone())))
    })
}

/// Sends one request for each number below `keys`, for the tenant that `choose` returns. Returns the number of answers.
async fn serve(
    tenants: &KeyedTokenCache<Key>,
    api: &Api,
    keys: usize,
    choose: fn(usize, usize) -> usize,
) -> Result<usize, BoxError> {
    let layer = BearerLayer::new(tenants.by_key(|head| head.extensions.get::<Key>().cloned()), [API])?;
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (mut client, next) = (layer.layer(api.clone()), Arc::clone(&next));
            tokio::spawn(async move {
                let mut answered = 0;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= keys {
                        return Ok::<_, BoxError>(answered);
                    }
                    let request = Request::get(API).extension(fake::key(choose(number, keys))).body(String::new())?;
                    answered += usize::from(client.ready().await?.call(request).await?.status().is_success());
                }
            })
        })
        .collect();
    let mut answered = 0;
    for worker in workers {
        answered += worker.await??;
    }
    Ok(answered)
}

/// The results of the keys that requested a token at once.
pub(crate) struct Storm {
    pub(crate) served: usize,
    pub(crate) token_calls: usize,
    pub(crate) max_concurrent_token_calls: usize,
    pub(crate) wrong_token: usize,
}

async fn storm() -> Result<Storm, BoxError> {
    let (keys, limit) = STORM;
    let (issuer, api) = (Issuer::new(Duration::from_millis(2)), Api::default());
    let tenants = tenants(&issuer).max_token_calls(limit);
    let layer = BearerLayer::new(tenants.by_key(|head| head.extensions.get::<Key>().cloned()), [API])?;
    let client = layer.layer(api.clone());
    let callers: Vec<_> = (0..keys)
        .map(|number| {
            let request = Request::get(API).extension(fake::key(number)).body(String::new());
            let client = client.clone();
            tokio::spawn(async move { client.oneshot(request?).await })
        })
        .collect();
    let mut served = 0;
    for caller in callers {
        served += usize::from(caller.await??.status().is_success());
    }
    Ok(Storm {
        served,
        token_calls: issuer.calls(),
        max_concurrent_token_calls: issuer.most_at_once(),
        wrong_token: api.wrong_token(),
    })
}

/// The key of rank `n` is drawn in proportion to 1 / n, as nearly as whole numbers allow.
fn zipf(_: usize, keys: usize) -> usize {
    let rank = ((keys as f64 + 1.0).ln() * fastrand::f64()).exp();
    (rank as usize).clamp(1, keys) - 1
}

async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
