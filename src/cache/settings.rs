//! The settings of a cache.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use tower::BoxError;

use crate::cache::session::RotatedToken;
use crate::clock::Clock;
use crate::schedule::RefreshPolicy;
use crate::source::erased::DynSource;
#[cfg(feature = "store")]
use crate::store::SharedSession;

/// The settings that [`TokenCacheBuilder`](crate::TokenCacheBuilder) collects.
pub(crate) struct Settings {
    pub(crate) source: Arc<dyn DynSource>,
    pub(crate) policy: CachePolicy,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) on_rotation: Option<Arc<dyn Save>>,
    #[cfg(feature = "store")]
    pub(crate) shared: Option<SharedSession>,
    pub(crate) clock: Clock,
}

/// The refresh policy of a cache. The default, which nearly every cache has, allocates nothing, because there may be a
/// cache for each of a million keys.
#[derive(Default)]
pub(crate) struct CachePolicy(Option<Box<RefreshPolicy>>);

impl CachePolicy {
    pub(crate) fn new(policy: RefreshPolicy) -> Self {
        Self(Some(Box::new(policy)))
    }
}

impl Deref for CachePolicy {
    type Target = RefreshPolicy;

    fn deref(&self) -> &RefreshPolicy {
        static DEFAULT: RefreshPolicy = RefreshPolicy::new();
        self.0.as_deref().unwrap_or(&DEFAULT)
    }
}

/// A user's `on_rotation`.
pub(crate) trait Save: Fn(RotatedToken) -> Saving + Send + Sync {}
pub(crate) type Saving = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
impl<F: Fn(RotatedToken) -> Saving + Send + Sync> Save for F {}
