//! The adapters over a real server: second sends, streams, timeouts and redirects.

mod each;
mod harness;
#[cfg(feature = "middleware")]
mod middleware;
mod net;
#[cfg(feature = "reqwest-0_13")]
mod redirects;
