//! Assertions: signed statements (RFC 7521, RFC 7523).

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

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
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

/// An assertion that is signed each time it is needed.
///
/// Each one has a new identifier (`jti`).
/// The [`JwtBearerGrant`](crate::oauth2::JwtBearerGrant) sends it, and
/// [`ClientAuth::assertion`](crate::oauth2::ClientAuth::assertion) takes it. Google's service accounts log in with one:
///
/// ```
/// # fn f(pem: &str) -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{Algorithm, Assertion, Issuer, JwtBearerGrant, SigningKey};
///
/// let key = SigningKey::from_pem(Algorithm::RS256, pem)?;
/// let url = "https://oauth2.googleapis.com/token";
/// let assertion = Assertion::builder(key, "me@my-project.iam.gserviceaccount.com")
///     .audience(url)
///     .claim("scope", "https://www.googleapis.com/auth/cloud-platform")
///     .build()?;
/// let issuer = Issuer::new(http).token_endpoint(url);
/// let cache = TokenCache::new(JwtBearerGrant::builder(&issuer, assertion).build()?);
/// # Ok(()) }
/// ```
///
/// A source of your own can [sign](Assertion::sign) one, as the apps of code hosts do:
///
/// ```
/// # fn f(pem: &str) -> Result<(), tower_bearer::Error> {
/// # async fn installation_token(_: &str) -> Result<tower_bearer::Token, tower_bearer::Error> { tower_bearer::Token::new("t") }
/// use std::time::Duration;
/// use tower_bearer::oauth2::{Algorithm, Assertion, SigningKey};
/// use tower_bearer::{FetchContext, TokenCache};
///
/// let key = SigningKey::from_pem(Algorithm::RS256, pem)?;
/// let app = Assertion::builder(key, "my-app-id").lifetime(Duration::from_secs(540)).build()?;
/// let cache = TokenCache::new(move |context: FetchContext| {
///     let signed = app.sign(context.now());
///     async move { installation_token(signed?.expose()).await }
/// });
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Assertion {
    key: SigningKey,
    lifetime: Duration,
    claims: Map<String, Value>,
}

/// The settings of an [`Assertion`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct AssertionBuilder {
    assertion: Assertion,
}

/// The default lifetime. A server may reject an assertion that ends too far ahead (RFC 7523 section 3).
const LIFETIME: Duration = Duration::from_secs(60);
/// How far back an assertion is dated, because a server whose clock is behind rejects one from the future.
const BACK_DATED: Duration = Duration::from_secs(60);

// === impl SigningKey ===

impl SigningKey {
    /// Reads a private key from its PEM text.
    ///
    /// The key is PKCS#8 without a passphrase (`-----BEGIN PRIVATE KEY-----`), or PKCS#1 for RSA.
    /// `openssl pkcs8 -topk8 -nocrypt -in key.pem` converts other formats to PKCS#8.
    ///
    /// # Errors
    /// Returns an error if `pem` is not the PEM text of a private key for this algorithm.
    pub fn from_pem(algorithm: Algorithm, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let pem = pem.as_ref();
        let key = match algorithm {
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => EncodingKey::from_rsa_pem(pem),
            Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
        };
        // The library's error may repeat parts of the key.
        let key = key.map_err(|_| {
            Error::invalid(
                "private_key",
                format!("not the PEM text of a private key for {algorithm:?}: PKCS#8, or PKCS#1 for RSA; `openssl pkcs8 -topk8 -nocrypt` converts other formats to PKCS#8"),
            )
        })?;
        let key = Self { key: Arc::new(key), header: Header::new(algorithm.into()) };
        // Only signing shows whether the key is of the wrong curve.
        Assertion::of_client(key.clone(), "", "")
            .sign(UNIX_EPOCH)
            .map_err(|_| Error::invalid("private_key", format!("this key cannot sign with {algorithm:?}")))?;
        Ok(key)
    }

