//! The answer of a fake to one call.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::BoxError;

use crate::testing::helpers::pause;
use crate::testing::ledger::Ledger;

/// The answer of a fake to one call.
///
/// ```
/// use std::time::Duration;
/// use tower_bearer::testing::{Answer, TokenServer};
///
/// let issuer = TokenServer::new();
/// issuer.queue(Answer::raw(429, "").header("retry-after", "7"));
/// issuer.queue(Answer::token("short", Duration::from_secs(10)).after(Duration::from_secs(2)));
/// issuer.queue(Answer::hangs());
/// ```
#[derive(Clone, Debug)]
pub struct Answer {
    outcome: Outcome,
    /// An access token that this answer adds to the ledger.
    issues: Option<(String, Duration)>,
    after: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Response(Response<Bytes>),
    /// Shared, because every call in an outage fails with the same error.
    Fails(Arc<dyn Error + Send + Sync>),
    Hangs,
}

impl Answer {
    /// A token answer as in RFC 6749, section 5.1.
    ///
    /// The access token enters the fake's ledger when the call arrives. `expires_in` holds the whole seconds of
    /// `lifetime`.
    pub fn token(text: impl Into<String>, lifetime: Duration) -> Self {
        let text = text.into();
        let body = json!({ "access_token": text, "token_type": "Bearer", "expires_in": lifetime.as_secs() });
        Self::granting(body).issuing(text, lifetime)
    }

    /// A token answer with any body, which no HTTP cache may keep (RFC 6749, section 5.1).
    pub(crate) fn granting(body: Value) -> Self {
        Self::json(200, body).header(CACHE_CONTROL.as_str(), "no-store")
    }

    /// A JSON body with its content type.
    ///
    /// # Panics
    ///
    /// If `status` is not a status code (100 to 999).
    pub fn json(status: u16, body: Value) -> Self {
        Self::raw(status, body.to_string()).header(CONTENT_TYPE.as_str(), "application/json")
    }

    /// Any body, without a content type.
    ///
    /// # Panics
    ///
    /// If `status` is not a status code (100 to 999).
    pub fn raw(status: u16, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status code");
        Self::response(response)
    }

    /// Exactly this response.
    pub fn response(response: Response<Bytes>) -> Self {
        Self::new(Outcome::Response(response))
    }

    /// No response: the call fails, as when a connection breaks.
    ///
    /// The error's text and its sources are those of `error`. Many calls may share it, so a downcast finds an
    /// `Arc<dyn Error + Send + Sync>`.
    pub fn fails(error: impl Into<BoxError>) -> Self {
        Self::new(Outcome::Fails(Arc::from(error.into())))
    }

    /// No response, ever.
    pub fn hangs() -> Self {
        Self::new(Outcome::Hangs)
    }

    /// An error as in RFC 6749, section 5.2.
    ///
    /// For example `oauth_error(400, "invalid_grant")`.
    ///
    /// # Panics
    ///
    /// If `status` is not a status code (100 to 999).
    pub fn oauth_error(status: u16, code: &str) -> Self {
        Self::json(status, json!({ "error": code }))
    }

    /// Adds a response header, and keeps others of the same name.
    ///
    /// Without a response it changes nothing.
    ///
    /// # Panics
    ///
    /// If the name or the value is not valid in HTTP.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        let value: HeaderValue = value.parse().expect("a header value");
        if let Outcome::Response(response) = &mut self.outcome {
            response.headers_mut().append(name, value);
        }
        self
    }

    /// Arrives this long after the call, instead of after the fake's delay.
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = Some(delay);
        self
    }

    fn new(outcome: Outcome) -> Self {
        Self { outcome, issues: None, after: None }
    }

    pub(crate) fn issuing(mut self, text: String, lifetime: Duration) -> Self {
        self.issues = Some((text, lifetime));
        self
    }

    /// Answers one call. The token is issued at once, and the answer is sent after the delay.
    pub(crate) async fn send(self, ledger: &Ledger, delay: Duration) -> Result<Response<Full<Bytes>>, BoxError> {
        if let Some((text, lifetime)) = self.issues {
            ledger.issue(text, lifetime);
        }
        pause(self.after.unwrap_or(delay)).await;
        match self.outcome {
            Outcome::Response(response) => Ok(response.map(Full::new)),
            Outcome::Fails(error) => Err(error.into()),
            Outcome::Hangs => std::future::pending().await,
        }
    }
}
