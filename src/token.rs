//! A token: the header value it becomes, how long it lives, and what came with it.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::secret::Secret;

/// The lifetime of a token for which the issuer names none: one hour.
///
/// RFC 6749 section 5.1 lets a server leave out `expires_in` and document its own value. Most servers use an hour,
/// MeshyDB and Mesh Connect among them. If a token ends sooner, a 401 reveals it.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// The longest lifetime: 100 years.
///
/// A longer one (`expires_in: 1e300`) counts as 100 years.
pub const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// An access token and what the issuer said about it.
///
/// It is cheap to clone. A token source creates one with [`Token::new`]. The cache sets its
/// [generation](Token::generation) when it publishes it. `Debug` prints no part of a secret.
///
/// ```
/// use std::time::Duration;
/// use tower_bearer::Token;
///
/// let token = Token::new("mF_9.B5f-4.1JqM")?.with_lifetime(Duration::from_secs(3600)).with_refresh_token("tGzv3JOkF0XG5Qx2TlKWIA");
/// assert_eq!(token.header_value(), "Bearer mF_9.B5f-4.1JqM");
/// assert!(!format!("{token:?}").contains("mF_9"));
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone)]
pub struct Token(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    /// `Bearer <token>`, built once and marked sensitive.
    header: HeaderValue,
    id: TokenId,
    expires_at: Option<SystemTime>,
    details: Arc<Details>,
}

/// Identifies a session of a cache. All zero for a token that no cache published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionId {
    cache: u32,
    number: u32,
}

/// Identifies a token: its session, and its generation in its cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenId {
    pub(crate) session: SessionId,
    pub(crate) generation: u64,
}

#[derive(Clone)]
struct Details {
    lifetime: Duration,
    refresh_in: Option<Duration>,
    refresh_token: Option<Secret>,
    scope: Option<Box<str>>,
    id_token: Option<Secret>,
    /// Boxed, because most tokens have none.
    extra: Option<Box<Map<String, Value>>>,
}

// === impl Token ===

impl Token {
    /// Creates a token from its text, with a lifetime of [`DEFAULT_LIFETIME`].
    ///
    /// # Errors
    /// Returns an error if the text is empty, longer than 64 KiB, or contains a character that is not visible ASCII
    /// (RFC 6750 section 2.1 allows even fewer characters). A leading `Bearer ` is removed.
    pub fn new(access_token: impl AsRef<str>) -> Result<Self, Error> {
        Self::parse(access_token.as_ref()).map_err(|problem| Error::unusable(None, problem))
    }

