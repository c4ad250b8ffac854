//! The layer: which cache, which origins, how to send again. Its own builder.

use std::sync::Arc;

use tower::Layer;

use crate::cache_choice::CacheChoice;
use crate::error::Error;
use crate::future::{LayerConfig, Template};
use crate::origin::{Origin, Origins};
use crate::refusal::Refusal;
use crate::resend::CloneBody;
use crate::service::Bearer;

/// Puts `Authorization: Bearer` on requests, from a [`TokenCache`](crate::TokenCache), to the origins named.
///
/// See the [crate documentation](crate) for examples. `R` is how a refused request is sent again, one of the choices in
/// [`resend`](crate::resend).
#[derive(Clone, Debug)]
pub struct BearerLayer<R = CloneBody> {
    cache: CacheChoice,
    origins: Origins,
    refusal: Refusal,
    resend: R,
}

// === impl BearerLayer ===

impl BearerLayer {
    /// A layer that puts the token of `cache` on requests to these origins, and on no others.
    ///
    /// `cache` is a [`TokenCache`](crate::TokenCache), or a [`CacheChoice`] if each request has its own.
    ///
    /// A request that was refused is sent once more, its body cloned ([`CloneBody`]); for a body that is not `Clone`,
    /// choose another with [`resend`](BearerLayer::resend).
    ///
    /// ```
    /// use tower_bearer::{BearerLayer, Origin, TokenCache};
    ///
    /// let cache = TokenCache::fixed("t")?;
    /// let layer = BearerLayer::new(cache.clone(), ["https://api.example.com", "https://files.example.com:8443"])?;
    /// let in_a_mesh = BearerLayer::new(cache, [Origin::plain_http("http://api.internal")?])?;
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
        Ok(Self { cache, origins: Origins::named(origins)?, refusal: Refusal::new(), resend: CloneBody })
    }

    /// A layer that puts the token on **every** request over `https://`, or to loopback.
    ///
    /// Whoever can choose the URL of a request gets the token: only for clients whose URLs are all your own. Beneath a
    /// layer that follows redirects, a redirect chooses the URL.
    pub fn any_origin(cache: impl Into<CacheChoice>) -> Self {
        Self { cache: cache.into(), origins: Origins::any_secure(), refusal: Refusal::new(), resend: CloneBody }
    }
}

impl<R> BearerLayer<R> {
    /// How a refused request is sent again: [`CloneBody`], [`IfEmpty`](crate::resend::IfEmpty),
    /// [`Never`](crate::resend::Never), [`Buffered`](crate::resend::Buffered), or a closure `Fn(&B) -> Option<B>`.
    #[must_use]
    pub fn resend<R2>(self, resend: R2) -> BearerLayer<R2> {
        BearerLayer { cache: self.cache, origins: self.origins, refusal: self.refusal, resend }
    }

    /// Which responses say that the token was refused. Default: a 401, as its challenges say.
    #[must_use]
    pub fn refusal(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    /// Where requests go whose URI is a path only, as a tonic `Channel` or a client with a base URL beneath gets them.
    ///
    /// Without it such a request is an error: nobody knows whether the token belongs there.
    ///
    /// # Errors
    /// Not an origin, or one that is not among those of this layer.
    pub fn relative_to<O>(self, origin: O) -> Result<Self, Error>
    where
        O: TryInto<Origin>,
        Error: From<O::Error>,
    {
        let origins = self.origins.relative_to(&origin.try_into()?)?;
        Ok(Self { origins, ..self })
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
            refusal: self.refusal.clone(),
            template: Arc::new(Template::new(inner.clone())),
        };
        Bearer::new(inner, config, self.resend.clone())
    }
}
