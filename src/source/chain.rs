//! Tries several token sources in order, as the credential provider chains of cloud SDKs do.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::schedule::{self, DualInstant};
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::source::{FetchContext, Reason, TokenSource};
use crate::token::Token;

/// Token sources that are tried in order until one returns a token.
///
/// ```
/// # use tower_bearer::testing::TokenServer;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// # let http = TokenServer::new();
/// use tower_bearer::chain::TokenSourceChain;
/// use tower_bearer::file::TokenFile;
/// use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
/// use tower_bearer::{Error, Token, TokenCache};
///
/// let issuer = Issuer::new(http).token_endpoint("https://auth.example.com/token");
/// let grant = ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build()?;
/// // If the variable is not set, a retry cannot succeed: `denied`.
/// let environment = async |_| Token::new(std::env::var("TOWER_BEARER_DOCS_TOKEN").map_err(Error::denied)?);
/// let chain = TokenSourceChain::first_try("environment", environment)
///     .or_else("file", TokenFile::new("/run/secrets/api-token"))
///     .or_else("login", grant);
/// let cache = TokenCache::new(chain);
/// assert_eq!(cache.get().await?.access_token(), "token-1");
/// # Ok(()) }
/// ```
///
/// # Which source is asked
///
/// A session begins with the first source that returns a token, however the earlier sources failed. Later fetches call
/// this source first:
///
/// | if it | then |
/// |---|---|
/// | fails transiently (an outage, a file that is being rotated) | the fetch fails, and requests still use the current token |
/// | fails transiently after three failed fetches in a row | the other sources are tried in order |
/// | fails otherwise (it is denied, or a setting is invalid) | the other sources are tried in order |
/// | returns the token that an API rejected | the other sources are tried in order |
///
/// A denied source is not called for 30 s, doubling to 15 min, so that calls for the other sources lock no account.
/// [`TokenCache::refresh`](crate::TokenCache::refresh) calls it at once. A source that is not configured returns
/// [`Error::denied`], because calling it again at once cannot help.
///
/// The sources share the fetch deadline evenly. The source of the last token has all of it until three fetches in a row
/// have failed.
///
/// If no source returns a token, the error names each source and its failure ([`Error::failures`]). It is transient if
/// one of the failures is, and denied if all are.
///
/// # Refresh tokens
///
/// The chain gives a refresh token only to the source that returned it. It cannot know that source if the refresh token
/// is from a store or from an earlier source of the session. Then it gives it to the only source that has an
/// [`identity`](TokenSource::identity), or else to the source of the last token. If several processes share a session,
/// only one source of the chain should have refresh tokens.
///
/// [`sign_out`](crate::TokenCache::sign_out) revokes the newest refresh token of the session, whichever source returned
/// it.
pub struct TokenSourceChain {
    sources: Vec<Named>,
    /// The contexts of the sources share it, because sources report refresh tokens.
    memory: Arc<Mutex<Memory>>,
}

struct Named {
    name: Arc<str>,
    source: Box<dyn DynSource>,
}

/// What the chain remembers of the session: which source returned what.
#[derive(Default)]
struct Memory {
    /// The source of the last token.
    current: Option<usize>,
    sources: Vec<Remembered>,
}

/// What the chain remembers of one source.
#[derive(Default)]
struct Remembered {
    token: Option<Token>,
    refresh_token: Option<Secret>,
    denial: Option<Denial>,
}

/// Why a source returned no token.
struct Failure {
    error: Error,
    /// Whether another call would fail in the same way.
    is_final: bool,
}

/// The last denial of a source.
struct Denial {
    error: Error,
    streak: u32,
    until: DualInstant,
}

/// After this many failed fetches in a row, the other sources are tried even if the source of the last token fails
/// transiently.
const MAX_FAILED_FETCHES: u32 = 3;
/// The sources' share of the fetch deadline. The chain's error, which names them, then comes before the cache's.
const SHARE_OF_DEADLINE: f64 = 0.95;

// === impl TokenSourceChain ===

impl TokenSourceChain {
    /// Creates a chain that begins with this source. The name is for errors.
    pub fn first_try(name: impl Into<String>, source: impl TokenSource) -> Self {
        Self { sources: Vec::new(), memory: Arc::default() }.or_else(name, source)
    }

    /// Adds a source that is tried if the earlier sources return no token.
    #[must_use]
    pub fn or_else(mut self, name: impl Into<String>, source: impl TokenSource) -> Self {
        self.sources.push(Named { name: name.into().into(), source: Box::new(source) });
        lock(&self.memory).sources.push(Remembered::default());
        self
    }

    /// Fetches from one source, which may take this long.
    async fn fetch_from(
        &self,
        index: usize,
        context: &FetchContext,
        owner: Option<usize>,
        time: Duration,
    ) -> Result<Token, Failure> {
        let Named { name, source } = &self.sources[index];
        let fetch = source.fetch(self.context(index, context, owner, time));
        let answer = tokio::time::timeout(time, fetch).await.unwrap_or_else(|_| Err(Error::timed_out(time)));
        let failure = match answer {
            Ok(token) if is_rejected(&token, context) => {
                let problem = "the source returned the token again that an API has rejected";
                Failure { error: Error::unusable(None, problem), is_final: true }
            }
            Ok(token) => {
                let mut memory = lock(&self.memory);
                memory.current = Some(index);
                memory.sources[index].returned(&token);
                return Ok(token);
            }
            Err(error) => Failure { is_final: !error.is_transient(), error },
        };
        // The event is not in `telemetry`, because that module imports this module's parent.
        tracing::debug!(
            name: "chained_source_failed",
            target: "tower_bearer",
            source = &**name,
            error = %failure.error,
            "a source of a chain brought no token"
        );
        lock(&self.memory).sources[index].failed(&failure.error, context.clock().now());
        Err(failure)
    }

