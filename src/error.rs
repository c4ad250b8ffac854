//! The error of this crate, and predicates that say what to do about it.
//!
//! One opaque, cheaply cloned [`Error`]: every request that waited for a failed fetch gets a clone. Callers use
//! predicates ("may a later call succeed?", "are the credentials wrong?") and do not match on variants, because a public
//! list of variants could not change after the first release.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tower::BoxError;

use crate::secret::Secret;

/// Why there is no token, or why a value was not accepted.
///
/// Cloning costs one reference count. The text says what happened, where, and what to do; it holds no secret, no query
/// and no userinfo of an endpoint. The cause (the HTTP client's error, or the error of your own source) is in
/// [`source`](std::error::Error::source) and is not part of the text.
///
/// The layer's futures fail with [`tower::BoxError`], as tower's own middleware does; [`Error::find`] finds this type
/// in it. If a rejected request cannot be sent again because there is no new token, the error is in the extensions of the
/// response: `response.extensions().get::<tower_bearer::Error>()`.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
    retry_after: Option<Duration>,
    /// The head of the API's response, if the response could not be kept.
    rejected_response: Option<Arc<Response<()>>>,
    /// What helps against a denial.
    remedy: Remedy,
    /// Whether a process died, or an answer was lost, in the middle of a refresh with the same refresh token.
    #[cfg(feature = "store")]
    after_interrupted_refresh: bool,
}

/// What helps against a denial, beside what its code says.
#[derive(Clone, Copy)]
enum Remedy {
    ByCode,
    /// The session has ended, for want of a login.
    LogIn,
    /// The client is denied: no login helps.
    CheckClient,
}

struct Inner {
    kind: Kind,
    source: Option<BoxError>,
}

/// What an [`Error`] is about, for callers that treat some errors in their own way.
///
/// [`Error::is_transient`] and [`Error::is_denied`] say what to do next; most callers need no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value passed to a constructor or setting is invalid: [`Error::field`] names it.
    InvalidSetting,
    /// A request whose URI the layer cannot compare with its origins.
    InvalidRequest,
    /// The issuer denied the credentials or the request.
    Denied,
    /// The issuer answered with an error that may pass.
    IssuerError,
    /// The issuer's answer holds no token that can be used.
    UnusableAnswer,
    /// The connection to the issuer failed.
    Unreachable,
    /// No answer of the issuer in time, or no token within the fetch deadline.
    Timeout,
    /// The program's own token source failed.
    Source,
    /// No source of a [`TokenSourceChain`](crate::chain::TokenSourceChain) brought a token: see [`Error::failures`].
    Chain,
    /// The closure that returns a secret failed.
    Secret,
    /// A login that needs a person did not complete.
    Login,
    /// As many token calls were in progress for other keys as may be at once.
    TooManyTokenCalls,
    /// Rejections have used their budget of refreshes.
    RejectionBudget,
    /// The new refresh token could not be saved.
    NotSaved,
    /// The session was signed out, and its refresh token was not revoked.
    NotRevoked,
    /// The token source panicked.
    Panicked,
    /// The token was replaced, and the rejected request's body was not kept for a second send.
    NotReplayed,
    /// There is no tokio runtime, or one without timers, or the one that fetched was shut down.
    Runtime,
    /// A token source or an `on_rotation` waited for its own fetch.
    WaitsForItself,
    /// The store of a session that processes share, or the record in it.
    Store,
    /// The cache was shut down.
    Closed,
    /// The session was signed out.
    SignedOut,
}

