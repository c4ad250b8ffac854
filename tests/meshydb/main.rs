//! MeshyDB: its documented requests, its sessions and their end, and its errors.
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to measure how long they waited")]

#[path = "../sources/mod.rs"]
mod sources;

mod lifecycle;
mod problems;
mod requests;
mod sessions;
mod sign_out;

use tower_bearer::TokenCache;
use tower_bearer::providers::meshydb::{MeshyDb, MeshyDbBuilder};
use tower_bearer::testing::{ErrorBodies, MeshyDbServer};

use crate::sources::{HOUR, each, pass};

const ALL_BODIES: [ErrorBodies; 4] =
    [ErrorBodies::OAuth, ErrorBodies::OtherJson, ErrorBodies::Text, ErrorBodies::Empty];

fn server() -> MeshyDbServer {
    MeshyDbServer::new("acme", "public-key").user("ann", "her password").tenant_user("east", "ann", "her password")
}

fn builder(server: &MeshyDbServer) -> MeshyDbBuilder {
    MeshyDb::builder(server.clone(), "acme", "public-key")
}

fn account(server: &MeshyDbServer) -> MeshyDb {
    builder(server).build().unwrap()
}

fn session(server: &MeshyDbServer) -> TokenCache {
    TokenCache::new(account(server).login_with_password("ann", "her password").build().unwrap())
}

/// A cache whose session started with a login, and whose token has expired.
async fn expired_session(server: &MeshyDbServer) -> TokenCache {
    let cache = session(server);
    cache.get().await.unwrap();
    pass(HOUR).await;
    cache
}

fn grants(server: &MeshyDbServer) -> Vec<String> {
    each(&server.requests(), "grant_type")
}