    /// The context for a source: of the session only what this source returned.
    fn context(&self, index: usize, context: &FetchContext, owner: Option<usize>, time: Duration) -> FetchContext {
        let memory = lock(&self.memory);
        let Remembered { token, refresh_token, .. } = &memory.sources[index];
        let is_owner = owner == Some(index);
        // A store or a former source may have brought the session of a source that has brought nothing yet.
        let is_current = memory.current == Some(index) || is_owner && token.is_none();
        let replaced = if is_current { context.replaced() } else { token.as_ref() };
        let refresh_token = if is_owner { context.refresh_token() } else { refresh_token.clone() };
        let (memory, session) = (Arc::clone(&self.memory), context.clone());
        let report = move |refresh_token: Secret| {
            lock(&memory).sources[index].refresh_token = Some(refresh_token.clone());
            session.rotated(refresh_token);
        };
        context.for_source(replaced.cloned(), refresh_token, report).with_deadline(time)
    }

    /// The source that returned the session's refresh token.
    fn owner(&self, refresh_token: Option<&Secret>) -> Option<usize> {
        let refresh_token = refresh_token?;
        let memory = lock(&self.memory);
        let known = memory.sources.iter().position(|source| source.refresh_token.as_ref() == Some(refresh_token));
        let mut identified = (0..self.sources.len()).filter(|index| !self.sources[*index].source.identity().is_empty());
        let only = identified.next().filter(|_| identified.next().is_none());
        known.or(only).or(memory.current)
    }

    /// The denial because of which a source is not called yet.
    fn denial(&self, index: usize, context: &FetchContext) -> Option<Error> {
        let memory = lock(&self.memory);
        let Denial { error, until, .. } = memory.sources[index].denial.as_ref()?;
        let waits = context.reason() != Reason::Asked && !until.is_past(context.clock().now());
        waits.then(|| error.clone())
    }
}

impl TokenSource for TokenSourceChain {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let session = context.refresh_token();
        if context.replaced().is_none() && session.is_none() {
            lock(&self.memory).begin_session();
        }
        let owner = self.owner(session.as_ref());
        let current = lock(&self.memory).current;
        let others = (0..self.sources.len()).filter(|index| Some(*index) != current);
        let order: Vec<_> = current.into_iter().chain(others).collect();
        let deadline = context.deadline().mul_f64(SHARE_OF_DEADLINE);
        let began = context.clock().now().mono;
        let mut failures = Vec::new();
        for (tried, index) in order.iter().copied().enumerate() {
            if let Some(denial) = self.denial(index, &context) {
                failures.push((Arc::clone(&self.sources[index].name), denial));
                continue;
            }
            let is_preferred = Some(index) == current && context.failed_fetches() < MAX_FAILED_FETCHES;
            let remaining = deadline.saturating_sub(context.clock().now().mono.saturating_sub(began));
            let time = if is_preferred { remaining } else { remaining.div_f64((order.len() - tried) as f64) };
            match self.fetch_from(index, &context, owner, time).await {
                Ok(token) => return Ok(token),
                Err(failure) if is_preferred && !failure.is_final => return Err(failure.error),
                Err(failure) => failures.push((Arc::clone(&self.sources[index].name), failure.error)),
            }
        }
        Err(Error::chain(failures))
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        let mut failure = None;
        for Named { source, .. } in &self.sources {
            match source.refresh_token().await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// The identities of the sources in order. If no source has an identity, the chain has none.
    fn identity(&self) -> Vec<String> {
        let identities: Vec<_> = self.sources.iter().map(|named| named.source.identity()).collect();
        if identities.iter().all(Vec::is_empty) {
            return Vec::new();
        }
        let marked = identities.into_iter().enumerate();
        marked.flat_map(|(index, parts)| [vec![format!("source {index} of a chain")], parts].concat()).collect()
    }
}

impl fmt::Debug for TokenSourceChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|named| &named.name)).finish()
    }
}

// === impl Memory ===

impl Memory {
    /// Forgets the tokens of an earlier session. Denials stay, because any session can lock an account.
    fn begin_session(&mut self) {
        self.current = None;
        for source in &mut self.sources {
            (source.token, source.refresh_token) = (None, None);
        }
    }
}

// === impl Remembered ===

impl Remembered {
    fn returned(&mut self, token: &Token) {
        self.refresh_token = token.refresh_token().or(self.refresh_token.take());
        self.token = Some(token.clone());
        self.denial = None;
    }

    fn failed(&mut self, error: &Error, now: DualInstant) {
        let streak = self.denial.take().map_or(0, |denial| denial.streak).saturating_add(1);
        if error.is_denied() {
            let until = now.after(schedule::denied_backoff(streak, error.retry_after()));
            self.denial = Some(Denial { error: error.clone(), streak, until });
        }
    }
}

/// Whether this is the token that an API rejected.
fn is_rejected(token: &Token, context: &FetchContext) -> bool {
    let is_same = |former: &Token| former.access_token() == token.access_token();
    context.reason() == Reason::Rejected && context.replaced().is_some_and(is_same)
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
