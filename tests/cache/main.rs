//! The cache without the layer: when it fetches, when callers wait, and how clocks and runtimes affect it.
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to stop waiting")]

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod failures;
mod interleavings;
mod keep_warm;
mod lifecycle;
mod new_source;
mod paused_time;
mod replay_locks;
mod report_rejected;
mod rotation;
mod runtimes;
mod single_flight;
