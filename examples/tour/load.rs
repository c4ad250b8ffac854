//! The requests: many at once, each looked at from outside the layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::task::{JoinError, JoinSet};
use tower::{BoxError, Service, ServiceExt};
use tower_bearer::Bearer;

use crate::probe::{Probe, Sends};
use crate::provider::Provider;
use crate::report::Trip;

const WORKERS: u64 = 24;

pub(crate) struct Load {
    over: Arc<AtomicBool>,
    workers: JoinSet<()>,
}

/// Begins to send requests.
pub(crate) fn start(provider: &Arc<Provider>) -> Load {
    let over = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        // Each has its own rhythm, so that they do not march in step after they waited for the same token.
        let pause = Duration::from_millis(60 + 2 * number);
        workers.spawn(work(Arc::clone(provider), pause, Arc::clone(&over)));
    }
    Load { over, workers }
}

impl Load {
    /// Sends no more requests, and waits for those under way.
    pub(crate) async fn stop(mut self) -> Result<(), JoinError> {
        self.over.store(true, Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended?;
        }
        Ok(())
    }
}

async fn work(provider: Arc<Provider>, pause: Duration, over: Arc<AtomicBool>) {
    let mut client = provider.client.clone();
    while !over.load(Relaxed) {
        let trip = travel(&provider, &mut client).await;
        provider.tally().add(trip);
        tokio::time::sleep(pause).await;
    }
}

/// Sends one request and reads its answer to the end.
async fn travel(provider: &Provider, client: &mut Bearer<Probe>) -> Trip {
    let refreshing = || provider.server.token_calls().in_progress() > 0;
    let sends = Sends::default();
    let refreshing_at_start = refreshing();
    let begun = Instant::now();
    let mut waited = false;
    let outcome: Result<StatusCode, BoxError> = async {
        let body = Full::from("sent again with the request, should the token be refused");
        let request = Request::post(&provider.uri).extension(sends.clone()).body(body)?;
        let response = client.ready().await?.call(request);
        // With a usable token the layer calls the client beneath within `call`; so who has not passed the probe by now
        // is waiting for a token.
        waited = sends.count() == 0;
        let response = response.await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
    .await;
    let took = begun.elapsed();

    let failure = match outcome {
        Ok(StatusCode::OK) => None,
        Ok(status) => Some(format!("it was answered {status}")),
        Err(error) => Some(error.to_string()),
    };
    Trip { took, waited, sent_again: sends.count() > 1, refreshing: refreshing_at_start || refreshing(), failure }
}
