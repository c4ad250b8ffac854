//! The layer: which cache, which origins, how to send again. Its own builder.

use std::sync::Arc;

use tower::Layer;

use crate::cache_choice::CacheChoice;
use crate::error::Error;
use crate::future::{LayerConfig, Template};
use crate::origin::{Origin, Origins};
use crate::rejection::RejectionPolicy;
use crate::replay::CloneBody;
use crate::service::Bearer;

/// Puts `Authorization: Bearer` on requests, from a [`TokenCache`](crate::TokenCache), to the origins named.
///
/// See the [crate documentation](crate) for examples. `R` is how a rejected request is sent again, one of the choices in
/// [`replay`](crate::replay).
#[derive(Clone, Debug)]
pub struct BearerLayer<R = CloneBody> {
    cache: CacheChoice,
    origins: Origins,
    rejection: RejectionPolicy,
    replay: R,
}

// === impl BearerLayer ===

impl BearerLayer {
    /// A layer that puts the token of `cache` on requests to these origins, and on no others.
    ///
    /// `cache` is a [`TokenCache`](crate::TokenCache), or a [`CacheChoice`] if each request has its own.
    ///
    /// A request that was rejected is sent once more, its body cloned ([`CloneBody`]); for a body that is not `Clone`,
    /// choose another with [`replay`](BearerLayer::replay).
    ///
    /// ```
    /// use tower_bearer::{BearerLayer, Origin, TokenCache};
    ///
    /// let cache = TokenCache::fixed("t")?;
    /// let layer = BearerLayer::new(cache.clone(), ["https://api.example.com", "https://files.example.com:8443"])?;
    /// let in_a_mesh = BearerLayer::new(cache, [Origin::allow_insecure("http://api.internal")?])?;
    /// # Ok::<_, tower_bearer::Error>(())
    /// ```
    ///
    /// # Errors
    /// An origin that is none, that has a path, that is plain `http://` beyond loopback; or no origin at all.
    pub fn new<O>(cache: impl Into<CacheChoice>, origins: impl IntoIterator<Item = O>) -> Result<Self, Error>
    where
        O: TryInto<Origin>,
        Error: From<O::Error>,
    {
        let origins = origins.into_iter().map(|origin| Ok(origin.try_into()?)).collect::<Result<_, Error>>()?;
        let cache = cache.into();
        Ok(Self { cache, origins: Origins::named(origins)?, rejection: RejectionPolicy::new(), replay: CloneBody })
    }

    /// A layer that puts the token on **every** request over `https://`, or to loopback.
    ///
    /// Whoever can choose the URL of a request gets the token: only for clients whose URLs are all your own. Beneath a
    /// layer that follows redirects, a redirect chooses the URL.
    pub fn any_https_origin(cache: impl Into<CacheChoice>) -> Self {
        Self {
            cache: cache.into(),
            origins: Origins::any_secure(),
            rejection: RejectionPolicy::new(),
            replay: CloneBody,
        }
    }
}

impl<R> BearerLayer<R> {
    /// How a rejected request is sent again: [`CloneBody`], [`IfEmpty`](crate::replay::IfEmpty),
    /// [`Never`](crate::replay::Never), [`Buffered`](crate::replay::Buffered), or a closure `Fn(&B) -> Option<B>`.
    #[must_use]
    pub fn replay<R2>(self, replay: R2) -> BearerLayer<R2> {
        BearerLayer { cache: self.cache, origins: self.origins, rejection: self.rejection, replay }
    }

    /// Which responses say that the token was rejected. Default: a 401, as its challenges say.
    #[must_use]
    pub fn rejection_policy(self, rejection: RejectionPolicy) -> Self {
        Self { rejection, ..self }
    }

    /// Puts the token on requests whose URI is a path only, too.
    ///
    /// Such requests are what a tonic `Channel` gets, or an inner service with a base URL, and only that service knows
    /// where they go: the caller of this method says that it is one of this layer's origins. Without it such a request is an
    /// error.
    #[must_use]
    pub fn allow_relative_uris(self) -> Self {
        Self { origins: self.origins.with_relative_uris(), ..self }
    }
}

impl<S: Clone, R: Clone> Layer<S> for BearerLayer<R> {
    type Service = Bearer<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let (cache, per_request) = self.cache.clone().into_parts();
        let config = LayerConfig {
            cache,
            per_request,
            origins: self.origins.clone(),
            rejection: self.rejection.clone(),
            template: Arc::new(Template::new(inner.clone())),
        };
        Bearer::new(inner, config, self.replay.clone())
    }
}
