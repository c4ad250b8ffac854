//! What may be evicted, and what becomes of it.
//!
//! Both questions are asked under the lock of the map, which a lookup takes too. So a cache that nobody holds is not handed
//! out between the answer and its removal.

use quick_cache::Lifecycle;

use crate::cache::TokenCache;

/// How the map treats the caches that it has no room for.
#[derive(Clone, Debug)]
pub(crate) struct Eviction {
    group: TokenCache,
}

/// What one operation has evicted: dropped after the lock, because the sources are the user's.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    caches: Vec<TokenCache>,
    group: Option<TokenCache>,
}

/// Whether the cache is held by anything but the map, or by a refresh token that is nowhere else.
pub(crate) fn is_in_use(cache: &TokenCache) -> bool {
    !cache.is_only_handle() || cache.holds_unsaved_refresh_token()
}

// === impl Eviction ===

impl Eviction {
    /// `group` counts what is evicted.
    pub(crate) fn new(group: TokenCache) -> Self {
        Self { group }
    }
}

impl<K> Lifecycle<K, TokenCache> for Eviction {
    type RequestState = Evicted;

    fn is_pinned(&self, _: &K, cache: &TokenCache) -> bool {
        is_in_use(cache)
    }

    fn on_evict(&self, evicted: &mut Evicted, _: K, cache: TokenCache) {
        evicted.caches.push(cache);
        evicted.group.get_or_insert_with(|| self.group.clone());
    }
}

// === impl Evicted ===

impl Drop for Evicted {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            group.telemetry().keys_evicted(self.caches.len());
        }
    }
}
