//! Former faults of the crate, as a caller sees them.
//!
//! They are crossed sessions, saves out of order, responses that starve a connection, and fetches that end on another
//! runtime.
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to give up")]

#[path = "../common/mod.rs"]
mod common;

mod connection;
mod crossed_sessions;
mod drain;
mod foreign_tokens;
mod held_responses;
mod keep_warm;
mod pauses;
mod readiness;
mod replication_lag;
mod requests;
mod saves;
mod shared_connection;
mod timers;
mod two_runtimes;
mod wakers;
mod warnings;

mod rejected_response;
mod sign_in;
