//! Control flow as a caller sees it: what is retried, what a fetch may wait for, and when the issuer is called again.
#![allow(clippy::disallowed_methods, reason = "servers are tasks, and tests read the clock that they have paused")]
#![allow(clippy::duplicate_mod, reason = "both helpers turn on traces")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sockets/servers.rs"]
#[allow(dead_code, reason = "the tests of sockets use the rest")]
mod servers;
#[path = "../sources/mod.rs"]
mod sources;

mod chain;
mod device;
mod hosts;
mod logins;
mod own_calls;
mod pauses;
mod redirects;
mod rejections;
mod trailers;
