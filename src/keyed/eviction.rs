//! Decides which caches may be evicted, and collects the evicted ones.
//!
//! The map calls both functions under the lock that a lookup takes too. So no lookup returns a cache between the check
//! that it is unused and its removal.

use quick_cache::Lifecycle;

use crate::cache::TokenCache;

/// The eviction policy of the map.
#[derive(Clone, Debug)]
pub(crate) struct Eviction {
    group: TokenCache,
}

/// The caches that one operation evicted. They are dropped after the lock is released, because dropping their sources
/// runs user code.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    caches: Vec<TokenCache>,
    group: Option<TokenCache>,
}

/// Whether anything but the map holds the cache, or its refresh token is unsaved.
pub(crate) fn is_in_use(cache: &TokenCache) -> bool {
    !cache.is_only_handle() || cache.holds_unsaved_refresh_token()
}

// === impl Eviction ===

impl Eviction {
    /// `group` counts the evicted caches.
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
