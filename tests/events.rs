//! Every event is emitted, and a request that finds a usable token emits none.
//!
//! These tests have their own process. tracing decides once for all threads whether an event has a subscriber, and
//! another test without one could decide it first.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http::Request;
use tower::ServiceExt;
use tower_bearer::json::JsonLogin;
use tower_bearer::replay::Never;
use tower_bearer::store::{SharedSession, TokenStore};
use tower_bearer::testing::{Answer, MemoryStore, StoreCall, StoreFault, TokenServer};
use tower_bearer::{Error, Token, TokenCache};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;

use crate::all_events::trigger_all;
use crate::stack::{Body, Harness, get};

#[path = "common/all_events.rs"]
mod all_events;
#[path = "middleware/stack.rs"]
mod stack;

/// The lines of the events, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    /// The lines since the last call, without the parts that differ in each run.
    fn take(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().expect("no panic"))).expect("text");
        text.lines().map(|line| line.trim().split(" took_ms=").next().expect("a line").to_owned()).collect()
    }
}

impl io::Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Seen {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn each_occurrence_is_one_event_and_a_cached_token_is_none() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(seen.clone())
        .with_max_level(tracing::Level::TRACE)
        .without_time()
        .with_ansi(false)
        .finish();
    // The fetch runs on its own task, so the subscriber is set for the thread.
    let _listening = tracing::subscriber::set_default(subscriber);
    let harness = Harness::new();
    let client = harness.client();

    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(seen.take(), ["DEBUG tower_bearer: token fetched reason=first generation=1 lifetime_s=3600.0"]);

    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(seen.take(), [""; 0], "the hot path emits nothing");

    harness.with_old_token().await;
    harness.api.queue(Answer::raw(401, ""));
    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "INFO tower_bearer: token rejected generation=1",
            "DEBUG tower_bearer: token fetched reason=rejected generation=2 lifetime_s=3600.0",
            "DEBUG tower_bearer: request retried rejected=1 generation=2",
        ]
    );

    harness.with_old_token().await;
    harness.api.queue(Answer::raw(401, ""));
    harness.api.queue(Answer::fails("cut off"));
    client.clone().oneshot(get("/")).await.expect_err("the second send failed");
    assert_eq!(seen.take()[2..], ["DEBUG tower_bearer: request retried rejected=2 generation=3"]);

    // After this time a replacement counts as one that helped.
    harness.with_old_token().await;
    harness.clock.advance(std::time::Duration::from_secs(30));
    harness.issuer.fail(Some(Answer::raw(503, "")));
    harness.api.queue(Answer::raw(401, ""));
    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "INFO tower_bearer: token rejected generation=3",
            "WARN tower_bearer: token fetch failed reason=rejected error=https://auth.example.com/token answered 503; \
             try again after a pause denied=false",
            "DEBUG tower_bearer: rejected response returned rejected=3 why=\"there is no new token\"",
        ]
    );

    let once = tower::Layer::layer(&harness.layer().replay(Never), harness.network.clone());
    harness.api.queue(Answer::raw(401, ""));
    once.oneshot(get("/")).await.expect("an answer");
    assert_eq!(
        seen.take(),
        ["DEBUG tower_bearer: rejected response returned rejected=3 why=\"its body cannot be sent twice\"",]
    );

    let elsewhere = Request::get("https://elsewhere.test:8443/secret?path").body(Body::default()).expect("a request");
    client.oneshot(elsewhere).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "DEBUG tower_bearer: request to another origin passes without a token scheme=\"https\" host=\"elsewhere.test\" \
          port=8443"
        ]
    );

    harness.cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("there is nothing to revoke");
    assert_eq!(seen.take(), ["INFO tower_bearer: signed out"]);
    harness.cache.set_source(async |_| Token::new("t").map(|token| token.with_refresh_token("r")));
    harness.cache.get().await.expect("a token");
    harness.cache.sign_out(async |_| Err(io::Error::other("no route"))).await.expect_err("it was not revoked");
    assert_eq!(
        seen.take()[1..],
        ["WARN tower_bearer: signed out, refresh token not revoked error=failed to revoke the refresh token of the \
             session that was signed out (the cause is this error's source): it may still work"]
    );

    let over_plain_http = |url| JsonLogin::get(TokenServer::new(), url).allow_insecure().build().expect("a login");
    over_plain_http("http://169.254.169.254/token?client_id=me");
    let warning = "WARN tower_bearer: credentials are sent over plain http endpoint=http://169.254.169.254/token";
    assert_eq!(seen.take(), [warning]);
    over_plain_http("http://localhost:8080/token");
    assert!(seen.take().is_empty());
}

/// The kinds of events and spans, as `name LEVEL field field`.
#[derive(Clone, Default)]
struct Kinds(Arc<Mutex<BTreeSet<String>>>);

impl Kinds {
    fn note(&self, of: &Metadata<'_>) {
        // Events of other crates are not promised.
        if of.target() == "tower_bearer" {
            let fields = of.fields().iter().map(|field| field.name());
            let fields = fields.filter(|field| !["cache", "message"].contains(field));
            let kind = [of.name(), of.level().as_str()].into_iter().chain(fields).collect::<Vec<_>>().join(" ");
            let is_of_a_cache = !["insecure_issuer", "chained_source_failed"].contains(&of.name());
            assert_eq!(of.fields().field("cache").is_some(), is_of_a_cache, "{kind} names its cache");
            self.0.lock().expect("no panic").insert(kind);
        }
    }
}

