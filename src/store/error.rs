//! The error of a store.

use std::fmt;
use std::sync::Arc;

use tower::BoxError;

/// The error of a failed operation of a store.
///
/// Cloning costs one reference count. Neither the text nor the cause may contain a token, a password, or the bytes of a
/// record, because events and errors show both.
#[derive(Clone)]
pub struct StoreError {
    transient: bool,
    source: Arc<BoxError>,
}

// === impl StoreError ===

impl StoreError {
    /// The store is unreachable, slow, full or read-only.
    ///
    /// The same call may succeed later.
    pub fn transient(source: impl Into<BoxError>) -> Self {
        Self { transient: true, source: Arc::new(source.into()) }
    }

    /// The setup of the store is wrong: a wrong password, a missing table, permissions.
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        Self { transient: false, source: Arc::new(source.into()) }
    }

    /// Whether the same call may succeed later without a change by a person.
    pub fn is_transient(&self) -> bool {
        self.transient
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.transient { "the token store is unavailable" } else { "the token store is not usable" };
        write!(f, "{what}: {}", self.source)
    }
}

/// Prints the text of [`Display`](fmt::Display).
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreError").field(&format_args!("{self}")).finish()
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}
