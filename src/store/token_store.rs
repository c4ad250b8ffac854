//! The trait of a store.

use std::fmt;
use std::time::Duration;

use crate::store::error::StoreError;

/// A store that keeps one record for each key, and grants leases.
///
/// It may use a file, Redis, a database or a keyring. Each operation is atomic: it has its whole effect or none, also
/// if other processes call the store at the same time. If the future of an operation is dropped, the operation had its
/// effect or had not. The cache bounds every call with its own deadline, and repeats a call whose effect may be lost,
/// so a store needs no retry loop.
///
/// A *key* is a string of the application: not empty, at most [`MAX_KEY_LEN`] bytes, without control characters. An
/// *owner* names one attempt of one process, and no other attempt has the same name.
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
///
/// The repository's `examples/sqlite-store` is such an implementation. `testing::store_conformance` checks one.
pub trait TokenStore: Send + Sync + 'static {
    /// Loads the record of this key; `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether there is a record.
    ///
    /// # Cancel safety
    /// Changes nothing.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Takes the lease on this key for `ttl`, unless another owner holds it.
    ///
    /// It does not wait. At most one owner holds the lease at any time. The lease ends by itself after `ttl`, by the
    /// store's clock, also if its process has died or is stopped. An owner that holds it already gets it again.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the lease was taken.
    ///
    /// # Cancel safety
    /// The lease may have been taken; it ends by itself.
    fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Extends the lease to `ttl` from now; `false` if this owner does not hold it.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the lease was extended.
    ///
    /// # Cancel safety
    /// The lease may have been extended.
    fn extend(&self, key: &str, owner: &str, ttl: Duration) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Ends the lease if this owner holds it, and never another owner's lease.
    ///
    /// # Errors
    /// Returns an error if the store cannot tell whether the lease has ended.
    ///
    /// # Cancel safety
    /// The lease may have ended.
    fn release(&self, key: &str, owner: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Saves a record if this owner holds the lease **and** the version is `expected`.
    ///
    /// Check and save are one atomic step. `expected` is the version that [`load`](Self::load) or the last save
    /// returned; `None` if there was no record. The record is durable when this returns, because a lost refresh token
    /// cannot be fetched again.
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

    /// Moves the record to another name if this owner holds the lease and the version is `expected`.
    ///
    /// Afterwards there is no record under the key. Returns the new name; `None` if no record was moved. The cache
    /// calls it for a record that it cannot read, so that a person can examine it. A record that was set aside before
    /// may be replaced.
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

    /// Removes the record `after` this time, if this owner holds the lease and the version is `expected`.
    ///
    /// A save before that keeps the record. The cache calls it for the record of a session that has ended, which is
    /// useless after every process knows the end. The age of the record may restart. The default keeps the record.
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
    /// Changes since the first poll count. It may complete without a reason. It must complete if the store may have
    /// missed a change, for example after it lost a connection. The default never completes; the cache then reads the
    /// record from time to time.
    ///
    /// # Cancel safety
    /// Changes nothing.
    fn changed(&self, key: &str) -> impl Future<Output = ()> + Send {
        let _ = key;
        std::future::pending()
    }
}

/// A stored record.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The bytes that were saved.
    pub bytes: Vec<u8>,
    /// The version of the record: a number that no earlier record under this key has.
    pub version: u64,
    /// How long ago it was saved, by the store's clock.
    ///
    /// So the clocks of two machines are never compared.
    pub age: Duration,
}

/// The result of [`TokenStore::acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// This owner holds the lease.
    Held,
    /// Another owner holds it.
    Busy {
        /// The owner that holds it, if the store knows it. Errors name it.
        owner: Option<String>,
        /// How long until the lease ends by itself, unless it is extended.
        remaining: Duration,
    },
}

/// The result of [`TokenStore::save`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The record was saved.
    Saved {
        /// Its version.
        version: u64,
    },
    /// The record was not saved: another owner holds the lease, or the version is another.
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

/// Shows nothing of the bytes, which contain tokens.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("version", &self.version).field("age", &self.age).finish_non_exhaustive()
    }
}

/// A store behind a pointer. The async functions of the trait cannot be called through `dyn`, and these can.
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
