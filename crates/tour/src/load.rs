//! The requests. Many run at once, and each is observed from outside the layer.

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
use crate::report::Observed;

/// The number of callers of each provider.
pub(crate) const CALLERS: u64 = 24;

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

/// Starts to send requests.
pub(crate) fn start(provider: &Arc<Provider>) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        // The pauses differ, so that callers that waited for the same token do not stay synchronised.
        let pause = Duration::from_millis(60 + 2 * number);
        callers.spawn(call_until(Arc::clone(&stop), Arc::clone(provider), pause));
    }
    Load { stop, callers }
}

impl Load {
    /// Sends no more requests, and waits for those in flight.
    pub(crate) async fn stop(mut self) -> Result<(), JoinError> {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended?;
        }
        Ok(())
    }
}

async fn call_until(stop: Arc<AtomicBool>, provider: Arc<Provider>, pause: Duration) {
    let mut client = provider.client.clone();
    while !stop.load(Relaxed) {
        let observed = send_one(&provider, &mut client).await;
        provider.tally().add(observed);
        tokio::time::sleep(pause).await;
    }
}

/// Sends one request and reads its response to the end.
async fn send_one(provider: &Provider, client: &mut Bearer<Probe>) -> Observed {
    let refreshing = || provider.server.token_calls().in_progress() > 0;
    let usable_generation = || {
        let status = provider.cache.status();
        status.usable_for.is_some_and(|left| !left.is_zero()).then_some(status.generation)
    };
    let sends = Sends::default();
    let refreshing_at_start = refreshing();
    let (mut waited, mut waited_needlessly) = (false, false);
    let begun = Instant::now();
    let outcome: Result<StatusCode, BoxError> = async {
        let body = Full::from("sent again with the request if the API rejects the token");
        let request = Request::post(&provider.uri).extension(sends.clone()).body(body)?;
        let before = usable_generation();
        let response = client.ready().await?.call(request);
        // With a usable token the layer calls the inner service within `call`, so a request that has not passed the
        // probe by now waits for a token.
        waited = sends.count() == 0;
        waited_needlessly = waited && before.is_some() && before == usable_generation();
        let response = response.await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
    .await;

    Observed {
        took: begun.elapsed(),
        waited,
        waited_needlessly,
        retried: sends.count() > 1,
        refreshing: refreshing_at_start || refreshing(),
        failure: match outcome {
            Ok(StatusCode::OK) => None,
            Ok(status) => Some(format!("the response has status {status}")),
            Err(error) => Some(error.to_string()),
        },
    }
}
