//! Rotation: a steady load over tokens that live for a second and take 20 ms to fetch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tower::BoxError;

use crate::issuer::{AN_HOUR, Issuer, Terms};
use crate::now;
use crate::peer::Peer;

/// The results of the requests.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Outcome {
    pub requests: u64,
    /// The share of requests that took longer than 1 ms.
    pub waited: f64,
    /// The percentile 99.9 in milliseconds.
    pub p999: f64,
    /// Requests that carried an expired token.
    pub expired: u64,
    pub failed: u64,
    /// Requests that had not returned 2 s after the last had begun.
    pub unfinished: u64,
    /// Fetches per second, which is a token's life.
    pub fetches: f64,
}

const LIFE: Duration = Duration::from_secs(1);
const FETCH: Duration = Duration::from_millis(20);
/// The number of requests that begin in each millisecond.
const RATE: u64 = 2;

/// Runs for this number of seconds.
///
/// # Errors
/// Returns an error if the peer did not start.
pub fn run<P: Peer>(seconds: u64) -> Result<Outcome, BoxError> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let lifetime = if P::STATIC { AN_HOUR.lifetime } else { LIFE };
        let issuer = Issuer::new(Terms { lifetime, takes: FETCH, evaluates: P::SENDS_TOKEN, ..AN_HOUR });
        let mut peer: P = timeout(Duration::from_secs(20), P::start(issuer)).await??;
        peer.send(P::request()).await?;
        let (fetched, failed) = (issuer.calls(), Arc::new(AtomicU64::new(0)));
        // The histogram has microseconds, up to a minute, with three digits.
        let times = Arc::new(Mutex::new(Histogram::<u64>::new_with_max(60_000_000, 3)?));

        let mut ticks = interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = 0;
        for _ in 0..seconds * 1000 {
            ticks.tick().await;
            for _ in 0..RATE {
                requests += 1;
                let (mut peer, request) = (peer.clone(), P::request());
                let (times, failed) = (Arc::clone(&times), Arc::clone(&failed));
                crate::spawn(async move {
                    let began = now();
                    let outcome = peer.send(request).await;
                    let took = began.elapsed();
                    failed.fetch_add(u64::from(outcome.is_err()), Relaxed);
                    times.lock().await.saturating_record(took.as_micros() as u64);
                });
            }
        }
        let fetches = (issuer.calls() - fetched) as f64 / seconds as f64;
        let all = async {
            while times.lock().await.len() < requests {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(Duration::from_secs(2), all).await;

        let mut times = times.lock().await.clone();
        let unfinished = requests - times.len();
        // Unfinished requests have waited at least this long.
        times.record_n(2_000_000, unfinished)?;
        let quick = times.count_between(0, 1000);
        Ok(Outcome {
            requests,
            waited: (requests - quick) as f64 / requests as f64,
            p999: times.value_at_quantile(0.999) as f64 / 1000.0,
            expired: issuer.expired(),
            failed: failed.load(Relaxed),
            unfinished,
            fetches,
        })
    })
}