    /// Sets the identifier by which the server knows the key (`kid`).
    #[must_use]
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.header.kid = Some(key_id.into());
        self
    }

    /// Sets the thumbprint of the key's certificate (`x5t#S256`).
    ///
    /// The thumbprint is the SHA-256 of the certificate in base64url (RFC 7515 section 4.1.8). It is for servers that
    /// identify keys by their certificates.
    #[must_use]
    pub fn certificate_thumbprint(mut self, thumbprint: impl Into<String>) -> Self {
        self.header.x5t_s256 = Some(thumbprint.into());
        self
    }

    /// A key that signs with HS256 and a client secret.
    pub(super) fn of_secret(secret: &Secret) -> Self {
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self { key: Arc::new(key), header: Header::new(jsonwebtoken::Algorithm::HS256) }
    }

    /// Signs the claims as a JWS in compact form (RFC 7515 section 7.1).
    ///
    /// `jsonwebtoken::encode` uses a provider of the whole process, and panics if another crate enables the library's
    /// second provider. This function names its provider.
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
            Algorithm::RS384 => Self::RS384,
            Algorithm::RS512 => Self::RS512,
            Algorithm::PS256 => Self::PS256,
            Algorithm::PS384 => Self::PS384,
            Algorithm::PS512 => Self::PS512,
            Algorithm::ES256 => Self::ES256,
            Algorithm::ES384 => Self::ES384,
            Algorithm::EdDSA => Self::EdDSA,
        }
    }
}

// === impl Assertion ===

impl Assertion {
    /// Starts a builder for an assertion of this issuer (`iss`).
    pub fn builder(key: SigningKey, issuer: &str) -> AssertionBuilder {
        AssertionBuilder { assertion: Self::of(key, issuer) }
    }

    /// A client's assertion about itself: issuer and subject are the client (RFC 7523 section 3).
    pub(super) fn of_client(key: SigningKey, client_id: &str, audience: &str) -> Self {
        Self::of(key, client_id).claim("sub", client_id).claim("aud", audience)
    }

    fn of(key: SigningKey, issuer: &str) -> Self {
        Self { key, lifetime: LIFETIME, claims: Map::new() }.claim("iss", issuer)
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Signs an assertion for this time, with a new identifier.
    ///
    /// Pass [`FetchContext::now`](crate::FetchContext::now). `iat` and `nbf` are a minute earlier, because a server
    /// whose clock is behind rejects an assertion from the future.
    ///
    /// # Errors
    /// Returns an error if the key cannot sign.
    pub fn sign(&self, now: SystemTime) -> Result<Secret, Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = self.claims.clone();
        let since = json!(now.saturating_sub(BACK_DATED).as_secs());
        claims.insert("iat".to_owned(), since.clone());
        claims.insert("nbf".to_owned(), since);
        claims.insert("exp".to_owned(), json!(now.saturating_add(self.lifetime).as_secs()));
        claims.insert("jti".to_owned(), json!(random().expose()));
        self.key.sign(&claims).map_err(|error| Error::secret("assertion", error))
    }
}

// === impl AssertionBuilder ===

impl AssertionBuilder {
    /// Sets the audience (`aud`).
    ///
    /// It is the URL of the token endpoint, or the issuer identifier.
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// Sets the subject (`sub`), if it is not the issuer.
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    /// Sets a claim. It replaces one of the same name.
    ///
    /// Each signing sets `iat`, `nbf`, `exp` and `jti`.
    pub fn claim(self, name: &str, value: impl Into<Value>) -> Self {
        Self { assertion: self.assertion.claim(name, value) }
    }

    /// Sets how long the assertion is valid after it is signed. Default: one minute.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.assertion.lifetime = lifetime;
        self
    }

    /// Checks the settings, and builds the assertion.
    ///
    /// # Errors
    /// Returns an error that names the field if issuer, audience or subject is an empty text.
    pub fn build(self) -> Result<Assertion, Error> {
        for (field, name) in [("issuer", "iss"), ("audience", "aud"), ("subject", "sub")] {
            if let Some(Value::String(text)) = self.assertion.claims.get(name) {
                require_non_empty(field, text)?;
            }
        }
        Ok(self.assertion)
    }
}

/// Shows only the names of the claims, because their values may be personal data.
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

/// The marker of an assertion as a [`SecretSource`]: it is signed at each attempt.
#[expect(unnameable_types, reason = "a marker that only inference names")]
pub struct Signed;

impl SecretSource<Signed> for Assertion {
    fn into_provider(self) -> SecretProvider {
        SecretProvider::made_at(move |now| self.sign(now))
    }
}