enum Kind {
    /// A value passed to a constructor.
    Invalid {
        field: &'static str,
        problem: Cow<'static, str>,
    },
    /// A request whose origin the layer cannot determine.
    Request(Cow<'static, str>),
    /// The issuer denied the credentials or the request.
    Denied(ErrorResponse),
    /// The issuer answered without a token, and this may be transient.
    Answered(ErrorResponse),
    /// An answer that holds no usable token.
    Unusable {
        endpoint: Option<Arc<str>>,
        problem: Cow<'static, str>,
    },
    /// The call failed before an answer arrived.
    Unreachable {
        endpoint: Arc<str>,
    },
    /// The server did not answer in time.
    Silent {
        endpoint: Arc<str>,
        after: Duration,
    },
    /// The error of a user's own source.
    Source {
        denied: bool,
    },
    /// What each source of a chain failed with, by its name, in the order in which they were tried.
    Chain(Vec<(Arc<str>, Error)>),
    /// The error of the closure that returns a secret.
    Secret {
        field: &'static str,
        denied: bool,
    },
    /// A login that needs a person did not complete.
    Login(Cow<'static, str>),
    /// There was no token within the deadline.
    TimedOut(Duration),
    /// As many token calls were in progress as may be at once, for this long.
    TooManyTokenCalls(Duration),
    /// Rejections have used their budget of refreshes.
    Rejected,
    /// The new refresh token could not be saved.
    NotSaved,
    /// A session was signed out, and its refresh token was not revoked.
    NotRevoked,
    Panicked,
    /// The body of a rejected request was not kept for the second send.
    NotReplayed,
    NoRuntime,
    NoTimers,
    Lost,
    Closed,
    SignedOut,
    /// The source or `on_rotation` asked its own cache.
    WaitsForItself,
    /// The session that processes share is not at hand.
    #[cfg(feature = "store")]
    Store {
        problem: Cow<'static, str>,
        class: StoreProblem,
    },
}

/// What can be done about a problem with a shared session.
#[cfg(feature = "store")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreProblem {
    /// It may pass.
    Transient,
    /// A person has to correct how things are set up.
    Permanent,
    /// A new login is needed.
    Denied,
}

/// An answer of a token endpoint that is not a token.
pub(crate) struct ErrorResponse {
    pub(crate) endpoint: Arc<str>,
    pub(crate) status: StatusCode,
    /// The parsed error code: RFC 6749 section 5.2, or the provider's own.
    pub(crate) code: Option<String>,
    /// The issuer's text: already bounded, cleaned, and free of known secrets.
    pub(crate) text: Option<String>,
    pub(crate) said: Said,
}

/// What the issuer said, word for word: decisions are made on this, and nobody is shown it.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) code: Option<Secret>,
    pub(crate) text: Option<Secret>,
}

// === impl Error ===

impl Error {
    /// An error of your own token source: the fetch failed, and may succeed when tried again.
    ///
    /// The cache waits out its backoff before the next fetch.
    pub fn transient(source: impl Into<BoxError>) -> Self {
        Self::with_source(Kind::Source { denied: false }, source)
    }

    /// An error of your own token source: the issuer denied the credentials, and trying again at once cannot help.
    ///
    /// The cache waits 30 s before the next fetch, doubling to 15 min, so that no account gets locked.
    pub fn denied(source: impl Into<BoxError>) -> Self {
        Self::with_source(Kind::Source { denied: true }, source)
    }

    /// Adds how long the issuer asks to wait before the next fetch. The cache caps it at 5 min.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Finds this crate's error in the error of a service stack: `error` itself, or one of its sources.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            // `source` of an `io::Error` skips the error that it was made from.
            next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// What the error is about.
    pub fn kind(&self) -> ErrorKind {
        match self.inner.kind {
            Kind::Invalid { .. } => ErrorKind::InvalidSetting,
            Kind::Request(_) => ErrorKind::InvalidRequest,
            Kind::Denied(_) => ErrorKind::Denied,
            Kind::Answered(_) => ErrorKind::IssuerError,
            Kind::Unusable { .. } => ErrorKind::UnusableAnswer,
            Kind::Unreachable { .. } => ErrorKind::Unreachable,
            Kind::Silent { .. } | Kind::TimedOut(_) => ErrorKind::Timeout,
            Kind::Source { .. } => ErrorKind::Source,
            Kind::Chain(_) => ErrorKind::Chain,
            Kind::Secret { .. } => ErrorKind::Secret,
            Kind::Login(_) => ErrorKind::Login,
            Kind::TooManyTokenCalls(_) => ErrorKind::TooManyTokenCalls,
            Kind::Rejected => ErrorKind::RejectionBudget,
            Kind::NotSaved => ErrorKind::NotSaved,
            Kind::NotRevoked => ErrorKind::NotRevoked,
            Kind::Panicked => ErrorKind::Panicked,
            Kind::NotReplayed => ErrorKind::NotReplayed,
            Kind::NoRuntime | Kind::NoTimers | Kind::Lost => ErrorKind::Runtime,
            Kind::WaitsForItself => ErrorKind::WaitsForItself,
            #[cfg(feature = "store")]
            Kind::Store { .. } => ErrorKind::Store,
            Kind::Closed => ErrorKind::Closed,
            Kind::SignedOut => ErrorKind::SignedOut,
        }
    }

