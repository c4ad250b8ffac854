//! The token cache: a handle on one token that is kept fresh.
//!
//! | file | contents |
//! |---|---|
//! | `cache/settings.rs` | the settings that the builder collects |
//! | `cache/session.rs` | the state machine: it decides, and has no side effects |
//! | `cache/driver.rs` | locks, the single flight, the source, publishing, telemetry |
//! | `cache/own_run.rs` | the runs that the current task is part of, so that no run waits for itself |
//! | `cache/store_access.rs` | the store operations of a shared session: load, lease, save |
//! | `cache/driver/*.rs` | the driver's use of the store: the fetch, the background tasks, the sign-out |
//! | `cache/reader.rs` | the lock-free view of a service |

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::OwnedSemaphorePermit;
#[cfg(feature = "keyed")]
use tokio::sync::Semaphore;
use tower::BoxError;

use crate::cache::driver::Driver;
#[cfg(feature = "store")]
use crate::cache::driver::shared_store::SharedStore;
use crate::cache::session::Demand;
use crate::cache::settings::{CachePolicy, Save, Saving, Settings};
use crate::clock::{self, Clock};
use crate::error::Error;
use crate::schedule::{RefreshPolicy, Sign};
use crate::secret::Secret;
use crate::source::{Fixed, TokenSource};
use crate::telemetry::Telemetry;
use crate::token::{MAX_LIFETIME, SessionId, Token, TokenId};

mod driver;
mod own_run;
mod reader;
mod session;
mod settings;
#[cfg(feature = "store")]
mod store_access;

pub(crate) use crate::cache::driver::Rejected;
pub(crate) use crate::cache::reader::{Freshness, Reader, Snapshot, SnapshotSource, Usable};
pub(crate) use crate::cache::session::Rejection;
#[cfg(feature = "store")]
pub use crate::cache::session::StoreStatus;
pub use crate::cache::session::{RotatedToken, Status};

/// A cache of one token, which it keeps fresh.
///
/// It is a cheap handle, and its clones share the token. Building one spawns nothing and needs no runtime. The first
/// [`get`](TokenCache::get), or the first request through a [`BearerLayer`](crate::BearerLayer), starts a fetch. A
/// fetch needs a tokio runtime with its timer enabled.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// use tower_bearer::{Token, TokenCache};
///
/// let cache = TokenCache::new(async |_| Token::new("mF_9.B5f-4.1JqM"));
/// let token = cache.get().await?;
/// assert_eq!(token.header_value(), "Bearer mF_9.B5f-4.1JqM");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TokenCache {
    driver: Arc<Driver>,
}

/// The settings of a [`TokenCache`].
///
/// [`TokenCache::builder`] returns it. Nothing is checked, built or spawned before [`build`](TokenCacheBuilder::build).
///
/// ```
/// use std::time::Duration;
/// use tower_bearer::{RefreshPolicy, RotatedToken, Token, TokenCache};
///
/// # async fn write(_: &str) -> std::io::Result<()> { Ok(()) }
/// let cache = TokenCache::builder(async |_| Token::new("mF_9.B5f-4.1JqM"))
///     .name("billing")
///     .refresh_policy(RefreshPolicy::new().margin(Duration::from_secs(60)))
///     .on_rotation(async |rotated: RotatedToken| write(rotated.refresh_token().expose()).await)
///     .build()?;
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenCacheBuilder {
    settings: Settings,
}

// === impl TokenCache ===

impl TokenCache {
    /// Creates a cache for a token source, with the default settings.
    pub fn new(source: impl TokenSource) -> Self {
        Self::builder(source).finish()
    }

    /// Returns a builder of a cache for a token source.
    pub fn builder(source: impl TokenSource) -> TokenCacheBuilder {
        TokenCacheBuilder::new(source)
    }

    /// Creates a cache of this token that never fetches another.
    ///
    /// It is for tests and for tokens that a person issued. If an API rejects the token, the caller gets the 401.
    ///
    /// # Errors
    /// Returns an error if the text is not a token, as for [`Token::new`].
    pub fn fixed(access_token: impl AsRef<str>) -> Result<Self, Error> {
        let token = Token::parse(access_token.as_ref()).map_err(|problem| Error::invalid("access_token", problem))?;
        let token = token.with_lifetime(MAX_LIFETIME);
        let cache = Self::new(Fixed);
        cache.driver.adopt(token);
        Ok(cache)
    }

