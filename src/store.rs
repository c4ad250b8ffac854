//! Stores for a session that processes share.
//!
//! A [`TokenStore`] keeps opaque bytes under a key, with a version, and grants leases. It knows nothing of tokens. The
//! cache decides what the bytes mean, when to refresh, and what to do after a conflict. [`TokenStore`] says what each
//! operation must do. The feature `testing` has a conformance suite for stores.

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
