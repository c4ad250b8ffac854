//! The adapters over a real server: what goes again, what streams, what times out, and where redirects lead.

mod each;
#[cfg(feature = "middleware")]
mod middleware;
mod net;
#[cfg(feature = "reqwest-0_13")]
mod redirects;
mod world;
