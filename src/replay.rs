//! How a rejected request is sent a second time.
//!
//! A second send needs the body again, and a body can be sent only once. The choice is visible on the layer, because it has
//! a cost: [`CloneBody`] (the default) keeps a copy of the request, [`Never`] costs nothing and returns every 401,
//! [`IfEmpty`] keeps requests without a body, [`Buffered`] records a stream while it is sent, and a closure copies the
//! body.

mod buffered;
mod choice;

pub use crate::replay::buffered::{Buffered, ReplayBody, Saved, Unwrapped, Wrap};
pub use crate::replay::choice::{CloneBody, IfEmpty, Never, Replay, check};
