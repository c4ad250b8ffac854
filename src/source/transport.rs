//! Sends one request to a server over any tower service, and reads an untrusted answer of bounded size.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, DATE, RETRY_AFTER};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tower::util::ServiceExt;
use tower::{BoxError, Service};

use crate::clock::Clock;
use crate::error::{Error, ErrorResponse, Said};
use crate::no_token::NoToken;
use crate::origin;
use crate::secret::Secret;
use crate::source::redact;

/// Any tower HTTP client, for calls to a token endpoint.
///
/// Every `Service<http::Request<B>, Response = http::Response<A>>` that is `Clone + Send` implements it, if its request
/// body converts from [`Bytes`] and its error into a boxed error. Examples are hyper-util's client, `BoxCloneService`,
/// `Buffer`, and whole service stacks. The client must not follow redirects, because a redirected token call would
/// carry the credentials along.
pub trait HttpClient<B>: Clone + Send + 'static {
    /// Sends one request and reads the whole answer, up to 1 MiB.
    ///
    /// # Errors
    /// Returns an error if
    /// - the service returns one;
    /// - the body cannot be read;
    /// - the body is too long.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request, which may have reached the server.
    fn exchange(self, request: Request<Bytes>) -> impl Future<Output = Result<Response<Bytes>, BoxError>> + Send;
}

/// The URL of an endpoint.
#[derive(Clone)]
pub(crate) struct EndpointUrl {
    uri: Uri,
    /// The URL in errors: without the query.
    name: Arc<str>,
}

/// The answer of a token endpoint.
pub(crate) struct TokenResponse {
    pub(crate) endpoint: Arc<str>,
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    /// The time of the answer: its `Date` header (RFC 9110 section 6.6.1), or the local time if it has none.
    pub(crate) now: SystemTime,
    /// The compression of the body, if any.
    content_encoding: Option<String>,
    pub(crate) body: Bytes,
    /// The secrets to redact from errors of this answer.
    pub(crate) secrets: Vec<Secret>,
}

/// An [`HttpClient`] without its type parameters, for `dyn`.
pub(crate) trait HttpSend: Send + Sync {
    fn send(&self, request: Request<Bytes>) -> SendFuture;
}
pub(crate) type SendFuture = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;
/// A client that is `Sync`, because its service, which may not be, is behind a lock.
struct SyncClient<S, B>(Mutex<S>, PhantomData<fn(B)>);

/// How long a call outside a fetch waits for its answer.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How much of an error's code and description is kept for decisions, in characters.
const MAX_SAID: usize = 1024;
/// The longest body that is read.
const MAX_BODY: usize = 1024 * 1024;

// === the client ===

impl<S, B, A> HttpClient<B> for S
where
    S: Service<Request<B>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: From<Bytes> + Send + 'static,
    A: Body + Send,
    A::Data: Send,
    A::Error: Into<BoxError>,
{
    async fn exchange(self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        let response = self.oneshot(request.map(B::from)).await.map_err(Into::into)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

impl<S: HttpClient<B>, B: 'static> HttpSend for SyncClient<S, B> {
    fn send(&self, request: Request<Bytes>) -> SendFuture {
        let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(client.exchange(request))
    }
}

/// Converts any client to one behind a pointer.
pub(crate) fn sync_client<B: 'static>(http: impl HttpClient<B>) -> Arc<dyn HttpSend> {
    Arc::new(SyncClient(Mutex::new(http), PhantomData))
}

// === impl EndpointUrl ===

impl EndpointUrl {
    /// Checks the URL, which may be plain `http://` beyond loopback if the setting `allow_insecure` allows it.
    pub(crate) fn checked(field: &'static str, url: &str, allow_insecure: bool) -> Result<Self, Error> {
        let url = Self::of(origin::endpoint(field, url)?, url);
        if url.is_exposed() && !allow_insecure {
            let problem = "plain http:// shows the credentials to everyone on the way; write https://, or call `allow_insecure` if the network itself is trusted";
            return Err(Error::invalid(field, problem));
        }
        Ok(url)
    }

    fn of(uri: Uri, url: &str) -> Self {
        Self { uri, name: url.split(['?', '#']).next().unwrap_or_default().into() }
    }

