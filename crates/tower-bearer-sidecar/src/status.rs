//! Answers `/health`, `/ready` and `/metrics` at a separate address.
//!
//! The address is separate for two reasons. Every path of the other address belongs to the upstream. A probe or
//! Prometheus on another machine must not need the address that adds the token.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tower_bearer::{Phase, Status, TokenCache};

use crate::forward::{self, Body};
use crate::problem::{AnsweredBy, Problem, chain};

/// Answers the requests to the status address.
#[derive(Clone)]
pub(crate) struct Reporter {
    cache: TokenCache,
    prometheus: PrometheusHandle,
    draining: Arc<AtomicBool>,
}

// === impl Reporter ===

impl Reporter {
    pub(crate) fn new(cache: TokenCache, prometheus: PrometheusHandle) -> Self {
        Self { cache, prometheus, draining: Arc::default() }
    }

    /// Makes `/ready` answer 503 from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) async fn answer<B>(self, request: Request<B>) -> Result<Response<Body>, Infallible> {
        let mut response = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/health") => self.health(),
            (&Method::GET | &Method::HEAD, "/ready") => self.ready(),
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(),
            (_, "/health" | "/ready" | "/metrics") => {
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-rejected", "This is for reading.");
                let mut response = problem.into_response();
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            _ => {
                Problem::new(StatusCode::NOT_FOUND, "no-path", "Here are /health, /ready and /metrics.").into_response()
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response.map(forward::sidecar_body))
    }

    /// Whether calls get a token. Returns 503 if there is no token and fetching one fails.
    fn health(&self) -> Response<Full<Bytes>> {
        let status = self.cache.status();
        let usable = usable(&status);
        let healthy = usable || (status.last_failure.is_none() && !status.closed && !status.signed_out);
        let body = json!({
            "status": if healthy { "ok" } else { "no token" },
            "phase": status.phase.map(|phase| format!("{phase:?}").to_lowercase()),
            "usable_for_seconds": status.usable_for.map(|left| left.as_secs_f64()),
            "generation": status.generation,
            "fetching": status.fetching,
            "rejected": status.suspect,
            "last_failure": status.last_failure.as_ref().map(|error| chain(error)),
            "next_attempt_in_seconds": status.next_attempt_in.map(|wait| wait.as_secs_f64()),
            "refresh_token_not_saved": status.not_saved.as_ref().map(|error| chain(error)),
            "store": status.store.map(|store| json!({
                "error": store.error.as_ref().map(|error| chain(error)),
                "not_saved": store.unsaved.as_ref().map(|error| chain(error)),
                "record": store.serial,
                "seen_seconds_ago": store.last_read.map(|looked| looked.as_secs_f64()),
            })),
            "draining": self.draining.load(Ordering::Relaxed),
        });
        json(healthy, &body)
    }

    /// Whether the sidecar can take requests: there is a token, and the sidecar is not shutting down.
    fn ready(&self) -> Response<Full<Bytes>> {
        let ready = usable(&self.cache.status()) && !self.draining.load(Ordering::Relaxed);
        json(ready, &json!({ "ready": ready }))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let status = self.cache.status();
        gauge!("sidecar_token_usable_seconds").set(status.usable_for.unwrap_or_default().as_secs_f64());
        gauge!("sidecar_token_generation").set(status.generation as f64);
        gauge!("sidecar_token_fetching").set(f64::from(u8::from(status.fetching)));
        gauge!("sidecar_token_failing").set(f64::from(u8::from(status.last_failure.is_some())));
        self.prometheus.run_upkeep();
        let mut response = Response::new(Full::from(self.prometheus.render()));
        let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    }
}

/// Records histograms in buckets, which Prometheus can add up. Times go up to a minute, and remaining lifetimes to a
/// day.
pub(crate) fn recorder() -> PrometheusBuilder {
    const TIMES: [f64; 13] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
    const COUNTS: [f64; 8] = [0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
    const REMAINING: [f64; 9] = [0.0, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86400.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &TIMES)
        .and_then(|recorder| recorder.set_buckets_for_metric(Matcher::Suffix("_waiters".to_owned()), &COUNTS))
        .and_then(|recorder| {
            recorder
                .set_buckets_for_metric(Matcher::Full("tower_bearer_token_remaining_seconds".to_owned()), &REMAINING)
        })
        .expect("no list of buckets is empty")
}

/// Describes the metrics of tower-bearer and of the sidecar.
pub(crate) fn describe() {
    tower_bearer::describe_metrics();
    describe_counter!("sidecar_requests_total", "Requests by the status of the answer, and by what answered");
    describe_gauge!("sidecar_websockets", "Open WebSockets");
    describe_gauge!("sidecar_token_usable_seconds", "How long the token can still be sent; 0 without one");
    describe_gauge!("sidecar_token_generation", "The token's number; 0 before the first");
    describe_gauge!("sidecar_token_fetching", "1 while a token is being fetched");
    describe_gauge!("sidecar_token_failing", "1 if the last fetch failed");
}

/// Counts an answer of the upstream, or of the sidecar by its code.
pub(crate) fn count<B>(response: &Response<B>) {
    let by = response.extensions().get::<AnsweredBy>().map_or("upstream", |own| own.0);
    counter!("sidecar_requests_total", "status" => response.status().as_u16().to_string(), "answered_by" => by)
        .increment(1);
}

fn usable(status: &Status) -> bool {
    status.phase.is_some_and(|phase| phase != Phase::Expired)
}

fn json(well: bool, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    if !well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
