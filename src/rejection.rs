//! Decides whether a response says that the token was rejected.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, response};

use crate::challenge;
use crate::origin::{OriginMatch, Origins};
use crate::schedule::Sign;

/// Which responses reject the token.
///
/// A rejected token is replaced, and the request is retried.
/// By default a 401 does, unless its challenges say otherwise (RFC 6750 section 3.1, RFC 9110 section 11.6.1):
///
/// | `WWW-Authenticate` | the token is |
/// |---|---|
/// | missing or unreadable | rejected |
/// | `Bearer`, without an error or with `invalid_token` or an error that no RFC defines | rejected |
/// | `Bearer error="insufficient_scope"`, `"invalid_request"` or `"insufficient_user_authentication"` | accepted: a new token like it would not help |
/// | other schemes only | not the problem: the API requires other credentials |
///
/// For an API that takes Bearer tokens and names another scheme in its challenges (`Token`, `OAuth`, `Basic`), use
/// [`any_scheme`](RejectionPolicy::any_scheme). `.status(StatusCode::UNAUTHORIZED)` makes every 401 a rejection.
///
/// If an inner service follows redirects, a response from an origin that the layer does not name says nothing about the
/// token. A 403 is not a rejection by default. Some servers answer an expired token with it:
/// [add](RejectionPolicy::status) it for those. Then each real "forbidden" costs a refresh, too; one that did not help
/// makes the next wait a minute, doubling up to an hour. [`Challenge::all`](crate::Challenge::all) reads the challenges
/// of a response that the caller gets.
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
    any_scheme: bool,
    when: Option<Arc<When>>,
    /// Whether a status other than 401 may be a rejection.
    checks_other_statuses: bool,
}

type When = dyn Fn(&response::Parts) -> bool + Send + Sync;

/// gRPC's `UNAUTHENTICATED`.
const UNAUTHENTICATED: HeaderValue = HeaderValue::from_static("16");

// === impl RejectionPolicy ===

impl RejectionPolicy {
    /// Returns the default: a 401 whose challenges do not say otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds gRPC's `UNAUTHENTICATED`: `grpc-status: 16` in the response's headers.
    ///
    /// A server sends it to reject a call before it begins (a "trailers-only" response, with HTTP status 200). After a
    /// call has begun, the status is in the trailers, after the body: [`WatchTrailers`](crate::WatchTrailers) around
    /// the layer reads them.
    #[must_use]
    pub fn grpc(mut self) -> Self {
        self.grpc = true;
        self.checks_other_statuses = true;
        self
    }

    /// Adds a status that always means "rejected", such as 419.
    ///
    /// If the status may have other causes, as a 403 does, a rejected token may be noticed late. The reason is that the
    /// status causes no refresh for some time after a refresh that did not help.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self.checks_other_statuses = true;
        self
    }

    /// Ignores challenges of other schemes.
    ///
    /// Then a 401 with only `Basic realm="x"` is a rejection. It is for servers that challenge for the login of their
    /// web pages when a Bearer token has expired. A 401 that really requires another scheme costs a refresh, within the
    /// budget, and a retry. `insufficient_scope` and the other errors of a Bearer challenge still go to the caller.
    #[must_use]
    pub fn any_scheme(self) -> Self {
        Self { any_scheme: true, ..self }
    }

    /// Makes each response for which the closure returns `true` a rejection.
    ///
    /// The status does not matter. A second call replaces the closure of the first.
    #[must_use]
    pub fn when(mut self, when: impl Fn(&response::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(when));
        self.checks_other_statuses = true;
        self
    }

    /// Whether the response may be a rejection. It excludes nearly every response without moving it.
    #[inline]
    pub(crate) fn may_reject<A>(&self, response: &Response<A>) -> bool {
        response.status() == StatusCode::UNAUTHORIZED || self.checks_other_statuses
    }

    /// Whether the response's trailers may say more.
    pub(crate) fn has_trailers<A>(&self, response: &Response<A>) -> bool {
        self.grpc && !response.headers().contains_key("grpc-status")
    }

    /// Classifies the response to a request that carried the layer's token to one of its origins. Returns the response.
    #[inline]
    pub(crate) fn classify<A>(&self, mut response: Response<A>, origins: &Origins) -> (Response<A>, Option<Sign>) {
        let mut sign = self.sign_of(response.status(), response.headers());
        if sign.is_none()
            && let Some(when) = &self.when
        {
            let (head, body) = response.into_parts();
            sign = when(&head).then_some(Sign::Added);
            response = Response::from_parts(head, body);
        }
        let sign = sign.filter(|_| !is_from_other_origin(&response, origins));
        (response, sign)
    }

    fn sign_of(&self, status: StatusCode, headers: &HeaderMap) -> Option<Sign> {
        let is_standard = status == StatusCode::UNAUTHORIZED && self.is_challenged(headers)
            || self.grpc && is_unauthenticated(headers);
        if is_standard { Some(Sign::Standard) } else { self.statuses.contains(&status).then_some(Sign::Added) }
    }

    /// Whether there is no challenge, or a Bearer challenge that a new token can satisfy.
    fn is_challenged(&self, headers: &HeaderMap) -> bool {
        challenge::asks_for_bearer(headers, self.any_scheme)
    }
}