    /// Warns once if others on the network can read what is sent to one of these addresses.
    ///
    /// The event is not in `telemetry`, because that module imports this module's parent.
    pub(crate) fn warn_if_exposed<'a>(urls: impl IntoIterator<Item = &'a Self>) {
        if let Some(url) = urls.into_iter().find(|url| url.is_exposed()) {
            tracing::warn!(
                name: "insecure_issuer",
                target: "tower_bearer",
                endpoint = %url.name,
                "credentials are sent over plain http"
            );
        }
    }

    /// Whether others on the network can read what is sent there.
    fn is_exposed(&self) -> bool {
        origin::is_exposed(&self.uri)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether both URLs have the same scheme, host and port.
    pub(crate) fn has_origin_of(&self, other: &Self) -> bool {
        origin::is_same(&self.uri, &other.uri)
    }

    /// The URL in errors.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The URL with this query appended to its own.
    #[cfg(feature = "authorization-code")]
    pub(crate) fn with_query(&self, query: &str) -> String {
        let url = self.uri.to_string();
        let separator = if self.uri.query().is_some() { '&' } else { '?' };
        format!("{url}{separator}{query}")
    }

    /// Sends a request to the endpoint, and reads the answer. The clock gives the time of the answer.
    pub(crate) async fn send(
        &self,
        http: &dyn HttpSend,
        clock: &Clock,
        mut request: Request<Bytes>,
        secrets: Vec<Secret>,
    ) -> Result<TokenResponse, Error> {
        *request.uri_mut() = self.uri.clone();
        // The client may include the layer of the cache that waits for this answer: adding a token would deadlock.
        request.extensions_mut().insert(NoToken);
        let headers = request.headers_mut();
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        // Without this header, a server may use any compression (RFC 9110 section 12.5.3). If the answer cannot be
        // read, a rotated refresh token in it is lost. A client that decompresses still decompresses the answer.
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        let response = http.send(request).await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Error::unusable(Some(self.name.clone()), "it is longer than 1 MiB")
            } else {
                Error::unreachable(self.name.clone(), error)
            }
        })?;
        Ok(TokenResponse {
            endpoint: self.name.clone(),
            status: response.status(),
            retry_after: retry_after(response.headers(), clock.now().wall),
            now: UNIX_EPOCH + date_header(response.headers()).unwrap_or(clock.now().wall),
            content_encoding: content_encoding(&response),
            body: response.into_body(),
            secrets,
        })
    }
}

// === impl TokenResponse ===

impl TokenResponse {
    /// Returns an error from this answer. A borrowed code is a constant of this crate. Everything else is the issuer's
    /// text.
    pub(crate) fn error(&self, denied: bool, code: Option<Cow<'static, str>>, text: Option<&str>) -> Error {
        let bounded = |text: &str| Secret::from(text.chars().take(MAX_SAID).collect::<String>());
        let said = Said { code: code.as_deref().map(bounded), text: text.map(bounded) };
        let text = if self.status.is_redirection() {
            Some("it redirects, which is not followed; configure the final URL".to_owned())
        } else if let (None, Some(problem)) = (text, self.compression()) {
            Some(problem)
        } else {
            text.map(|text| self.clean(text))
        };
        let code = code.map(|code| match code {
            Cow::Borrowed(known) => known.to_owned(),
            Cow::Owned(words) => redact::clean_code(&words, &self.secrets),
        });
        let answered = ErrorResponse {
            endpoint: Arc::clone(&self.endpoint),
            status: self.status,
            code: code.filter(|code| !code.is_empty()),
            text: text.filter(|text| !text.is_empty()),
            said,
        };
        Error::answered(answered, denied, self.retry_after)
    }

    /// Returns the error of a body with this problem, or of a compressed body.
    pub(crate) fn unreadable(&self, problem: &'static str) -> Error {
        self.unusable(self.compression().map_or(Cow::Borrowed(problem), Cow::Owned))
    }

    /// Describes the problem of a compressed body.
    fn compression(&self) -> Option<String> {
        let encoding = self.content_encoding.as_deref()?;
        Some(format!(
            "its content-encoding is {}, which the request does not accept; wrap the client in a decompression layer, or \
             configure the server not to compress",
            self.clean(encoding)
        ))
    }

    pub(crate) fn unusable(&self, problem: impl Into<Cow<'static, str>>) -> Error {
        Error::unusable(Some(Arc::clone(&self.endpoint)), problem)
    }

    /// Cleans an issuer's text for an error.
    pub(crate) fn clean(&self, text: &str) -> String {
        redact::clean(text, &self.secrets)
    }
}

/// Appends a path to a base URL.
pub(crate) fn join_path(field: &'static str, base: &str, path: &str) -> Result<String, Error> {
    if base.contains(['?', '#']) {
        return Err(Error::invalid(field, "remove the query and the fragment, because a path is appended"));
    }
    Ok(format!("{}/{path}", base.trim_end_matches('/')))
}

/// Reads the encoding from its header, or recognises gzip by the first bytes (RFC 1952 section 2.3.1).
fn content_encoding(response: &Response<Bytes>) -> Option<String> {
    match response.headers().get(CONTENT_ENCODING) {
        Some(value) => Some(String::from_utf8_lossy(value.as_bytes()).trim().to_lowercase())
            .filter(|encoding| !encoding.is_empty() && encoding != "identity"),
        None => response.body().starts_with(b"\x1f\x8b").then(|| "gzip, though no header says so".to_owned()),
    }
}

/// Reads `Retry-After` (RFC 9110 section 10.2.3): seconds, or an HTTP date. Several servers send fractions of seconds.
///
/// A date is compared with the issuer's clock if the answer has a `Date` header (section 6.6.1), and otherwise with the
/// local one.
fn retry_after(headers: &HeaderMap, wall: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    if let Some((seconds, fraction)) = text.split_once('.')
        && [seconds, fraction].iter().all(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
    {
        // Round up: a longer pause is correct, a shorter one is not.
        let seconds: u64 = seconds.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds.saturating_add(u64::from(fraction.contains(|c| c != '0')))));
    }
    Some(date(text)?.saturating_sub(date_header(headers).unwrap_or(wall)))
}

/// When the issuer sent its answer, by the issuer's clock.
fn date_header(headers: &HeaderMap) -> Option<Duration> {
    headers.get(DATE).and_then(|value| date(value.to_str().ok()?))
}

fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests;