    /// Returns a usable token.
    ///
    /// If there is one, it returns at once, and starts a fetch in the background if the token is due. Without a usable
    /// token it waits for the fetch in flight, or starts one.
    ///
    /// # Errors
    /// Returns an error if
    /// - the fetch failed;
    /// - an earlier fetch failed, its backoff has not ended, and there is no usable token (this returns the stored
    ///   error at once);
    /// - there is no token within the fetch deadline;
    /// - there is no tokio runtime to fetch on, or it has no timers;
    /// - the session was signed out, or another one began while this call waited;
    /// - there is no usable token, and this cache's own source or `on_rotation` calls, because it would wait for
    ///   itself;
    /// - there is no usable token, and the cache was shut down.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the fetch. The next caller joins it.
    pub async fn get(&self) -> Result<Token, Error> {
        self.driver.acquire(Demand::Usable, None).await
    }

    /// Fetches a new token, even if there is a usable one.
    ///
    /// It joins the fetch in flight or starts one, even within the backoff after a failure. If this fetch fails too, it
    /// lengthens the backoff as any failure does.
    ///
    /// # Errors
    /// Returns an error as [`get`](TokenCache::get) does, except for the stored error of an earlier fetch.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the fetch.
    pub async fn refresh(&self) -> Result<Token, Error> {
        self.driver.acquire(Demand::Fetched, None).await
    }

    /// Reports that an API rejected this token, and returns the token that replaces it.
    ///
    /// It is for rejections that the layer does not see, such as a GraphQL error or a closed WebSocket. If the token
    /// was already replaced, the newer one is returned at once. Until there is a new token, other requests still carry
    /// the rejected one. If this cache did not issue the token, the report has no effect, and the current token is
    /// returned.
    ///
    /// # Errors
    /// Returns an error if
    /// - the replacement cannot be fetched, as for [`get`](TokenCache::get);
    /// - the [rejection budget](RefreshPolicy::rejection_budget) is exhausted;
    /// - the token's session has ended;
    /// - this cache did not issue the token, and has no usable one.
    ///
    /// # Cancel safety
    /// The first poll records the rejection and starts the fetch. Dropping the future after that does not stop the
    /// fetch.
    pub async fn report_rejected(&self, token: &Token) -> Result<Token, Error> {
        match self.driver.reject(token.id(), Rejected::default()) {
            Rejection::Unknown => self.peek().ok_or_else(|| {
                Error::invalid("token", "this cache did not issue it; report it to the cache that it came from")
            }),
            rejection => self.replacement(token.id(), None, rejection).await,
        }
    }

    /// Returns the usable token without fetching, or `None` if there is none.
    pub fn peek(&self) -> Option<Token> {
        self.driver.peek()
    }

    /// Returns the state of this cache, for health checks.
    pub fn status(&self) -> Status {
        self.driver.status()
    }

