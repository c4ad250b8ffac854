//! Token sources that are tried in turn: the credential provider chain of cloud SDKs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::schedule::{self, DualInstant};
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::source::{FetchContext, Reason, TokenSource};
use crate::token::Token;

/// Token sources that are tried in order until one brings a token.
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
/// // A variable that is not set will not be set in a second either: `denied`.
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
/// A session begins with the first source that brings a token, whatever the failures of those before it. Later fetches ask
/// this source first:
///
/// | it fails | then |
/// |---|---|
/// | transiently: an outage, a file in the middle of a rotation | the fetch fails, and the current token is sent on |
/// | transiently, after three failed fetches in a row | the other sources are tried in order |
/// | otherwise: it is denied, or a setting is invalid | the other sources are tried in order |
/// | it brings the token again that an API rejected | the other sources are tried in order |
///
/// A source that was denied is not asked again for 30 s, doubling to 15 min, so that no account gets locked while the
/// others are asked again. [`TokenCache::refresh`](crate::TokenCache::refresh) asks it at once. A source that is not
/// configured returns [`Error::denied`], because asking it again at once cannot help.
///
/// The sources share the fetch deadline evenly. The source of the last token has all of it, until it has failed three times.
///
/// If no source brings a token, the error names each source with its failure ([`Error::failures`]). It is transient if one
/// of the failures is, and denied if all are.
///
/// # Refresh tokens
///
/// A refresh token goes to the source that it came from, and to no other. If the chain cannot know that, because a store or
/// a former source of the session brought it, it goes to the only source that has an
/// [`identity`](TokenSource::identity), else to the source of the last token. In a session that processes share, let one
/// source of the chain have refresh tokens.
///
/// [`sign_out`](crate::TokenCache::sign_out) revokes the newest refresh token of the session, which is that of the last
/// source that brought one.
pub struct TokenSourceChain {
    sources: Vec<Named>,
    /// Shared with the contexts of the sources, which report refresh tokens.
    memory: Arc<Mutex<Memory>>,
}

struct Named {
    name: Arc<str>,
    source: Box<dyn DynSource>,
}

/// What a chain knows of its sources; of the session it knows no more than which source brought what.
#[derive(Default)]
struct Memory {
    /// The source of the last token.
    current: Option<usize>,
    sources: Vec<Remembered>,
}

/// What one source brought.
#[derive(Default)]
struct Remembered {
    token: Option<Token>,
    refresh_token: Option<Secret>,
    denial: Option<Denial>,
}

/// Why a source brought no token.
struct Failure {
    error: Error,
    /// Whether asking it again would bring nothing else.
    is_final: bool,
}

/// The last denial of a source.
struct Denial {
    error: Error,
    streak: u32,
    until: DualInstant,
}

/// After so many failed fetches in a row a transient failure is no reason to wait for the source of the last token.
const MOST_FAILED_FETCHES: u32 = 3;
/// How much of the fetch deadline the sources have: the chain's error, which names them, comes before the cache's.
const SHARE_OF_DEADLINE: f64 = 0.95;

// === impl TokenSourceChain ===

impl TokenSourceChain {
    /// A chain that begins with this source. Errors call it by this name.
    pub fn first_try(name: impl Into<String>, source: impl TokenSource) -> Self {
        Self { sources: Vec::new(), memory: Arc::default() }.or_else(name, source)
    }

    /// Adds a source that is tried if those before it bring no token.
    #[must_use]
    pub fn or_else(mut self, name: impl Into<String>, source: impl TokenSource) -> Self {
        self.sources.push(Named { name: name.into().into(), source: Box::new(source) });
        lock(&self.memory).sources.push(Remembered::default());
        self
    }

    /// Asks one source, which may take this long.
    async fn ask(
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
                let problem = "the source handed out the token again that an API has rejected";
                Failure { error: Error::unusable(None, problem), is_final: true }
            }
            Ok(token) => {
                let mut memory = lock(&self.memory);
                memory.current = Some(index);
                memory.sources[index].brought(&token);
                return Ok(token);
            }
            Err(error) => Failure { is_final: !error.is_transient(), error },
        };
        // Not in `telemetry`, which imports this module's parent.
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

    /// What a source is told: of the session as much as came from that source.
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

    /// Which source the session's refresh token came from.
    fn owner(&self, refresh_token: Option<&Secret>) -> Option<usize> {
        let refresh_token = refresh_token?;
        let memory = lock(&self.memory);
        let known = memory.sources.iter().position(|source| source.refresh_token.as_ref() == Some(refresh_token));
        let mut identified = (0..self.sources.len()).filter(|index| !self.sources[*index].source.identity().is_empty());
        let only = identified.next().filter(|_| identified.next().is_none());
        known.or(only).or(memory.current)
    }

    /// The denial because of which a source is not asked yet.
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
            let waits_for_it = Some(index) == current && context.failed_fetches() < MOST_FAILED_FETCHES;
            let left = deadline.saturating_sub(context.clock().now().mono.saturating_sub(began));
            let time = if waits_for_it { left } else { left.div_f64((order.len() - tried) as f64) };
            match self.ask(index, &context, owner, time).await {
                Ok(token) => return Ok(token),
                Err(failure) if waits_for_it && !failure.is_final => return Err(failure.error),
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

    /// Those of its sources in order; a chain whose sources have none has none.
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
    /// Forgets what an earlier session brought. Denials stay: an account can be locked in any session.
    fn begin_session(&mut self) {
        self.current = None;
        for source in &mut self.sources {
            (source.token, source.refresh_token) = (None, None);
        }
    }
}

// === impl Remembered ===

impl Remembered {
    fn brought(&mut self, token: &Token) {
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
