//! One process of the fleet: its own token cache, the shared session, and requests.
//!
//! It prints its counts since the last line, `requests failed adopted lease-waits`, and a line for each failure. It
//! ends when its standard input ends, so it does not outlive its parent.

use std::io::{Read, stdin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::store::{FileStore, SharedSession};
use tower_bearer::{BearerLayer, TokenCache};
use tower_bearer_redis::RedisStore;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::issuer::{ACCOUNT, PASSWORD, PUBLIC_KEY, USER};

pub(crate) const SUBCOMMAND: &str = "__worker";

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(50);
/// The lease. Over Redis, that of a killed process blocks the others for this long.
const LEASE: Duration = Duration::from_secs(1);

static STOPPED: AtomicBool = AtomicBool::new(false);
static ADOPTED: AtomicU64 = AtomicU64::new(0);
static LEASE_WAITS: AtomicU64 = AtomicU64::new(0);

/// A subscriber that counts events of the library by their name.
struct Events;

impl<S: Subscriber> tracing_subscriber::Layer<S> for Events {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        counter(metadata).is_some()
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(counter) = counter(event.metadata()) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

fn counter(metadata: &Metadata<'_>) -> Option<&'static AtomicU64> {
    match metadata.name() {
        "token_adopted" => Some(&ADOPTED),
        "store_lease_waited" => Some(&LEASE_WAITS),
        _ => None,
    }
}

/// `store` is a directory, or the URL of a Redis.
pub(crate) async fn run(origin: &str, store: &str) -> Result<(), BoxError> {
    thread::spawn(end_with_parent);
    tracing_subscriber::registry().with(Events).init();
    let session = if store.contains("://") {
        SharedSession::new(RedisStore::new(store)?, USER)
    } else {
        SharedSession::new(FileStore::new(store), USER)
    };
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let account = MeshyDb::builder(http.clone(), ACCOUNT, PUBLIC_KEY).auth_base(origin).build()?;
    let cache = TokenCache::builder(account.login_with_password(USER, PASSWORD).build()?)
        .shared_session(session.lease(LEASE))
        .build()?;
    let mut client = BearerLayer::new(cache.clone(), [origin])?.layer(http);

    let uri = format!("{origin}/{ACCOUNT}/meshes/person");
    while !STOPPED.load(Relaxed) {
        let outcome: Result<StatusCode, BoxError> = async {
            let response = client.ready().await?.call(Request::get(&uri).body(Full::default())?).await?;
            let status = response.status();
            response.into_body().collect().await?;
            Ok(status)
        }
        .await;
        let failure = match outcome {
            Ok(StatusCode::OK) => None,
            Ok(status) => Some(format!("the response has status {status}")),
            Err(error) => Some(error.to_string()),
        };
        print_counts(1, u64::from(failure.is_some()));
        if let Some(failure) = failure {
            println!("failure: {failure}");
        }
        tokio::time::sleep(PAUSE).await;
    }
    cache.shutdown().await;
    print_counts(0, 0);
    Ok(())
}

fn print_counts(requests: u64, failed: u64) {
    println!("{requests} {failed} {} {}", ADOPTED.swap(0, Relaxed), LEASE_WAITS.swap(0, Relaxed));
}

/// Waits for the end of standard input, and then gives a request in flight some time.
fn end_with_parent() {
    // An error counts as the end, too.
    let _ = stdin().read_to_end(&mut Vec::new());
    STOPPED.store(true, Relaxed);
    thread::sleep(Duration::from_secs(10));
    std::process::exit(1);
}
