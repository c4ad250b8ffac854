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

/// Something that fetches a token: a grant of an OAuth 2 server, a login, a file, or any async closure.
///
/// The cache calls [`fetch`](TokenSource::fetch) for one token at a time, on a task of its own, bounded by its
/// deadline; it remembers failures and pauses between them. A source needs no lock, no timer and no retry loop.
///
/// A closure is the shortest source; its error may be anything that turns into a boxed error:
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
/// A closure that owns something its futures use has to be an ordinary closure that hands each future its own:
/// `move |_| { let client = client.clone(); async move { .. } }`.
///
/// A source that asks its own cache, by [`get`](crate::TokenCache::get) or by a request through the layer, gets the token
/// that can still be sent, or an error at once, because it would wait for itself. Its own calls carry the extension
/// [`NoToken`](crate::NoToken).
///
/// A source of your own returns [`Error::denied`] where the credentials were denied for good, and
/// [`Error::transient`] for everything else.
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a token.
    ///
    /// # Errors
    /// Whatever kept it from getting one.
    ///
    /// # Cancel safety
    /// The future is dropped when the fetch deadline passes or when its runtime is shut down, and at no other time.
    fn fetch(&self, context: FetchContext) -> impl Future<Output = Result<Token, Error>> + Send;

    /// The refresh token that the session begins with, where it begins with one: what
    /// [`sign_out`](crate::TokenCache::sign_out) revokes when nothing was fetched yet. None, unless a source says so.
    ///
    /// # Errors
    /// It could not be had.
    ///
    /// # Cancel safety
    /// The future is dropped with that of `sign_out`.
    fn refresh_token(&self) -> impl Future<Output = Result<Option<Secret>, Error>> + Send {
        std::future::ready(Ok(None))
    }

    /// What shapes the tokens, in parts: the grant, the issuer, the client, the user, the scope. Nothing that changes while
    /// the session lasts, such as a password or a client secret.
    ///
    /// Two sources with the same identity can take turns in one session. A record in a store holds a digest of it, so that
    /// users or tenants that share a key by mistake get an error and not each other's tokens. None, unless a source says so.
    fn identity(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a fetch is for: the token it replaces, why it is fetched, how long that may take, and the time.
///
/// The cache makes one for each fetch. A test of a source of your own makes one with [`new`](FetchContext::new), keeps a
/// clone, and reads from that which refresh token the source reported:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use tower_bearer::{FetchContext, Reason, Token, TokenSource};
///
/// let source = async |context: FetchContext| {
///     // The issuer's answer holds a new refresh token: the one before it may be spent, whatever happens now.
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

/// The newest refresh token of one fetch, and whom a new one is reported to.
struct Rotation {
    newest: Mutex<Option<Secret>>,
    report: Option<Box<dyn Fn(Secret) + Send + Sync>>,
}

/// Why a token is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// There was none.
    First,
    /// The one there is nears its end; it is still being sent.
    Due,
    /// The one there was has ended; requests are waiting.
    Expired,
    /// An API rejected the one there is: the same one again would not help.
    Rejected,
    /// [`TokenCache::refresh`](crate::TokenCache::refresh) was called.
    Asked,
}

// === impl FetchContext ===

impl FetchContext {
    /// The context of a fetch outside a cache, for tests of a source: without a token to be replaced, with a deadline of
    /// 30 s, and with the time of the operating system.
    pub fn new(reason: Reason) -> Self {
        let rotation = Arc::new(Rotation { newest: Mutex::default(), report: None });
        let (deadline, clock) = (Duration::from_secs(30), Clock::System);
        Self { replaced: None, reason, challenges: Arc::default(), failed_fetches: 0, deadline, clock, rotation }
    }

    /// The context of a cache's fetch. `refresh_token` is the newest; `report` is called with each that follows it.
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

    /// What a source that is one of several is told: of the same fetch, but of that source's own part in the session.
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

    /// Takes the time from a clock that is moved by hand.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_clock(self, clock: crate::clock::ManualClock) -> Self {
        Self { clock: Clock::Manual(clock), ..self }
    }

    /// The token to be replaced: the newest that this cache's source returned.
    pub fn replaced(&self) -> Option<&Token> {
        self.replaced.as_ref()
    }

    /// The newest refresh token: that of the token to be replaced, or the one reported since.
    pub fn refresh_token(&self) -> Option<Secret> {
        self.rotation.lock().clone()
    }

    /// Reports a new refresh token, the moment it is there.
    ///
    /// The cache writes it down at once, hands it to [`on_rotation`](crate::TokenCacheBuilder::on_rotation), and gives it to the
    /// next fetch, also if this fetch fails, panics or is dropped after this call. The sources of this crate call it. A
    /// source of your own that returns a token with its refresh token need not; one that may still fail after it has read
    /// the refresh token must, because the refresh token before it may be spent.
    pub fn rotated(&self, refresh_token: impl Into<Secret>) {
        let refresh_token = refresh_token.into();
        *self.rotation.lock() = Some(refresh_token.clone());
        if let Some(report) = &self.rotation.report {
            report(refresh_token);
        }
    }

    /// Why it is fetched.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The challenges of the response that rejected the token, in order; empty if none caused this fetch.
    ///
    /// What an API wants of the next token: `claims` (a claims challenge), `acr_values` and `max_age` (RFC 9470), `scope` and
    /// `service` (image registries). Most of these come with an error of the Bearer scheme that is handed to the caller
    /// by default; [`RejectionPolicy::when`](crate::RejectionPolicy::when) makes a rejection of it.
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

    /// How many fetches have failed in a row, since the last that brought a token.
    ///
    /// A source with a refresh token and a login tries the login if the refresh has failed for long.
    pub fn failed_fetches(&self) -> u32 {
        self.failed_fetches
    }

    /// The time of day by the cache's clock: what an expiry date in an answer is compared with.
    pub fn now(&self) -> SystemTime {
        self.clock.now().system_time()
    }

    /// The clock that [`now`](FetchContext::now) reads.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How long a source of ours waits for an answer: less than the deadline, so that its error, which says who was
    /// silent, comes before the cache's, which cannot.
    pub(crate) fn response_timeout(&self) -> Duration {
        self.deadline.mul_f64(0.9)
    }

    /// How long this fetch may take, counted from its beginning; after that it is dropped.
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

/// A text that a source cannot do without. What comes from a file or a variable likes to end in a line break.
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

/// The source of a token that was handed over once and for all, asked for another.
pub(crate) struct Fixed;

impl TokenSource for Fixed {
    async fn fetch(&self, _: FetchContext) -> Result<Token, Error> {
        Err(Error::denied("a fixed token cannot be replaced; give the cache a token source"))
    }
}

/// A source behind a pointer: the trait's async function cannot be called through `dyn`, this one can.
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
