//! The handle on one token, kept fresh. What it does is in `cache/shared.rs`, how a token is fetched in `cache/fetch.rs`, what
//! requests see of it in `cache/reader.rs`.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tower::BoxError;

use crate::cache::shared::{Saving, Shared, Want};
use crate::clock::{self, Clock};
use crate::error::Error;
use crate::flight::Current;
use crate::schedule::{Moment, Phase, Refresh, Window};
use crate::secret::Secret;
use crate::source::{Fixed, TokenSource};
use crate::telemetry::Telemetry;
use crate::token::{MAX_LIFETIME, Token};

mod fetch;
mod reader;
mod shared;

pub(crate) use crate::cache::reader::{Found, Reader, Usable};

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
    shared: Arc<Shared>,
}

/// What a [`TokenCache`] holds and does, for health checks. Holds no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// How far the token's life has gone; `None` without a token.
    pub phase: Option<Phase>,
    /// The token's generation; 0 before the first.
    pub generation: u64,
    /// How long the token can still be sent; `None` without a token.
    pub usable_for: Option<Duration>,
    /// Whether an API refused this token; it is still sent until it is replaced.
    pub suspect: bool,
    /// Whether a fetch is under way.
    pub fetching: bool,
    /// The failure of the last fetch, where it failed.
    pub last_failure: Option<Error>,
    /// How long no fetch is made because the last failed; `None` where it did not, or the pause is over.
    pub next_attempt_in: Option<Duration>,
    /// Why the newest refresh token is not saved, where [`on_rotation`](TokenCache::on_rotation) failed.
    pub not_saved: Option<Error>,
    /// Whether the cache was shut down.
    pub closed: bool,
    /// Whether the session was [signed out](TokenCache::sign_out).
    pub signed_out: bool,
}

// === impl TokenCache ===

impl TokenCache {
    /// A cache over a token source, with the default settings.
    pub fn new(source: impl TokenSource) -> Self {
        Self::with_settings(source, Refresh::new())
    }

    /// A cache with settings of its own.
    pub fn with_settings(source: impl TokenSource, settings: Refresh) -> Self {
        Self { shared: Shared::new(source, settings, Clock::System) }
    }

    /// A cache whose token's life follows a clock moved by hand.
    #[cfg(feature = "testing")]
    pub fn with_clock(source: impl TokenSource, settings: Refresh, clock: crate::clock::ManualClock) -> Self {
        Self { shared: Shared::new(source, settings, Clock::Manual(clock)) }
    }

    /// A cache that holds this token and never fetches another: for tests, and for tokens made by hand.
    ///
    /// A refused fixed token is not replaced; the 401 goes to the caller.
    ///
    /// # Errors
    /// As [`Token::new`]: give it without `Bearer ` and without a line break.
    pub fn fixed(access_token: impl AsRef<str>) -> Result<Self, Error> {
        let token = Token::parse(access_token.as_ref()).map_err(|problem| Error::invalid("access_token", problem))?;
        let token = token.with_lifetime(MAX_LIFETIME);
        let cache = Self::new(Fixed);
        let shared = &cache.shared;
        let window = Window::new(&shared.settings, token.lifetime(), shared.clock.now(), Duration::ZERO, 0.0);
        // Older than any wait for replication: nobody knows when it was issued.
        shared.store(&mut shared.book(), token, window, Moment::default());
        Ok(cache)
    }

