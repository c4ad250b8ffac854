//! A server that rejects everything does not fill the log. Beyond the budget there is one warning in each window, and
//! every rejection is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use metrics::{SharedString, Unit};
use metrics_util::CompositeKey;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::testing::ManualClock;
use tower_bearer::{RefreshPolicy, TokenCache};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::common::{MINUTE, SECOND, Script, paused_runtime};
use crate::requests::{Body, get, layer, respond};

const REJECTIONS: &str = "tower_bearer_rejections_total";
const BEYOND_THE_BUDGET: &str = "tower_bearer_rejection_budget_exhausted_total";

/// Counts the crate's warnings and errors.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Warnings {
    /// The number of events since the last call.
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        if metadata.target() == "tower_bearer" && *metadata.level() <= Level::WARN {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Sets a subscriber when the process starts. Otherwise a thread without one could disable the events for all threads.
#[ctor::ctor(unsafe)]
fn listen() {
    // If this variable is set, all tests have a subscriber that shows their traces.
    if std::env::var_os("TOWER_BEARER_TRACES").is_none() {
        tracing::subscriber::set_global_default(Warnings::default()).expect("the first subscriber");
    }
}

type Snapshot = Vec<(CompositeKey, Option<Unit>, Option<SharedString>, DebugValue)>;

/// The sum of a counter over all its labels.
fn count(seen: &Snapshot, name: &str) -> u64 {
    let counters = seen.iter().filter(|(key, ..)| key.key().name() == name);
    counters.map(|(_, _, _, value)| if let DebugValue::Counter(count) = value { *count } else { 0 }).sum()
}

#[test]
fn rejections_beyond_the_budget_are_counted_and_cause_one_warning_in_each_window() {
    let (warnings, recorder) = (Warnings::default(), DebuggingRecorder::new());
    let snapshotter = recorder.snapshotter();
    let _listening = tracing::subscriber::set_default(warnings.clone());
    let mut taken = Vec::new();
    let mut all_rejected = async || {
        let (script, clock) = (Script::new(), ManualClock::new());
        let settings = RefreshPolicy::new().rejection_budget(1, MINUTE);
        let cache = TokenCache::builder(script.clone()).refresh_policy(settings).clock(clock.clone()).build().unwrap();
        cache.get().await.expect("a token");
        clock.advance(3 * SECOND);
        let client =
            layer(&cache).layer(service_fn(async |_: Request<Body>| Ok::<_, BoxError>(respond(401, Body::default()))));
        let reject = async || {
            let response = client.clone().oneshot(get("/")).await.expect("a response");
            assert_eq!(response.status(), 401);
        };
        for window in 0..3 {
            // This uses the budget of the window.
            reject().await;
            // After this time the previous token is not used instead of the new one.
            clock.advance(31 * SECOND);
            for _ in 0..1000 {
                reject().await;
                clock.advance(SECOND / 100);
            }
            assert_eq!(script.calls(), 2 + window, "one refresh a window");
            taken.push(warnings.take());
            clock.advance(MINUTE);
        }
    };
    metrics::with_local_recorder(&recorder, || paused_runtime().block_on(all_rejected()));
    let seen = snapshotter.snapshot().into_vec();
    assert_eq!(count(&seen, BEYOND_THE_BUDGET), 3000);
    assert_eq!(count(&seen, REJECTIONS), 3003);
    assert_eq!(taken, [1, 1, 1], "warnings in each window");
}
