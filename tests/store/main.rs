//! One session for several processes (promises 22 and 23).
#![allow(clippy::disallowed_methods, reason = "tests spawn")]

mod ends;
mod faults;
mod harness;
mod memory;
mod protocol;