    /// Returns a future that keeps the token fresh without requests.
    ///
    /// The caller spawns it. It fetches a token before the first call, and refreshes each token when it is due. It ends
    /// when the last clone of the cache is dropped or the cache is shut down, and does not keep the cache alive.
    /// Without it, a token is fetched only when a request or a call needs one. On an executor other than tokio's it
    /// only waits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # use tower_bearer::{Token, TokenCache};
    /// let cache = TokenCache::new(async |_| Token::new("t"));
    /// tokio::spawn(cache.keep_warm());
    /// # }
    /// ```
    ///
    /// # Errors
    /// It returns no error. The fetch is repeated after a failure, when the backoff ends.
    ///
    /// # Cancel safety
    /// Dropping it ends the refreshing. A fetch in flight continues.
    pub fn keep_warm(&self) -> impl Future<Output = ()> + Send + 'static {
        let driver = Arc::downgrade(&self.driver);
        let changed = Arc::clone(self.driver.changed());
        async move {
            loop {
                let mut change = pin!(changed.notified());
                // Registered before the check, so that no change is missed.
                change.as_mut().enable();
                let Some(idle) = driver.upgrade().and_then(|driver| driver.warm()) else { return };
                clock::at_most(idle, change).await;
            }
        }
    }

    /// Replaces the source with one for the same login.
    ///
    /// It is for new credentials, such as a rotated client secret. The token, the stored failure and the refresh token
    /// of the old source are dropped, and the result of a fetch in flight is discarded. Waiting requests keep waiting,
    /// and are sent with the new source's token. So use [`sign_in`](TokenCache::sign_in) for another person's login.
    /// After a [`sign_out`](TokenCache::sign_out) this method begins another session, as `sign_in` does.
    pub fn set_source(&self, source: impl TokenSource) {
        self.driver.set_source(source, true);
    }

    /// Begins another session, for another person's login.
    ///
    /// It replaces the source as [`set_source`](TokenCache::set_source) does, but no request of the previous session is
    /// sent with a token of the new one. A waiting request fails with an error for which
    /// [`is_signed_out`](Error::is_signed_out) is true. A rejected request gets its 401, with this error in the
    /// extensions. The same holds in the processes that share the session, once they have read its record. The tokens of
    /// the previous session are dropped but not revoked. To revoke them, call
    /// [`sign_out`](TokenCache::sign_out) first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
    /// # use tower_bearer::{Token, TokenCache};
    /// let cache = TokenCache::new(async |_| Token::new("the-token-of-ada"));
    /// cache.get().await?;
    /// cache.sign_in(async |_| Token::new("the-token-of-grace"));
    /// assert_eq!(cache.get().await?.access_token(), "the-token-of-grace");
    /// # Ok(()) }
    /// ```
    pub fn sign_in(&self, source: impl TokenSource) {
        self.driver.set_source(source, false);
    }

    /// Ends the session, and revokes its refresh token.
    ///
    /// It waits for the fetch in flight, passes the newest refresh token to `revoke`, and then drops the token, the
    /// refresh token and the source, even if the revocation fails. Without a refresh token it does not call `revoke`.
    ///
    /// From the first poll on, each caller that needs a token or waits for one gets an error for which
    /// [`is_signed_out`](Error::is_signed_out) is true, until [`sign_in`](TokenCache::sign_in) begins another session.
    /// A fetch that ends late does not revive the old session, and no request of the old session is sent with a token
    /// of another.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
    /// # use tower_bearer::{Secret, Token, TokenCache};
    /// # async fn call_the_issuer(_: Secret) -> std::io::Result<()> { Ok(()) }
    /// let cache = TokenCache::new(async |_| Token::new("t").map(|token| token.with_refresh_token("r")));
    /// cache.get().await?;
    /// cache.sign_out(call_the_issuer).await?;
    /// assert!(cache.get().await.unwrap_err().is_signed_out());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Returns an error if
    /// - this cache's own source or `on_rotation` calls it, which would wait for itself: the session does not end;
    /// - `revoke` failed: its error is the [source](std::error::Error::source) of this one;
    /// - another session began meanwhile.
    ///
    /// In the last two cases the session has ended, but its refresh token may still be valid. A second call does not
    /// revoke it, because the cache has dropped it. To try again, keep the [`Secret`] that `revoke` gets.
    ///
    /// # Cancel safety
    /// The first poll signs the cache out. If the future is dropped after that, the refresh token may not be revoked. A
    /// second call revokes it.
    pub async fn sign_out<F, T, E>(&self, revoke: F) -> Result<(), Error>
    where
        F: FnOnce(Secret) -> T,
        T: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        self.driver.sign_out(revoke).await
    }

    /// Stops fetching, and waits for the fetch in flight and its `on_rotation`.
    ///
    /// Callers get the current token until it expires. After that they get an error for which
    /// [`is_closed`](Error::is_closed) is true. If this cache's own source or `on_rotation` calls it, it does not wait.
    ///
    /// # Errors
    /// It returns no error. The waiters of the fetch and [`status`](TokenCache::status) get the fetch's error.
    ///
    /// # Cancel safety
    /// The first poll shuts the cache down. Dropping the future after that only ends the waiting.
    pub async fn shutdown(&self) {
        self.driver.shut_down().await;
    }

    // --- for a keyed cache ---

    /// Adds this cache to a keyed cache, whose caches share these permits and one set of metrics.
    #[cfg(feature = "keyed")]
    pub(crate) fn join_group(&self, name: Option<Arc<str>>, token_calls: Arc<Semaphore>) {
        self.driver.join_group(name, token_calls);
    }

    /// Records that the keyed cache returned this cache.
    #[cfg(feature = "keyed")]
    pub(crate) fn touch(&self, tick: u64) {
        self.driver.touch(tick);
    }

    #[cfg(feature = "keyed")]
    pub(crate) fn last_used(&self) -> u64 {
        self.driver.last_used()
    }

    #[cfg(feature = "keyed")]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    /// Whether this is the only handle, so that no request, fetch or caller uses the cache.
    #[cfg(feature = "keyed")]
    pub(crate) fn is_only_handle(&self) -> bool {
        Arc::strong_count(&self.driver) == 1
    }

    /// Whether dropping this cache would lose the newest refresh token.
    #[cfg(feature = "keyed")]
    pub(crate) fn holds_unsaved_refresh_token(&self) -> bool {
        self.driver.holds_unsaved_refresh_token()
    }

    // --- for the layer ---

    /// A cache that never has a token.
    pub(crate) fn empty() -> Self {
        Self::new(Fixed)
    }

    pub(crate) fn snapshot(&self) -> &ArcSwap<Snapshot> {
        self.driver.snapshot()
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.driver.clock()
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        self.driver.telemetry()
    }

    /// Waits for a usable token, for a request that began in this session.
    pub(crate) async fn get_in(&self, session: SessionId) -> Result<Token, Error> {
        self.driver.acquire(Demand::Usable, Some(session)).await
    }

    /// The usable token of this session, without fetching.
    ///
    /// # Errors
    /// Returns an error if the session has ended.
    pub(crate) fn peek_in(&self, session: SessionId) -> Result<Option<Token>, Error> {
        self.driver.peek_in(session)
    }

    /// Starts a refresh ahead of time, without waiting for it.
    pub(crate) fn refresh_in_background(&self) {
        self.driver.refresh_in_background();
    }

    /// Records the rejection of a token and starts its replacement, without waiting for it.
    ///
    /// # Errors
    /// Returns an error if the replacement cannot be started.
    pub(crate) fn replace_in_background(&self, token: TokenId, rejected: Rejected<'_>) -> Result<(), Error> {
        self.driver.replace_in_background(token, rejected)
    }

    /// Records the rejection of a token.
    pub(crate) fn reject(&self, token: TokenId, rejected: Rejected<'_>) -> Rejection {
        self.driver.reject(token, rejected)
    }

    /// Records the response to a retry with this token. The API accepted the token if `sign` is `None`.
    pub(crate) fn retried(&self, token: TokenId, sign: Option<Sign>) {
        self.driver.retried(token, sign);
    }

    /// Waits for the token that replaces a rejected one, for the retry of the rejected request.
    ///
    /// A very young token may not have reached every server of the API. Then the caller waits up to a second, and gets
    /// the token that is usable then.
    pub(crate) async fn replacement(
        &self,
        token: TokenId,
        sign: Option<Sign>,
        rejection: Rejection,
    ) -> Result<Token, Error> {
        let demand = match rejection {
            Rejection::Unknown | Rejection::SessionEnded => return Err(Error::signed_out()),
            Rejection::Superseded | Rejection::Fallback { .. } => Demand::Usable,
            Rejection::Early(lag) => {
                clock::pause(lag).await?;
                Demand::Usable
            }
            Rejection::Marked { .. } => Demand::NewerThan(token.generation, sign),
        };
        self.driver.acquire(demand, Some(token.session)).await
    }

    /// A permit to keep a response of this size unread, or `None` if the response has to be read or dropped.
    pub(crate) fn reserve_unread(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.driver.reserve_unread(bytes)
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.telemetry().name();
        f.debug_struct("TokenCache").field("name", &name).field("status", &self.status()).finish_non_exhaustive()
    }
}

