//! Why a store did not do what it was asked.

use std::fmt;
use std::sync::Arc;

use tower::BoxError;

/// Why a store did not do what it was asked.
///
/// Cloning costs one reference count. Neither the text nor the cause may hold a token, a password, or the bytes of a
/// record: both are shown in events and errors.
#[derive(Clone)]
pub struct StoreError {
    transient: bool,
    source: Arc<BoxError>,
}

// === impl StoreError ===

impl StoreError {
    /// The store cannot be reached, is slow, full or read-only now: the same call may succeed later.
    pub fn transient(source: impl Into<BoxError>) -> Self {
        Self { transient: true, source: Arc::new(source.into()) }
    }

    /// The store does not serve this application as it is set up: a wrong password, a missing table, wrong permissions.
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

/// Prints what [`Display`](fmt::Display) prints.
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
