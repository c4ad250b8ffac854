//! One token cache per key: per tenant, per user, per user and scope.
//!
//! # Algorithm
//! The map is `quick_cache`'s. It bounds the number of caches, and creates each value once. Before it evicts a cache,
//! it asks whether the cache is in use, under the lock that a lookup takes ([`keyed/eviction.rs`](eviction)). A request
//! that waits or may be retried holds its cache, and so does a fetch until its save ends. So while there is activity
//! for a key, there is one cache of it, one single flight and one newest refresh token, and no second session can
//! begin. An unsaved refresh token holds its cache as well. moka does not ask first: its eviction listener could put a
//! cache back, but a second session could begin in between.
//!
//! A lookup starts a search for idle caches if a quarter of the idle time has passed since the last search. The search
//! runs on a thread for blocking work, because its duration grows with the number of keys.
//!
//! One semaphore bounds the token calls. The driver acquires a permit before it calls the source. tokio's semaphore is
//! first in, first out, and each key requests one permit at a time. So a key waits for the earlier requests of other
//! keys, and no key can starve the others.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::request::Parts;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};
use tokio::sync::Semaphore;
use tower::BoxError;

use crate::cache::TokenCache;
use crate::cache_choice::CacheChoice;
use crate::clock::{self, Clock};
use crate::error::Error;
use crate::keyed::eviction::Eviction;
use crate::schedule::Phase;
use crate::secret::Secret;

mod eviction;

/// One [`TokenCache`] for each key, such as a tenant, a user, or a user and scope.
///
/// It is a cheap handle, and clones share the caches. The function that [`new`](KeyedTokenCache::new) takes creates the
/// cache of a key when it is first needed. From then on it is an ordinary cache with its own session. A key contains
/// **all** values that determine a token, so if the scope or the audience varies, it is part of the key.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// use tower_bearer::{BearerLayer, Error, KeyedTokenCache, Token, TokenCache};
///
/// let tenants = KeyedTokenCache::new(|tenant: &String| {
///     let text = format!("the-token-of-{tenant}");
///     Ok::<_, Error>(TokenCache::new(move |_| std::future::ready(Token::new(&text))))
/// });
/// assert_eq!(tenants.cache("acme")?.get().await?.access_token(), "the-token-of-acme");
///
/// let by_header = tenants.by_key(|head| Some(head.headers.get("tenant")?.to_str().ok()?.to_owned()));
/// let layer = BearerLayer::new(by_header, ["https://api.example.com"])?;
/// # Ok(()) }
/// ```
///
/// # What is evicted
///
/// If there are more keys than [`max_keys`](KeyedTokenCache::max_keys), or if a key was not used within
/// [`max_idle`](KeyedTokenCache::max_idle), its cache is dropped, and created again when it is needed. A cache is
/// **not** dropped while
/// - a request, a fetch or a caller holds it. To keep the cache of a key, hold it.
/// - its newest refresh token is not saved. Without an [`on_rotation`](crate::TokenCacheBuilder::on_rotation) that
///   succeeded, the session would be lost. If the login can always be repeated, set an `on_rotation` that does nothing.
///
/// There may be more such caches than `max_keys`. [`status`](KeyedTokenCache::status) counts them.
pub struct KeyedTokenCache<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    caches: Cache<K, TokenCache, UnitWeighter, DefaultHashBuilder, Eviction>,
    make: Arc<Make<K>>,
    settings: Settings,
    token_calls: Arc<Semaphore>,
    /// Names the group in events and metrics, and never has a token.
    group: TokenCache,
    /// When the next search for idle caches begins, in ticks of the coarse clock.
    ///
    /// Ordering: relaxed, because it says only which lookup begins the search.
    next_search: AtomicU64,
}

type Make<K> = dyn Fn(&K) -> Result<TokenCache, Error> + Send + Sync;

#[derive(Clone, Debug)]
struct Settings {
    max_keys: usize,
    max_idle: Duration,
    max_token_calls: usize,
    name: Option<Arc<str>>,
}

/// The status of the caches of all keys, for health checks.
///
/// It contains no key and no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedStatus {
    /// How many keys have a cache.
    pub keys: usize,
    /// How many of them have a token that can be sent.
    pub usable: usize,
    /// How many have a fetch that is in flight, or waits for its turn.
    pub fetching: usize,
    /// How many have a last fetch that failed.
    pub failing: usize,
    /// How many have an unsaved refresh token, and so are not evicted.
    pub unsaved: usize,
    /// How many token calls are in progress.
    pub token_calls: usize,
}

