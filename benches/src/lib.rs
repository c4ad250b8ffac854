//! What is measured: one request, the services beneath, and the layers that are compared. Shared by all benchmarks, and
//! by those of other crates' layers.
#![expect(missing_docs, reason = "no API: shared by this package and `peers`")]

pub mod allocations;
pub mod arguments;
pub mod layers;
pub mod loopback;
pub mod rotation;
pub mod rounds;
pub mod stampede;
pub mod world;
