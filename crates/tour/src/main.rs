//! A tour of tower-bearer: two providers, each with an outage and a revocation, and no failed request.
//!
//! ```text
//! cargo run --release -p tour
//! ```
//!
//! Everything runs on loopback sockets: fake servers of MeshyDB and of Mesh Connect, each with a token endpoint and a
//! protected API, and a real hyper client for each. The client sends concurrent requests for ten seconds. Meanwhile
//! tokens live for five seconds, each issuer answers slowly and fails for a while, and each API rejects a token in the
//! middle of its life. Then a table counts the results of the requests, and a list names each promise, whether it held,
//! and the figure. `--json` prints the figures as one line of JSON instead.
//!
//! The exit status is 1 if a promise did not hold, or if the tour could not show what it is meant to show.
#![expect(clippy::disallowed_methods, reason = "a separate program may read the clock and spawn tasks")]

mod arguments;
mod counting_source;
mod fake;
mod faults;
mod load;
mod probe;
mod provider;
mod report;
mod run;
mod serve;

use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Layer};
use tower_bearer::providers::{mesh_connect::MeshConnect, meshydb::MeshyDb};
use tower_bearer::testing::{MeshConnectServer, MeshyDbServer};
use tower_bearer::{BearerLayer, RefreshPolicy, TokenCache};

use crate::arguments::{Arguments, USAGE};
use crate::counting_source::CountingSource;
use crate::probe::Probe;
use crate::provider::Provider;
use crate::serve::serve;

/// The layer works over any tower service of HTTP requests: this client, or a whole stack.
type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// MeshyDB: the user of a tenant logs in with a password. Each refresh uses up a refresh token and returns the next.
async fn meshydb(http: &HttpClient) -> Result<Provider, BoxError> {
    let server = MeshyDbServer::new("acme", "public-key").tenant_user("blue", "ann", "secret");
    let origin = serve(&server).await?;

    // Your own program needs neither the counter nor the probe, which observe for the report. It gives the source to
    // the cache, and its HTTP client to the layer.
    let account = MeshyDb::builder(http.clone(), "acme", "public-key").tenant("blue").auth_base(&origin).build()?;
    let (source, fetches) = CountingSource::new(account.login_with_password("ann", "secret").build()?);
    let cache = TokenCache::builder(source).refresh_policy(early()).build()?;
    let client = BearerLayer::new(cache.clone(), [&origin])?.layer(Probe::new(http.clone(), server.ledger()));

    Ok(Provider::new("MeshyDB", server, cache, fetches, client, format!("{origin}/acme/meshes/person")))
}

/// Mesh Connect: each fetch is a JSON login with an id and a secret, because there are no refresh tokens.
async fn mesh_connect(http: &HttpClient) -> Result<Provider, BoxError> {
    let server = MeshConnectServer::new("my-client-id", "my-client-secret");
    let origin = serve(&server).await?;

    let login = MeshConnect::builder(http.clone(), "my-client-id", "my-client-secret").base(&origin).build()?;
    let (source, fetches) = CountingSource::new(login);
    let cache = TokenCache::builder(source).refresh_policy(early()).build()?;
    let client = BearerLayer::new(cache.clone(), [&origin])?.layer(Probe::new(http.clone(), server.ledger()));

    Ok(Provider::new("Mesh Connect", server, cache, fetches, client, format!("{origin}/admin/api/v1/transfers")))
}

/// Refreshes in the last third of a token's life. The default is the last fifth, which is right for a token that lives
/// an hour. A fifth of five seconds is too short to outlast an outage.
fn early() -> RefreshPolicy {
    RefreshPolicy::new().margin(provider::LIFETIME / 3)
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let http = Client::builder(TokioExecutor::new()).build_http();
    run::run(arguments, [meshydb(&http).await?, mesh_connect(&http).await?]).await
}
