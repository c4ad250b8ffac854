//! What went wrong, said so that a caller can act on it.
//!
//! One opaque, cheaply cloned [`Error`]: a failed fetch is handed to every request that waited for it. Callers ask
//! predicates ("may it help to try later?", "are the credentials wrong?") and never match on a list of variants that
//! would freeze with the first release.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tower::BoxError;

/// Why there is no token, or why a value was not accepted.
///
/// Cloning costs one reference count. The text says what happened, where, and what to do; it holds no secret, no query
/// and no userinfo of an endpoint. What lies beneath (the HTTP client's error, or the error of your own source) is
/// reached through [`source`](std::error::Error::source) and is not part of the text.
///
/// The layer's futures fail with [`tower::BoxError`], as tower's own middleware does; this type is found in it with
/// [`Error::find`]. In the response of a request that was rejected and could not be sent again for want of a new token it
/// lies in the extensions: `response.extensions().get::<tower_bearer::Error>()`.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
    retry_after: Option<Duration>,
    /// The head of the API's response, if the response could not be kept.
    rejected_response: Option<Arc<Response<()>>>,
    /// Whether a denial is the end of the session, for want of a login.
    final_denial: bool,
    /// Whether a process died, or an answer was lost, in the middle of a refresh with the same refresh token.
    #[cfg(feature = "store")]
    after_interrupted_refresh: bool,
}

struct Inner {
    kind: Kind,
    source: Option<BoxError>,
}

enum Kind {
    /// A value handed to a constructor.
    Invalid {
        field: &'static str,
        problem: Cow<'static, str>,
    },
    /// A request that the layer cannot place.
    Request(Cow<'static, str>),
    /// The issuer knows us and says no.
    Denied(ErrorResponse),
    /// The issuer answered with something else than a token.
    Answered(ErrorResponse),
    /// An answer that holds no usable token.
    Unusable {
        endpoint: Option<Arc<str>>,
        problem: Cow<'static, str>,
    },
    /// No answer came.
    Unreachable {
        endpoint: Arc<str>,
    },
    /// The server was asked, and did not answer in time.
    Silent {
        endpoint: Arc<str>,
        after: Duration,
    },
    /// The error of a user's own source.
    Source {
        denied: bool,
    },
    /// The error of the closure that a secret is asked of.
    Secret {
        field: &'static str,
        denied: bool,
    },
    /// A login that needs a person did not come to its end.
    Login(Cow<'static, str>),
    /// Nothing within the deadline.
    TimedOut(Duration),
    /// Rejections have caused as many refreshes as they may.
    Rejected,
    /// The new refresh token could not be handed on.
    NotSaved,
    /// A session was signed out, and its refresh token not revoked.
    NotRevoked,
    Panicked,
    /// A rejected request whose body could not be kept to its second send.
    NotReplayed,
    NoRuntime,
    NoTimers,
    Lost,
    Closed,
    SignedOut,
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
    /// The issuer's words: already bounded, cleaned, and free of known secrets.
    pub(crate) text: Option<String>,
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

    /// Finds this crate's error in the error of a service stack: `error` itself or anything below it.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            // Its `source` would skip the error it was made from.
            next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// Whether the same call may succeed later without anybody changing anything: outages, limits, timeouts, unusable
    /// answers.
    pub fn is_transient(&self) -> bool {
        match self.inner.kind {
            Kind::Answered(_) | Kind::Unusable { .. } | Kind::Unreachable { .. } | Kind::Silent { .. } => true,
            Kind::TimedOut(_) | Kind::Rejected | Kind::NotSaved | Kind::Panicked | Kind::NotReplayed | Kind::Lost => {
                true
            }
            Kind::Source { denied } | Kind::Secret { denied, .. } => !denied,
            Kind::Invalid { .. } | Kind::Request(_) | Kind::Denied(_) | Kind::Login(_) => false,
            Kind::NoRuntime | Kind::NoTimers | Kind::NotRevoked | Kind::Closed | Kind::SignedOut => false,
            #[cfg(feature = "store")]
            Kind::Store { class, .. } => class == StoreProblem::Transient,
        }
    }

    /// Whether the issuer denied the credentials with a code this crate knows: new credentials are needed.
    pub fn is_denied(&self) -> bool {
        #[cfg(feature = "store")]
        if matches!(self.inner.kind, Kind::Store { class: StoreProblem::Denied, .. }) {
            return true;
        }
        matches!(self.inner.kind, Kind::Denied(_) | Kind::Source { denied: true } | Kind::Secret { denied: true, .. })
    }

    /// Whether a value was not accepted: one handed to a constructor or setting, whose field the text names, or the URI
    /// of a request.
    pub fn is_invalid(&self) -> bool {
        matches!(self.inner.kind, Kind::Invalid { .. } | Kind::Request(_))
    }

    /// Whether no token came within the fetch deadline, or no answer in its part of it.
    pub fn is_timeout(&self) -> bool {
        matches!(self.inner.kind, Kind::TimedOut(_) | Kind::Silent { .. })
    }

    /// Whether the cache was shut down.
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, Kind::Closed)
    }

