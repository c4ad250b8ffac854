//! A token for each tenant or user. None gets another's token, no session is lost, and concurrent calls are bounded.
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to give up")]

#[path = "../common/mod.rs"]
mod common;

mod eviction;
mod harness;
mod layer;
mod meshydb;
mod random;
mod seen;
mod stores;
mod storm;
