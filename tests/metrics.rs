//! Everything that happens can be counted (promise 26), with the feature `metrics`.
#![cfg(feature = "metrics")]
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to give up")]

mod common;

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower_bearer::{Refresh, TokenCache, describe_metrics};

use common::{HOUR, MINUTE, SECOND, Script, paused_runtime, settle};

/// Every metric with its labels, as `name{label=value}`; of a histogram the sum and how many.
fn seen(work: impl AsyncFnOnce()) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // The runtime is this thread's, and so is the recorder.
    metrics::with_local_recorder(&recorder, || {
        describe_metrics();
        paused_runtime().block_on(work());
    });
    let mut seen = BTreeMap::new();
    for (key, _, described, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        assert!(described.is_some(), "{key} is described");
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        match value {
            DebugValue::Counter(count) => drop(seen.insert(name, count as f64)),
            DebugValue::Gauge(value) => drop(seen.insert(name, *value)),
            DebugValue::Histogram(values) => {
                seen.insert(format!("{name} count"), values.len() as f64);
                seen.insert(name, values.iter().map(|value| value.0).sum::<f64>().round());
            }
        }
    }
    seen
}

fn expect(seen: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(seen.get(*name), Some(value), "{name} in {seen:#?}");
    }
}

#[test]
fn fetches_are_counted_by_outcome_and_reason_and_carry_the_caches_name() {
    let seen = seen(async || {
        let script = Script::living(100 * SECOND);
        script.delay(2 * SECOND);
        let cache = TokenCache::new(script.clone()).named("billing");
        // Three wait for the first.
        let (a, b, c) = tokio::join!(cache.get(), cache.get(), cache.get());
        a.and(b).and(c).expect("a token");
        // Nobody waits for the second: the first is due, and can be sent for 95 s.
        tokio::time::advance(90 * SECOND).await;
        cache.get().await.expect("a token");
        tokio::time::sleep(3 * SECOND).await;
        script.fail(1);
        cache.refresh().await.expect_err("scripted");
        script.deny(1);
        cache.refresh().await.expect_err("scripted");
    });
    expect(
        &seen,
        &[
            ("tower_bearer_fetches_total{cache=billing,outcome=fetched,reason=first}", 1.0),
            ("tower_bearer_fetches_total{cache=billing,outcome=fetched,reason=due}", 1.0),
            ("tower_bearer_fetches_total{cache=billing,outcome=failed,reason=asked}", 1.0),
            ("tower_bearer_fetches_total{cache=billing,outcome=denied,reason=asked}", 1.0),
            ("tower_bearer_fetch_seconds{cache=billing,outcome=fetched,reason=first}", 2.0),
            ("tower_bearer_flight_waiters{cache=billing}", 5.0),
            ("tower_bearer_flight_longest_wait_seconds{cache=billing}", 6.0),
            ("tower_bearer_flight_longest_wait_seconds{cache=billing} count", 4.0),
            // 95 s of the first token had passed but for 1 s when the second came.
            ("tower_bearer_token_remaining_seconds{cache=billing}", 1.0),
            ("tower_bearer_token_remaining_seconds{cache=billing} count", 2.0),
        ],
    );
}

#[test]
fn refusals_and_what_came_of_them_are_counted() {
    let seen = seen(async || {
        let script = Script::living(HOUR);
        let cache = TokenCache::with_settings(script.clone(), Refresh::new().refusal_budget(1, MINUTE));
        let first = cache.get().await.expect("a token");
        let second = cache.refuse(&first).await.expect("the budget has one");
        cache.refuse(&second).await.expect_err("the budget is spent");
        let cache = cache.on_rotation(async |_| Err::<(), _>("the disk is full"));
        cache.set_source(Script::new().rotating());
        cache.get().await.expect("a token");
        settle().await;
        cache.sign_out(async |_| Ok::<_, tower_bearer::Error>(())).await.expect("nothing fails");
    });
    expect(
        &seen,
        &[
            ("tower_bearer_refusals_total{cache=}", 2.0),
            ("tower_bearer_refusal_budget_exhausted_total{cache=}", 1.0),
            ("tower_bearer_refresh_tokens_not_saved_total{cache=}", 1.0),
            ("tower_bearer_sign_outs_total{cache=}", 1.0),
        ],
    );
}
