//! One exchange with a server, over any tower service: bounded, and with no trust in the answer.

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
/// Implemented for every `Service<http::Request<B>, Response = http::Response<A>>` that is `Clone + Send`, whose request
/// body is made from [`Bytes`] and whose errors turn into a boxed error: hyper-util's client, `BoxCloneService`,
/// `Buffer`, and whole service stacks. The client must not follow redirects: a redirected token call would carry the
/// credentials along.
pub trait HttpClient<B>: Clone + Send + 'static {
    /// Sends one request and reads the whole answer, up to 1 MiB.
    ///
    /// # Errors
    /// The service's own, that of reading the body, or that the body is too long.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request, which may have reached the server.
    fn exchange(self, request: Request<Bytes>) -> impl Future<Output = Result<Response<Bytes>, BoxError>> + Send;
}

/// Where a call goes.
#[derive(Clone)]
pub(crate) struct EndpointUrl {
    uri: Uri,
    /// As errors show it: without query.
    name: Arc<str>,
}

/// What a token endpoint answered.
pub(crate) struct TokenResponse {
    pub(crate) endpoint: Arc<str>,
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    /// What the time is: by the server's clock if it tells it (RFC 9110 section 6.6.1), else by ours.
    pub(crate) now: SystemTime,
    /// How the body is compressed, if it is.
    content_encoding: Option<String>,
    pub(crate) body: Bytes,
    /// What no error from this answer repeats.
    pub(crate) secrets: Vec<Secret>,
}

/// A client behind a pointer, whatever its types. The lock makes a service that is not `Sync` shareable.
pub(crate) trait HttpSend: Send + Sync {
    fn send(&self, request: Request<Bytes>) -> SendFuture;
}
pub(crate) type SendFuture = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;
struct SyncClient<S, B>(Mutex<S>, PhantomData<fn(B)>);

/// How long a call outside a fetch waits for its answer.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How much of an answer's words is kept for decisions, in characters.
const LONGEST_SAID: usize = 1024;
/// No token answer is longer.
const LONGEST_ANSWER: usize = 1024 * 1024;

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
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

impl<S: HttpClient<B>, B: 'static> HttpSend for SyncClient<S, B> {
    fn send(&self, request: Request<Bytes>) -> SendFuture {
        let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(client.exchange(request))
    }
}

/// Any client, behind a pointer.
pub(crate) fn sync_client<B: 'static>(http: impl HttpClient<B>) -> Arc<dyn HttpSend> {
    Arc::new(SyncClient(Mutex::new(http), PhantomData))
}

// === impl EndpointUrl ===

impl EndpointUrl {
    /// The address, which may be plain `http://` beyond loopback if that is allowed by the setting `allow_insecure`.
    pub(crate) fn checked(field: &'static str, url: &str, allow_insecure: bool) -> Result<Self, Error> {
        let address = Self::of(origin::endpoint(field, url)?, url);
        if address.is_exposed() && !allow_insecure {
            let problem = "plain http:// shows the credentials to everyone on the way; write https://, or call `allow_insecure` if the network itself is trusted";
            return Err(Error::invalid(field, problem));
        }
        Ok(address)
    }

    fn of(uri: Uri, url: &str) -> Self {
        Self { uri, name: url.split(['?', '#']).next().unwrap_or_default().into() }
    }

    /// Warns if what is sent there can be read on the way. Not in `telemetry`, which imports this module's parent.
    pub(crate) fn warn_if_exposed(&self) {
        if self.is_exposed() {
            tracing::warn!(
                name: "insecure_issuer",
                target: "tower_bearer",
                endpoint = %self.name,
                "credentials are sent over plain http"
            );
        }
    }

