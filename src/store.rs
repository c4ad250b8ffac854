//! Where the processes that share a session keep its record.
//!
//! A [`TokenStore`] keeps opaque bytes under a key, with a version, and hands out leases. It knows nothing of tokens: what
//! the bytes mean, when to refresh, and what to do after a conflict is decided by the cache. [`TokenStore`] says what each
//! operation must do; a store that does it passes the conformance suite of the feature `testing`.

mod error;
mod file;
pub(crate) mod record;
#[cfg(feature = "sealed")]
mod sealed;
mod shared;
mod token_store;

pub use error::StoreError;
pub use file::FileStore;
#[cfg(feature = "sealed")]
pub use sealed::Sealed;
pub use shared::SharedSession;
pub use token_store::{Lease, MAX_KEY_LEN, Saved, Stored, TokenStore};
