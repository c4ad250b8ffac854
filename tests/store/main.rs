//! Several processes share one session (promises 22 and 23).
#![allow(clippy::disallowed_methods, reason = "tests spawn")]

#[cfg(unix)]
mod disk;
mod ends;
mod faults;
#[cfg(unix)]
mod file;
mod harness;
mod identity;
mod memory;
#[cfg(unix)]
mod processes;
mod protocol;
mod random_logins;
mod sealed;
mod simulation;
