//! Tests of the store with real servers: `redis-server`, and `valkey-server` if they are installed.

mod caches;
mod changes;
#[cfg(feature = "cluster")]
mod cluster;
mod commands;
mod conformance;
mod issuer;
mod outages;
mod proxy;
mod server;
mod tenants;
