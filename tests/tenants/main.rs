//! A token per tenant or user: nobody gets another's, no session is lost, and the issuer is not stormed.
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
