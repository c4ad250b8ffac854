//! What a response says of the token that was sent. The one place that decides.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, response};

use crate::challenge;
use crate::origin::{OriginMatch, Origins};
use crate::schedule::Sign;

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
/// For an API that takes Bearer tokens and calls them something else (`Token`, `OAuth`, `Basic`), there is
/// [`any_scheme`](RejectionPolicy::any_scheme); `.status(StatusCode::UNAUTHORIZED)` makes every 401 a rejection.
///
/// A response that comes from an origin that is not the layer's own, after a redirect beneath it, says nothing about the
/// token. A 403 does not by default; some servers answer a dead token with it, and for those it is
/// [added](RejectionPolicy::status), at the price of a refresh for a real "forbidden": one that did not help makes the next wait a
/// minute, doubling to an hour. What was handed back can be read with [`Challenge::all`](crate::Challenge::all).
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
    /// Whether anything but a 401 may be a rejection.
    looks_further: bool,
}

type When = dyn Fn(&response::Parts) -> bool + Send + Sync;

/// gRPC's UNAUTHENTICATED.
const UNAUTHENTICATED: HeaderValue = HeaderValue::from_static("16");

// === impl RejectionPolicy ===

impl RejectionPolicy {
    /// A 401, as its challenges say.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds gRPC's `UNAUTHENTICATED`: `grpc-status: 16` in the response's headers, which is how a server answers that
    /// rejects a call before it begins (a "trailers-only" response, with HTTP status 200).
    ///
    /// A status in the trailers, after a call that began, is read with its body: [`WatchTrailers`](crate::WatchTrailers)
    /// around the layer looks at them.
    #[must_use]
    pub fn grpc(mut self) -> Self {
        self.grpc = true;
        self.looks_further = true;
        self
    }

    /// Another status that always means "rejected", such as 419.
    ///
    /// Price: if it may have other causes too, as a 403 does, a dead token is noticed late once a refresh did not help.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self.looks_further = true;
        self
    }

    /// Challenges of other schemes count as none: a 401 with `Basic realm="x"` alone says that the token was rejected.
    ///
    /// For servers that challenge for the login of their web pages when a Bearer token is dead. Price: a request that asks
    /// for another scheme's credentials costs a refresh, within the budget, and a second send. `insufficient_scope` and the
    /// other errors of a Bearer challenge are still handed back.
    #[must_use]
    pub fn any_scheme(self) -> Self {
        Self { any_scheme: true, ..self }
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

    /// Whether the response's trailers may say more.
    pub(crate) fn has_trailers<A>(&self, response: &Response<A>) -> bool {
        self.grpc && !response.headers().contains_key("grpc-status")
    }

    /// Evaluates the response to a request that carried our token to one of our origins; gives the response back.
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
        let sign = sign.filter(|_| !is_from_elsewhere(&response, origins));
        (response, sign)
    }

    fn sign_of(&self, status: StatusCode, headers: &HeaderMap) -> Option<Sign> {
        let is_standard = status == StatusCode::UNAUTHORIZED && self.is_challenged(headers)
            || self.grpc && is_unauthenticated(headers);
        if is_standard { Some(Sign::Standard) } else { self.statuses.contains(&status).then_some(Sign::Added) }
    }

    /// No challenge at all, or a Bearer challenge; not other schemes alone.
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

/// Whether a request can be sent again after this response: whether its method is safe, or the response answers it.
///
/// A response from another URI may answer the GET that a redirect made of an unsafe method: then the request was processed,
/// and sending it again would process it twice (RFC 9110 section 9.2.2). A 307 keeps the method, which the response does not
/// tell. So a response from another URI never answers an unsafe method here, unless an inner service says with which method
/// that request went out.
pub(crate) fn allows_replay<A>((method, sent): (&Method, &Uri), response: &Response<A>) -> bool {
    let Some(from) = came_from(response).filter(|_| !method.is_safe()) else { return true };
    // A path that a client joined to its base URL counts as the same.
    let is_same = from.path_and_query() == sent.path_and_query()
        && (sent.authority().is_none() || (from.scheme(), from.authority()) == (sent.scheme(), sent.authority()));
    is_same || response.extensions().get().is_some_and(|SentMethod(method)| !method.is_safe())
}

/// A response extension: the method of the request that was answered.
///
/// For an inner service that follows redirects. A rejected request with an unsafe method, such as POST, whose response came
/// from another URI is not sent again, because a 303 may have made a GET of it: the POST was processed. If a service
/// beneath the one that follows redirects puts this extension into each response, a POST that was kept (307, 308) is known
/// and sent again.
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
