//! What a store must do.

use std::fmt;
use std::time::Duration;

use crate::store::error::StoreError;

/// Keeps one record for each key, and hands out leases: over a file, Redis, a database or a keyring.
///
/// Each operation is one step: it happens as a whole or not at all, whatever other processes do at the same time. The
/// future of an operation may be dropped at any point; the operation then happened or did not. The cache bounds every
/// call with a deadline of its own, and repeats what may have been lost, so a store needs no retry loop.
///
/// A *key* is a text of the application: not empty, at most [`MAX_KEY_LEN`] bytes, without control characters. An *owner*
/// names one attempt of one process, and no other attempt has the same.
///
/// An implementation over a table `(key, version, bytes, saved_at, owner, leased_until)` is one statement for each
/// operation, with the time of the database:
///
/// | operation | statement |
/// |---|---|
/// | [`load`](Self::load) | `SELECT bytes, version, now() - saved_at` |
/// | [`acquire`](Self::acquire) | `UPDATE .. SET owner, leased_until WHERE leased_until < now() OR owner = $owner` |
/// | [`extend`](Self::extend) | `UPDATE .. SET leased_until WHERE owner = $owner AND leased_until >= now()` |
/// | [`release`](Self::release) | `UPDATE .. SET leased_until = now() WHERE owner = $owner` |
/// | [`save`](Self::save) | `UPDATE .. SET bytes, version, saved_at WHERE owner = $owner AND leased_until >= now() AND version = $expected` |
/// | [`expire`](Self::expire) | `UPDATE .. SET expires_at WHERE` as for `save`, which clears it; a job deletes what has expired |
pub trait TokenStore: Send + Sync + 'static {
    /// Loads the record of this key; `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether there is a record.
    ///
    /// # Cancel safety
    /// Changes nothing.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Takes the lease on this key for this long, unless another owner holds it. Does not wait.
    ///
    /// At any time one owner holds the lease at most. It ends by itself after `ttl`, by the store's clock, so that it
    /// outlives neither a process that died nor one that is stopped. The owner that holds it already gets it again.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the lease was taken.
    ///
    /// # Cancel safety
    /// The lease may have been taken; it ends by itself.
    fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Extends the lease to this long from now; `false` if this owner does not hold it any more.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the lease was extended.
    ///
    /// # Cancel safety
    /// The lease may have been extended.
    fn extend(&self, key: &str, owner: &str, ttl: Duration) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Ends the lease if this owner holds it. Never another owner's.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the lease has ended.
    ///
    /// # Cancel safety
    /// The lease may have ended.
    fn release(&self, key: &str, owner: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Saves a record, if this owner holds the lease **and** the version is the expected one: one atomic step.
    ///
    /// `expected` is the version that [`load`](Self::load) or the last save returned; `None` if there was no record. What
    /// was saved is durable when this returns: a refresh token that is lost cannot be had again.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the record was saved.
    ///
    /// # Cancel safety
    /// The record may have been saved.
    fn save(
        &self,
        key: &str,
        owner: &str,
        expected: Option<u64>,
        bytes: &[u8],
    ) -> impl Future<Output = Result<Saved, StoreError>> + Send;

    /// Moves the record to another name, for a person to look at, if this owner holds the lease and the version is
    /// `expected`. Afterwards there is no record under the key. Returns the name; `None` if nothing was moved.
    ///
    /// The cache calls it for a record that it cannot read. What was set aside before may be replaced.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the record was moved.
    ///
    /// # Cancel safety
    /// The record may have been moved.
    fn set_aside(
        &self,
        key: &str,
        owner: &str,
        expected: u64,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;

    /// Removes the record this long from now, if this owner holds the lease and the version is `expected`. A save before
    /// that keeps it.
    ///
    /// The cache calls it for the record of a session that has ended, which nobody needs once every process knows the end.
    /// The age may begin anew. The default keeps the record.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the record will be removed.
    ///
    /// # Cancel safety
    /// The record may be removed then.
    fn expire(
        &self,
        key: &str,
        owner: &str,
        expected: u64,
        after: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (key, owner, expected, after);
        std::future::ready(Ok(()))
    }

    /// Completes once the record of this key may have changed, or its lease may have ended, since the first poll.
    ///
    /// It may complete without a reason, and must complete if a change may have been missed, as after a connection was
    /// lost. The default never completes: then the cache looks again from time to time.
    ///
    /// # Cancel safety
    /// Changes nothing.
    fn changed(&self, key: &str) -> impl Future<Output = ()> + Send {
        let _ = key;
        std::future::pending()
    }
}

/// A record as it is stored.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// What was saved.
    pub bytes: Vec<u8>,
    /// Which record of this key it is. Any number that no earlier record under this key had, as long as there is one.
    pub version: u64,
    /// How long ago it was saved, by the store's own clock: the clocks of two machines are never compared.
    pub age: Duration,
}

