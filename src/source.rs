//! Where tokens come from.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tower::BoxError;

use crate::challenge::Challenge;
use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::token::Token;

pub(crate) mod answer;
pub mod chain;
pub(crate) mod endpoint;
#[cfg(feature = "exec")]
pub mod exec;
pub mod file;
pub(crate) mod issuer;
pub mod json;
pub mod oauth2;
pub(crate) mod redact;
pub(crate) mod resource;
pub(crate) mod secret;
pub(crate) mod transport;

/// Fetches tokens: an OAuth 2 grant, a JSON login, a file, or any async closure.
///
/// The cache calls [`fetch`](TokenSource::fetch) for one token at a time, on a task of its own, and enforces a
/// deadline. After a failure it pauses before the next call. A source needs no lock, no timer and no retry loop.
///
/// A closure is the shortest source. Its error may be anything that converts into a boxed error:
///
/// ```
/// use std::time::Duration;
/// use tower_bearer::{FetchContext, Token, TokenCache};
///
/// # fn read_from_vault() -> std::io::Result<String> { Ok("t".into()) }
/// let cache = TokenCache::new(async |_: FetchContext| {
///     let text = read_from_vault()?;
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Token::new(text)?.with_lifetime(Duration::from_secs(600)))
/// });
/// ```
///
/// If the futures of a closure use something that it owns, write an ordinary closure that clones it for each future:
/// `move |_| { let client = client.clone(); async move { .. } }`.
///
/// A source must not wait for its own cache. If it calls [`get`](crate::TokenCache::get) or sends a request through the
/// layer, it gets the current token if that is still usable, and otherwise an error at once. Its requests can pass the
/// layer without a token, with the extension [`NoToken`](crate::NoToken).
///
/// A source of your own returns [`Error::denied`] if the issuer denied the credentials for good, and
/// [`Error::transient`] for every other failure.
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a token.
    ///
    /// # Errors
    /// Returns an error if the source fails to get a token.
    ///
    /// # Cancel safety
    /// The cache drops the future only when the fetch deadline passes or when the runtime shuts down.
    fn fetch(&self, context: FetchContext) -> impl Future<Output = Result<Token, Error>> + Send;

    /// Returns the refresh token that the session starts with, if it starts with one.
    ///
    /// [`sign_out`](crate::TokenCache::sign_out) revokes it if nothing has been fetched yet. The default is none.
    ///
    /// # Errors
    /// Returns an error if the source fails to read the refresh token.
    ///
    /// # Cancel safety
    /// The future is dropped with that of `sign_out`.
    fn refresh_token(&self) -> impl Future<Output = Result<Option<Secret>, Error>> + Send {
        std::future::ready(Ok(None))
    }

    /// Returns what determines the tokens: the grant, the issuer, the client, the user, the scope.
    ///
    /// Each is one element. It leaves out what may change during a session, such as a password or a client secret.
    ///
    /// Sources with the same identity can share a session. A record in a store holds a digest of the identity. So users
    /// or tenants that share a key by mistake get an error, and not each other's tokens. The default is empty.
    fn identity(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The context of a fetch: the token to be replaced, the reason, the deadline.
///
/// The cache makes one for each fetch. A test of your own source makes one with [`new`](FetchContext::new), keeps a
/// clone, and reads from the clone which refresh token the source reported:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tower_bearer::{FetchContext, Reason, Token, TokenSource};
///
/// let source = async |context: FetchContext| {
///     // The issuer's answer holds a new refresh token. The old one may be consumed, even if this fetch fails.
///     context.rotated("refresh-2");
///     Token::new("not a token")
/// };
/// let token = Token::new("token-1").unwrap().with_refresh_token("refresh-1");
/// let context = FetchContext::new(Reason::Due).with_replaced(token);
/// assert!(source.fetch(context.clone()).await.is_err());
/// assert_eq!(context.refresh_token().unwrap().expose(), "refresh-2");
/// # }
/// ```
#[derive(Clone)]
pub struct FetchContext {
    replaced: Option<Token>,
    reason: Reason,
    challenges: Arc<[Challenge]>,
    failed_fetches: u32,
    deadline: Duration,
    clock: Clock,
    rotation: Arc<Rotation>,
}

/// The newest refresh token of one fetch, and the callback for a new one.
struct Rotation {
    newest: Mutex<Option<Secret>>,
    report: Option<Box<dyn Fn(Secret) + Send + Sync>>,
}

/// Why a token is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The cache has no token.
    First,
    /// The current token nears its end. Requests still send it.
    Due,
    /// The last token has expired. Requests wait.
    Expired,
    /// An API rejected the current token, so that the same token again would not help.
    Rejected,
    /// [`TokenCache::refresh`](crate::TokenCache::refresh) was called.
    Asked,
}