// === impl TokenCacheBuilder ===

impl TokenCacheBuilder {
    fn new(source: impl TokenSource) -> Self {
        let (source, policy, clock) = (Arc::new(source), CachePolicy::default(), Clock::System);
        Self {
            settings: Settings {
                source,
                policy,
                name: None,
                on_rotation: None,
                #[cfg(feature = "store")]
                shared: None,
                clock,
            },
        }
    }

    /// Names the cache in events, spans and metrics. Default: no name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into().into());
        self
    }

    /// Sets when to refresh, and how long a fetch may take.
    ///
    /// Default: [`RefreshPolicy::new`].
    pub fn refresh_policy(mut self, policy: RefreshPolicy) -> Self {
        self.settings.policy = CachePolicy::new(policy);
        self
    }

    /// Calls `save` with every new refresh token.
    ///
    /// It does so before it publishes the token that came with it. The cache waits for `save` for at most 5 s. If it
    /// fails, an ERROR event and [`Status::not_saved`](crate::Status::not_saved) report it. The refresh token stays in
    /// memory, requests are sent, and the next fetch calls `save` again. Calls never overlap, and an older refresh
    /// token is never saved after a newer one. A second `on_rotation` replaces the first.
    ///
    /// If `save` sends requests through the layer of this cache, it has to mark them with [`NoToken`](crate::NoToken).
    /// Without a usable token such a request would wait for itself, and fails instead.
    pub fn on_rotation<F, T, E>(mut self, save: F) -> Self
    where
        F: Fn(RotatedToken) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let save = Arc::new(save);
        let save: Arc<dyn Save> = Arc::new(move |rotated| -> Saving {
            let save = Arc::clone(&save);
            // The future calls `save`, so that a panic of the call itself is caught, too.
            Box::pin(async move { save(rotated).await.map_err(Into::into) })
        });
        self.settings.on_rotation = Some(save);
        self
    }

    /// Shares the session with other processes, through a store.
    ///
    /// The store is a file, Redis, or your own. Before each fetch the cache reads the record in the store. If the
    /// record has a newer token, the cache uses it without a token call. Otherwise one process takes the lease,
    /// refreshes, and saves the result before it is used. The other processes wait for it and use it, too. A sign-out
    /// in one process signs out all of them. The key contains everything that distinguishes one session from another:
    /// user, tenant, issuer and scope.
    ///
    /// A request never waits for the store while there is a usable token. If the store fails, requests carry the
    /// current token until it expires. [`shared_session`](Self::shared_session) also takes the settings of the shared
    /// session.
    #[cfg(feature = "store")]
    pub fn store(self, store: impl crate::store::TokenStore, key: impl AsRef<str>) -> Self {
        self.shared_session(crate::store::SharedSession::new(store, key))
    }

    /// Shares the session as [`store`](Self::store) does, with your own settings.
    #[cfg(feature = "store")]
    pub fn shared_session(mut self, session: crate::store::SharedSession) -> Self {
        self.settings.shared = Some(session);
        self
    }

    /// Sets a clock that the caller advances, instead of the system's.
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: crate::clock::ManualClock) -> Self {
        self.settings.clock = Clock::Manual(clock);
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    /// Returns an error if the [deadline](RefreshPolicy::deadline) is zero, or if the key or a setting of the store is
    /// invalid.
    pub fn build(self) -> Result<TokenCache, Error> {
        self.settings.policy.check()?;
        #[cfg(feature = "store")]
        if let Some(session) = &self.settings.shared {
            session.check()?;
        }
        Ok(self.finish())
    }

    /// As [`build`](Self::build), for settings that are known to be valid.
    #[cfg_attr(not(feature = "store"), expect(unused_mut, reason = "the store is taken out"))]
    fn finish(mut self) -> TokenCache {
        #[cfg(feature = "store")]
        if let Some(session) = self.settings.shared.take() {
            let store = SharedStore::new(session, self.settings.clock.clone());
            return TokenCache { driver: Arc::new(Driver::new(self.settings).with_store(store)) };
        }
        TokenCache { driver: Arc::new(Driver::new(self.settings)) }
    }
}

impl fmt::Debug for TokenCacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCacheBuilder")
            .field("name", &self.settings.name)
            .field("policy", &*self.settings.policy)
            .field("on_rotation", &self.settings.on_rotation.is_some())
            .finish_non_exhaustive()
    }
}