// === impl KeyedTokenCache ===

impl<K: Hash + Eq + Clone + Send + Sync + 'static> KeyedTokenCache<K> {
    /// Caches that this function creates when their key is first needed.
    ///
    /// The function returns a new cache for each key, with the source, settings and
    /// [`on_rotation`](crate::TokenCacheBuilder::on_rotation) of that key, or an error for a key that has none. There
    /// is one call at a time for each key, and other callers of the key block meanwhile. So the function must neither
    /// block nor look up the key itself. Slow work, such as reading credentials, belongs in the source.
    pub fn new<F, E>(make: F) -> Self
    where
        F: Fn(&K) -> Result<TokenCache, E> + Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let make: Arc<Make<K>> = Arc::new(move |key| make(key).map_err(Error::from_source));
        Self::with_settings(make, Settings::default())
    }

    fn with_settings(make: Arc<Make<K>>, settings: Settings) -> Self {
        let token_calls = Arc::new(Semaphore::new(settings.max_token_calls));
        let group = TokenCache::empty();
        group.join_group(settings.name.clone(), Arc::clone(&token_calls));
        let options = OptionsBuilder::new()
            .weight_capacity(settings.max_keys as u64)
            .estimated_items_capacity(settings.max_keys)
            // A search for idle caches holds the lock of a shard, so shards are small.
            .shards((settings.max_keys / KEYS_PER_SHARD).max(MIN_SHARDS))
            .build()
            .expect("both capacities are set");
        let eviction = Eviction::new(group.clone());
        let inner = Inner {
            caches: Cache::with_options(options, UnitWeighter, DefaultHashBuilder::default(), eviction),
            make,
            token_calls,
            settings,
            group,
            next_search: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sets how many keys have a cache at most. Default: 100 000.
    ///
    /// The keys are divided into shards with a separate bound each, so a few may be evicted before the bound is
    /// reached. Like the other settings, this removes all caches. Set it before the first use.
    #[must_use]
    pub fn max_keys(self, max_keys: usize) -> Self {
        self.set(|settings| settings.max_keys = max_keys.max(1))
    }

    /// Sets after how long without use a cache is evicted. Default: 1 hour.
    ///
    /// A later lookup of any key evicts it, up to a quarter of this time later.
    #[must_use]
    pub fn max_idle(self, max_idle: Duration) -> Self {
        self.set(|settings| settings.max_idle = max_idle)
    }

    /// Sets how many token calls are in flight at most, for all keys together.
    ///
    /// Default: 32.
    ///
    /// Other fetches wait, in the order in which they began. A request waits at most for its
    /// [deadline](crate::RefreshPolicy::deadline), including the wait for its turn. The fetch waits for its turn
    /// equally long, and the token call then has the whole deadline. A fetch whose turn does not come fails with an
    /// error that [is transient](Error::is_transient).
    #[must_use]
    pub fn max_token_calls(self, max_token_calls: usize) -> Self {
        self.set(|settings| settings.max_token_calls = max_token_calls.clamp(1, Semaphore::MAX_PERMITS))
    }

    /// Names all caches in events, spans and metrics. No key appears there.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.set(|settings| settings.name = Some(name.into()))
    }

    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.inner.settings.clone();
        change(&mut settings);
        Self::with_settings(Arc::clone(&self.inner.make), settings)
    }

    /// The cache of this key, which is created if there is none.
    ///
    /// # Errors
    /// Returns the error of the function that creates the cache. It is not remembered, so the next call tries again.
    pub fn cache<Q>(&self, key: &Q) -> Result<TokenCache, Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &self.inner;
        let now = tick();
        let cache = inner.caches.get_or_insert_with(key, || inner.make(&key.to_owned()))?;
        cache.touch(now);
        if now >= inner.next_search.load(Ordering::Relaxed) {
            self.search(now);
        }
        Ok(cache)
    }

    /// Each request of a [`BearerLayer`](crate::BearerLayer) has the cache of its key.
    ///
    /// The function reads the key from the request. A request without a key fails with an error that [says
    /// so](Error::is_invalid), and is sent neither without a token nor with the token of another key. Do not trust keys
    /// that a caller chooses: authenticate an incoming request before you read a key from its headers.
    pub fn by_key<F>(&self, key: F) -> CacheChoice
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    {
        let caches = self.clone();
        CacheChoice::choosing(self.inner.group.clone(), move |head| caches.cache(&key(head).ok_or_else(Error::no_key)?))
    }

    /// Signs the key out, as [`TokenCache::sign_out`] does, and drops its cache.
    ///
    /// Until the cache is dropped, its requests fail with an error that [says so](Error::is_signed_out). The next
    /// request after that begins another session. A key without a cache is signed out too: if its source begins with a
    /// refresh token, that token is revoked. The call waits for the fetch in flight, also if that still waits for its
    /// turn.
    ///
    /// # Errors
    /// Returns an error as [`TokenCache::sign_out`] and [`cache`](KeyedTokenCache::cache) do.
    ///
    /// # Cancel safety
    /// Cancel safe as [`TokenCache::sign_out`] is. If the future is dropped, the cache stays and is signed out. Another
    /// call continues.
    pub async fn remove<Q, F, T, E>(&self, key: &Q, revoke: F) -> Result<(), Error>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce(Secret) -> T,
        T: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let cache = self.cache(key)?;
        let result = cache.sign_out(revoke).await;
        // Meanwhile another session may have begun.
        let is_signed_out = |present: &TokenCache| present.is_same(&cache) && present.status().signed_out;
        if self.inner.caches.remove_if(key, is_signed_out).is_some() {
            self.inner.group.telemetry().keys_removed(1);
        }
        result
    }

    /// The status of the caches of all keys.
    ///
    /// It reads the status of each cache, so its duration grows with the number of keys.
    pub fn status(&self) -> KeyedStatus {
        let inner = &self.inner;
        let free = inner.token_calls.available_permits();
        let mut sum =
            KeyedStatus { token_calls: inner.settings.max_token_calls.saturating_sub(free), ..KeyedStatus::default() };
        for (_, cache) in inner.caches.iter() {
            let status = cache.status();
            sum.keys += 1;
            sum.usable += usize::from(matches!(status.phase, Some(Phase::Fresh | Phase::Due)));
            sum.fetching += usize::from(status.fetching);
            sum.failing += usize::from(status.last_failure.is_some());
            sum.unsaved += usize::from(cache.holds_unsaved_refresh_token());
        }
        sum
    }

    /// Starts a search for idle caches, unless another lookup has started it.
    #[cold]
    fn search(&self, now: u64) {
        let inner = Arc::clone(&self.inner);
        let max_idle = clock::ticks(inner.settings.max_idle);
        let next = now.saturating_add((max_idle / SEARCHES_PER_IDLE_TIME).max(1));
        let former = inner.next_search.load(Ordering::Relaxed);
        if now < former
            || inner.next_search.compare_exchange(former, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let evict = move || inner.evict_idle(now.saturating_sub(max_idle));
        match clock::runtime() {
            Some(runtime) => drop(runtime.spawn_blocking(evict)),
            None => evict(),
        }
    }
}

