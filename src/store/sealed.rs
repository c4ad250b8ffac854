//! Records that are encrypted at rest.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::error::Error;
use crate::store::error::StoreError;
use crate::store::record::SEALED;
use crate::store::token_store::{Lease, Saved, Stored, TokenStore};

/// Any [`TokenStore`], with records that are encrypted and authenticated at rest.
///
/// The cipher is XChaCha20-Poly1305, with a random nonce for each record. A record names the key that sealed it, and is bound
/// to its place: moved to another key of the store, it does not open. To rotate, seal with a new key and
/// [keep the former](Self::also_open_with) until every process has the new one and each record was written once more.
///
/// A record that does not open (a key that is not known here, a record that was changed or never sealed) is not used. The
/// cache reports it, and sets it aside before it writes another. An older record that was put back by someone who can write
/// the store does open.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// use tower_bearer::store::{FileStore, Sealed, SharedSession};
/// # let home = std::env::temp_dir();
/// # let (new_key, old_key) = ([1; 32], [2; 32]);
///
/// let store = Sealed::new(FileStore::new(home), "2026-11", new_key)?.also_open_with("2026-05", old_key)?;
/// let session = SharedSession::new(store, "ada@example.com");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sealed<S> {
    store: S,
    /// The first one seals.
    keys: Arc<Vec<Key>>,
}

#[derive(Clone)]
struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
}

/// Of this format; the id of the key and a line break follow.
const VERSION: &[u8] = b"1 ";
const NONCE: usize = 24;
const LONGEST_ID: usize = 64;

// === impl Sealed ===

impl<S> Sealed<S> {
    /// Seals records with this key of 32 random bytes. The id names the key, and is written beside each record.
    ///
    /// # Errors
    /// Returns an error if the id is empty, longer than 64 bytes, or not of visible ASCII characters.
    pub fn new(store: S, id: impl Into<String>, key: [u8; 32]) -> Result<Self, Error> {
        Ok(Self { store, keys: Arc::new(vec![Key::new(id.into(), key)?]) })
    }

    /// Opens records with this key as well, which sealed them before.
    ///
    /// # Errors
    /// Returns an error if the id is not one, as for [`new`](Self::new), or names another key already.
    pub fn also_open_with(mut self, id: impl Into<String>, key: [u8; 32]) -> Result<Self, Error> {
        let key = Key::new(id.into(), key)?;
        if self.keys.iter().any(|other| other.id == key.id) {
            return Err(Error::invalid("id", "it names another key already"));
        }
        Arc::make_mut(&mut self.keys).push(key);
        Ok(self)
    }

    fn seal(&self, place: &str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        let [key, ..] = &self.keys[..] else { return Err(StoreError::permanent("there is no key")) };
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(StoreError::transient)?;
        let header = [SEALED, VERSION, key.id.as_bytes(), b"\n"].concat();
        let aad = aad(&header, place);
        let sealed = key.cipher.encrypt(&XNonce::from(nonce), Payload { msg: bytes, aad: &aad });
        let sealed = sealed.map_err(|_| StoreError::permanent("the record is too long to be sealed"))?;
        Ok([&*header, &nonce, &sealed].concat())
    }

    fn open(&self, place: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let rest = bytes.strip_prefix(SEALED)?.strip_prefix(VERSION)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let key = self.keys.iter().find(|key| key.id.as_bytes() == &rest[..end])?;
        let (nonce, sealed) = rest[end + 1..].split_first_chunk::<NONCE>()?;
        let aad = aad(&bytes[..bytes.len() - rest.len() + end + 1], place);
        key.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &aad }).ok()
    }
}

/// What is authenticated beside the record: the key that seals it, and its place.
fn aad(header: &[u8], place: &str) -> Vec<u8> {
    [header, place.as_bytes()].concat()
}

impl<S: TokenStore> TokenStore for Sealed<S> {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let Some(stored) = self.store.load(key).await? else { return Ok(None) };
        // Nothing is handed out that was not authenticated: the cache takes this for a record that it cannot read.
        let bytes = self.open(key, &stored.bytes).unwrap_or_else(|| SEALED.to_vec());
        Ok(Some(Stored { bytes, ..stored }))
    }

    async fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.acquire(key, owner, ttl).await
    }

    async fn extend(&self, key: &str, owner: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.store.extend(key, owner, ttl).await
    }

    async fn release(&self, key: &str, owner: &str) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }

    async fn save(&self, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> Result<Saved, StoreError> {
        let sealed = self.seal(key, bytes)?;
        self.store.save(key, owner, expected, &sealed).await
    }

    async fn set_aside(&self, key: &str, owner: &str, expected: u64) -> Result<Option<String>, StoreError> {
        self.store.set_aside(key, owner, expected).await
    }

    async fn expire(&self, key: &str, owner: &str, expected: u64, after: Duration) -> Result<(), StoreError> {
        self.store.expire(key, owner, expected, after).await
    }

    async fn changed(&self, key: &str) {
        self.store.changed(key).await;
    }
}

/// Shows the ids of the keys.
impl<S: fmt::Debug> fmt::Debug for Sealed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|key| &key.id).collect();
        f.debug_struct("Sealed").field("store", &self.store).field("keys", &ids).finish()
    }
}

// === impl Key ===

impl Key {
    fn new(id: String, key: [u8; 32]) -> Result<Self, Error> {
        if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid("id", "not 1 to 64 visible ASCII characters"));
        }
        Ok(Self { id, cipher: XChaCha20Poly1305::new(&key.into()) })
    }
}
