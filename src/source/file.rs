//! A token in a file that another program rewrites.
//!
//! Kubernetes writes a service account's token into a file and replaces it before it expires. Agents of vaults and
//! clouds do the same. [`TokenFile`] is for an API that takes this token itself. If an issuer takes the token as a
//! proof instead, give its grant an async closure as the secret, which is called at each fetch.
//!
//! ```
//! # fn main() -> Result<(), tower_bearer::Error> {
//! # use http_body_util::Full; use bytes::Bytes;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
//! use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, Issuer, TokenExchangeGrant};
//!
//! const FILE: &str = "/var/run/secrets/azure/tokens/azure-identity-token";
//!
//! // A client assertion (RFC 7523 section 2.2), as Azure's workload identity wants it.
//! let issuer = Issuer::discover(http.clone(), "https://login.microsoftonline.com/my-tenant/v2.0");
//! let auth = ClientAuth::assertion(async || tokio::fs::read_to_string(FILE).await);
//! let azure = ClientCredentialsGrant::builder(&issuer, "my-client-id", auth)
//!     .scope("https://vault.azure.net/.default")
//!     .build()?;
//!
//! // The subject of a token exchange (RFC 8693).
//! let issuer = Issuer::discover(http, "https://sts.example.com");
//! let exchange = TokenExchangeGrant::builder(&issuer, async || tokio::fs::read_to_string(FILE).await)
//!     .subject_token_type("urn:ietf:params:oauth:token-type:jwt")
//!     .build()?;
//! # Ok(()) }
//! ```

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::error::Error;
use crate::source::answer::lifetime::{Expiry, Issued, jwt_claims};
use crate::source::answer::settings::expiry_settings;
use crate::source::answer::{self, decode};
use crate::source::{FetchContext, TokenSource};
use crate::token::{MAX_LIFETIME, Token};

/// A token in a file, as bare text or in JSON.
///
/// Bare text may have white space around it. In JSON, [`token_at`](TokenFileBuilder::token_at) says where the token is.
/// A byte order mark is ignored.
///
/// The first fetch reads the file, which need not exist before. A request causes another read if the last one is a
/// minute old ([`reread_every`](TokenFileBuilder::reread_every)). A rejection of the token causes a read at once.
/// Reading the same token again is a failure only if it was rejected.
///
/// A JWT (RFC 7519) lives until its `exp`, which is read and not verified. Any other token lives until the file holds
/// another. In JSON, a lifetime counts from when the file was written.
///
/// If the file cannot be read or holds no token, the last good token stays in use until it expires. A read in the
/// middle of a rotation therefore does no harm. [`status`](crate::TokenCache::status) and a WARN event say why the read
/// failed. A JWT that ends before its signature is rejected as half written. Other half-written texts cannot be
/// detected, so the writer should write a new file and rename it over the old one.
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
///
/// A file in JSON needs a setting:
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// use tower_bearer::file::TokenFile;
///
/// let file = TokenFile::builder("/run/agent/token.json").token_at("/access_token").build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    reread_every: Duration,
    token_at: Option<String>,
    expiry: Expiry,
}

/// The settings of a [`TokenFile`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenFileBuilder {
    file: TokenFile,
}

/// The content of the file.
struct Content {
    bytes: Vec<u8>,
    /// When the file was written, if the file system knows that.
    written: Option<SystemTime>,
}

expiry_settings!(TokenFileBuilder, file.expiry, "Default: [`MAX_LIFETIME`], which is until the file holds another.");

/// Kubernetes' own clients use the same interval. A kubelet replaces a token when a fifth of its lifetime remains.
const REREAD_EVERY: Duration = Duration::from_secs(60);
/// The longest file that is read.
const MAX_LENGTH: u64 = 1024 * 1024;

// === impl TokenFile ===