// === impl FetchContext ===

impl FetchContext {
    /// Returns the context of a fetch outside a cache, for tests of a source.
    ///
    /// It has no token to be replaced, a deadline of 30 s, and the time of the operating system.
    pub fn new(reason: Reason) -> Self {
        let rotation = Arc::new(Rotation { newest: Mutex::default(), report: None });
        let (deadline, clock) = (Duration::from_secs(30), Clock::System);
        Self { replaced: None, reason, challenges: Arc::default(), failed_fetches: 0, deadline, clock, rotation }
    }

    /// Returns the context of a cache's fetch. The source reports each refresh token after `refresh_token` to `report`.
    pub(crate) fn of_cache(
        replaced: Option<Token>,
        refresh_token: Option<Secret>,
        reason: Reason,
        deadline: Duration,
        clock: Clock,
        report: impl Fn(Secret) + Send + Sync + 'static,
    ) -> Self {
        let rotation = Arc::new(Rotation { newest: Mutex::new(refresh_token), report: Some(Box::new(report)) });
        Self { replaced, reason, challenges: Arc::default(), failed_fetches: 0, deadline, clock, rotation }
    }

    /// The context of the same fetch for one source of a chain, with what that source returned in the session.
    pub(crate) fn for_source(
        &self,
        replaced: Option<Token>,
        refresh_token: Option<Secret>,
        report: impl Fn(Secret) + Send + Sync + 'static,
    ) -> Self {
        let rotation = Arc::new(Rotation { newest: Mutex::new(refresh_token), report: Some(Box::new(report)) });
        Self { replaced, rotation, ..self.clone() }
    }

    /// Sets the token to be replaced, and with it the newest refresh token.
    #[must_use]
    pub fn with_replaced(self, token: Token) -> Self {
        let rotation = Rotation { newest: Mutex::new(token.refresh_token()), report: None };
        Self { replaced: Some(token), rotation: Arc::new(rotation), ..self }
    }

    /// Sets the challenges of the response that rejected the token.
    #[must_use]
    pub fn with_challenges(self, challenges: Vec<Challenge>) -> Self {
        Self { challenges: challenges.into(), ..self }
    }

    /// Sets how many fetches have failed in a row.
    #[must_use]
    pub fn with_failed_fetches(self, failed_fetches: u32) -> Self {
        Self { failed_fetches, ..self }
    }

