//! The layer: which cache, which origins, how to send again. Its own builder.

use tower::Layer;

use crate::cache::TokenCache;
use crate::error::Error;
use crate::future::{LayerConfig, Template};
use crate::origin::{Origin, Origins};
use crate::rejection::RejectionPolicy;
use crate::replay::CloneBody;
use crate::service::Bearer;

/// Puts `Authorization: Bearer` on requests, from a [`TokenCache`], to the origins named.
///
/// See the [crate documentation](crate) for examples. `R` is how a rejected request is sent again, one of the choices in
/// [`replay`](crate::replay).
#[derive(Clone, Debug)]
pub struct BearerLayer<R = CloneBody> {
    cache: TokenCache,
    origins: Origins,
    rejection: RejectionPolicy,
    replay: R,
}

// === impl BearerLayer ===

impl BearerLayer {
    /// A layer that puts the token of `cache` on requests to these origins, and on no others.
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
    pub fn new<O>(cache: TokenCache, origins: impl IntoIterator<Item = O>) -> Result<Self, Error>
    where
        O: TryInto<Origin>,
        Error: From<O::Error>,
    {
        let origins = origins.into_iter().map(|origin| Ok(origin.try_into()?)).collect::<Result<_, Error>>()?;
        Ok(Self { cache, origins: Origins::named(origins)?, rejection: RejectionPolicy::new(), replay: CloneBody })
    }

    /// A layer that puts the token on **every** request over `https://`, or to loopback.
    ///
    /// Whoever can choose the URL of a request gets the token: only for clients whose URLs are all your own. Beneath a
    /// layer that follows redirects, a redirect chooses the URL.
    pub fn any_https_origin(cache: TokenCache) -> Self {
        Self { cache, origins: Origins::any_secure(), rejection: RejectionPolicy::new(), replay: CloneBody }
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

    /// Where requests go whose URI is a path only, as a tonic `Channel` or a client with a base URL beneath gets them.
    ///
    /// Without it such a request is an error: nobody knows whether the token belongs there.
    ///
    /// # Errors
    /// Not an origin, or one that is not among those of this layer.
    pub fn allow_relative_uris<O>(self, origin: O) -> Result<Self, Error>
    where
        O: TryInto<Origin>,
        Error: From<O::Error>,
    {
        let origins = self.origins.allow_relative_uris();
        Ok(Self { origins, ..self })
    }
}

impl<S: Clone, R: Clone> Layer<S> for BearerLayer<R> {
    type Service = Bearer<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let config = LayerConfig {
            cache: self.cache.clone(),
            origins: self.origins.clone(),
            rejection: self.rejection.clone(),
            template: Template::new(inner.clone()),
        };
        Bearer::new(inner, config, self.replay.clone())
    }
}