/// What [`TokenStore::acquire`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The lease is this owner's.
    Held,
    /// Another owner holds it.
    Busy {
        /// The owner that holds it, if the store knows; it is named in errors.
        owner: Option<String>,
        /// How long until the lease ends by itself, unless it is extended.
        remaining: Duration,
    },
}

/// What [`TokenStore::save`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The record was saved.
    Saved {
        /// Its version.
        version: u64,
    },
    /// Nothing was saved: the lease is not this owner's, or the version is not the expected one.
    Conflict,
}

/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 256;

// === impl Stored ===

impl Stored {
    /// A record that was saved `age` ago.
    pub fn new(bytes: impl Into<Vec<u8>>, version: u64, age: Duration) -> Self {
        Self { bytes: bytes.into(), version, age }
    }
}

/// Shows nothing of the bytes, which hold tokens.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("version", &self.version).field("age", &self.age).finish_non_exhaustive()
    }
}

/// A store behind a pointer: the trait's async functions cannot be called through `dyn`, these can.
pub(crate) mod erased {
    use std::pin::Pin;
    use std::time::Duration;

    use crate::store::error::StoreError;
    use crate::store::token_store::{Lease, Saved, Stored, TokenStore};

    type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
    type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

    pub(crate) trait DynStore: Send + Sync {
        fn load<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>>;
        fn acquire<'a>(&'a self, key: &'a str, owner: &'a str, ttl: Duration) -> Answer<'a, Lease>;
        fn extend<'a>(&'a self, key: &'a str, owner: &'a str, ttl: Duration) -> Answer<'a, bool>;
        fn release<'a>(&'a self, key: &'a str, owner: &'a str) -> Answer<'a, ()>;
        fn save<'a>(
            &'a self,
            key: &'a str,
            owner: &'a str,
            expected: Option<u64>,
            bytes: &'a [u8],
        ) -> Answer<'a, Saved>;
        fn set_aside<'a>(&'a self, key: &'a str, owner: &'a str, expected: u64) -> Answer<'a, Option<String>>;
        fn expire<'a>(&'a self, key: &'a str, owner: &'a str, expected: u64, after: Duration) -> Answer<'a, ()>;
        fn changed<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ()>;
    }

    impl<S: TokenStore> DynStore for S {
        fn load<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>> {
            Box::pin(TokenStore::load(self, key))
        }

        fn acquire<'a>(&'a self, key: &'a str, owner: &'a str, ttl: Duration) -> Answer<'a, Lease> {
            Box::pin(TokenStore::acquire(self, key, owner, ttl))
        }

        fn extend<'a>(&'a self, key: &'a str, owner: &'a str, ttl: Duration) -> Answer<'a, bool> {
            Box::pin(TokenStore::extend(self, key, owner, ttl))
        }

        fn release<'a>(&'a self, key: &'a str, owner: &'a str) -> Answer<'a, ()> {
            Box::pin(TokenStore::release(self, key, owner))
        }

        fn save<'a>(
            &'a self,
            key: &'a str,
            owner: &'a str,
            expected: Option<u64>,
            bytes: &'a [u8],
        ) -> Answer<'a, Saved> {
            Box::pin(TokenStore::save(self, key, owner, expected, bytes))
        }

        fn set_aside<'a>(&'a self, key: &'a str, owner: &'a str, expected: u64) -> Answer<'a, Option<String>> {
            Box::pin(TokenStore::set_aside(self, key, owner, expected))
        }

        fn expire<'a>(&'a self, key: &'a str, owner: &'a str, expected: u64, after: Duration) -> Answer<'a, ()> {
            Box::pin(TokenStore::expire(self, key, owner, expected, after))
        }

        fn changed<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ()> {
            Box::pin(TokenStore::changed(self, key))
        }
    }
}
