//! The handle on one token, kept fresh.
//!
//! | file | what it holds |
//! |---|---|
//! | `cache/settings.rs` | what a cache is made of |
//! | `cache/session.rs` | what the cache holds and what each event does: pure decisions |
//! | `cache/driver.rs` | locks, the single flight, the source, publishing, events |
//! | `cache/own_run.rs` | which runs the current task is part of, so that none waits for itself |
//! | `cache/shared.rs` | the store of a session that processes share: looking, leasing, saving |
//! | `cache/driver/*.rs` | what the driver does with it: one fetch, the watching, the end of a record |
//! | `cache/reader.rs` | what requests see, without a lock |

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
mod shared;

pub(crate) use crate::cache::driver::Rejected;
pub(crate) use crate::cache::reader::{Freshness, Reader, Snapshot, SnapshotSource, Usable};
pub(crate) use crate::cache::session::Rejection;
#[cfg(feature = "store")]
pub use crate::cache::session::StoreStatus;
pub use crate::cache::session::{RotatedToken, Status};

/// One token, kept fresh.
///
/// A cheap handle: clones share the token. Building one spawns nothing and needs no runtime; the first
/// [`get`](TokenCache::get), or the first request through a [`BearerLayer`](crate::BearerLayer), fetches. Fetching needs a
/// tokio runtime with its timer enabled.
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
/// Made by [`TokenCache::builder`]; nothing is checked, built or spawned before [`build`](TokenCacheBuilder::build).
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
    /// A cache over a token source, with the default settings.
    pub fn new(source: impl TokenSource) -> Self {
        Self::builder(source).finish()
    }

    /// The settings of a cache over a token source: its name, when it refreshes, where refresh tokens are saved.
    pub fn builder(source: impl TokenSource) -> TokenCacheBuilder {
        TokenCacheBuilder::new(source)
    }

    /// A cache that holds this token and never fetches another: for tests, and for tokens made by hand.
    ///
    /// A rejected fixed token is not replaced; the 401 goes to the caller.
    ///
    /// # Errors
    /// As [`Token::new`]: give it without `Bearer ` and without a line break.
    pub fn fixed(access_token: impl AsRef<str>) -> Result<Self, Error> {
        let token = Token::parse(access_token.as_ref()).map_err(|problem| Error::invalid("access_token", problem))?;
        let token = token.with_lifetime(MAX_LIFETIME);
        let cache = Self::new(Fixed);
        cache.driver.adopt(token);
        Ok(cache)
    }

    /// A token that can be sent now.
    ///
    /// Returns at once with a usable token, and starts a fetch in the background if the token is due. Without a usable
    /// token it waits for the fetch in flight, or starts one.
    ///
    /// # Errors
    /// Returns an error if
    /// - the fetch failed;
    /// - an earlier fetch failed, its backoff is not over, and no usable token is left: the remembered error, at once;
    /// - there is no token within the fetch deadline;
    /// - there is no tokio runtime to fetch on, or one without timers;
    /// - the session was signed out, or another one began while this call waited;
    /// - there is no usable token, and this cache's own source or `on_rotation` asks, which would wait for itself;
    /// - the cache was shut down.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the fetch running; the next caller joins it.
    pub async fn get(&self) -> Result<Token, Error> {
        self.driver.acquire(Demand::Usable, None).await
    }

    /// Fetches a new token, even if there is a usable one: joins the fetch in flight or starts one, even within the backoff
    /// after a failure. If this fetch fails too, the next backoff is as long as if the last one had been waited out.
    ///
    /// # Errors
    /// As [`get`](TokenCache::get), but for the remembered error.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the fetch running.
    pub async fn refresh(&self) -> Result<Token, Error> {
        self.driver.acquire(Demand::Fetched, None).await
    }

    /// Reports that an API rejected this token, and returns the token that replaces it.
    ///
    /// For rejections that the layer does not see: a GraphQL error, a WebSocket that was closed. A token that was replaced
    /// before is not marked: the newer one comes back at once. Until there is a new one, other requests still carry the
    /// rejected token. A token that this cache did not issue changes nothing: the current one comes back.
    ///
    /// # Errors
    /// Returns an error if
    /// - the replacement cannot be fetched, as for [`get`](TokenCache::get);
    /// - rejections have used their [budget](RefreshPolicy::rejection_budget);
    /// - the token's session has ended;
    /// - this cache did not issue the token, and holds none that can be sent.
    ///
    /// # Cancel safety
    /// The rejection is noted and the fetch started when the future is first polled; dropping it after that leaves the
    /// fetch running.
    pub async fn report_rejected(&self, token: &Token) -> Result<Token, Error> {
        match self.driver.reject(token.id(), Rejected::default()) {
            Rejection::Unknown => self.peek().ok_or_else(|| {
                Error::invalid("token", "this cache did not issue it; report it to the cache that it came from")
            }),
            rejection => self.replacement(token.id(), None, rejection).await,
        }
    }

    /// The token there is, without fetching; `None` where there is none or it has expired.
    pub fn peek(&self) -> Option<Token> {
        self.driver.peek()
    }

    /// What this cache holds and does, for health checks.
    pub fn status(&self) -> Status {
        self.driver.status()
    }

    /// A future that keeps the token fresh without requests: spawn it, and the token is ready before the first call
    /// and is refreshed when due.
    ///
    /// It ends when the last clone of the cache is dropped or the cache is shut down, and does not keep the cache alive.
    /// Without it, a token is fetched only when a request or a call needs one. On another executor than tokio's it waits
    /// and fetches nothing.
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
    /// None: a failure is remembered, and tried again after its pause.
    ///
    /// # Cancel safety
    /// Dropping it ends the refreshing; a fetch in flight goes on.
    pub fn keep_warm(&self) -> impl Future<Output = ()> + Send + 'static {
        let driver = Arc::downgrade(&self.driver);
        let changed = Arc::clone(self.driver.changed());
        async move {
            loop {
                let mut change = pin!(changed.notified());
                // Listens before it looks, so that no change is missed.
                change.as_mut().enable();
                let Some(idle) = driver.upgrade().and_then(|driver| driver.warm()) else { return };
                clock::at_most(idle, change).await;
            }
        }
    }

    /// Replaces the source, for new credentials of the same login, such as a rotated client secret.
    ///
    /// The token, the remembered failure and the refresh token of the old source are dropped, and the result of a fetch in
    /// flight is not used. Requests that wait go on waiting, and go out with the new source's token: for another person's
    /// login use [`sign_in`](TokenCache::sign_in). After a [`sign_out`](TokenCache::sign_out) it begins another
    /// session, as `sign_in` does.
    pub fn set_source(&self, source: impl TokenSource) {
        self.driver.set_source(source, true);
    }

    /// Begins another session, for another person's login.
    ///
    /// As [`set_source`](TokenCache::set_source), but no request of the former session goes out with a token of the new one:
    /// a request that waits fails with an error that [says so](Error::is_signed_out), and one that is answered 401 gets the
    /// 401 with this error in its extensions. The former session is forgotten and not revoked; [`sign_out`](TokenCache::sign_out) does that, before this call.
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

    /// Ends the session: waits for the fetch in flight, hands the newest refresh token to `revoke`, and forgets token,
    /// refresh token and source, even if the revocation fails.
    ///
    /// From its first poll on, each caller that needs a token or waits for one gets an error that
    /// [says so](Error::is_signed_out), until [`sign_in`](TokenCache::sign_in) begins another session. No fetch revives the
    /// old session, however late it ends, and no request of the old session goes out with a token of another. Without a
    /// refresh token there is nothing to revoke, and `revoke` is not called.
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
    /// This cache's own source or `on_rotation` calls it: nothing happens, because it would wait for itself.
    ///
    /// Otherwise the session has ended here, and its refresh token may still work: `revoke` failed (its error is the
    /// [source](std::error::Error::source)), or another session began meanwhile.
    /// It is forgotten even so, and a second call revokes nothing: to try again, keep the [`Secret`] that `revoke` was given.
    ///
    /// # Cancel safety
    /// The cache is signed out when the future is first polled. Where it is dropped after that, the refresh token may
    /// not be revoked; calling it again does that.
    pub async fn sign_out<F, T, E>(&self, revoke: F) -> Result<(), Error>
    where
        F: FnOnce(Secret) -> T,
        T: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        self.driver.sign_out(revoke).await
    }

    /// Ends fetching: waits for the fetch in flight and for its `on_rotation`, and starts none after it.
    ///
    /// The token there is goes on being served until it expires; after that callers get an error that
    /// [says so](Error::is_closed). Called by this cache's own source or `on_rotation`, it does not wait.
    ///
    /// # Errors
    /// None: how the fetch ended is told to those who waited for it, and by [`status`](TokenCache::status).
    ///
    /// # Cancel safety
    /// The cache is shut down when the future is first polled; dropping it after that only ends the waiting.
    pub async fn shutdown(&self) {
        self.driver.shut_down().await;
    }

    // --- for a keyed cache ---

    /// Makes this cache one of many: its token calls share these permits, and its metrics those of the others.
    #[cfg(feature = "keyed")]
    pub(crate) fn join_group(&self, name: Option<Arc<str>>, token_calls: Arc<Semaphore>) {
        self.driver.join_group(name, token_calls);
    }

    /// Notes that this cache was handed out.
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

    /// Whether the newest refresh token would be lost with this cache.
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

    /// A token for a request that began in this session.
    pub(crate) async fn get_in(&self, session: SessionId) -> Result<Token, Error> {
        self.driver.acquire(Demand::Usable, Some(session)).await
    }

    /// The token that a request of this session can be sent with now.
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

    /// Notes the rejection of a token and starts its replacement, without waiting for it.
    ///
    /// # Errors
    /// Returns an error if the replacement cannot be started.
    pub(crate) fn replace_in_background(&self, token: TokenId, rejected: Rejected<'_>) -> Result<(), Error> {
        self.driver.replace_in_background(token, rejected)
    }

    /// Notes the rejection of a token.
    pub(crate) fn reject(&self, token: TokenId, rejected: Rejected<'_>) -> Rejection {
        self.driver.reject(token, rejected)
    }

    /// Notes whether the second send of a request, which carried this token, was accepted.
    pub(crate) fn retried(&self, token: TokenId, sign: Option<Sign>) {
        self.driver.retried(token, sign);
    }

    /// Waits for the token that takes the place of a rejected one: that a rejected request is sent again with.
    ///
    /// A token that was published only just now may not have reached every server of the API: then the caller waits a
    /// moment, and gets what there is.
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

    /// Room for an unread response of this size; `None` if the response is not to be kept.
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

    /// Names the cache in events, spans and metrics, for programs that hold several. Default: no name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into().into());
        self
    }

    /// Sets when to refresh, and how long a fetch may take. Default: [`RefreshPolicy::new`].
    pub fn refresh_policy(mut self, policy: RefreshPolicy) -> Self {
        self.settings.policy = CachePolicy::new(policy);
        self
    }

    /// Hands every new refresh token to `save` before the token that came with it is used.
    ///
    /// The cache calls it, and waits for it for at most 5 s, whenever the refresh token is another than the one saved
    /// last. If it fails, an ERROR event and [`Status::not_saved`](crate::Status::not_saved) say so, the refresh token stays
    /// in memory, requests go on, and the next fetch calls it again. Calls never overlap, and an older refresh token is never
    /// saved after a newer one. Setting another replaces the first.
    ///
    /// A `save` that sends through the layer of this cache marks its requests with [`NoToken`](crate::NoToken): while there is
    /// no usable token, it would wait for itself, and gets an error instead.
    pub fn on_rotation<F, T, E>(mut self, save: F) -> Self
    where
        F: Fn(RotatedToken) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let save = Arc::new(save);
        let save: Arc<dyn Save> = Arc::new(move |rotated| -> Saving {
            let save = Arc::clone(&save);
            // The call itself belongs into the future, where its panic is caught.
            Box::pin(async move { save(rotated).await.map_err(Into::into) })
        });
        self.settings.on_rotation = Some(save);
        self
    }

    /// Shares the session with other processes, through a store: a file, Redis, or one of your own.
    ///
    /// Before each fetch the cache looks at the record in the store. A newer token is used without a token call. Otherwise
    /// one process takes the lease, refreshes, and saves the result before it is used; the others wait for it and use it,
    /// too. Signing out in one process signs out all of them. The key names everything that tells one session from another:
    /// user, tenant, issuer, scope.
    ///
    /// Requests with a token never wait for the store. If the store fails, the token that there is goes on being sent.
    /// [`shared_session`](Self::shared_session) takes the settings of the sharing, too.
    #[cfg(feature = "store")]
    pub fn store(self, store: impl crate::store::TokenStore, key: impl AsRef<str>) -> Self {
        self.shared_session(crate::store::SharedSession::new(store, key))
    }

    /// Shares the session with other processes, as [`store`](Self::store) does, with settings of its own.
    #[cfg(feature = "store")]
    pub fn shared_session(mut self, session: crate::store::SharedSession) -> Self {
        self.settings.shared = Some(session);
        self
    }

    /// Makes the token's life follow a clock that is moved by hand.
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: crate::clock::ManualClock) -> Self {
        self.settings.clock = Clock::Manual(clock);
        self
    }

    /// Makes the cache.
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
