//! What a response says of the token that was sent. The one place that decides.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, response};

use crate::challenge;
use crate::origin::{OriginMatch, Origins};

/// Which responses say that the token was rejected, so that it is replaced and the request goes again.
///
/// By default a 401, unless its challenges say otherwise (RFC 6750 section 3.1, RFC 9110 section 11.6.1):
///
/// | `WWW-Authenticate` | the token is |
/// |---|---|
/// | none, or none that can be read | rejected |
/// | `Bearer`, without an error or with `invalid_token` or an error of the server's own | rejected |
/// | `Bearer error="insufficient_scope"`, `"invalid_request"` or `"insufficient_user_authentication"` | good: a new one like it would not help |
/// | other schemes only | not what was asked for |
///
/// For an API that takes Bearer tokens and calls them something else (`Token`, `OAuth`), `.status(StatusCode::UNAUTHORIZED)`
/// makes every 401 a rejection.
///
/// A response that comes from an origin that is not the layer's own, after a redirect beneath it, says nothing about the
/// token. A 403 does not by default; some servers answer a dead token with it, and for those it is
/// [added](RejectionPolicy::status), at the price of a refresh, within the budget, for each real "forbidden". What was handed back
/// can be read with [`Challenge::all`](crate::Challenge::all).
///
/// ```
/// use http::StatusCode;
/// use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache};
///
/// let rejection = RejectionPolicy::new()
///     .status(StatusCode::from_u16(419).expect("a status"))
///     .when(|response| response.headers.contains_key("x-session-expired"));
/// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.rejection_policy(rejection);
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct RejectionPolicy {
    statuses: Vec<StatusCode>,
    grpc: bool,
    when: Option<Arc<When>>,
    /// Whether anything but a 401 may be a rejection.
    looks_further: bool,
}

type When = dyn Fn(&response::Parts) -> bool + Send + Sync;

/// gRPC's UNAUTHENTICATED.
const UNAUTHENTICATED: HeaderValue = HeaderValue::from_static("16");
/// Errors of the Bearer scheme that another token of the same kind does not mend: RFC 6750 section 3.1, RFC 9470
/// section 3.
const NOT_THE_TOKENS: [&str; 3] = ["insufficient_scope", "invalid_request", "insufficient_user_authentication"];

// === impl RejectionPolicy ===

impl RejectionPolicy {
    /// A 401, as its challenges say.
    pub fn new() -> Self {
        Self::default()
    }

    /// gRPC's `UNAUTHENTICATED` beside it: `grpc-status: 16` in the response's headers, which is how a server answers
    /// that rejects a call before it begins (a "trailers-only" response, with HTTP status 200).
    pub fn grpc() -> Self {
        Self { grpc: true, looks_further: true, ..Self::default() }
    }

    /// Another status that always means "rejected", such as 419.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self.looks_further = true;
        self
    }

    /// A sign of the API's own: a response for which this is true is a rejection, whatever its status. Replaces an
    /// earlier one.
    #[must_use]
    pub fn when(mut self, when: impl Fn(&response::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(when));
        self.looks_further = true;
        self
    }

    /// Whether there is anything to evaluate: nearly every response is told apart here, without moving it.
    #[inline]
    pub(crate) fn concerns<A>(&self, response: &Response<A>) -> bool {
        response.status() == StatusCode::UNAUTHORIZED || self.looks_further
    }

    /// Evaluates the response to a request that carried our token to one of our origins; gives the response back.
    pub(crate) fn classify<A>(&self, response: Response<A>, origins: &Origins) -> (Response<A>, bool) {
        let sign = response.status() == StatusCode::UNAUTHORIZED && challenges_the_token(response.headers())
            || self.statuses.contains(&response.status())
            || self.grpc && response.headers().get("grpc-status") == Some(&UNAUTHENTICATED);
        let (response, sign) = match &self.when {
            Some(when) if !sign => {
                let (head, body) = response.into_parts();
                let sign = when(&head);
                (Response::from_parts(head, body), sign)
            }
            _ => (response, sign),
        };
        let rejected = sign && !is_from_elsewhere(&response, origins);
        (response, rejected)
    }
}

impl fmt::Debug for RejectionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionPolicy")
            .field("statuses", &self.statuses)
            .field("grpc", &self.grpc)
            .field("when", &self.when.is_some())
            .finish()
    }
}

/// No challenge at all, or a Bearer challenge; not other schemes alone.
fn challenges_the_token(headers: &HeaderMap) -> bool {
    challenge::asks_for_bearer(headers, &NOT_THE_TOKENS)
}

fn is_from_elsewhere<A>(response: &Response<A>, origins: &Origins) -> bool {
    came_from(response).is_some_and(|uri| uri.authority().is_some() && origins.classify(uri) != OriginMatch::Ours)
}

/// What a layer beneath that follows redirects says of the response.
#[cfg(feature = "follow-redirect")]
fn came_from<A>(response: &Response<A>) -> Option<&Uri> {
    use tower_http::follow_redirect::RequestUri;

    response.extensions().get().map(|RequestUri(uri)| uri)
}

#[cfg(not(feature = "follow-redirect"))]
fn came_from<A>(_: &Response<A>) -> Option<&Uri> {
    None
}

#[cfg(test)]
mod tests;
