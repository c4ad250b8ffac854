//! Assertions: statements that a key has signed (RFC 7521, RFC 7523).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value, json};
use tower::BoxError;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::oauth2::random::random;
use crate::source::require_non_empty;
use crate::source::secret::{SecretProvider, SecretSource};

/// How a key signs (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// A private key that signs assertions.
///
/// ```
/// # fn f(pem: &str) -> Result<(), tower_bearer::Error> {
/// use tower_bearer::oauth2::{Algorithm, SigningKey};
///
/// let key = SigningKey::from_pem(Algorithm::ES256, pem)?.key_id("2026-11");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SigningKey {
    key: Arc<EncodingKey>,
    header: Header,
}

/// An assertion that is signed anew, with an identifier of its own (`jti`), each time it is needed.
///
/// It is what the [`JwtBearer`](crate::oauth2::JwtBearer) grant sends, and what
/// [`ClientAuth::assertion`](crate::oauth2::ClientAuth::assertion) takes. Google's service accounts log in so:
///
/// ```
/// # fn f(pem: &str) -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{Algorithm, Assertion, JwtBearer, SigningKey};
///
/// let key = SigningKey::from_pem(Algorithm::RS256, pem)?;
/// let url = "https://oauth2.googleapis.com/token";
/// let assertion = Assertion::new(key, "me@my-project.iam.gserviceaccount.com", url)?
///     .claim("scope", "https://www.googleapis.com/auth/cloud-platform");
/// let cache = TokenCache::new(JwtBearer::new(http, url, assertion)?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Assertion {
    key: SigningKey,
    lifetime: Duration,
    claims: Map<String, Value>,
}

/// RFC 7523 section 3: a server may reject what ends too far ahead.
const LIFETIME: Duration = Duration::from_secs(60);

// === impl SigningKey ===

impl SigningKey {
    /// A private key from its PEM text: PKCS#8 without a passphrase (`-----BEGIN PRIVATE KEY-----`), or PKCS#1 for RSA.
    /// `openssl pkcs8 -topk8 -nocrypt -in key.pem` turns others into PKCS#8.
    ///
    /// # Errors
    /// Not the PEM text of a private key for this algorithm.
    pub fn from_pem(algorithm: Algorithm, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let pem = pem.as_ref();
        let key = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
        };
        // What the library says may repeat parts of the key.
        let key = key.map_err(|_| {
            Error::invalid(
                "private_key",
                format!("not the PEM text of a private key for {algorithm:?}: PKCS#8, or PKCS#1 for RSA; `openssl pkcs8 -topk8 -nocrypt` turns others into PKCS#8"),
            )
        })?;
        let key = Self { key: Arc::new(key), header: Header::new(algorithm.into()) };
        // A key of another curve is found out when it signs.
        Assertion::of_client(key.clone(), "", "")
            .sign(UNIX_EPOCH)
            .map_err(|_| Error::invalid("private_key", format!("this key cannot sign with {algorithm:?}")))?;
        Ok(key)
    }

    /// Which of the client's keys it is, as the server knows it (`kid`).
    #[must_use]
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.header.kid = Some(key_id.into());
        self
    }

    /// The SHA-256 thumbprint of the key's certificate, base64url (`x5t#S256`, RFC 7515 section 4.1.8), for servers that
    /// know keys by their certificates.
    #[must_use]
    pub fn certificate_thumbprint(mut self, thumbprint: impl Into<String>) -> Self {
        self.header.x5t_s256 = Some(thumbprint.into());
        self
    }

    /// HS256 with a client secret.
    pub(super) fn of_secret(secret: &Secret) -> Self {
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self { key: Arc::new(key), header: Header::new(jsonwebtoken::Algorithm::HS256) }
    }

    /// A JWS in its compact form (RFC 7515 section 7.1).
    ///
    /// Not by `jsonwebtoken::encode`: that asks for a provider of the whole process, and panics where another crate has
    /// turned on the library's other one.
    fn sign(&self, claims: &Map<String, Value>) -> Result<Secret, BoxError> {
        let part = |json| URL_SAFE_NO_PAD.encode(json);
        let message = format!("{}.{}", part(serde_json::to_vec(&self.header)?), part(serde_json::to_vec(claims)?));
        let signature = (DEFAULT_PROVIDER.signer_factory)(&self.header.alg, &self.key)?.try_sign(message.as_bytes())?;
        Ok(format!("{message}.{}", part(signature)).into())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.header.alg)
            .field("key_id", &self.header.kid)
            .finish_non_exhaustive()
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::RS256 => Self::RS256,
            Algorithm::PS256 => Self::PS256,
            Algorithm::ES256 => Self::ES256,
            Algorithm::EdDSA => Self::EdDSA,
        }
    }
}

// === impl Assertion ===

impl Assertion {
    /// What this issuer (`iss`) says to this audience (`aud`): the token endpoint's address, or the server's issuer
    /// identifier.
    ///
    /// # Errors
    /// An empty issuer or audience.
    pub fn new(key: SigningKey, issuer: &str, audience: &str) -> Result<Self, Error> {
        require_non_empty("issuer", issuer)?;
        require_non_empty("audience", audience)?;
        Ok(Self::of(key, issuer, audience))
    }

    /// What a client says of itself (RFC 7523 section 3: issuer and subject are the client).
    pub(super) fn of_client(key: SigningKey, client_id: &str, audience: &str) -> Self {
        Self::of(key, client_id, audience).claim("sub", client_id)
    }

    fn of(key: SigningKey, issuer: &str, audience: &str) -> Self {
        Self { key, lifetime: LIFETIME, claims: Map::new() }.claim("iss", issuer).claim("aud", audience)
    }

    /// Whom it is about (`sub`), where that is not the issuer.
    #[must_use]
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    /// Another claim; one of the same name is replaced. `iat`, `exp` and `jti` are written at each signing.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// How long it is valid. Default: one minute.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Signs one at this time, with an identifier of its own.
    pub(super) fn sign(&self, now: SystemTime) -> Result<Secret, Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = self.claims.clone();
        claims.insert("iat".to_owned(), json!(now.as_secs()));
        claims.insert("exp".to_owned(), json!(now.saturating_add(self.lifetime).as_secs()));
        claims.insert("jti".to_owned(), json!(random().expose()));
        self.key.sign(&claims).map_err(|error| Error::secret("assertion", error))
    }
}

/// Claims are what the user says of others: only their names are shown.
impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claims = self.claims.keys().collect::<Vec<_>>();
        f.debug_struct("Assertion")
            .field("key", &self.key)
            .field("lifetime", &self.lifetime)
            .field("claims", &claims)
            .finish()
    }
}

/// For the closure that signs one at each attempt.
pub struct Signed;

impl SecretSource<Signed> for Assertion {
    fn into_provider(self) -> SecretProvider {
        SecretProvider::made_at(move |now| self.sign(now))
    }
}
