//! How a rejected request is sent a second time.
//!
//! A second send needs the body again, and a body can be sent only once. Each way to keep the body has a cost, so it is
//! a choice on the layer:
//!
//! - [`CloneBody`] (the default) clones the request.
//! - [`Never`] costs nothing, and returns every 401.
//! - [`IfEmpty`] keeps requests without a body.
//! - [`Buffered`] records a stream while it is sent.
//! - A closure copies the body.

mod buffered;
mod choice;

pub use crate::replay::buffered::{Buffered, ReplayBody, Saved, Unwrapped, Wrap};
pub use crate::replay::choice::{CloneBody, IfEmpty, Never, Replay, check};
