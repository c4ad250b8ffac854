//! The store against real servers: `redis-server`, and `valkey-server` where it can be found.

mod changes;
mod commands;
mod conformance;
mod outages;
mod proxy;
mod server;
