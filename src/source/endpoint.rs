//! One POST through any tower service: bounded, and with no trust in the answer.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tower::util::ServiceExt;
use tower::{BoxError, Service};

use crate::clock::Clock;
use crate::error::{Answered, Error};
use crate::origin;
use crate::token::Secret;

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

/// The address of a token endpoint and the way there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    http: Arc<dyn Exchange>,
    uri: Uri,
    /// The address as errors show it: without query.
    name: Arc<str>,
    headers: HeaderMap,
}

/// What a token endpoint answered.
pub(crate) struct Answer {
    pub(crate) endpoint: Arc<str>,
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

/// A client behind a pointer, whatever its types. The lock makes a service that is not `Sync` shareable.
trait Exchange: Send + Sync {
    fn exchange(&self, request: Request<Bytes>) -> Exchanging;
}
type Exchanging = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;
struct Shareable<S, B>(Mutex<S>, PhantomData<fn(B)>);

/// No token answer is longer.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// How much of an issuer's text an error repeats, in characters.
const LONGEST_TEXT: usize = 256;

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

impl<S: HttpClient<B>, B: 'static> Exchange for Shareable<S, B> {
    fn exchange(&self, request: Request<Bytes>) -> Exchanging {
        let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(client.exchange(request))
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn new<B: 'static>(http: impl HttpClient<B>, field: &'static str, url: &str) -> Result<Self, Error> {
        let http = Arc::new(Shareable(Mutex::new(http), PhantomData));
        Self::over(http, field, url)
    }

    /// The same way to another address.
    pub(crate) fn at(&self, field: &'static str, url: &str) -> Result<Self, Error> {
        Ok(Self { headers: self.headers.clone(), ..Self::over(Arc::clone(&self.http), field, url)? })
    }

    fn over(http: Arc<dyn Exchange>, field: &'static str, url: &str) -> Result<Self, Error> {
        let uri = origin::endpoint(field, url)?;
        let name = url.split(['?', '#']).next().unwrap_or_default().into();
        Ok(Self { http, uri, name, headers: HeaderMap::new() })
    }

    /// Adds a header to every call.
    pub(crate) fn header(&mut self, field: &'static str, name: &str, value: &str) -> Result<(), Error> {
        let name = HeaderName::try_from(name).map_err(|_| Error::invalid(field, "not a header name"))?;
        let value = HeaderValue::try_from(value).map_err(|_| {
            Error::invalid(field, "it holds a character that no header may carry, such as a line break")
        })?;
        self.headers.insert(name, value);
        Ok(())
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// One POST. The status is not judged; a redirect is an answer like any other.
    pub(crate) async fn post(
        &self,
        content_type: &'static str,
        authorization: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(mut value) = authorization {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let response = self.http.exchange(request).await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Error::unusable(Some(self.name()), "it is longer than 1 MiB, which no token answer is")
            } else {
                Error::unreachable(self.name(), error)
            }
        })?;
        Ok(Answer {
            endpoint: self.name(),
            status: response.status(),
            retry_after: response.headers().get(RETRY_AFTER).and_then(retry_after),
            body: response.into_body(),
        })
    }
}

/// Headers may hold secrets of the user.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.name).finish()
    }
}

// === impl Answer ===

impl Answer {
    /// An error from this answer: `code` and `text` are the issuer's words.
    pub(crate) fn error(&self, denied: bool, code: Option<&str>, text: Option<&str>, secrets: &[&Secret]) -> Error {
        let text = match text {
            None if self.status.is_redirection() => Some("it redirects, which is not followed: name the final address"),
            text => text,
        };
        let answered = Answered {
            endpoint: Arc::clone(&self.endpoint),
            status: self.status,
            code: code.map(|code| clean(code, secrets)),
            text: text.map(|text| clean(text, secrets)).filter(|text| !text.is_empty()),
        };
        Error::answered(answered, denied, self.retry_after)
    }

    pub(crate) fn unusable(&self, problem: impl Into<Cow<'static, str>>) -> Error {
        Error::unusable(Some(Arc::clone(&self.endpoint)), problem)
    }
}

/// RFC 9110 section 10.2.3: seconds, or an HTTP date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Clock::System.now().wall))
}

/// The issuer's words, as far as they can be repeated: secrets replaced, control characters gone, bounded.
fn clean(text: &str, secrets: &[&Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty()) {
        let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        text = text.replace(secret, "[redacted]").replace(&encoded, "[redacted]");
    }
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(LONGEST_TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests;