    /// As [`Token::new`], but returns only the problem, for errors that name an endpoint.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = without_scheme(text);
        if text.is_empty() {
            return Err("the access token is empty");
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err("the access token is longer than 64 KiB, which no API takes in a header");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "the access token holds a character that no header may carry (white space, a line break, or not ASCII)",
            );
        }
        let header = Bytes::from([PREFIX.as_bytes(), text.as_bytes()].concat());
        let mut header = HeaderValue::from_maybe_shared(header).expect("visible ASCII is a header value");
        header.set_sensitive(true);
        Ok(Self::of(header, DEFAULT_LIFETIME))
    }

    fn of(header: HeaderValue, lifetime: Duration) -> Self {
        let details =
            Details { lifetime, refresh_in: None, refresh_token: None, scope: None, id_token: None, extra: None };
        Self(Arc::new(Inner { header, id: TokenId::default(), expires_at: None, details: Arc::new(details) }))
    }

    /// Sets how long the token lives: the issuer's `expires_in`.
    ///
    /// The cache counts it from **before** the token was requested. A token with a lifetime of zero is unusable. A
    /// lifetime of more than [`MAX_LIFETIME`] counts as [`MAX_LIFETIME`].
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        self.with(|details| details.lifetime = lifetime.min(MAX_LIFETIME))
    }

    /// Sets when to refresh the token at the latest, counted like the lifetime.
    ///
    /// It is an issuer's `refresh_in`, or the interval at which a file is read again. It has no effect if the margin
    /// before the end begins sooner.
    #[must_use]
    pub fn with_refresh_in(self, refresh_in: Duration) -> Self {
        self.with(|details| details.refresh_in = Some(refresh_in))
    }

    /// Sets the new refresh token, or the previous one if the issuer sent none.
    #[must_use]
    pub fn with_refresh_token(self, refresh_token: impl Into<Secret>) -> Self {
        self.with(|details| details.refresh_token = Some(refresh_token.into()))
    }

    /// Sets the scope that the issuer granted.
    ///
    /// It consists of words that are separated by spaces (RFC 6749 section 3.3).
    #[must_use]
    pub fn with_scope(self, scope: impl Into<String>) -> Self {
        self.with(|details| details.scope = Some(scope.into().into()))
    }

    /// Sets the OpenID Connect ID token that the issuer sent with it.
    #[must_use]
    pub fn with_id_token(self, id_token: impl Into<Secret>) -> Self {
        self.with(|details| details.id_token = Some(id_token.into()))
    }

    /// Sets the other members of the issuer's response.
    #[must_use]
    pub fn with_extra(self, extra: Map<String, Value>) -> Self {
        self.with(|details| details.extra = (!extra.is_empty()).then(|| Box::new(extra)))
    }

    /// Returns the access token's text. The caller has to keep it secret.
    pub fn access_token(&self) -> &str {
        let value = self.0.header.to_str().expect("made from visible ASCII");
        &value[PREFIX.len()..]
    }

    /// Returns the `Authorization` value, `Bearer <token>`, marked sensitive.
    ///
    /// It is for a request that does not pass the layer, such as a WebSocket handshake.
    pub fn header_value(&self) -> &HeaderValue {
        &self.0.header
    }

    /// Returns this token's number in its cache: 1 for the first, 0 if unpublished.
    pub fn generation(&self) -> u64 {
        self.0.id.generation
    }

    pub(crate) fn id(&self) -> TokenId {
        self.0.id
    }

    /// Returns how long the token lives from when it was requested.
    pub fn lifetime(&self) -> Duration {
        self.0.details.lifetime
    }

    /// Returns the value of [`with_refresh_in`](Token::with_refresh_in), if it was set.
    pub fn refresh_in(&self) -> Option<Duration> {
        self.0.details.refresh_in
    }

    /// Returns when it ends, by the wall clock, or `None` if it was not published.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    /// Returns the refresh token, to be saved.
    #[doc(alias("RetrievePersistanceToken", "RetrievePersistanceTokenAsync", "retrievePersistanceToken"))]
    #[doc(alias("RetrieveRefreshToken", "RetrieveRefreshTokenAsync", "retrieveRefreshToken"))]
    pub fn refresh_token(&self) -> Option<Secret> {
        self.0.details.refresh_token.clone()
    }

    /// Returns the granted scope, if the issuer named it.
    pub fn scope(&self) -> Option<&str> {
        self.0.details.scope.as_deref()
    }

    /// Returns the OpenID Connect ID token, if the issuer sent one.
    pub fn id_token(&self) -> Option<&Secret> {
        self.0.details.id_token.as_ref()
    }

    /// Returns another member of the issuer's response, which has no method here.
    pub fn extra(&self, name: &str) -> Option<&Value> {
        self.0.details.extra.as_ref()?.get(name)
    }

    /// All members of the issuer's response that have no method here.
    #[cfg(feature = "store")]
    pub(crate) fn extras(&self) -> Option<&Map<String, Value>> {
        self.0.details.extra.as_deref()
    }

    pub(crate) fn published(self, id: TokenId, expires_at: SystemTime) -> Self {
        let Self(mut inner) = self;
        let stamped = Arc::make_mut(&mut inner);
        (stamped.id, stamped.expires_at) = (id, Some(expires_at));
        Self(inner)
    }

    /// The same token with its own copy of the header value, so that clones of the copy and of this token write to
    /// different reference counts.
    pub(crate) fn with_private_header(&self) -> Self {
        /// Aligned to two cache lines, because processors fetch two together. So no other value shares them.
        #[repr(align(128))]
        struct CachePadded(Box<[u8]>);

        impl AsRef<[u8]> for CachePadded {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        let bytes = Bytes::from_owner(CachePadded(self.0.header.as_bytes().into()));
        let mut header = HeaderValue::from_maybe_shared(bytes).expect("copied from a header value");
        header.set_sensitive(true);
        Self(Arc::new(Inner { header, ..Inner::clone(&self.0) }))
    }

    fn with(mut self, change: impl FnOnce(&mut Details)) -> Self {
        change(Arc::make_mut(&mut Arc::make_mut(&mut self.0).details));
        self
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("generation", &self.0.id.generation)
            .field("lifetime", &self.0.details.lifetime)
            .field("expires_at", &self.0.expires_at)
            .field("refresh_token", &self.0.details.refresh_token)
            .field("scope", &self.0.details.scope)
            .finish_non_exhaustive()
    }
}

// === impl SessionId ===

impl SessionId {
    /// The first session of a cache. A `cache` of 0 would mean no cache.
    pub(crate) fn first_of(cache: NonZeroU32) -> Self {
        Self { cache: cache.get(), number: 0 }
    }

    /// The session after this one, of the same cache.
    pub(crate) fn next(self) -> Self {
        Self { number: self.number.wrapping_add(1), ..self }
    }

    pub(crate) fn is_of_same_cache(self, other: Self) -> bool {
        self.cache == other.cache
    }
}

const PREFIX: &str = "Bearer ";
/// Far more than servers accept for all headers together.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Removes `Bearer `, in any case (RFC 9110 section 11.1). Some servers and files contain the header's value instead of
/// the token.
fn without_scheme(text: &str) -> &str {
    match text.split_at_checked(PREFIX.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(PREFIX) => token.trim_start_matches(' '),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
