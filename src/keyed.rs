//! One token cache per key: per tenant, per user, per user and scope.
//!
//! # The story
//! The map is `quick_cache`'s. It bounds the count, makes each value once, and asks before it evicts one, under the lock
//! that a lookup takes ([`keyed/eviction.rs`](eviction)): a cache that anybody holds stays. A request that waits or may be
//! sent again holds its cache, and so does a fetch, up to the end of its save. So as long as anything is going on for a key
//! there is one cache of it, one single flight and one newest refresh token, and no second session can begin beside the
//! first. A refresh token that is saved nowhere holds its cache as well. moka does not ask: what its listener would put back
//! has been missing meanwhile, so that a second session could begin.
//!
//! Idle caches are evicted in passing: a lookup that finds that a quarter of the idle time has passed since the last time
//! has the map searched, on a thread for blocking work, because that takes as long as there are keys.
//!
//! Token calls are bounded by one semaphore, whose permits the driver asks for before it asks the source. tokio's
//! semaphore is first in, first out, and each key asks for one permit at a time, so a key waits for those before it and
//! not for one that asks often.

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

/// One [`TokenCache`] for each key: for each tenant, each user, or each user and scope.
///
/// A cheap handle: clones share the caches. The cache of a key is made when it is first asked for, by the function that
/// [`new`](KeyedTokenCache::new) takes, and from then on it is a cache like any other: one fetch for all callers, failures
/// that are remembered, its own session. A key holds **all** that shapes a token, so if the scope or the audience varies,
/// it is part of the key.
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
/// If there are more keys than [`max_keys`](KeyedTokenCache::max_keys), or if a key was not asked for within
/// [`max_idle`](KeyedTokenCache::max_idle), its cache is dropped, and made again when it is needed. A cache is **not**
/// dropped while
/// - a request, a fetch or a caller holds it: to keep the cache of a key, hold it;
/// - its newest refresh token is saved nowhere: without an [`on_rotation`](crate::TokenCacheBuilder::on_rotation) that succeeded, the
///   session would be lost. If a login can always be repeated, say so with an `on_rotation` that does nothing.
///
/// Such caches may be more than `max_keys`; [`status`](KeyedTokenCache::status) counts them.
pub struct KeyedTokenCache<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    caches: Cache<K, TokenCache, UnitWeighter, DefaultHashBuilder, Eviction>,
    make: Arc<Make<K>>,
    settings: Settings,
    token_calls: Arc<Semaphore>,
    /// Never has a token. Names the group in events and metrics.
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

/// What the caches of all keys hold and do, for health checks. Holds no key and no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedStatus {
    /// How many keys have a cache.
    pub keys: usize,
    /// How many of them have a token that can be sent.
    pub usable: usize,
    /// For how many a fetch is in flight, or waits for its turn.
    pub fetching: usize,
    /// For how many the last fetch failed.
    pub failing: usize,
    /// How many hold a refresh token that is saved nowhere, and so are not evicted.
    pub unsaved: usize,
    /// How many token calls are in progress.
    pub token_calls: usize,
}

// === impl KeyedTokenCache ===

