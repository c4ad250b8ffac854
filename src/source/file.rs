//! A token in a file that something else rewrites.
//!
//! Kubernetes writes a service account's token into a file and replaces it before it ends; agents of vaults and clouds
//! do the same. [`TokenFile`] is for the API that takes this very token. Where an issuer wants it as a proof instead, no
//! source of its own is needed: a secret can be an async closure, which is called at each fetch.
//!
//! ```
//! # fn main() -> Result<(), tower_bearer::Error> {
//! # use http_body_util::Full; use bytes::Bytes;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
//! use tower_bearer::oauth2::{ClientAuth, ClientCredentials, TokenExchange};
//!
//! const FILE: &str = "/var/run/secrets/azure/tokens/azure-identity-token";
//!
//! // A client assertion (RFC 7523 section 2.2), as Azure's workload identity wants it.
//! let url = "https://login.microsoftonline.com/my-tenant/oauth2/v2.0/token";
//! let auth = ClientAuth::assertion(async || tokio::fs::read_to_string(FILE).await);
//! let azure = ClientCredentials::new(http.clone(), url, "my-client-id", auth)?.scope("https://vault.azure.net/.default");
//!
//! // The subject of a token exchange (RFC 8693).
//! let url = "https://sts.example.com/token";
//! let exchange = TokenExchange::new(http, url, async || tokio::fs::read_to_string(FILE).await)?
//!     .subject_token_type("urn:ietf:params:oauth:token-type:jwt")?;
//! # Ok(()) }
//! ```

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::source::{FetchContext, TokenSource, answer};
use crate::token::{MAX_LIFETIME, Token};

/// A file that holds a token and nothing else, but for white space around it.
///
/// The file is read at the first fetch, again when a request comes and the last look is a minute old
/// ([`reread_every`](TokenFile::reread_every)), and at once when an API rejects the token. It need not exist before
/// that. The same token again is no failure, unless it was rejected.
///
/// A JWT (RFC 7519) is taken to live until its `exp`, which is read and not verified; another token until the file says
/// otherwise. While the file cannot be read, or holds no token, the last good one goes on being sent until its end, and
/// [`status`](crate::TokenCache::status) and a WARN event say why: so a look into the middle of a rotation does no harm.
/// A JWT that breaks off before its signature is known to be half written; of other texts nobody can tell, so whoever
/// writes them should rename a whole file over the old one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// use tower_bearer::{TokenCache, file::TokenFile};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("token");
/// # let rename_over = |text: &str| {
/// #     let new = directory.path().join("new");
/// #     std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path))
/// # };
/// // For a pod: "/var/run/secrets/kubernetes.io/serviceaccount/token".
/// rename_over("the-first-token\n")?;
/// let cache = TokenCache::new(TokenFile::new(&path));
/// assert_eq!(cache.get().await?.header_value(), "Bearer the-first-token");
///
/// rename_over("the-second-token\n")?;
/// assert_eq!(cache.refresh().await?.header_value(), "Bearer the-second-token");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    reread_every: Duration,
}

/// As often as Kubernetes' own clients look; its kubelet replaces a token a fifth of its life before it ends.
const REREAD_EVERY: Duration = Duration::from_secs(60);
/// No token is longer.
const LONGEST: u64 = 1024 * 1024;

// === impl TokenFile ===

impl TokenFile {
    /// The file at this path, which is looked up anew each time: symbolic links may change.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), reread_every: REREAD_EVERY }
    }

    /// How old the last look at the file may get. Default: 60 s. Without requests, and without
    /// [`keep_warm`](crate::TokenCache::keep_warm), nobody looks.
    ///
    /// # Errors
    /// Zero: each request would read the file.
    pub fn reread_every(self, interval: Duration) -> Result<Self, Error> {
        if interval.is_zero() {
            return Err(Error::invalid("reread_every", "zero would read the file for each request"));
        }
        Ok(Self { reread_every: interval, ..self })
    }

    /// What the file holds, as a token; `now` is the time before it was read.
    fn token(&self, text: &str, now: SystemTime) -> Result<Token, Error> {
        let unusable = |problem| {
            let remedy = "it must hold the token's text and nothing else";
            Error::unusable(None, format!("the file {}: {problem}; {remedy}", self.path.display()))
        };
        let token = Token::parse(text).map_err(unusable)?;
        let lifetime = match jwt_claims(text).map_err(unusable)?.get("exp").and_then(answer::seconds) {
            None => MAX_LIFETIME,
            Some(exp) => answer::until(exp, now).map_err(|ago| {
                let problem = format!(
                    "the token in the file {} ended {} s ago: whatever rewrites it has stopped, or this machine's clock is wrong",
                    self.path.display(),
                    ago.as_secs(),
                );
                Error::unusable(None, problem)
            })?,
        };
        Ok(token.with_lifetime(lifetime).with_refresh_in(self.reread_every))
    }
}

impl TokenSource for TokenFile {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let path = self.path.clone();
        let now = context.now();
        // One blocking task for all of it; `tokio::fs` would take one for each step.
        let text = tokio::task::spawn_blocking(move || read(&path)).await.map_err(Error::transient)??;
        self.token(text.trim(), now)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |problem: String, remedy: &str| {
        Error::unusable(None, format!("the file {} {problem}; {remedy}", path.display()))
    };
    let unreadable =
        |error| failed(format!("could not be read: {error}"), "check the path, its permissions, and what writes it");
    // A pipe or a terminal would block the thread for as long as nobody writes to it.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(failed("is no regular file".into(), "name one that can be read again and again"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(failed("is longer than 1 MiB, which no token is".into(), "check the path"));
    }
    String::from_utf8(bytes).map_err(|_| failed("is no text".into(), "it must hold the token's text and nothing else"))
}

/// The claims of a JWT (RFC 7519 section 3), none for every other text; an error for a JWT that breaks off.
fn jwt_claims(text: &str) -> Result<Map<String, Value>, &'static str> {
    const BREAKS_OFF: &str = "it begins as a JWT and breaks off, as if it were half written";
    let mut parts = text.split('.');
    let header = parts.next().and_then(object);
    match (header, parts.next(), parts.next()) {
        // The beginning of `{"`, in the alphabet of JWTs, and no whole object.
        (None, ..) if text.starts_with("eyJ") && text.bytes().all(is_of_a_jwt) => Err(BREAKS_OFF),
        // RFC 7515 section 4.1.1, RFC 7516 section 4.1.1: the header of every JWT names an algorithm.
        (Some(header), ..) if !header.contains_key("alg") => Ok(Map::new()),
        (Some(_), None, _) | (Some(_), _, None) => Err(BREAKS_OFF),
        // One that is encrypted has other parts, which only the API can read.
        (Some(_), Some(claims), Some(_)) => Ok(object(claims).unwrap_or_default()),
        (None, ..) => Ok(Map::new()),
    }
}

fn is_of_a_jwt(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// A part of a JWT that is a JSON object (RFC 7515 section 2: base64url without padding).
fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