impl Subscriber for Kinds {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.note(span.metadata());
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        self.note(event.metadata());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The number of events and spans in the code at this path.
fn macros(path: &Path) -> usize {
    if path.is_dir() {
        return std::fs::read_dir(path).expect("a folder").map(|entry| macros(&entry.expect("an entry").path())).sum();
    }
    let code = std::fs::read_to_string(path).expect("text");
    let names = ["trace", "debug", "info", "warn", "error", "event", "span", "instrument"];
    names.iter().map(|name| code.matches(&format!("tracing::{name}")).count()).sum()
}

#[tokio::test]
async fn all_events_and_spans_are_documented() {
    let page = include_str!("../docs/observability.md");
    // | `name` | LEVEL | `field`, `field` | when |
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let level = cells.get(2)?.parse::<tracing::Level>().ok()?;
        Some(quoted(cells[1]).chain([level.as_str()]).chain(quoted(cells[3])).collect::<Vec<_>>().join(" "))
    });
    let documented: BTreeSet<_> = rows.chain(["token_fetch DEBUG reason".to_owned()]).collect();
    assert!(page.contains("The span `token_fetch` (DEBUG, `reason`)"));

    let kinds = Kinds::default();
    let _listening = tracing::subscriber::set_default(kinds.clone());
    trigger_all().await;
    assert_eq!(*kinds.0.lock().expect("no panic"), documented);
    let of_shared_sessions = macros(Path::new("src/telemetry/sharing.rs"));
    let others = macros(Path::new("src")) - of_shared_sessions;
    assert_eq!(others, documented.len(), "an event or span that is not in the list");
}

/// Triggers every event of a session that processes share.
async fn shared_session() {
    let second = std::time::Duration::from_secs(1);
    let store = MemoryStore::new();
    let session = || SharedSession::new(store.clone(), "ada");
    let source = async |_| Token::new(format!("t{}", fastrand::u64(..))).map(|token| token.with_refresh_token("r"));
    let share = || TokenCache::builder(source).shared_session(session()).build().unwrap();
    // A token is saved and adopted.
    let (first, second_process) = (share(), share());
    first.get().await.expect("a token");
    second_process.get().await.expect("a token");
    // The first process waits for the lease.
    store.acquire("ada", "another", second).await.expect("the store works");
    first.refresh().await.expect("a token");
    // The store fails, and works again.
    store.inject(StoreCall::Load, StoreFault::Fails);
    first.refresh().await.expect_err("the store fails");
    first.refresh().await.expect("a token");
    // There is a conflict, and the record is written again.
    let older = store.record("ada");
    store.inject(StoreCall::Save, StoreFault::Late(second / 100));
    store.inject(StoreCall::Save, StoreFault::Conflict);
    first.refresh().await.expect("a token");
    store.set_record("ada", older);
    tokio::time::sleep(40 * second).await;
    // An earlier refresh did not complete.
    let record = String::from_utf8(store.record("ada").expect("a record")).expect("JSON");
    let marked = record.replacen('{', "{\"refreshing\":\"1-x\",", 1);
    store.set_record("ada", Some(marked.into_bytes()));
    first.refresh().await.expect("a token");
    // The record is unreadable, and is set aside.
    store.set_record("ada", Some(b"x".to_vec()));
    tokio::time::sleep(second).await;
    first.refresh().await.expect("a token");
    // Another process ends the session.
    tokio::time::sleep(second).await;
    second_process.sign_out(async |_| Ok::<_, Error>(())).await.expect("revoked");
    tokio::time::sleep(second).await;
    assert!(first.status().signed_out);
}

#[tokio::test(start_paused = true)]
async fn each_occurrence_in_a_shared_session_is_an_event() {
    let kinds = Kinds::default();
    let _listening = tracing::subscriber::set_default(kinds.clone());
    shared_session().await;
    let of_sessions = ["token_fetch", "token_fetched", "token_fetch_failed", "signed_out"];
    let seen: BTreeSet<_> = kinds.0.lock().expect("no panic").clone();
    let seen: BTreeSet<_> = seen
        .iter()
        .filter(|kind| !of_sessions.contains(&kind.split(' ').next().expect("a name")))
        .map(|kind| &**kind)
        .collect();
    let expected = [
        "session_ended_elsewhere INFO signed_out",
        "store_conflict WARN serial",
        "store_lease_waited DEBUG waited_ms obtained",
        "store_reachable INFO",
        "store_record_restored WARN serial",
        "store_record_saved DEBUG serial unsaved_ms",
        "store_record_set_aside ERROR why aside",
        "store_record_unusable ERROR why",
        "store_refresh_resumed WARN serial",
        "store_unreachable WARN error cause",
        "token_adopted DEBUG generation serial remaining_s",
    ];
    assert_eq!(seen, BTreeSet::from(expected));
    assert_eq!(macros(Path::new("src/telemetry/sharing.rs")), expected.len(), "an event that is not in the list");
}
