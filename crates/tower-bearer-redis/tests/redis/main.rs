//! The store against real servers: `redis-server`, and `valkey-server` where it can be found.

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