impl<K> Clone for KeyedTokenCache<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K> fmt::Debug for KeyedTokenCache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTokenCache").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl<K: Hash + Eq> Inner<K> {
    fn make(&self, key: &K) -> Result<TokenCache, Error> {
        let cache = (self.make)(key)?;
        cache.join_group(self.settings.name.clone(), Arc::clone(&self.token_calls));
        self.group.telemetry().key_added();
        Ok(cache)
    }

    /// Evicts the caches whose last use was before this tick.
    fn evict_idle(&self, before: u64) {
        let evicted = std::cell::RefCell::new(Vec::new());
        self.caches.retain(|_, cache| {
            let is_kept = cache.last_used() >= before || eviction::is_in_use(cache);
            if !is_kept {
                // Dropped after the lock is released, because dropping its source runs user code.
                evicted.borrow_mut().push(cache.clone());
            }
            is_kept
        });
        let evicted = evicted.into_inner();
        if !evicted.is_empty() {
            self.group.telemetry().keys_evicted(evicted.len());
        }
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { max_keys: 100_000, max_idle: Duration::from_secs(3600), max_token_calls: 32, name: None }
    }
}

fn tick() -> u64 {
    Clock::System.tick().unwrap_or_default()
}

/// How many keys share one lock, roughly.
const KEYS_PER_SHARD: usize = 2048;
const MIN_SHARDS: usize = 16;
/// How many searches for idle caches run within the idle time.
const SEARCHES_PER_IDLE_TIME: u64 = 4;
