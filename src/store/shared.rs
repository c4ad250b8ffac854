//! The settings of a session that processes share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::store::token_store::erased::DynStore;
use crate::store::token_store::{MAX_KEY_LEN, TokenStore};

/// A session that several processes share: the store, the key and the settings.
///
/// Each process creates one, with the same key and the same source of tokens:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// # use tower_bearer::Token;
/// use tower_bearer::TokenCache;
/// use tower_bearer::store::SharedSession;
/// # let store = tower_bearer::testing::MemoryStore::new();
/// # let source = async |_| Token::new("t");
///
/// let cache = TokenCache::builder(source).shared_session(SharedSession::new(store, "ada@example.com")).build()?;
/// # cache.get().await?;
/// # Ok(()) }
/// ```
///
/// | setting | default |
/// |---|---|
/// | [`lease`](Self::lease) | 10 s |
/// | [`poll_interval`](Self::poll_interval) | 30 s |
/// | [`refresh_without_store`](Self::refresh_without_store) | `false` |
#[derive(Clone)]
pub struct SharedSession {
    pub(crate) store: Arc<dyn DynStore>,
    pub(crate) key: Arc<str>,
    pub(crate) identity: Vec<String>,
    pub(crate) lease: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) refresh_without_store: bool,
}

/// The shortest valid lease. A shorter one would end while its holder waits for a processor.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

// === impl SharedSession ===

impl SharedSession {
    /// The session whose record has this key.
    ///
    /// The key distinguishes this session from all others: user, tenant, issuer, scope.
    pub fn new(store: impl TokenStore, key: impl AsRef<str>) -> Self {
        Self {
            store: Arc::new(store),
            key: key.as_ref().into(),
            identity: Vec::new(),
            lease: Duration::from_secs(10),
            poll_interval: Duration::from_secs(30),
            refresh_without_store: false,
        }
    }

    /// Checks what the setters accept.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.key.is_empty() {
            return Err(Error::invalid("key", "it is empty; name the user, tenant and issuer of the session"));
        }
        if self.key.len() > MAX_KEY_LEN || self.key.chars().any(char::is_control) {
            return Err(Error::invalid("key", "it is longer than 256 bytes, or holds a control character"));
        }
        if self.lease < SHORTEST_LEASE {
            return Err(Error::invalid("lease", "shorter than 100 ms: it would end while its holder works"));
        }
        if self.poll_interval.is_zero() {
            return Err(Error::invalid("poll_interval", "zero would read the record all the time"));
        }
        Ok(())
    }

    /// Adds a value that determines the token and that the source does not know.
    ///
    /// It may be the tenant of a closure's login, for example. A record contains a digest of
    /// [`TokenSource::identity`](crate::TokenSource::identity) and of these values. A process that finds another digest
    /// under the key does not use the record, and gets an error.
    #[must_use]
    pub fn identity(mut self, part: impl Into<String>) -> Self {
        self.identity.push(part.into());
        self
    }

    /// How long a lease lasts. Default: 10 s.
    ///
    /// Its holder extends it while it calls the issuer. After a holder died, the next process waits this long at most.
    /// Less than 100 ms is invalid.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// How often the cache reads the record to learn of a login or a sign-out.
    ///
    /// Default: 30 s.
    ///
    /// If the store reports changes, the cache reads the record sooner. Zero is invalid.
    #[must_use]
    pub fn poll_interval(self, interval: Duration) -> Self {
        Self { poll_interval: interval, ..self }
    }

    /// Whether to use a refresh token without the store. Default: `false`.
    ///
    /// It matters if the store is unreachable and there is no usable token. If two processes use the same refresh
    /// token, an issuer with reuse detection revokes the session for all. A failed request can be repeated, and a
    /// revoked session cannot be restored. Grants without a refresh token fetch in any case.
    #[must_use]
    pub fn refresh_without_store(self, allow: bool) -> Self {
        Self { refresh_without_store: allow, ..self }
    }
}

impl fmt::Debug for SharedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSession").field("key", &self.key).field("lease", &self.lease).finish_non_exhaustive()
    }
}