    /// The name of the invalid value, such as `token_url`; `None` unless the kind is [`ErrorKind::InvalidSetting`].
    pub fn field(&self) -> Option<&'static str> {
        match self.inner.kind {
            Kind::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    /// What is wrong with the invalid value, without its name; `None` unless the kind is [`ErrorKind::InvalidSetting`].
    pub fn problem(&self) -> Option<&str> {
        match &self.inner.kind {
            Kind::Invalid { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without a change: outages, limits, timeouts, unusable answers.
    pub fn is_transient(&self) -> bool {
        match self.inner.kind {
            Kind::Answered(_) | Kind::Unusable { .. } | Kind::Unreachable { .. } | Kind::Silent { .. } => true,
            Kind::TimedOut(_) | Kind::Rejected | Kind::NotSaved | Kind::Panicked | Kind::NotReplayed | Kind::Lost => {
                true
            }
            Kind::TooManyTokenCalls(_) => true,
            Kind::Chain(ref failures) => failures.iter().any(|(_, failure)| failure.is_transient()),
            Kind::Source { denied } | Kind::Secret { denied, .. } => !denied,
            Kind::Invalid { .. } | Kind::Request(_) | Kind::Denied(_) | Kind::Login(_) => false,
            Kind::NoRuntime | Kind::NoTimers | Kind::NotRevoked | Kind::Closed | Kind::SignedOut => false,
            Kind::WaitsForItself => false,
            #[cfg(feature = "store")]
            Kind::Store { class, .. } => class == StoreProblem::Transient,
        }
    }

    /// Whether the issuer denied the credentials with a code that this crate knows: new credentials are needed.
    pub fn is_denied(&self) -> bool {
        #[cfg(feature = "store")]
        if matches!(self.inner.kind, Kind::Store { class: StoreProblem::Denied, .. }) {
            return true;
        }
        if let Kind::Chain(failures) = &self.inner.kind {
            return failures.iter().all(|(_, failure)| failure.is_denied());
        }
        matches!(self.inner.kind, Kind::Denied(_) | Kind::Source { denied: true } | Kind::Secret { denied: true, .. })
    }

    /// Whether a value was invalid: one passed to a constructor or setting, whose field the text names, or the URI or key
    /// of a request.
    pub fn is_invalid(&self) -> bool {
        matches!(self.inner.kind, Kind::Invalid { .. } | Kind::Request(_))
    }

    /// Whether there was no token within the fetch deadline, or no answer within a call's part of it.
    pub fn is_timeout(&self) -> bool {
        matches!(self.inner.kind, Kind::TimedOut(_) | Kind::TooManyTokenCalls(_) | Kind::Silent { .. })
    }

    /// Whether the cache was shut down.
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, Kind::Closed)
    }

    /// Whether the session was ended by [`sign_out`](crate::TokenCache::sign_out): a new login is needed.
    pub fn is_signed_out(&self) -> bool {
        matches!(self.inner.kind, Kind::SignedOut)
    }

    /// The status of the token endpoint's answer, if there was one.
    pub fn status(&self) -> Option<StatusCode> {
        self.answer().map(|answer| answer.status)
    }

    /// The parsed error code of the token endpoint: of RFC 6749 section 5.2 (`invalid_grant`), or the provider's own.
    pub fn code(&self) -> Option<&str> {
        self.answer()?.code.as_deref()
    }

    /// The token endpoint's text for people: its `error_description`, message or text. At most 256 characters, without
    /// control characters, known secrets replaced.
    pub fn description(&self) -> Option<&str> {
        self.answer()?.text.as_deref()
    }

    /// What each source of a [`TokenSourceChain`](crate::chain::TokenSourceChain) failed with, by the source's name, in the
    /// order in which they were tried; empty for any other error.
    ///
    /// [`code`](Error::code), [`status`](Error::status) and [`description`](Error::description) are those of the last
    /// failure that has them.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &Self)> {
        let failures = match &self.inner.kind {
            Kind::Chain(failures) => &**failures,
            _ => &[],
        };
        failures.iter().map(|(name, failure)| (&**name, failure))
    }

    /// How long the issuer asked to wait, if it did (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The response of the API that rejected the token, without its body.
    ///
    /// `None` in most cases, because the caller gets the response itself, with this error in its extensions. A response
    /// whose body is large, or one of many that wait at the same time, is not kept while the request waits for a new token:
    /// it would starve the connection that the token call needs.
    pub fn rejected_response(&self) -> Option<&Response<()>> {
        self.rejected_response.as_deref()
    }

    pub(crate) fn with_rejected_response(self, response: Response<()>) -> Self {
        Self { rejected_response: Some(Arc::new(response)), ..self }
    }

    pub(crate) fn invalid(field: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid { field, problem: problem.into() })
    }

