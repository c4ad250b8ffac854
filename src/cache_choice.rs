//! Which cache a request gets its token from.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::cache::TokenCache;
use crate::error::Error;

/// Where a layer takes the cache of a request from: one cache for all requests, or one for each.
///
/// A [`TokenCache`] turns into one, so [`BearerLayer::new`](crate::BearerLayer::new) takes either.
///
/// ```
/// use tower_bearer::{BearerLayer, CacheChoice, TokenCache};
///
/// // Whoever builds the request puts the cache of its user into the extensions.
/// let choice = CacheChoice::per_request(|head| head.extensions.get::<TokenCache>().cloned());
/// let layer = BearerLayer::new(choice, ["https://api.example.com"])?;
///
/// let grace = TokenCache::fixed("the-token-of-grace")?;
/// let request = http::Request::get("https://api.example.com/me").extension(grace).body(());
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone)]
pub struct CacheChoice {
    /// The cache of all requests. If each has its own, an empty one, whose name is that of the layer in events.
    cache: TokenCache,
    per_request: Option<PerRequest>,
}

/// Chooses the cache of each request.
#[derive(Clone)]
pub(crate) struct PerRequest(Arc<Choose>);

type Choose = dyn Fn(&Parts) -> Result<TokenCache, Error> + Send + Sync;

// === impl CacheChoice ===

impl CacheChoice {
    /// Each request has the cache that this function returns for it.
    ///
    /// It is called for each request that gets a token, so for none to another origin, with an `Authorization` of its own
    /// or with [`NoToken`](crate::NoToken). If it returns `None`, the request fails with an error that
    /// [says so](Error::is_invalid): it is not sent without a token, nor with that of another cache. A request that is sent
    /// again takes its token from the same cache.
    pub fn per_request<F>(choose: F) -> Self
    where
        F: Fn(&Parts) -> Option<TokenCache> + Send + Sync + 'static,
    {
        Self::choosing(TokenCache::empty(), move |head| choose(head).ok_or_else(Error::no_cache))
    }

    /// The same for a function that says why there is no cache. `empty`: names the layer in events.
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
    /// The cache of this request.
    ///
    /// # Errors
    /// Returns an error if no cache belongs to the request.
    pub(crate) fn choose(&self, head: &Parts) -> Result<TokenCache, Error> {
        (self.0)(head)
    }
}