impl TokenFile {
    /// The file at this path, which holds a bare token.
    ///
    /// Each read resolves the path anew, because symbolic links may change.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), reread_every: REREAD_EVERY, token_at: None, expiry: Expiry::new() }
    }

    /// The file at this path, with settings.
    pub fn builder(path: impl Into<PathBuf>) -> TokenFileBuilder {
        TokenFileBuilder { file: Self::new(path) }
    }

    /// Reads the token from the content. `now` is the time before the file was read.
    fn token(&self, content: &Content, now: SystemTime) -> Result<Token, Error> {
        let unusable = |problem: Cow<'static, str>| {
            let remedy = match &self.token_at {
                None => "it must hold the token's text and nothing else; the place in a JSON file is set by `token_at`",
                Some(_) => "it must hold JSON with the token at the place set by `token_at`",
            };
            self.error(format!("{problem}; {remedy}"))
        };
        let (printed, token) = match &self.token_at {
            None => {
                let token = answer::bare_token(&content.bytes).map_err(|problem| unusable(problem.into()))?;
                jwt_claims(token.access_token()).map_err(|problem| unusable(problem.into()))?;
                (Value::Null, token)
            }
            Some(place) => {
                let json = decode::json(&content.bytes).ok_or_else(|| unusable("it holds no JSON".into()))?;
                let token = answer::token(json.pointer(place)).map_err(unusable)?;
                (json, token)
            }
        };
        let parent = self.token_at.as_deref().map_or(&Value::Null, |place| answer::parent(&printed, place));
        let issued =
            Issued { answer: &printed, parent, token: token.access_token(), at: content.written.unwrap_or(now), now };
        let lifetime = self.expiry.read(&issued, MAX_LIFETIME);
        let lifetime = lifetime.map_err(|problem| self.error(problem.describe("whatever rewrites it has stopped")))?;
        Ok(token.with_lifetime(lifetime).with_refresh_in(self.reread_every))
    }

    fn error(&self, problem: String) -> Error {
        Error::unusable(None, format!("the file {}: {problem}", self.path.display()))
    }
}

impl TokenSource for TokenFile {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let path = self.path.clone();
        let now = context.now();
        // `tokio::fs` would use one blocking task for each step.
        let content = tokio::task::spawn_blocking(move || read(&path)).await.map_err(Error::transient)??;
        self.token(&content, now)
    }
}

// === impl TokenFileBuilder ===

impl TokenFileBuilder {
    /// Where the token is in a JSON file, as a JSON pointer (RFC 6901).
    pub fn token_at(mut self, pointer: impl Into<String>) -> Self {
        self.file.token_at = Some(pointer.into());
        self
    }

    /// How old the last read of the file may get. Default: 60 s.
    ///
    /// Only requests and [`keep_warm`](crate::TokenCache::keep_warm) cause the file to be read.
    pub fn reread_every(mut self, interval: Duration) -> Self {
        self.file.reread_every = interval;
        self
    }

    /// Checks the settings, and builds the source. The file need not exist yet.
    ///
    /// # Errors
    /// Returns an error that names the field if a JSON pointer is invalid, or a duration is zero.
    pub fn build(self) -> Result<TokenFile, Error> {
        let TokenFile { reread_every, token_at, expiry, .. } = &self.file;
        token_at.as_deref().map_or(Ok(()), |place| answer::check_pointer("token_at", place))?;
        expiry.check()?;
        if reread_every.is_zero() {
            return Err(Error::invalid("reread_every", "zero would read the file for each request"));
        }
        Ok(self.file)
    }
}

fn read(path: &Path) -> Result<Content, Error> {
    let failed = |problem: String, remedy: &str| {
        Error::unusable(None, format!("the file {} {problem}; {remedy}", path.display()))
    };
    let unreadable =
        |error| failed(format!("could not be read: {error}"), "check the path, its permissions, and what writes it");
    // Reading a pipe or a terminal blocks the thread until something is written to it.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(failed("is no regular file".into(), "name a file that can be read repeatedly"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(failed("is longer than 1 MiB, which no token is".into(), "check the path"));
    }
    Ok(Content { bytes, written: metadata.modified().ok() })
}
