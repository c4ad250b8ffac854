//! The store in which several sidecars share one session.

use std::path::PathBuf;
use std::time::Duration;

use tower_bearer::store::{FileStore, Sealed, SharedSession, StoreError, TokenStore};
use tower_bearer_redis::RedisStore;

use crate::Wrong;
use crate::cli::Login;
use crate::secrets::STORE_SEAL_KEY;

/// A store that was named, and what is kept there.
pub(crate) struct StoreSettings {
    place: Place,
    key: String,
    seal_key: Option<[u8; 32]>,
}

enum Place {
    Directory(PathBuf),
    Redis(RedisStore),
}

const OPTION: &str = "--store";
/// What sealed a record. There is one key at a time.
const SEAL_KEY_ID: &str = "sidecar";

/// What the command line says of a store, or nothing. Without a name, the session has this one.
pub(crate) fn settings(login: &mut Login, name: String) -> Result<Option<StoreSettings>, Wrong> {
    let Some(store) = login.store.take() else { return Ok(None) };
    // What was given is not repeated: there may be a password in it.
    let place = match store.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Place::Directory(path.into()),
        Some(("redis" | "rediss", _)) => Place::Redis(RedisStore::new(store).map_err(wrong)?),
        _ => return Err(wrong("write file:/DIRECTORY, redis://HOST:PORT or rediss://HOST:PORT")),
    };
    Ok(Some(StoreSettings { place, key: login.store_key.take().unwrap_or(name), seal_key: seal_key(login)? }))
}

fn seal_key(login: &mut Login) -> Result<Option<[u8; 32]>, Wrong> {
    let Some(given) = STORE_SEAL_KEY.find(login.store_seal_key_file.take())? else { return Ok(None) };
    let wrong = |problem: String| Wrong::new("--store-seal-key-file", problem);
    let text = given.read().map_err(|error| wrong(error.to_string()))?;
    let key = from_hex(text.expose().trim());
    key.map(Some)
        .ok_or_else(|| wrong("the key is not 64 hexadecimal digits; make one with `openssl rand -hex 32`".into()))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<_>>>()?;
    let bytes: Vec<_> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

// === impl StoreSettings ===

impl StoreSettings {
    /// Asks the store once, so that a mistake shows at the start. A server that is down may come back.
    pub(crate) async fn open(self) -> Result<SharedSession, Wrong> {
        let Self { place, key, seal_key } = self;
        match place {
            Place::Directory(path) => {
                let store = FileStore::new(path);
                ask(&store, &key).await.map_err(wrong)?;
                session(store, &key, seal_key)
            }
            Place::Redis(store) => {
                match ask(&store, &key).await {
                    Err(error) if error.is_transient() => tracing::warn!(%error, "the store is not there yet"),
                    asked => asked.map_err(wrong)?,
                }
                session(store, &key, seal_key)
            }
        }
    }
}

/// What changes nothing and needs the same permissions as a refresh: extends a lease that is not held.
async fn ask(store: &impl TokenStore, key: &str) -> Result<(), StoreError> {
    store.extend(key, "none", Duration::from_secs(1)).await.map(drop)
}

fn session(store: impl TokenStore, key: &str, seal_key: Option<[u8; 32]>) -> Result<SharedSession, Wrong> {
    Ok(match seal_key {
        Some(seal_key) => SharedSession::new(Sealed::new(store, SEAL_KEY_ID, seal_key).map_err(wrong)?, key),
        None => SharedSession::new(store, key),
    })
}

fn wrong(problem: impl std::fmt::Display) -> Wrong {
    Wrong::new(OPTION, problem)
}
