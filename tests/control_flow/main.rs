//! Control flow, as a caller sees it: what is sent again and what is not, what a fetch may wait for, when the issuer is
//! asked again.
#![allow(clippy::disallowed_methods, reason = "servers are tasks, and tests look at the clock that they have paused")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sources/mod.rs"]
mod sources;

mod device;
mod hosts;
mod logins;
mod own_calls;
mod rejections;
mod trailers;
