//! Every occurrence is counted (promise 26), with the feature `metrics`.
#![cfg(feature = "metrics")]
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to give up")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use metrics::{SharedString, Unit};
use metrics_util::CompositeKey;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use serde_json::Value;
use tower_bearer::{RefreshPolicy, TokenCache, describe_metrics};

use crate::all_events::trigger_all;
use crate::common::{HOUR, MINUTE, SECOND, Script, paused_runtime, settle};

#[path = "common/all_events.rs"]
mod all_events;
#[path = "middleware/stack.rs"]
mod stack;

type Snapshot = Vec<(CompositeKey, Option<Unit>, Option<SharedString>, DebugValue)>;

/// The metrics that were recorded during this work.
fn recorded(work: impl AsyncFnOnce()) -> Snapshot {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // The recorder is that of this thread, on which the runtime runs.
    metrics::with_local_recorder(&recorder, || {
        describe_metrics();
        paused_runtime().block_on(work());
    });
    snapshotter.snapshot().into_vec()
}

/// Every metric with its labels, as `name{label=value}`. A histogram has its sum and its count.
fn seen(work: impl AsyncFnOnce()) -> BTreeMap<String, f64> {
    let mut seen = BTreeMap::new();
    for (key, _, described, value) in recorded(work) {
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
fn fetches_are_counted_by_outcome_and_reason_with_the_caches_name() {
    let seen = seen(async || {
        let script = Script::living(100 * SECOND);
        script.delay(2 * SECOND);
        let cache = TokenCache::builder(script.clone()).name("billing").build().unwrap();
        // Three callers wait for the first token.
        let (a, b, c) = tokio::join!(cache.get(), cache.get(), cache.get());
        a.and(b).and(c).expect("a token");
        // No caller waits for the second token, because the first is due, and usable for 95 s.
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
            ("tower_bearer_fetch_waiters{cache=billing}", 5.0),
            ("tower_bearer_fetch_longest_wait_seconds{cache=billing}", 6.0),
            ("tower_bearer_fetch_longest_wait_seconds{cache=billing} count", 4.0),
            // When the second token came, the first was usable for another second.
            ("tower_bearer_token_remaining_seconds{cache=billing}", 1.0),
            ("tower_bearer_token_remaining_seconds{cache=billing} count", 2.0),
        ],
    );
}

#[test]
fn calls_without_a_token_are_counted_by_their_outcome() {
    let seen = seen(async || {
        let script = Script::living(HOUR);
        let cache = TokenCache::builder(script.clone()).name("billing").build().unwrap();
        script.fail(1);
        // Two callers wait for the fetch that fails. The third comes in the pause after it.
        let (a, b) = tokio::join!(cache.get(), cache.get());
        a.and(b).and(cache.get().await).expect_err("scripted");
        tokio::time::advance(MINUTE).await;
        script.deny(1);
        cache.get().await.expect_err("scripted");
        tokio::time::advance(MINUTE).await;
        cache.get().await.expect("a token");
        // There is a token, so no call fails.
        script.fail(1);
        cache.refresh().await.expect_err("scripted");
        cache.get().await.expect("the old token is usable");
        cache.sign_out(async |_| Ok::<_, tower_bearer::Error>(())).await.expect("nothing fails");
        cache.get().await.expect_err("signed out");
    });
    expect(
        &seen,
        &[
            ("tower_bearer_token_unavailable_total{cache=billing,outcome=failed}", 3.0),
            ("tower_bearer_token_unavailable_total{cache=billing,outcome=denied}", 1.0),
            ("tower_bearer_token_unavailable_total{cache=billing,outcome=ended}", 1.0),
        ],
    );
}

#[test]
fn the_gauge_has_the_end_of_the_token_or_zero() {
    const END: &str = "tower_bearer_token_expires_at_seconds{cache=}";
    let end = |cache: &TokenCache| {
        let end = cache.peek().expect("a token").expires_at().expect("it was published");
        end.duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs_f64()
    };
    let (mut first, mut second) = (0.0, 0.0);
    let after_one = seen(async || {
        let cache = TokenCache::new(Script::living(HOUR));
        cache.get().await.expect("a token");
        first = end(&cache);
    });
    expect(&after_one, &[(END, first)]);
    let after_two = seen(async || {
        let script = Script::living(HOUR);
        let cache = TokenCache::new(script.clone());
        cache.get().await.expect("a token");
        script.lifetime(2 * HOUR);
        cache.refresh().await.expect("a token");
        script.fail(1);
        cache.refresh().await.expect_err("scripted");
        second = end(&cache);
    });
    expect(&after_two, &[(END, second)]);
    let without_one = seen(async || {
        let script = Script::living(HOUR);
        script.fail(1);
        TokenCache::new(script).get().await.expect_err("scripted");
    });
    expect(&without_one, &[(END, 0.0)]);
    let signed_out = seen(async || {
        let cache = TokenCache::new(Script::living(HOUR));
        cache.get().await.expect("a token");
        cache.sign_out(async |_| Ok::<_, tower_bearer::Error>(())).await.expect("nothing fails");
    });
    expect(&signed_out, &[(END, 0.0)]);
    let replaced = seen(async || {
        let cache = TokenCache::new(Script::living(HOUR));
        cache.get().await.expect("a token");
        cache.set_source(Script::living(HOUR));
    });
    expect(&replaced, &[(END, 0.0)]);
}

#[test]
fn rejections_and_their_consequences_are_counted() {
    let seen = seen(async || {
        let script = Script::living(HOUR);
        let cache = TokenCache::builder(script.clone())
            .refresh_policy(RefreshPolicy::new().rejection_budget(1, MINUTE))
            .on_rotation(async |_| Err::<(), _>("the disk is full"))
            .build()
            .unwrap();
        let first = cache.get().await.expect("a token");
        let second = cache.report_rejected(&first).await.expect("the budget has one");
        cache.report_rejected(&second).await.expect_err("the budget is exhausted");
        cache.set_source(Script::new().rotating());
        cache.get().await.expect("a token");
        settle().await;
        cache.sign_out(async |_| Ok::<_, tower_bearer::Error>(())).await.expect("nothing fails");
    });
    expect(
        &seen,
        &[
            ("tower_bearer_rejections_total{cache=}", 2.0),
            ("tower_bearer_rejection_budget_exhausted_total{cache=}", 1.0),
            ("tower_bearer_refresh_tokens_not_saved_total{cache=}", 1.0),
            ("tower_bearer_sign_outs_total{cache=}", 1.0),
        ],
    );
}

#[test]
fn retried_returned_and_unmatched_requests_are_counted() {
    let seen = seen(trigger_all);
    expect(
        &seen,
        &[
            ("tower_bearer_retries_total{cache=}", 1.0),
            ("tower_bearer_returned_unauthorized_total{cache=}", 1.0),
            ("tower_bearer_unmatched_origin_total{cache=}", 1.0),
            ("tower_bearer_fetches_total{cache=,outcome=discarded,reason=first}", 1.0),
        ],
    );
}

// === the docs ===

/// The kind and the labels of each metric in docs/observability.md.
fn documented() -> BTreeMap<String, (&'static str, BTreeSet<String>)> {
    let rows = include_str!("../docs/observability.md").lines().filter(|line| line.starts_with("| `tower_bearer_"));
    // | `metric` | kind | `label` (value, value) | what |
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    rows.map(|cells| (cells[1].trim_matches('`').to_owned(), (cells[2], words(cells[3]).collect()))).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_lowercase() && c != '_').filter(|word| !word.is_empty()).map(str::to_owned)
}

#[test]
fn all_metrics_are_documented_with_their_kinds_and_labels() {
    let mut found = BTreeMap::new();
    for (key, _, _, value) in recorded(trigger_all) {
        let kind = match value {
            DebugValue::Counter(_) => "counter",
            DebugValue::Gauge(_) => "gauge",
            DebugValue::Histogram(_) => "histogram",
        };
        let (labels, key) = (key.key().labels(), key.key().name());
        let (_, known) = found.entry(key.to_owned()).or_insert((kind, BTreeSet::new()));
        let (cache, others): (Vec<_>, Vec<_>) = labels.partition(|label| label.key() == "cache");
        assert_eq!(cache.len(), 1, "{key} names its cache");
        for label in others {
            known.insert(label.key().to_owned());
            // Only counters are set to zero for each value.
            known.extend((kind == "counter").then(|| label.value().to_owned()));
        }
    }
    assert_eq!(found, documented());
}

#[test]
fn panels_and_alerts_query_existing_metrics_and_labels() {
    let dashboard: Value =
        serde_json::from_str(include_str!("../docs/grafana-dashboard.json")).expect("the dashboard is JSON");
    let rules = include_str!("../docs/prometheus-rules.yml").lines();
    let mut queries: Vec<_> = rules.filter(|line| line.contains("(tower_bearer_")).collect();
    assert!(!queries.is_empty(), "there are alerts");
    for panel in dashboard["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{panel} has a query");
        queries.extend(targets.iter().map(|target| target["expr"].as_str().expect("a query")));
    }
    let mut metrics = BTreeSet::new();
    let mut labels = BTreeSet::from(["cache", "job", "le"].map(str::to_owned));
    for (name, (kind, its_labels)) in documented() {
        // Queries name the parts of a histogram.
        let parts = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
        metrics.extend(parts.iter().map(|part| format!("{name}{part}")));
        labels.extend(its_labels);
    }
    for query in queries {
        let names: Vec<_> = words(query).filter(|word| word.starts_with("tower_bearer_")).collect();
        assert!(!names.is_empty() && names.iter().all(|name| metrics.contains(name)), "{query}");
        for (begin, end) in [("{", "}"), (" by (", ")")] {
            let lists = query.split(begin).skip(1).map(|rest| rest.split(end).next().expect("a first part"));
            assert!(lists.flat_map(words).all(|word| labels.contains(&word)), "{query}");
        }
    }
}
