//! The layer as a service: what it does to requests, what it does with rejections, and that it never holds what others
//! need.
#![expect(clippy::disallowed_methods, reason = "tests spawn their callers")]

mod everywhere;
mod injection;
mod rejected;
mod stack;
#[path = "../common/traces.rs"]
mod traces;