    /// Whether the session was ended by [`sign_out`](crate::TokenCache::sign_out): a new login is needed.
    pub fn is_signed_out(&self) -> bool {
        matches!(self.inner.kind, Kind::SignedOut)
    }

    /// The status the token endpoint answered with, where it answered.
    pub fn status(&self) -> Option<StatusCode> {
        self.answer().map(|answer| answer.status)
    }

    /// The parsed error code of the token endpoint: of RFC 6749 section 5.2 (`invalid_grant`), or the provider's own.
    pub fn code(&self) -> Option<&str> {
        self.answer()?.code.as_deref()
    }

    /// What the token endpoint says to people: its `error_description`, message or text. At most 256 characters, without
    /// control characters, known secrets replaced.
    pub fn description(&self) -> Option<&str> {
        self.answer()?.text.as_deref()
    }

    /// How long the issuer asked to wait, where it said so (`Retry-After`).
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

    /// An answer without a token; `denied` where its code is known to be final.
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

    /// The answer may be lost while the work was done: a refresh is repeated with the same refresh token.
    pub(crate) fn is_ambiguous(&self) -> bool {
        matches!(self.inner.kind, Kind::Unreachable { .. } | Kind::Silent { .. })
    }

    /// Says, where it is a denial, that there is no login to fall back to.
    pub(crate) fn without_login(self) -> Self {
        Self { final_denial: true, ..self }
    }

    /// A user's error, kept as it is where it is ours already.
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
            final_denial: false,
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
            Kind::Denied(answered) if self.final_denial => write!(
                f,
                "{answered}: the refresh token was denied, and there is no login to fall back to; log in again"
            ),
            Kind::Denied(answered) => {
                let what = match answered.code.as_deref() {
                    Some("access_denied") => "access was denied; log in again, or ask whoever grants it",
                    Some(
                        "invalid_request" | "invalid_scope" | "invalid_target" | "unauthorized_client"
                        | "unsupported_grant_type",
                    ) => "the request was denied; check grant, scope and resource, and what the client may ask for",
                    _ => "the credentials were denied; check them, or log in again",
                };
                write!(f, "{answered}: {what}")
            }
            Kind::Answered(answered) => write!(f, "{answered}; this may pass: try again after a pause"),
            Kind::Unusable { endpoint: Some(endpoint), problem } => write!(f, "unusable answer of {endpoint}: {problem}"),
            Kind::Unusable { endpoint: None, problem } => write!(f, "unusable token: {problem}"),
            Kind::Unreachable { endpoint } => {
                write!(f, "no answer from {endpoint} (the cause is this error's source); this may pass: try again after a pause")
            }
            Kind::Silent { endpoint, after } => {
                write!(f, "no answer from {endpoint} within {after:?}; this may pass: try again after a pause")
            }
            Kind::Secret { field, denied: true } => {
                write!(f, "the {field} was denied (the cause is this error's source)")
            }
            Kind::Secret { field, denied: false } => {
                write!(f, "the {field} could not be had (the cause is this error's source); this may pass: try again after a pause")
            }
            Kind::Login(problem) => f.write_str(problem),
            Kind::Source { denied: false } => f.write_str("the token source failed (the cause is this error's source)"),
            Kind::Source { denied: true } => {
                f.write_str("the token source's credentials were denied (the cause is this error's source)")
            }
            Kind::TimedOut(deadline) => write!(
                f,
                "no token within {deadline:?}: the issuer is slow or silent, or the runtime that fetches stands still"
            ),
            Kind::Rejected => f.write_str(
                "the token was rejected, and rejections have caused as many refreshes lately as they may; check that the \
                 API accepts tokens of this issuer, scope and audience (the limit is `RefreshPolicy::rejection_budget`)",
            ),
            Kind::NotSaved => f.write_str(
                "the new refresh token could not be saved (the cause is this error's source); it is in memory, and saving is tried again with the next token",
            ),
            Kind::NotRevoked => f.write_str(
                "the session was signed out, and its refresh token could not be revoked (the cause is this error's source): it may still work",
            ),
            Kind::Panicked => f.write_str("the token source panicked; its message went to the panic hook"),
            Kind::NoRuntime => f.write_str("a call has to be made, and there is no tokio runtime here: call from within one"),
            Kind::NotReplayed => f.write_str(
                "the token was rejected and has been replaced, but the request's body was too long to be kept, or failed; send the request again",
            ),
            Kind::NoTimers => f.write_str("the tokio runtime has no timers: enable them in its builder with `enable_time` or `enable_all`"),
            Kind::Lost => f.write_str("the tokio runtime that was fetching the token was shut down; call again"),
            Kind::Closed => f.write_str("the token cache was shut down and fetches no more tokens"),
            Kind::SignedOut => {
                f.write_str("the session was signed out; log in again, and hand the login to `TokenCache::sign_in`")
            }
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

/// Prints what [`Display`](fmt::Display) prints, and the errors below, which are the HTTP client's or your source's.
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

/// Lets `TryInto<Origin>` cover what is an `Origin` already.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests;
