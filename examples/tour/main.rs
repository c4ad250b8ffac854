//! A tour of tower-bearer: two providers, each with an outage and a revocation, and not one failed request.
//!
//! ```text
//! cargo run --release --example tour
//! ```
//!
//! Everything runs here, on loopback sockets: lookalikes of MeshyDB and of Mesh Connect, each with its token endpoint
//! and its protected API on one server, and a real hyper client for each. For ten seconds that client sends concurrent
//! requests, while tokens live for five seconds, the issuer takes its time, breaks down for a while, and a token is
//! revoked in the middle of its life. Then a table (`--json`: one line of JSON) says what became of the requests.
//!
//! The exit status is 1 if a request failed, if two token calls of one cache ran at once, if an expired token was sent,
//! or if the tour could not show what it is here to show.
#![expect(clippy::disallowed_methods, reason = "a program of its own: it may look at the clock and spawn tasks")]

mod load;
mod lookalike;
mod probe;
mod provider;
mod report;
mod run;
mod trouble;

use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Layer};
use tower_bearer::testing::{MeshConnectServer, MeshyDbServer};
use tower_bearer::{BearerLayer, Refresh, TokenCache, mesh_connect::MeshConnect, meshydb::MeshyDb};

use crate::probe::Probe;
use crate::provider::Provider;

/// Any tower service over http requests will do: this one, or a stack of your own.
type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// MeshyDB: a user of a tenant logs in with a password; after that each refresh spends a refresh token and brings the
/// next.
async fn meshydb(http: &HttpClient) -> Result<Provider, BoxError> {
    let server = MeshyDbServer::new("acme", "public-key").tenant_user("blue", "ann", "secret");
    let origin = lookalike::serve(&server).await?;

    // The provider becomes a token source, the source becomes a cache, the cache becomes a layer over a client. The
    // probe between them only looks on, for the report; your own client goes straight into `layer`.
    let account = MeshyDb::new(http.clone(), "acme", "public-key")?.tenant("blue")?.auth_base(&origin)?;
    let cache = TokenCache::with_settings(account.login_with_password("ann", "secret")?, early());
    let client = BearerLayer::new(cache.clone(), [&origin])?.layer(Probe::new(http.clone(), server.ledger()));

    Ok(Provider::new("MeshyDB", server, cache, client, format!("{origin}/acme/meshes/person")))
}

/// Mesh Connect: a JSON login with an id and a secret, over and over; there are no refresh tokens.
async fn mesh_connect(http: &HttpClient) -> Result<Provider, BoxError> {
    let server = MeshConnectServer::new("my-client-id", "my-client-secret");
    let origin = lookalike::serve(&server).await?;

    let source = MeshConnect::new(http.clone(), "my-client-id", "my-client-secret")?.base(&origin)?;
    let cache = TokenCache::with_settings(source, early());
    let client = BearerLayer::new(cache.clone(), [&origin])?.layer(Probe::new(http.clone(), server.ledger()));

    Ok(Provider::new("Mesh Connect", server, cache, client, format!("{origin}/admin/api/v1/transfers")))
}

/// `TokenCache::new` would refresh in the last fifth of a token's life, which is right for tokens that live an hour. Of
/// these five seconds it leaves too little to sit out an outage, so here a refresh begins in the last third.
fn early() -> Refresh {
    Refresh::new().margin(provider::LIFETIME / 3)
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    run::run([meshydb(&http).await?, mesh_connect(&http).await?]).await
}