    /// Whether what is sent there can be read on the way.
    pub(crate) fn is_exposed(&self) -> bool {
        origin::is_exposed(&self.uri)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether it is at the same scheme, host and port.
    pub(crate) fn has_origin_of(&self, other: &Self) -> bool {
        origin::is_same(&self.uri, &other.uri)
    }

    /// As errors show it.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The address with this query behind the one it has.
    #[cfg(feature = "authorization-code")]
    pub(crate) fn with_query(&self, query: &str) -> String {
        let url = self.uri.to_string();
        let joint = if self.uri.query().is_some() { '&' } else { '?' };
        format!("{url}{joint}{query}")
    }

    /// One exchange with it. The clock says what time it is when the answer comes.
    pub(crate) async fn send(
        &self,
        http: &dyn HttpSend,
        clock: &Clock,
        mut request: Request<Bytes>,
        secrets: Vec<Secret>,
    ) -> Result<TokenResponse, Error> {
        *request.uri_mut() = self.uri.clone();
        // The client may hold the layer of the cache that waits for this answer.
        request.extensions_mut().insert(NoToken);
        let headers = request.headers_mut();
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        // Without it, a server may compress its answer as it likes (RFC 9110 section 12.5.3), and a rotated refresh token in an
        // answer that cannot be read is lost. A layer that decompresses takes what comes.
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        let response = http.send(request).await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Error::unusable(Some(self.name.clone()), "it is longer than 1 MiB, which no token answer is")
            } else {
                Error::unreachable(self.name.clone(), error)
            }
        })?;
        Ok(TokenResponse {
            endpoint: self.name.clone(),
            status: response.status(),
            retry_after: retry_after(response.headers(), clock.now().wall),
            now: UNIX_EPOCH + sent(response.headers()).unwrap_or(clock.now().wall),
            content_encoding: content_encoding(&response),
            body: response.into_body(),
            secrets,
        })
    }
}

// === impl TokenResponse ===

impl TokenResponse {
    /// An error from this answer. A borrowed code is one of ours; everything else is the issuer's words.
    pub(crate) fn error(&self, denied: bool, code: Option<Cow<'static, str>>, text: Option<&str>) -> Error {
        let bounded = |text: &str| Secret::from(text.chars().take(LONGEST_SAID).collect::<String>());
        let said = Said { code: code.as_deref().map(bounded), text: text.map(bounded) };
        let text = if self.status.is_redirection() {
            Some("it redirects, which is not followed: name the final address".to_owned())
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

    /// The error of a body that is not what it should be, or cannot be read for being compressed.
    pub(crate) fn unreadable(&self, problem: &'static str) -> Error {
        self.unusable(self.compression().map_or(Cow::Borrowed(problem), Cow::Owned))
    }

    /// What is wrong with a body that came compressed.
    fn compression(&self) -> Option<String> {
        let encoding = self.content_encoding.as_deref()?;
        Some(format!(
            "its content-encoding is {}, which was not asked for: put a decompressing layer around the client, or have \
             the server send it plain",
            self.clean(encoding)
        ))
    }

    pub(crate) fn unusable(&self, problem: impl Into<Cow<'static, str>>) -> Error {
        Error::unusable(Some(Arc::clone(&self.endpoint)), problem)
    }

    /// The issuer's words, as far as they can be repeated.
    pub(crate) fn clean(&self, text: &str) -> String {
        redact::clean(text, &self.secrets)
    }
}

/// The address of a path below a base.
pub(crate) fn join_path(field: &'static str, base: &str, path: &str) -> Result<String, Error> {
    if base.contains(['?', '#']) {
        return Err(Error::invalid(field, "leave out query and fragment: a path is put behind it"));
    }
    Ok(format!("{}/{path}", base.trim_end_matches('/')))
}

/// The encoding that a header names, or that the first bytes give away (RFC 1952 section 2.3.1).
fn content_encoding(response: &Response<Bytes>) -> Option<String> {
    match response.headers().get(CONTENT_ENCODING) {
        Some(value) => Some(String::from_utf8_lossy(value.as_bytes()).trim().to_lowercase())
            .filter(|encoding| !encoding.is_empty() && encoding != "identity"),
        None => response.body().starts_with(b"\x1f\x8b").then(|| "gzip, though no header says so".to_owned()),
    }
}

/// RFC 9110 section 10.2.3: seconds, or an HTTP date; several servers send fractions of seconds. The date is held against
/// the issuer's own clock where it tells it (section 6.6.1), else against ours.
fn retry_after(headers: &HeaderMap, wall: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    if let Some((seconds, fraction)) = text.split_once('.')
        && [seconds, fraction].iter().all(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
    {
        // Too much of a pause is right, and too little is not.
        let seconds: u64 = seconds.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds.saturating_add(u64::from(fraction.contains(|c| c != '0')))));
    }
    Some(date(text)?.saturating_sub(sent(headers).unwrap_or(wall)))
}

/// When the issuer sent its answer, by its own clock.
fn sent(headers: &HeaderMap) -> Option<Duration> {
    headers.get(DATE).and_then(|value| date(value.to_str().ok()?))
}

fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests;
