//! The choice of the cache from which a request gets its token.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::cache::TokenCache;
use crate::error::Error;

/// The caches of a layer: one for all requests, or one for each request.
///
/// A [`TokenCache`] converts into a choice, so [`BearerLayer::new`](crate::BearerLayer::new) takes either.
///
/// ```
/// use tower_bearer::{BearerLayer, CacheChoice, TokenCache};
///
/// // The caller puts the cache of the user into the request's extensions.
/// let choice = CacheChoice::per_request(|head| head.extensions.get::<TokenCache>().cloned());
/// let layer = BearerLayer::new(choice, ["https://api.example.com"])?;
///
/// let grace = TokenCache::fixed("the-token-of-grace")?;
/// let request = http::Request::get("https://api.example.com/me").extension(grace).body(());
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone)]
pub struct CacheChoice {
    /// The cache of all requests. If each request has its own, an empty cache that names the layer in events.
    cache: TokenCache,
    per_request: Option<PerRequest>,
}

/// Chooses the cache of each request.
#[derive(Clone)]
pub(crate) struct PerRequest(Arc<Choose>);

type Choose = dyn Fn(&Parts) -> Result<TokenCache, Error> + Send + Sync;

// === impl CacheChoice ===

impl CacheChoice {
    /// Chooses the cache of each request by a function.
    ///
    /// The layer calls it for each request that gets a token. It does not call it for a request to another origin, with
    /// its own `Authorization`, or with [`NoToken`](crate::NoToken). If the function returns `None`, the request fails
    /// with an [`is_invalid`](Error::is_invalid) error. It is sent neither without a token nor with that of another
    /// cache. A retried request takes its token from the same cache.
    pub fn per_request<F>(choose: F) -> Self
    where
        F: Fn(&Parts) -> Option<TokenCache> + Send + Sync + 'static,
    {
        Self::choosing(TokenCache::empty(), move |head| choose(head).ok_or_else(Error::no_cache))
    }

    /// Chooses the cache by a function that says why there is none. `empty` names the layer in events.
    pub(crate) fn choosing<F>(empty: TokenCache, choose: F) -> Self
    where
        F: Fn(&Parts) -> Result<TokenCache, Error> + Send + Sync + 'static,
    {
        Self { cache: empty, per_request: Some(PerRequest(Arc::new(choose))) }
    }

    pub(crate) fn into_parts(self) -> (TokenCache, Option<PerRequest>) {
        (self.cache, self.per_request)
    }
}

impl From<TokenCache> for CacheChoice {
    fn from(cache: TokenCache) -> Self {
        Self { cache, per_request: None }
    }
}

impl fmt::Debug for CacheChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.per_request {
            None => self.cache.fmt(f),
            Some(_) => f.write_str("per request"),
        }
    }
}

// === impl PerRequest ===

impl PerRequest {
    /// Returns the cache of this request.
    ///
    /// # Errors
    /// Returns an error if no cache belongs to the request.
    pub(crate) fn choose(&self, head: &Parts) -> Result<TokenCache, Error> {
        (self.0)(head)
    }
}
