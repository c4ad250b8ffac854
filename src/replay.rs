//! Again: how a request that was rejected can be sent a second time.
//!
//! A request that goes out may have to go again, and its body can be given away only once. The choice is visible on
//! the layer, because it costs: [`CloneBody`] (the default) keeps a copy of the request, [`Never`] costs nothing and
//! hands every 401 back, [`IfEmpty`] keeps requests without a body, [`Buffered`] records a stream while it goes out, and a
//! closure says itself how a body is copied.

mod buffered;
mod choice;

pub use crate::replay::buffered::{Buffered, ReplayBody, Unwrapped, Wrap};
pub use crate::replay::choice::{CloneBody, IfEmpty, Never, Replay, check};
