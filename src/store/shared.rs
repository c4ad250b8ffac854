//! What a cache is told of the session that it shares.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::store::token_store::erased::DynStore;
use crate::store::token_store::{MAX_KEY_LEN, TokenStore};

/// A session that several processes share: the store, the key of the record, and how the processes take turns.
///
/// Each process makes its own, with the same key and the same source of tokens:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// # use tower_bearer::{RefreshPolicy, Token};
/// use tower_bearer::TokenCache;
/// use tower_bearer::store::SharedSession;
/// # let store = tower_bearer::testing::MemoryStore::new();
/// # let source = async |_| Token::new("t");
///
/// let cache = TokenCache::with_store(source, RefreshPolicy::new(), SharedSession::new(store, "ada@example.com")?);
/// # cache.get().await?;
/// # Ok(()) }
/// ```
///
/// | setting | default |
/// |---|---|
/// | [`lease`](Self::lease) | 10 s |
/// | [`look_every`](Self::look_every) | 30 s |
/// | [`refresh_without_store`](Self::refresh_without_store) | `false` |
#[derive(Clone)]
pub struct SharedSession {
    pub(crate) store: Arc<dyn DynStore>,
    pub(crate) key: Arc<str>,
    pub(crate) identity: Vec<String>,
    pub(crate) lease: Duration,
    pub(crate) look_every: Duration,
    pub(crate) refresh_without_store: bool,
}

/// Shorter leases end while their holder waits for a processor.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

// === impl SharedSession ===

impl SharedSession {
    /// The session whose record has this key.
    ///
    /// The key names everything that tells one session from another: user, tenant, issuer, scope.
    ///
    /// # Errors
    /// Returns an error if the key is empty, longer than [`MAX_KEY_LEN`](crate::store::MAX_KEY_LEN) bytes, or holds a control character.
    pub fn new(store: impl TokenStore, key: impl AsRef<str>) -> Result<Self, Error> {
        let key = key.as_ref();
        if key.is_empty() {
            return Err(Error::invalid("key", "it is empty; name the user, tenant and issuer of the session"));
        }
        if key.len() > MAX_KEY_LEN || key.chars().any(char::is_control) {
            return Err(Error::invalid("key", "it is longer than 256 bytes, or holds a control character"));
        }
        Ok(Self {
            store: Arc::new(store),
            key: key.into(),
            identity: Vec::new(),
            lease: Duration::from_secs(10),
            look_every: Duration::from_secs(30),
            refresh_without_store: false,
        })
    }

    /// Adds what shapes the token and is not known to the source, such as the tenant that a closure logs in to.
    ///
    /// A record holds a digest of [`TokenSource::identity`](crate::TokenSource::identity) and of this. A process that finds
    /// another digest under the key uses nothing of the record and gets an error.
    #[must_use]
    pub fn identity(mut self, part: impl Into<String>) -> Self {
        self.identity.push(part.into());
        self
    }

    /// How long a lease lasts. Default: 10 s. Its holder extends it while it calls the issuer; after a holder died, the
    /// next process waits this long at most.
    ///
    /// # Errors
    /// Returns an error if it is shorter than 100 ms.
    pub fn lease(self, lease: Duration) -> Result<Self, Error> {
        if lease < SHORTEST_LEASE {
            return Err(Error::invalid("lease", "shorter than 100 ms: it would end while its holder is at work"));
        }
        Ok(Self { lease, ..self })
    }

    /// How often the cache looks at the record without a need, to learn of another login or a sign-out. Default: 30 s. A
    /// store that tells of changes is looked at sooner.
    ///
    /// # Errors
    /// Returns an error if it is zero.
    pub fn look_every(self, interval: Duration) -> Result<Self, Error> {
        if interval.is_zero() {
            return Err(Error::invalid("look_every", "zero would look all the time"));
        }
        Ok(Self { look_every: interval, ..self })
    }

    /// Whether a refresh token is spent while the store cannot be reached and no token is left. Default: `false`.
    ///
    /// If another process spends the same refresh token, an issuer with reuse detection revokes the session of all. A
    /// request that fails can be repeated; a revoked session cannot. Grants without a refresh token fetch in any case.
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