    /// Sets how long the fetch may take.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Takes the time from a clock that the test advances.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_clock(self, clock: crate::clock::ManualClock) -> Self {
        Self { clock: Clock::Manual(clock), ..self }
    }

    /// Returns the token to be replaced: the newest that this cache's source returned.
    pub fn replaced(&self) -> Option<&Token> {
        self.replaced.as_ref()
    }

    /// Returns the newest refresh token.
    ///
    /// It is that of the token to be replaced, or the one that the source has reported since.
    pub fn refresh_token(&self) -> Option<Secret> {
        self.rotation.lock().clone()
    }

    /// Reports a new refresh token, as soon as the source has it.
    ///
    /// The cache stores it at once, passes it to [`on_rotation`](crate::TokenCacheBuilder::on_rotation), and gives it
    /// to the next fetch, even if this fetch then fails, panics or is dropped. The sources of this crate call it. A
    /// source of your own must call it if it can fail after it has read the refresh token, because the old one may be
    /// consumed. Otherwise it is enough to return the token with its refresh token.
    pub fn rotated(&self, refresh_token: impl Into<Secret>) {
        let refresh_token = refresh_token.into();
        *self.rotation.lock() = Some(refresh_token.clone());
        if let Some(report) = &self.rotation.report {
            report(refresh_token);
        }
    }

    /// Returns why the token is fetched.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns the challenges of the response that rejected the token, in order.
    ///
    /// It is empty if no response caused this fetch. A challenge says what an API requires of the next token: `claims`
    /// (a claims challenge), `acr_values` and `max_age` (RFC 9470), `scope` and `service` (image registries). Most of
    /// these come with a Bearer error that is not a rejection by default;
    /// [`RejectionPolicy::when`](crate::RejectionPolicy::when) can make it one.
    ///
    /// ```
    /// use tower_bearer::{FetchContext, RejectionPolicy, Challenge, Token, TokenCache};
    ///
    /// # fn sign_in_with(_: Option<&str>) -> String { "t".to_owned() }
    /// let cache = TokenCache::new(async |context: FetchContext| {
    ///     let claims = context.challenges().iter().find_map(|challenge| challenge.param("claims"));
    ///     Token::new(sign_in_with(claims))
    /// });
    /// let rejection = RejectionPolicy::new().when(|response| {
    ///     let asks_for_more = |challenge: &Challenge| challenge.param("error") == Some("insufficient_claims");
    ///     Challenge::all(&response.headers).iter().any(asks_for_more)
    /// });
    /// # let _ = (cache, rejection);
    /// ```
    pub fn challenges(&self) -> &[Challenge] {
        &self.challenges
    }

    /// Returns how many fetches have failed in a row since the last success.
    ///
    /// A source with a refresh token and a login can log in if refreshes keep failing.
    pub fn failed_fetches(&self) -> u32 {
        self.failed_fetches
    }

    /// Returns the wall clock time of the cache.
    ///
    /// A source compares expiry dates in answers with it.
    pub fn now(&self) -> SystemTime {
        self.clock.now().system_time()
    }

    /// Returns the clock that [`now`](FetchContext::now) reads.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns how long a source of this crate waits for an answer.
    ///
    /// It is less than the deadline, so that the source's error, which names the silent server, comes before the
    /// cache's.
    pub(crate) fn response_timeout(&self) -> Duration {
        self.deadline.mul_f64(0.9)
    }

    /// Returns how long this fetch may take. After that the cache drops it.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Rotation {
    fn lock(&self) -> MutexGuard<'_, Option<Secret>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FetchContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchContext")
            .field("replaced", &self.replaced)
            .field("reason", &self.reason)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Due => "due",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Asked => "asked",
        })
    }
}

impl<F, T, E> TokenSource for F
where
    F: Fn(FetchContext) -> T + Send + Sync + 'static,
    T: Future<Output = Result<Token, E>> + Send,
    E: Into<BoxError>,
{
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self(context).await.map_err(Error::from_source)
    }
}

/// Checks a text that a source requires. A text from a file or a variable often ends in a line break.
pub(crate) fn require_non_empty(field: &'static str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(field, "it is empty"));
    }
    if text.starts_with('\u{feff}') {
        return Err(Error::invalid(field, "it begins with a byte order mark"));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(field, "it holds a control character, such as a line break at its end"));
    }
    Ok(())
}

/// The source of a cache with a fixed token: it denies every fetch.
pub(crate) struct Fixed;

impl TokenSource for Fixed {
    async fn fetch(&self, _: FetchContext) -> Result<Token, Error> {
        Err(Error::denied("a fixed token cannot be replaced; give the cache a token source"))
    }
}

/// A source behind a pointer, because the async functions of [`TokenSource`] cannot be called through `dyn`.
pub(crate) mod erased {
    use std::pin::Pin;

    use crate::error::Error;
    use crate::secret::Secret;
    use crate::source::{FetchContext, TokenSource};
    use crate::token::Token;

    type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

    pub(crate) trait DynSource: Send + Sync {
        fn fetch(&self, context: FetchContext) -> BoxFuture<'_, Token>;
        fn refresh_token(&self) -> BoxFuture<'_, Option<Secret>>;
        fn identity(&self) -> Vec<String>;
    }

    impl<S: TokenSource> DynSource for S {
        fn fetch(&self, context: FetchContext) -> BoxFuture<'_, Token> {
            Box::pin(TokenSource::fetch(self, context))
        }

        fn refresh_token(&self) -> BoxFuture<'_, Option<Secret>> {
            Box::pin(TokenSource::refresh_token(self))
        }

        fn identity(&self) -> Vec<String> {
            TokenSource::identity(self)
        }
    }
}
