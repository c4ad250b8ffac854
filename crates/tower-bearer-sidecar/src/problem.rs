//! The sidecar's own answers: problem details (RFC 9457).

use std::fmt::Write;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tower::BoxError;
use tower::timeout::error::Elapsed;
use tower_bearer::Error;

/// Why a call got no answer from the upstream.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

/// Marks the sidecar's own answers, in their extensions, with a code.
#[derive(Clone, Copy)]
pub(crate) struct AnsweredBy(pub(crate) &'static str);

const UNAVAILABLE: &str = "token-unavailable";
const DENIED: &str = "token-denied";

// === impl Problem ===

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None }
    }

    /// The problem of a call that ended with this error.
    pub(crate) fn of(error: &BoxError) -> Self {
        if error.is::<Elapsed>() {
            return Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timed-out",
                "The upstream's answer has not begun in time. The limit is --timeout.",
            );
        }
        if let Some(error) = Error::find(&**error) {
            return Self::of_token(error);
        }
        let (status, code) = match timed_out(error) {
            true => (StatusCode::GATEWAY_TIMEOUT, "timed-out"),
            false => (StatusCode::BAD_GATEWAY, "unreachable"),
        };
        Self::new(status, code, format!("The upstream gave no answer: {}", chain(&**error)))
    }

    /// Returns 503 if the error is temporary, and 502 if someone has to act.
    fn of_token(error: &Error) -> Self {
        let text = format!("There is no token for this call: {}", chain(error));
        match error.is_transient() || error.is_closed() {
            true => Self::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, text),
            false => Self::new(StatusCode::BAD_GATEWAY, DENIED, text),
        }
    }

    /// Sets `Retry-After` to the next attempt to get a token, if the token is unavailable.
    pub(crate) fn with_retry_after(self, next_attempt: Option<Duration>) -> Self {
        Self { retry_after: next_attempt.filter(|_| self.code == UNAVAILABLE), ..self }
    }

    /// Whether the call failed because there was no token.
    pub(crate) fn is_about_token(&self) -> bool {
        matches!(self.code, UNAVAILABLE | DENIED)
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response = Response::new(Full::from(format!("{body}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, (wait.as_secs() + 1).into());
        }
        response.extensions_mut().insert(AnsweredBy(self.code));
        response
    }
}

/// The texts of an error and its causes. They hold hosts and reasons, and no secrets.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    text
}

fn timed_out(error: &BoxError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        next = error.source();
    }
    false
}
