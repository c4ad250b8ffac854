//! The store in which several sidecars share one session.

use std::path::PathBuf;
use std::time::Duration;

use tower_bearer::store::{FileStore, Sealed, SharedSession, StoreError, TokenStore};
use tower_bearer_redis::RedisStore;

use crate::ConfigError;
use crate::cli::Login;
use crate::secrets::STORE_SEAL_KEY;

/// The configured store, and the key of the session in it.
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
/// The id of the key that seals records. There is only one key.
const SEAL_KEY_ID: &str = "sidecar";

/// Reads the options of the store. `name` is the session's default name.
pub(crate) fn settings(login: &mut Login, name: String) -> Result<Option<StoreSettings>, ConfigError> {
    let Some(store) = login.store.take() else { return Ok(None) };
    // The error does not repeat the value, because it may hold a password.
    let place = match store.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Place::Directory(path.into()),
        Some(("redis" | "rediss", _)) => Place::Redis(RedisStore::new(store).map_err(invalid)?),
        _ => return Err(invalid("write file:/DIRECTORY, redis://HOST:PORT or rediss://HOST:PORT")),
    };
    Ok(Some(StoreSettings { place, key: login.store_key.take().unwrap_or(name), seal_key: seal_key(login)? }))
}

fn seal_key(login: &mut Login) -> Result<Option<[u8; 32]>, ConfigError> {
    let Some(given) = STORE_SEAL_KEY.find(login.store_seal_key_file.take())? else { return Ok(None) };
    let invalid = |problem: String| ConfigError::new("--store-seal-key-file", problem);
    let text = given.read().map_err(|error| invalid(error.to_string()))?;
    let key = from_hex(text.expose().trim());
    key.map(Some)
        .ok_or_else(|| invalid("the key is not 64 hexadecimal digits; make one with `openssl rand -hex 32`".into()))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<_>>>()?;
    let bytes: Vec<_> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

// === impl StoreSettings ===

impl StoreSettings {
    /// Calls the store once, so that a mistake is an error at the start. A server that is down is only a warning.
    pub(crate) async fn open(self) -> Result<SharedSession, ConfigError> {
        let Self { place, key, seal_key } = self;
        match place {
            Place::Directory(path) => {
                let store = FileStore::new(path);
                ask(&store, &key).await.map_err(invalid)?;
                session(store, &key, seal_key)
            }
            Place::Redis(store) => {
                match ask(&store, &key).await {
                    Err(error) if error.is_transient() => tracing::warn!(%error, "the store is not there yet"),
                    asked => asked.map_err(invalid)?,
                }
                session(store, &key, seal_key)
            }
        }
    }
}

/// Extends a lease that is not held. The call changes nothing, and needs the same permissions as a refresh.
async fn ask(store: &impl TokenStore, key: &str) -> Result<(), StoreError> {
    store.extend(key, "none", Duration::from_secs(1)).await.map(drop)
}

fn session(store: impl TokenStore, key: &str, seal_key: Option<[u8; 32]>) -> Result<SharedSession, ConfigError> {
    Ok(match seal_key {
        Some(seal_key) => SharedSession::new(Sealed::new(store, SEAL_KEY_ID, seal_key).map_err(invalid)?, key),
        None => SharedSession::new(store, key),
    })
}

fn invalid(problem: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(OPTION, problem)
}