    /// Names the cache in events, spans and metrics, where they speak of several. The first name stays.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        self.shared.telemetry.named(name);
        self
    }

    /// Hands every new refresh token to `save` before the token that came with it is used.
    ///
    /// Called, and awaited for at most 5 s, whenever the refresh token is another than the one saved last. When it
    /// fails, an ERROR event and [`Status::not_saved`] say so, the refresh token stays in memory, requests go on, and
    /// the next fetch calls it again. Setting another replaces the first.
    ///
    /// An answer may hold a new refresh token and nothing else of use. Then the token is the one before, with the new
    /// refresh token; before the first, its [`access_token`](Token::access_token) is empty.
    ///
    /// ```
    /// # use tower_bearer::{Token, TokenCache};
    /// # async fn write(_: String) -> std::io::Result<()> { Ok(()) }
    /// let cache = TokenCache::new(async |_| Token::new("t")).on_rotation(async |token: Token| {
    ///     let refresh_token = token.refresh_token().expect("called when there is one");
    ///     write(refresh_token.expose().to_owned()).await
    /// });
    /// ```
    #[must_use]
    pub fn on_rotation<F, T, E>(self, save: F) -> Self
    where
        F: Fn(Token) -> T + Send + Sync + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let save = Arc::new(save);
        let former = self.shared.book().on_rotation.replace(Arc::new(move |token| -> Saving {
            let save = Arc::clone(&save);
            // The call itself belongs into the future, where its panic is caught.
            Box::pin(async move { save(token).await.map_err(Into::into) })
        }));
        // The code of a user, outside the lock.
        drop(former);
        self
    }

    /// A token that can be sent now.
    ///
    /// With a usable token this returns at once; where it nears its end, a fetch is started beside. Without one it
    /// waits for the fetch under way, or starts one.
    ///
    /// # Errors
    /// The fetch failed; or an earlier one did, its pause is not over and no usable token is left: the remembered error,
    /// at once. No token within the deadline. No tokio runtime to fetch on. The cache was shut down.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the fetch running; the next caller joins it.
    pub async fn get(&self) -> Result<Token, Error> {
        self.shared.obtain(Want::Usable).await
    }

    /// Fetches a new token, whatever there is: joins the fetch under way or starts one, though the pause after a failure
    /// is not over. Where this one fails too, the next pause is as long as if it had been waited for.
    ///
    /// # Errors
    /// As [`get`](TokenCache::get), without the remembered error.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the fetch running.
    pub async fn refresh(&self) -> Result<Token, Error> {
        self.shared.obtain(Want::Fetched).await
    }

    /// Says that an API refused this token, and returns the one that replaces it.
    ///
    /// For refusals the layer does not see: a GraphQL error, a WebSocket that was closed. Does nothing to a token that
    /// was replaced already: the newer one comes back at once. Until there is a new one, the refused token is still
    /// sent by others.
    ///
    /// # Errors
    /// As [`get`](TokenCache::get).
    ///
    /// # Cancel safety
    /// The refusal is noted and the fetch started when the future is first polled; dropping it after that leaves the
    /// fetch running.
    pub async fn refuse(&self, token: &Token) -> Result<Token, Error> {
        self.replace(token.generation()).await
    }

    /// The token there is, without fetching; `None` where there is none or it has expired.
    pub fn peek(&self) -> Option<Token> {
        let snapshot = self.shared.snapshot.load();
        snapshot.held_at(self.shared.clock.now()).map(|(held, _)| held.token.clone())
    }

    /// What this cache holds and does, for health checks.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let now = shared.clock.now();
        let snapshot = shared.snapshot.load();
        let held = snapshot.held.as_ref();
        let generation = held.map_or(0, |held| held.token.generation());
        let pause = snapshot.failure.as_ref().map(|failure| failure.retry.wait(now));
        Status {
            phase: held.map(|held| held.window.phase(now)),
            generation,
            usable_for: held.map(|held| held.window.left(now)),
            suspect: held.is_some() && shared.refused.load(Ordering::Relaxed) == generation,
            fetching: shared.flight.is_busy(now.mono),
            last_failure: snapshot.failure.as_ref().map(|failure| failure.error.clone()),
            next_attempt_in: pause.filter(|pause| !pause.is_zero()),
            not_saved: shared.book().not_saved.clone(),
            closed: shared.closed.load(Ordering::Relaxed),
            signed_out: shared.signed_out.load(Ordering::Relaxed),
        }
    }

    /// A future that keeps the token fresh without requests: spawn it, and the token is ready before the first call
    /// and is refreshed when due.
    ///
    /// It ends when the last clone of the cache is dropped or the cache is shut down, and keeps neither alive. Without
    /// it nothing is fetched while nobody asks. On another executor than tokio's it waits, and fetches nothing.
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
    /// Dropping it ends the refreshing; a fetch under way goes on.
    pub fn keep_warm(&self) -> impl Future<Output = ()> + Send + 'static {
        let cache = Arc::downgrade(&self.shared);
        let changed = Arc::clone(&self.shared.changed);
        async move {
            loop {
                let mut change = pin!(changed.notified());
                // Listens from here on, so that no change is missed while we look.
                change.as_mut().enable();
                let Some(nap) = cache.upgrade().and_then(|shared| shared.warm()) else { return };
                clock::at_most(nap, change).await;
            }
        }
    }

    /// Replaces the source, for new credentials: the token, the remembered failure and the refresh token of the old
    /// one are dropped, and the result of a fetch under way is not used.
    pub fn set_source(&self, source: impl TokenSource) {
        let shared = &self.shared;
        let source = Arc::new(source);
        let former = shared.flight.cast_off(|| {
            let mut book = shared.book();
            shared.signed_out.store(false, Ordering::SeqCst);
            shared.snapshot.store(Arc::default());
            book.epoch += 1;
            book.ended = false;
            book.forget(source)
        });
        // The code of a user, outside the locks.
        drop(former);
        shared.changed.notify_waiters();
    }

    /// Ends the session: waits for the fetch under way, hands the newest refresh token to `revoke`, and forgets token,
    /// refresh token and source, whatever came of that.
    ///
    /// From its first poll on, whoever needs a token gets an error that [says so](Error::is_signed_out), until
    /// [`set_source`](TokenCache::set_source) begins another session; also who waits for the fetch under way. No fetch
    /// revives the old session, however late it ends, and no request that was refused with its token goes again with
    /// that of another. Without a refresh token there is nothing to revoke, and `revoke` is not called.
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
    /// The session has ended here, and its refresh token may still work: `revoke` failed (its error is the
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
        let shared = &self.shared;
        let mut session = 0;
        let running = shared.flight.current_after(|| {
            // Locked to the end: a run that looked before this publishes nothing after it.
            let book = shared.book();
            session = book.epoch;
            shared.bygone.store(book.generation, Ordering::SeqCst);
            shared.signed_out.store(true, Ordering::SeqCst);
            shared.snapshot.store(Arc::default());
        });
        if let Some(running) = &running {
            running.turn_away(Err(Error::signed_out()));
        }
        self.landed(running).await;
        let (source, newest) = {
            let mut book = shared.book();
            if book.epoch != session {
                return Err(Error::login(
                    "another session began before this one was signed out; its refresh token was not revoked",
                ));
            }
            book.ended = true;
            (Arc::clone(&book.source), book.newest.clone())
        };
        let refresh_token = match newest.and_then(|token| token.refresh_token()) {
            Some(newest) => Ok(Some(newest)),
            None => source.refresh_token().await,
        };
        let revoked = match refresh_token {
            Ok(Some(refresh_token)) => revoke(refresh_token).await.map_err(Error::not_revoked),
            Ok(None) => Ok(()),
            Err(error) => Err(Error::not_revoked(error)),
        };
        let former = {
            let mut book = shared.book();
            // Not where a new session has begun meanwhile.
            (book.epoch == session).then(|| book.forget(Arc::new(Fixed)))
        };
        drop(former);
        shared.telemetry.signed_out(revoked.as_ref().err());
        revoked
    }

    /// Ends fetching: waits for the fetch under way and for its `on_rotation`, and starts none after it.
    ///
    /// The token there is goes on being served until it expires; after that callers get an error that
    /// [says so](Error::is_closed).
    ///
    /// # Errors
    /// None: how the fetch ended is told to those who waited for it, and by [`status`](TokenCache::status).
    ///
    /// # Cancel safety
    /// The cache is shut down when the future is first polled; dropping it after that only ends the waiting.
    pub async fn shutdown(&self) {
        let running = self.shared.flight.current_after(|| self.shared.closed.store(true, Ordering::SeqCst));
        self.shared.changed.notify_waiters();
        self.landed(running).await;
    }

    /// Waits for a run, unless it stands still.
    async fn landed(&self, running: Option<Current<Result<Token, Error>>>) {
        if let Some(running) = running {
            let overdue = running.overdue().saturating_sub(self.shared.clock.now().mono);
            clock::at_most(overdue, running.ended()).await;
        }
    }

    /// What a request does that was refused with this token: it waits for the next one. A token that was published only
    /// just now may not have reached every server of the API: then it waits a moment, and goes again with what there is.
    pub(crate) async fn replace_or_settle(&self, generation: u64) -> Result<(), Error> {
        match self.shared.replication_lag(generation).filter(|_| clock::has_runtime()) {
            Some(lag) => {
                tokio::time::sleep(lag).await;
                // It may have ended meanwhile, and its session with it.
                self.check_session(generation)?;
                drop(self.get().await?);
            }
            None => drop(self.replace(generation).await?),
        }
        Ok(())
    }

    /// What was refused with a token whose session was signed out does not go again with that of another: an error.
    pub(crate) fn check_session(&self, generation: u64) -> Result<(), Error> {
        if self.shared.is_bygone(generation) { Err(Error::signed_out()) } else { Ok(()) }
    }

    /// What it lets others see.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// Notes the refusal of a token and waits for the one after it.
    async fn replace(&self, generation: u64) -> Result<Token, Error> {
        let want = self.shared.note_refusal(generation).ok_or_else(Error::signed_out)?;
        self.shared.obtain(want).await
    }

    /// Starts a fetch, without waiting for it.
    pub(crate) fn refresh_beside(&self) {
        self.shared.board_beside(Want::Usable);
    }

    /// Notes the refusal of a token and starts its replacement, without waiting.
    pub(crate) fn replace_beside(&self, generation: u64) {
        if let Some(want) = self.shared.note_refusal(generation) {
            self.shared.board_beside(want);
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.shared.telemetry.name();
        f.debug_struct("TokenCache").field("name", &name).field("status", &self.status()).finish_non_exhaustive()
    }
}
