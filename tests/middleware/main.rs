//! The layer as a service: how it changes requests, how it handles rejections, and that it never deadlocks.
#![expect(clippy::disallowed_methods, reason = "tests spawn their callers")]

mod everywhere;
mod injection;
mod rejected;
mod stack;
#[path = "../common/traces.rs"]
mod traces;
