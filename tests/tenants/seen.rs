//! Status and metrics of many keys, which show sums and no key.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower_bearer::Error;

use crate::common::{paused_runtime, settle};
use crate::harness::Issuer;

#[tokio::test]
async fn the_status_sums_up_what_the_caches_are_doing() {
    let issuer = Issuer::new();
    let tenants = issuer.sessions().max_token_calls(2);
    for key in 0..3 {
        tenants.cache(&key).unwrap().get().await.unwrap();
    }
    issuer.fail(10);
    tenants.cache(&10).unwrap().get().await.unwrap_err();
    let gate = issuer.hold();
    for key in 20..24 {
        let cache = tenants.cache(&key).unwrap();
        tokio::spawn(async move { cache.get().await });
    }
    settle().await;
    let status = tenants.status();
    assert_eq!((status.keys, status.usable, status.fetching, status.failing), (8, 3, 4, 1));
    assert_eq!((status.unsaved, status.token_calls), (3, 2));
    gate.close();
}

#[test]
fn the_metrics_count_keys_and_name_none() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tower_bearer::describe_metrics();
        paused_runtime().block_on(async {
            let issuer = Issuer::new();
            let tenants = issuer.clients().max_keys(3).name("tenants");
            for key in 1_000_000..1_000_010 {
                tenants.cache(&key).unwrap().get().await.unwrap();
                settle().await;
            }
            let last = 1_000_009;
            tenants.remove(&last, async |_| Ok::<_, Error>(())).await.unwrap();
        });
    });
    let mut seen = BTreeMap::new();
    for (key, _, described, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        assert!(described.is_some(), "{key} is described");
        assert!(key.labels().all(|label| !label.value().contains("100000")), "{key}");
        assert!(key.labels().any(|label| label.key() == "cache" && label.value() == "tenants"), "{key}");
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => *value,
            DebugValue::Histogram(values) => values.len() as f64,
        };
        *seen.entry(key.name().to_owned()).or_insert(0.0) += value;
    }
    assert_eq!(seen["tower_bearer_fetches_total"], 10.0);
    assert_eq!(seen["tower_bearer_sign_outs_total"], 1.0);
    let (keys, evicted) = (seen["tower_bearer_keys"], seen["tower_bearer_keys_evicted_total"]);
    assert!(keys <= 3.0 && keys + evicted == 9.0, "{keys} keys and {evicted} evicted");
    // With several keys, the gauge would show the end of an arbitrary token.
    assert!(!seen.contains_key("tower_bearer_token_expires_at_seconds"));
}
