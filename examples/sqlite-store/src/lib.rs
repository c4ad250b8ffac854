//! A token store over a database, as an example: SQLite. For another database, replace the statements and the time.
//!
//! One row for each key holds the record and the lease. Each operation is one statement or one transaction, whose `WHERE`
//! says when it may happen, so the database decides between processes and no lock is needed here. `tests/sqlite.rs` runs the
//! suite that every store has to pass.
//!
//! The time is the database's, which here is the machine's wall clock: if that is set forward, a lease ends early.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tower_bearer::store::{Lease, Saved, StoreError, Stored, TokenStore};

/// `version` is null without a record. `versions` counts all records of the key, so that no version comes twice.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS session (
    key TEXT PRIMARY KEY,
    bytes BLOB, version INTEGER, saved_at REAL, versions INTEGER NOT NULL DEFAULT 0,
    owner TEXT, leased_until REAL NOT NULL DEFAULT 0,
    set_aside BLOB
)";
const LOAD: &str = "SELECT bytes, version, unixepoch('subsec') - saved_at FROM session
    WHERE key = ?1 AND version IS NOT NULL";
const ACQUIRE: &str = "INSERT INTO session (key, owner, leased_until) VALUES (?1, ?2, unixepoch('subsec') + ?3)
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until
    WHERE owner = excluded.owner OR leased_until <= unixepoch('subsec')";
const HOLDER: &str = "SELECT owner, leased_until - unixepoch('subsec') FROM session WHERE key = ?1";
const EXTEND: &str = "UPDATE session SET leased_until = unixepoch('subsec') + ?3
    WHERE key = ?1 AND owner = ?2 AND leased_until > unixepoch('subsec')";
const RELEASE: &str = "UPDATE session SET leased_until = 0 WHERE key = ?1 AND owner = ?2";
const SAVE: &str = "UPDATE session
    SET bytes = ?4, version = versions + 1, versions = versions + 1, saved_at = unixepoch('subsec')
    WHERE key = ?1 AND owner = ?2 AND leased_until > unixepoch('subsec') AND version IS ?3";
const VERSION: &str = "SELECT version FROM session WHERE key = ?1";
const SET_ASIDE: &str = "UPDATE session SET set_aside = bytes, bytes = NULL, version = NULL
    WHERE key = ?1 AND owner = ?2 AND leased_until > unixepoch('subsec') AND version IS ?3";

/// How long a statement waits for another process. The cache gives a call three seconds.
const BUSY: Duration = Duration::from_secs(2);

/// A [`TokenStore`] in an SQLite database. Clones share one connection.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Mutex<Connection>>);

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the database, which is made if it is not there, for this user only.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or is no database.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).map_err(StoreError::permanent)?;
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            connection.execute(SCHEMA, [])?;
            Ok(connection)
        };
        open().map(|connection| Self(Arc::new(Mutex::new(connection)))).map_err(store_error)
    }

    /// Runs the statements where they may block.
    async fn run<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let connection = Arc::clone(&self.0);
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await.map_err(StoreError::transient)?.map_err(store_error)
    }
}

impl TokenStore for SqliteStore {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let key = key.to_owned();
        self.run(move |connection| {
            let stored = |row: &rusqlite::Row<'_>| {
                Ok(Stored::new(row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)? as u64, seconds(row.get(2)?)))
            };
            connection.query_row(LOAD, params![key], stored).optional()
        })
        .await
    }

    async fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let (key, owner) = (key.to_owned(), owner.to_owned());
        self.run(move |connection| {
            if connection.execute(ACQUIRE, params![key, owner, ttl.as_secs_f64()])? == 1 {
                return Ok(Lease::Held);
            }
            let busy =
                |row: &rusqlite::Row<'_>| Ok(Lease::Busy { owner: row.get(0)?, remaining: seconds(row.get(1)?) });
            connection.query_row(HOLDER, params![key], busy)
        })
        .await
    }

    async fn extend(&self, key: &str, owner: &str, ttl: Duration) -> Result<bool, StoreError> {
        let (key, owner) = (key.to_owned(), owner.to_owned());
        self.run(move |connection| Ok(connection.execute(EXTEND, params![key, owner, ttl.as_secs_f64()])? == 1)).await
    }

    async fn release(&self, key: &str, owner: &str) -> Result<(), StoreError> {
        let (key, owner) = (key.to_owned(), owner.to_owned());
        self.run(move |connection| connection.execute(RELEASE, params![key, owner]).map(drop)).await
    }

    async fn save(&self, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> Result<Saved, StoreError> {
        let (key, owner, bytes) = (key.to_owned(), owner.to_owned(), bytes.to_vec());
        self.run(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if transaction.execute(SAVE, params![key, owner, expected.map(|version| version as i64), bytes])? == 0 {
                return Ok(Saved::Conflict);
            }
            let version: i64 = transaction.query_row(VERSION, params![key], |row| row.get(0))?;
            // Durable when this returns.
            transaction.commit()?;
            Ok(Saved::Saved { version: version as u64 })
        })
        .await
    }

    async fn set_aside(&self, key: &str, owner: &str, expected: u64) -> Result<Option<String>, StoreError> {
        let (key, owner) = (key.to_owned(), owner.to_owned());
        self.run(move |connection| {
            let moved = connection.execute(SET_ASIDE, params![key, owner, expected as i64])? == 1;
            Ok(moved.then(|| format!("{key}, in the column set_aside")))
        })
        .await
    }
}

// === helpers ===

/// Zero if the clock was set back.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Whether the same call may succeed later. No statement holds a token, so the text of an error holds none.
fn store_error(error: rusqlite::Error) -> StoreError {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, ReadOnly, SystemIoFailure};
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | DiskFull | OutOfMemory | ReadOnly | SystemIoFailure) => {
            StoreError::transient(error)
        }
        _ => StoreError::permanent(error),
    }
}

/// Makes the file before SQLite does, which would let others read it. Its journal gets the same permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.append(true).create(true).open(path).map(drop)
}