    pub(crate) fn request(problem: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Request(problem.into()))
    }

    pub(crate) fn no_cache() -> Self {
        Self::request(
            "no token cache belongs to the request, so it is unknown whose token belongs on it; have the layer's \
             `CacheChoice` return one, or mark the request with `NoToken`",
        )
    }

    #[cfg(feature = "keyed")]
    pub(crate) fn no_key() -> Self {
        Self::request(
            "the request names no key (tenant, user), so it is unknown whose token belongs on it; put the key where the \
             layer's `KeyedTokenCache::by_key` reads it, or mark the request with `NoToken`",
        )
    }

    /// An answer without a token; `denied` if its code is known to be final.
    pub(crate) fn answered(answered: ErrorResponse, denied: bool, retry_after: Option<Duration>) -> Self {
        let kind = if denied { Kind::Denied(answered) } else { Kind::Answered(answered) };
        Self { retry_after, ..Self::new(kind) }
    }

    pub(crate) fn unusable(endpoint: Option<Arc<str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unusable { endpoint, problem: problem.into() })
    }

    pub(crate) fn unreachable(endpoint: Arc<str>, source: impl Into<BoxError>) -> Self {
        Self::with_source(Kind::Unreachable { endpoint }, source)
    }

    pub(crate) fn silent(endpoint: Arc<str>, after: Duration) -> Self {
        Self::new(Kind::Silent { endpoint, after })
    }

    /// No source of a chain brought a token; the longest wait that one of them asks for counts for all.
    pub(crate) fn chain(failures: Vec<(Arc<str>, Self)>) -> Self {
        let retry_after = failures.iter().filter_map(|(_, failure)| failure.retry_after).max();
        let source = failures.last().map(|(_, failure)| failure.clone().into());
        Self { retry_after, ..Self::over(Inner { kind: Kind::Chain(failures), source }) }
    }

    pub(crate) fn secret(field: &'static str, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        let denied = source.downcast_ref::<Self>().is_some_and(Self::is_denied);
        Self::with_source(Kind::Secret { field, denied }, source)
    }

    pub(crate) fn login(problem: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Login(problem.into()))
    }

    pub(crate) fn timed_out(deadline: Duration) -> Self {
        Self::new(Kind::TimedOut(deadline))
    }

    pub(crate) fn too_many_token_calls(deadline: Duration) -> Self {
        Self::new(Kind::TooManyTokenCalls(deadline))
    }

    pub(crate) fn too_many_rejections() -> Self {
        Self::new(Kind::Rejected)
    }

    pub(crate) fn not_saved(source: impl Into<BoxError>) -> Self {
        Self::with_source(Kind::NotSaved, source)
    }

    pub(crate) fn not_revoked(source: impl Into<BoxError>) -> Self {
        Self::with_source(Kind::NotRevoked, source)
    }

    pub(crate) fn panicked() -> Self {
        Self::new(Kind::Panicked)
    }

    pub(crate) fn no_runtime() -> Self {
        Self::new(Kind::NoRuntime)
    }

    pub(crate) fn not_replayed() -> Self {
        Self::new(Kind::NotReplayed)
    }

    pub(crate) fn no_timers() -> Self {
        Self::new(Kind::NoTimers)
    }

    pub(crate) fn lost() -> Self {
        Self::new(Kind::Lost)
    }

    pub(crate) fn closed() -> Self {
        Self::new(Kind::Closed)
    }

    pub(crate) fn signed_out() -> Self {
        Self::new(Kind::SignedOut)
    }

    pub(crate) fn waits_for_itself() -> Self {
        Self::new(Kind::WaitsForItself)
    }

    /// A problem with the session that processes share.
    #[cfg(feature = "store")]
    pub(crate) fn shared(problem: impl Into<Cow<'static, str>>, class: StoreProblem) -> Self {
        Self::new(Kind::Store { problem: problem.into(), class })
    }

    /// The store did not do what it was asked.
    #[cfg(feature = "store")]
    pub(crate) fn store(
        problem: impl Into<Cow<'static, str>>,
        class: StoreProblem,
        source: impl Into<BoxError>,
    ) -> Self {
        Self::with_source(Kind::Store { problem: problem.into(), class }, source)
    }

    /// Whether the client was denied, and not the refresh token that it sent.
    #[cfg(feature = "store")]
    pub(crate) fn is_denied_client(&self) -> bool {
        let codes = ["invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "invalid_target"];
        self.code().is_some_and(|code| codes.contains(&code) || code == "unsupported_grant_type")
    }

    /// Says that an earlier refresh with the refresh token that was denied did not come to its end.
    #[cfg(feature = "store")]
    pub(crate) fn after_interrupted_refresh(self) -> Self {
        Self { after_interrupted_refresh: true, ..self }
    }

    /// Whether rejections have used their budget.
    pub(crate) fn is_over_budget(&self) -> bool {
        matches!(self.inner.kind, Kind::Rejected)
    }

    /// No answer came, because the connection could not be made or broke.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self.inner.kind, Kind::Unreachable { .. })
    }

    /// Whether the server may have done the work although its answer was lost. A refresh is then repeated with the same
    /// refresh token.
    pub(crate) fn is_ambiguous(&self) -> bool {
        matches!(self.inner.kind, Kind::Unreachable { .. } | Kind::Silent { .. })
    }

    /// Adds to a denial that there is no login to fall back to.
    pub(crate) fn without_login(self) -> Self {
        Self { remedy: Remedy::LogIn, ..self }
    }

    /// Says, where it is a denial, that it is the client that is denied.
    pub(crate) fn of_client(self) -> Self {
        Self { remedy: Remedy::CheckClient, ..self }
    }

    /// Where the answer came from, and the code and the words that it really holds.
    pub(crate) fn said(&self) -> Option<(&str, &Said)> {
        self.answer().map(|answer| (&*answer.endpoint, &answer.said))
    }

    /// A user's error; an error of this crate stays as it is.
    pub(crate) fn from_source(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(ours) => *ours,
            Err(other) => Self::transient(other),
        }
    }

    fn answer(&self) -> Option<&ErrorResponse> {
        match &self.inner.kind {
            Kind::Denied(answered) | Kind::Answered(answered) => Some(answered),
            Kind::NotRevoked => self.inner.source.as_ref()?.downcast_ref::<Self>()?.answer(),
            Kind::Chain(failures) => failures.iter().rev().find_map(|(_, failure)| failure.answer()),
            _ => None,
        }
    }

    fn new(kind: Kind) -> Self {
        Self::over(Inner { kind, source: None })
    }

    fn with_source(kind: Kind, source: impl Into<BoxError>) -> Self {
        Self::over(Inner { kind, source: Some(source.into()) })
    }

    fn over(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
            retry_after: None,
            rejected_response: None,
            remedy: Remedy::ByCode,
            #[cfg(feature = "store")]
            after_interrupted_refresh: false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.kind {
            Kind::Invalid { field, problem } => write!(f, "invalid {field}: {problem}"),
            Kind::Request(problem) => f.write_str(problem),
            Kind::Denied(answered) => {
                let what = match (self.remedy, answered.code.as_deref()) {
                    (Remedy::LogIn, _) => {
                        "the refresh token was denied, and there is no login to fall back to; log in again"
                    }
                    (Remedy::CheckClient, _) | (_, Some("invalid_client")) => {
                        "the client was denied; check its id and secret, and how it authenticates"
                    }
                    (_, Some("access_denied")) => "access was denied; log in again, or ask the owner of the resource",
                    (
                        _,
                        Some(
                            "invalid_request" | "invalid_scope" | "invalid_target" | "unauthorized_client"
                            | "unsupported_grant_type",
                        ),
                    ) => "the request was denied; check grant, scope and resource, and what the client is allowed to request",
                    _ => "the credentials were denied; check them, or log in again",
                };
                write!(f, "{answered}: {what}")
            }
            Kind::Answered(answered) if answered.is_elsewhere() => {
                write!(f, "{answered}; check the address: this endpoint does not seem to be there")
            }
            Kind::Answered(answered) => write!(f, "{answered}; try again after a pause"),
            Kind::Unusable { endpoint: Some(endpoint), problem } => write!(f, "unusable answer of {endpoint}: {problem}"),
            Kind::Unusable { endpoint: None, problem } => write!(f, "unusable token: {problem}"),
            Kind::Unreachable { endpoint } => {
                write!(f, "failed to get an answer from {endpoint} (the cause is this error's source); try again after a pause")
            }
            Kind::Silent { endpoint, after } => {
                write!(f, "timed out after {after:?} without an answer from {endpoint}; try again after a pause")
            }
            Kind::Chain(failures) => {
                f.write_str("no source of the chain brought a token: ")?;
                let mut separator = "";
                failures.iter().try_for_each(|(name, failure)| {
                    write!(f, "{}{name}: {failure}", std::mem::replace(&mut separator, "; "))
                })
            }
            Kind::Secret { field, denied: true } => {
                write!(f, "the {field} was denied (the cause is this error's source)")
            }
            Kind::Secret { field, denied: false } => {
                write!(f, "failed to get the {field} (the cause is this error's source); try again after a pause")
            }
            Kind::Login(problem) => f.write_str(problem),
            Kind::Source { denied: false } => f.write_str("the token source failed to fetch a token (the cause is this error's source)"),
            Kind::Source { denied: true } => {
                f.write_str("the token source's credentials were denied (the cause is this error's source)")
            }
            Kind::TimedOut(deadline) => write!(
                f,
                "timed out after {deadline:?} without a token: the issuer is slow or silent, or the runtime that fetches has stalled"
            ),
            Kind::TooManyTokenCalls(deadline) => write!(
                f,
                "no token call could begin within {deadline:?}, because as many were in progress for other keys as may be \
                 at once; allow more with `KeyedTokenCache::max_token_calls`"
            ),
            Kind::Rejected => f.write_str(
                "the token was rejected, and rejections have used their budget of refreshes; check that the \
                 API accepts tokens of this issuer, scope and audience (the limit is `RefreshPolicy::rejection_budget`)",
            ),
            Kind::NotSaved => f.write_str(
                "failed to save the new refresh token (the cause is this error's source); it stays in memory, and the next fetch tries again to save it",
            ),
            Kind::NotRevoked => f.write_str(
                "failed to revoke the refresh token of the session that was signed out (the cause is this error's source): it may still work",
            ),
            Kind::Panicked => f.write_str("the token source panicked; the panic hook has the message"),
            Kind::NoRuntime => f.write_str("failed to start a call: there is no tokio runtime here; call from within one"),
            Kind::NotReplayed => f.write_str(
                "the token was rejected and replaced, but the request's body exceeded the replay limit, or failed; send the request again",
            ),
            Kind::NoTimers => f.write_str("failed to set a deadline: the tokio runtime has no timers; enable them in its builder with `enable_time` or `enable_all`"),
            Kind::Lost => f.write_str("failed to get a token: the tokio runtime that fetched it was shut down; call again"),
            Kind::Closed => f.write_str("the token cache was shut down; it fetches no more tokens"),
            Kind::SignedOut => {
                f.write_str("the session was signed out; log in again, and pass the login to `TokenCache::sign_in`")
            }
            Kind::WaitsForItself => f.write_str(
                "the token source, or `on_rotation`, asked its own cache and would wait for itself; mark its requests with `NoToken`, or give it a client without the layer",
            ),
            #[cfg(feature = "store")]
            Kind::Store { problem, .. } => f.write_str(problem),
        }?;
        #[cfg(feature = "store")]
        if self.after_interrupted_refresh {
            f.write_str(
                " (a process died, or an answer was lost, in the middle of a refresh with the same refresh token: the issuer may have replaced it then)",
            )?;
        }
        if let Some(response) = &self.rejected_response {
            write!(f, " (the API answered {})", response.status().as_u16())?;
        }
        match self.retry_after {
            Some(wait) => write!(f, " (the issuer asks to wait {:.0} s)", wait.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

// === impl ErrorResponse ===

impl ErrorResponse {
    /// Whether the status says that the call went to a wrong address.
    fn is_elsewhere(&self) -> bool {
        matches!(self.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE)
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {}", self.endpoint, self.status.as_u16())?;
        match (&self.code, &self.text) {
            (Some(code), Some(text)) => write!(f, " {code} ({text})"),
            (Some(only), None) | (None, Some(only)) => write!(f, " ({only})"),
            (None, None) => Ok(()),
        }
    }
}

/// Prints what [`Display`](fmt::Display) prints, and the source, which is the HTTP client's error or your own source's.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple("Error");
        out.field(&format_args!("{self}"));
        if let Some(source) = &self.inner.source {
            out.field(source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// Lets `TryInto<Origin>` accept an `Origin`.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests;
