//! The subjects of the benchmarks: one request, the inner services, and the compared layers. All benchmarks share them,
//! also those of other crates' layers.
#![expect(missing_docs, reason = "not an API: only this package and `peers` use it")]

pub mod allocations;
pub mod arguments;
pub mod fixtures;
pub mod layers;
pub mod loopback;
pub mod rotation;
pub mod rounds;
pub mod stampede;