impl fmt::Debug for RejectionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionPolicy")
            .field("statuses", &self.statuses)
            .field("grpc", &self.grpc)
            .field("any_scheme", &self.any_scheme)
            .field("when", &self.when.is_some())
            .finish()
    }
}

/// Whether gRPC's status, in headers or trailers, is `UNAUTHENTICATED`.
pub(crate) fn is_unauthenticated(headers: &HeaderMap) -> bool {
    headers.get("grpc-status") == Some(&UNAUTHENTICATED)
}

/// Whether a request can be retried after this response: its method is safe, or the response answers that method.
///
/// A response from another URI may answer the GET that a redirect made of an unsafe method. Then the request was
/// processed, and a retry would process it twice (RFC 9110 section 9.2.2). A 307 keeps the method, but the response
/// does not show that. So a response from another URI forbids the retry of an unsafe method, unless an inner service
/// says that the redirected request had an unsafe method.
pub(crate) fn allows_replay<A>((method, sent): (&Method, &Uri), response: &Response<A>) -> bool {
    let Some(from) = answered_uri(response).filter(|_| !method.is_safe()) else { return true };
    // A client may have joined the path to its base URL.
    let is_same = from.path_and_query() == sent.path_and_query()
        && (sent.authority().is_none() || (from.scheme(), from.authority()) == (sent.scheme(), sent.authority()));
    is_same || response.extensions().get().is_some_and(|SentMethod(method)| !method.is_safe())
}

/// A response extension: the method of the request that was answered.
///
/// It is for stacks in which an inner service follows redirects. The layer does not retry a rejected request with an
/// unsafe method, such as POST, if its response came from another URI. The API may have processed the POST, and a 303
/// then made a GET of it. If a service inside the one that follows redirects adds this extension to each response, the
/// layer retries a POST that the redirect kept (307, 308).
///
/// ```
/// # use http::{Request, Response};
/// # use tower::{BoxError, Layer, ServiceExt, service_fn};
/// # use tower_bearer::{BearerLayer, SentMethod, TokenCache};
/// # let http = service_fn(async |_: Request<String>| Ok::<_, BoxError>(Response::new(String::new())));
/// let with_method = service_fn(move |request: Request<String>| {
///     let (http, method) = (http.clone(), request.method().clone());
///     async move {
///         let mut response = http.oneshot(request).await?;
///         response.extensions_mut().insert(SentMethod(method));
///         Ok::<_, BoxError>(response)
///     }
/// });
/// // Here: a service that follows redirects, such as tower-http's `FollowRedirect`.
/// let api = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.layer(with_method);
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMethod(pub Method);

fn is_from_other_origin<A>(response: &Response<A>, origins: &Origins) -> bool {
    answered_uri(response).is_some_and(|uri| uri.authority().is_some() && origins.classify(uri) != OriginMatch::Matched)
}

/// The URI that answered, if an inner layer that follows redirects names it.
#[cfg(feature = "follow-redirect")]
fn answered_uri<A>(response: &Response<A>) -> Option<&Uri> {
    use tower_http::follow_redirect::RequestUri;

    response.extensions().get().map(|RequestUri(uri)| uri)
}

#[cfg(not(feature = "follow-redirect"))]
fn answered_uri<A>(_: &Response<A>) -> Option<&Uri> {
    None
}

#[cfg(test)]
mod tests;
