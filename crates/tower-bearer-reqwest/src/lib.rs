#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

#[cfg(any(feature = "reqwest-0_12", feature = "reqwest-0_13"))]
#[macro_use]
mod adapter;
#[cfg(feature = "middleware")]
mod middleware;
#[cfg(any(feature = "reqwest-0_12", feature = "reqwest-0_13"))]
mod telemetry;

#[cfg(feature = "middleware")]
pub use middleware::BearerMiddleware;
#[cfg(feature = "reqwest-0_13")]
pub use reqwest_0_13::{Reqwest, TryClone, same_origin_redirects};

/// The adapter for reqwest 0.13.
#[cfg(feature = "reqwest-0_13")]
pub mod reqwest_0_13 {
    adapter!(reqwest);
}

/// The adapter for reqwest 0.12, without a middleware.
#[cfg(feature = "reqwest-0_12")]
pub mod reqwest_0_12 {
    adapter!(::reqwest_0_12);
}
