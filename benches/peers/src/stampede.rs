//! A stampede: many callers without a usable token, and fetches that take until all of them wait. All run on one
//! thread, so that the benchmark measures the waking and not the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use benches::allocations;
use cpu_time::ThreadTime;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};
use tower::BoxError;

use crate::counting;
use crate::issuer::{AN_HOUR, Issuer, Terms};
use crate::peer::Peer;

/// The cost of a stampede.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Outcome {
    pub callers: u64,
    /// The number of callers that wait for the fetch.
    pub waiting: u64,
    /// The number of fetches that it caused.
    pub fetches: u64,
    /// The CPU time of the thread per caller, which waits, is woken and sends.
    pub nanos: f64,
    /// The allocated bytes per caller while all wait, including its task.
    pub bytes: f64,
    pub failed: u64,
    /// The number of requests that carried an expired token.
    pub expired: u64,
}

/// The life of a token that ends soon after the peer starts. Some peers know only whole seconds.
const SHORT: Duration = Duration::from_secs(1);

/// Runs one stampede.
///
/// # Errors
/// Returns an error if the peer did not start, or if not all callers returned.
pub fn run<P: Peer>(callers: u64) -> Result<Outcome, BoxError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let first = P::FETCHES_AT_START.then_some(SHORT);
    let issuer = Issuer::new(Terms { first, held: true, evaluates: true, ..AN_HOUR });
    let peer: P = runtime.block_on(async {
        let peer = timeout(Duration::from_secs(20), P::start(issuer)).await??;
        if P::FETCHES_AT_START {
            sleep(SHORT + Duration::from_millis(200)).await;
        }
        Ok::<_, BoxError>(peer)
    })?;
    let before = if P::FETCHES_AT_START { 1 } else { 0 };
    let (asked, returned, failed) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    // The requests are allocated before, so that the bytes counted below are only those of waiting.
    let mut requests: Vec<_> = (0..callers).map(|_| Some(P::request())).collect();
    let (mut spent, mut bytes, mut waiting) = (Duration::ZERO, 0.0, 0);
    counting::the_counted_section(&mut || {
        let began = ThreadTime::now();
        runtime.block_on(async {
            let held = allocations::so_far().held;
            for request in requests.iter_mut().filter_map(Option::take) {
                let mut peer = peer.clone();
                let [asked, returned, failed] = [&asked, &returned, &failed].map(Arc::clone);
                crate::spawn(async move {
                    asked.fetch_add(1, Relaxed);
                    failed.fetch_add(u64::from(peer.send(request).await.is_err()), Relaxed);
                    returned.fetch_add(1, Relaxed);
                });
            }
            while asked.load(Relaxed) < callers {
                sleep(Duration::from_millis(5)).await;
            }
            // The pause lets a fetch reach the endpoint, and lets peers that poll at intervals begin to wait.
            sleep(Duration::from_millis(100)).await;
            bytes = (allocations::so_far().held - held) as f64 / callers as f64;
            waiting = callers - returned.load(Relaxed);
            issuer.open();
            let all = async {
                while returned.load(Relaxed) < callers {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(60), all).await.map_err(|_| "not all callers returned within 60 s")
        })?;
        spent = began.elapsed();
        Ok(())
    })?;
    Ok(Outcome {
        callers,
        waiting,
        fetches: issuer.calls() - before,
        nanos: spent.as_nanos() as f64 / callers as f64,
        bytes,
        failed: failed.load(Relaxed),
        expired: issuer.expired(),
    })
}