impl<K: Hash + Eq + Clone + Send + Sync + 'static> KeyedTokenCache<K> {
    /// Caches that are made by this function when their key is first asked for.
    ///
    /// It returns a new cache of its own for each key, with the source, settings and [`on_rotation`](crate::TokenCacheBuilder::on_rotation)
    /// of that key, or an error for a key that has none. It is called once at a time for each key; other callers of the key
    /// block meanwhile, so it must neither block nor ask for the key again. What takes time, such as reading credentials,
    /// belongs into the source.
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
            // The lock of a shard is held while the shard is searched for idle caches.
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
    /// The keys are divided into parts that are bounded each by itself, so a few may be evicted before the bound is reached.
    /// Like the other settings, this begins anew without any cache: set it before the first use.
    #[must_use]
    pub fn max_keys(self, max_keys: usize) -> Self {
        self.set(|settings| settings.max_keys = max_keys.max(1))
    }

    /// Sets after how long without being asked for a cache is evicted, up to a quarter later. Default: 1 hour.
    ///
    /// It is evicted by a later lookup, of any key.
    #[must_use]
    pub fn max_idle(self, max_idle: Duration) -> Self {
        self.set(|settings| settings.max_idle = max_idle)
    }

    /// Sets how many token calls are made at once, for all keys together. Default: 32.
    ///
    /// Other fetches wait, in the order in which they began. A request waits for at most its
    /// [deadline](crate::RefreshPolicy::deadline), the wait for its turn included. The fetch waits for its turn as long as that;
    /// from then on the token call has the whole deadline. A fetch whose turn does not come fails with an error that
    /// [is transient](Error::is_transient).
    #[must_use]
    pub fn max_token_calls(self, max_token_calls: usize) -> Self {
        self.set(|settings| settings.max_token_calls = max_token_calls.clamp(1, Semaphore::MAX_PERMITS))
    }

    /// Names the caches in events, spans and metrics, all with this name: a key appears in none of them.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.set(|settings| settings.name = Some(name.into()))
    }

    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.inner.settings.clone();
        change(&mut settings);
        Self::with_settings(Arc::clone(&self.inner.make), settings)
    }

    /// The cache of this key, which is made if there is none.
    ///
    /// # Errors
    /// Returns the error of the function that makes it. It is not remembered: the next call asks again.
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

    /// For a [`BearerLayer`](crate::BearerLayer): each request has the cache of the key that this function reads from it.
    ///
    /// A request without a key fails with an error that [says so](Error::is_invalid): it is not sent without a token, nor
    /// with that of another key. Beware of keys that a caller chooses: a header of an incoming request says for whom it
    /// claims to be, so authenticate it before.
    pub fn by_key<F>(&self, key: F) -> CacheChoice
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    {
        let caches = self.clone();
        CacheChoice::choosing(self.inner.group.clone(), move |head| caches.cache(&key(head).ok_or_else(Error::no_key)?))
    }

    /// Signs the key out, as [`TokenCache::sign_out`] does, and drops its cache.
    ///
    /// Until then its requests fail with an error that [says so](Error::is_signed_out); the next one after that begins
    /// another session. A key without a cache is signed out too: if its source begins with a refresh token, that is revoked.
    /// It waits for the fetch in flight, and for the turn of that if it has not come.
    ///
    /// # Errors
    /// As [`TokenCache::sign_out`] and [`cache`](KeyedTokenCache::cache).
    ///
    /// # Cancel safety
    /// As [`TokenCache::sign_out`]'s. If it is dropped before it ends, the cache stays, signed out; calling it again goes on.
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
        // Another session may have begun meanwhile.
        let is_signed_out = |present: &TokenCache| present.is_same(&cache) && present.status().signed_out;
        if self.inner.caches.remove_if(key, is_signed_out).is_some() {
            self.inner.group.telemetry().keys_removed(1);
        }
        result
    }

    /// What the caches of all keys hold and do. Asks each of them, so it takes as long as there are keys.
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

    /// Begins a search for idle caches, unless another lookup has begun it.
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

    /// Evicts the caches that were last asked for before this tick.
    fn evict_idle(&self, before: u64) {
        let evicted = std::cell::RefCell::new(Vec::new());
        self.caches.retain(|_, cache| {
            let is_kept = cache.last_used() >= before || eviction::is_in_use(cache);
            if !is_kept {
                // Dropped after the lock, because its source is the user's.
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

/// How many keys lie under one lock, roughly.
const KEYS_PER_SHARD: usize = 2048;
const MIN_SHARDS: usize = 16;
/// How often idle caches are searched for within the idle time.
const SEARCHES_PER_IDLE_TIME: u64 = 4;
