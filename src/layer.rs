//! The layer: its cache, its origins, and how it retries. It is its own builder.

use std::sync::Arc;

use tower::Layer;

use crate::cache_choice::CacheChoice;
use crate::error::Error;
use crate::future::{LayerConfig, Template};
use crate::origin::{Origin, Origins};
use crate::rejection::RejectionPolicy;
use crate::replay::CloneBody;
use crate::service::Bearer;

/// A layer that adds `Authorization: Bearer` to requests to named origins.
///
/// The token is from a [`TokenCache`](crate::TokenCache). `R` says how a rejected request is retried. It is one of the
/// types in [`replay`](crate::replay). See the [crate documentation](crate) for examples.
#[derive(Clone, Debug)]
pub struct BearerLayer<R = CloneBody> {
    cache: CacheChoice,
    origins: Origins,
    rejection: RejectionPolicy,
    replay: R,
}

// === impl BearerLayer ===

impl BearerLayer {
    /// Creates a layer that adds the token to requests to these origins only.
    ///
    /// `cache` is a [`TokenCache`](crate::TokenCache), or a [`CacheChoice`] if each request has its own.
    ///
    /// The layer retries a rejected request once, with a clone of its body ([`CloneBody`]). If the body is not `Clone`,
    /// choose another type with [`replay`](BearerLayer::replay).
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
    /// Returns an error if
    /// - an origin is invalid, or has a path;
    /// - an origin is plain `http://` other than loopback;
    /// - there is no origin.
    pub fn new<O>(cache: impl Into<CacheChoice>, origins: impl IntoIterator<Item = O>) -> Result<Self, Error>
    where
        O: TryInto<Origin>,
        Error: From<O::Error>,
    {
        let origins = origins.into_iter().map(|origin| Ok(origin.try_into()?)).collect::<Result<_, Error>>()?;
        let cache = cache.into();
        Ok(Self { cache, origins: Origins::named(origins)?, rejection: RejectionPolicy::new(), replay: CloneBody })
    }

    /// Creates a layer that adds the token to **every** https or loopback request.
    ///
    /// Anyone who can choose the URL of a request gets the token. So use it only for clients whose URLs are all your
    /// own. If an outer layer follows redirects, the redirect target chooses the URL.
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
    /// Sets how a rejected request is retried. Default: [`CloneBody`].
    ///
    /// The others are [`IfEmpty`](crate::replay::IfEmpty), [`Never`](crate::replay::Never),
    /// [`Buffered`](crate::replay::Buffered), and a closure `Fn(&B) -> Option<B>`.
    #[must_use]
    pub fn replay<R2>(self, replay: R2) -> BearerLayer<R2> {
        BearerLayer { cache: self.cache, origins: self.origins, rejection: self.rejection, replay }
    }

    /// Sets which responses reject the token. Default: [`RejectionPolicy::new`].
    #[must_use]
    pub fn rejection_policy(self, rejection: RejectionPolicy) -> Self {
        Self { rejection, ..self }
    }

    /// Adds the token also to requests whose URI has no host.
    ///
    /// A tonic `Channel` gets such requests, and so does an inner service with a base URL. Only that service knows
    /// where they go, so the caller of this method asserts that they go to one of this layer's origins. By default such
    /// a request fails.
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
