//! One call through any tower service: bounded, and with no trust in the answer.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tower::util::ServiceExt;
use tower::{BoxError, Service};

use crate::clock::{self, Clock};
use crate::error::{Answered, Error};
use crate::origin;
use crate::secret::Secret;
use crate::source::issuer::Issuer;

mod words;

#[cfg(feature = "authorization-code")]
pub(crate) use words::clean;
#[cfg(feature = "exec")]
pub(crate) use words::clean_end;

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

/// The address of an endpoint and the way there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    http: Arc<dyn Exchange>,
    place: Place,
    headers: HeaderMap,
}

#[derive(Clone)]
enum Place {
    At(Address),
    /// Where the issuer's metadata has it, under this name.
    Of(Issuer, &'static str),
}

#[derive(Clone)]
pub(crate) struct Address {
    uri: Uri,
    /// As errors show it: without query.
    name: Arc<str>,
}

/// What a token endpoint answered.
pub(crate) struct Answer {
    pub(crate) endpoint: Arc<str>,
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
    /// What no error from this answer repeats.
    pub(crate) secrets: Vec<Secret>,
}

/// A client behind a pointer, whatever its types. The lock makes a service that is not `Sync` shareable.
pub(crate) trait Exchange: Send + Sync {
    fn exchange(&self, request: Request<Bytes>) -> Exchanging;
}
pub(crate) type Exchanging = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;
struct Shareable<S, B>(Mutex<S>, PhantomData<fn(B)>);

/// How long a call outside a fetch waits for its answer.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);
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

impl<S: HttpClient<B>, B: 'static> Exchange for Shareable<S, B> {
    fn exchange(&self, request: Request<Bytes>) -> Exchanging {
        let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(client.exchange(request))
    }
}

/// Any client, behind a pointer.
pub(crate) fn shareable<B: 'static>(http: impl HttpClient<B>) -> Arc<dyn Exchange> {
    Arc::new(Shareable(Mutex::new(http), PhantomData))
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn new<B: 'static>(http: impl HttpClient<B>, field: &'static str, url: &str) -> Result<Self, Error> {
        Ok(Self { http: shareable(http), place: Place::At(Address::new(field, url)?), headers: HeaderMap::new() })
    }

    /// The one that an issuer's metadata has under this name.
    pub(crate) fn of(issuer: &Issuer, name: &'static str) -> Self {
        Self { http: issuer.http(), place: Place::Of(issuer.clone(), name), headers: HeaderMap::new() }
    }

    /// The same way to another address.
    pub(crate) fn at(&self, field: &'static str, url: &str) -> Result<Self, Error> {
        Ok(Self { place: Place::At(Address::new(field, url)?), ..self.clone() })
    }

    /// The same way, with the same headers, to where another is.
    pub(crate) fn moved_to(&self, other: &Self) -> Self {
        Self { place: other.place.clone(), ..self.clone() }
    }

    /// Where it is; asks the issuer where it was not asked yet.
    pub(crate) async fn address(&self) -> Result<Address, Error> {
        match &self.place {
            Place::At(address) => Ok(address.clone()),
            Place::Of(issuer, name) => issuer.endpoint(name).await,
        }
    }

    /// Who answers here: the issuer where it is known, else the endpoint. Whom an assertion is meant for (RFC 7523
    /// section 3).
    pub(crate) fn name(&self) -> &str {
        match &self.place {
            Place::At(address) => &address.name,
            Place::Of(issuer, _) => issuer.id(),
        }
    }

    /// Adds a header to every call, in the place of an earlier one of that name. It may hold a secret.
    pub(crate) fn header(&mut self, field: &'static str, name: &str, value: &str) -> Result<(), Error> {
        let name = HeaderName::try_from(name).map_err(|_| Error::invalid(field, "not a header name"))?;
        let mut value = header_value(field, value)?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    /// Adds a header that may be seen; none takes an earlier one back.
    pub(crate) fn plain_header(&mut self, name: &'static str, value: Option<HeaderValue>) {
        match value {
            Some(value) => drop(self.headers.insert(name, value)),
            None => drop(self.headers.remove(name)),
        }
    }

    /// One POST outside a fetch, with a deadline of its own, and no secret in it.
    pub(crate) async fn call(&self, content_type: &'static str, body: Bytes) -> Result<Answer, Error> {
        self.in_time(self.post(content_type, None, body, Vec::new())).await
    }

    /// Waits for an answer as long as a login or a revocation waits. Without a runtime there is no timer to wait with.
    pub(crate) async fn in_time(&self, call: impl Future<Output = Result<Answer, Error>>) -> Result<Answer, Error> {
        if !clock::has_runtime() {
            return Err(Error::no_runtime());
        }
        self.within(CALL_DEADLINE, call).await
    }

    /// Waits for an answer this long; the error names who was silent.
    pub(crate) async fn within(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<Answer, Error>>,
    ) -> Result<Answer, Error> {
        match tokio::time::timeout(patience, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::silent(self.name().into(), patience)),
        }
    }

    /// One POST. The status is not judged; a redirect is an answer like any other. `secrets` and the headers' values
    /// are what no error repeats.
    pub(crate) async fn post(
        &self,
        content_type: &'static str,
        authorization: Option<HeaderValue>,
        body: Bytes,
        mut secrets: Vec<Secret>,
    ) -> Result<Answer, Error> {
        let address = self.address().await?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        if let Some(mut value) = authorization {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        secrets.extend(headers.values().filter_map(credentials));
        address.ask(&*self.http, request, secrets).await
    }
}

// === impl Address ===

impl Address {
    pub(crate) fn new(field: &'static str, url: &str) -> Result<Self, Error> {
        let uri = origin::endpoint(field, url)?;
        Ok(Self { uri, name: url.split(['?', '#']).next().unwrap_or_default().into() })
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The address with this query behind the one it has.
    #[cfg(feature = "authorization-code")]
    pub(crate) fn with_query(&self, query: &str) -> String {
        let url = self.uri.to_string();
        let joint = if self.uri.query().is_some() { '&' } else { '?' };
        format!("{url}{joint}{query}")
    }

    /// One exchange with it.
    pub(crate) async fn ask(
        &self,
        http: &dyn Exchange,
        mut request: Request<Bytes>,
        secrets: Vec<Secret>,
    ) -> Result<Answer, Error> {
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        let response = http.exchange(request).await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Error::unusable(Some(self.name()), "it is longer than 1 MiB, which no token answer is")
            } else {
                Error::unreachable(self.name(), error)
            }
        })?;
        Ok(Answer {
            endpoint: self.name(),
            status: response.status(),
            retry_after: retry_after(response.headers(), Clock::System.now().wall),
            body: response.into_body(),
            secrets,
        })
    }
}

/// Headers may hold secrets of the user.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::At(address) => f.debug_tuple("Endpoint").field(&address.name).finish(),
            Place::Of(issuer, name) => f.debug_tuple("Endpoint").field(issuer).field(name).finish(),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// An error from this answer. A borrowed code is one of ours; everything else is the issuer's words.
    pub(crate) fn error(&self, denied: bool, code: Option<Cow<'static, str>>, text: Option<&str>) -> Error {
        let text = if self.status.is_redirection() {
            Some("it redirects, which is not followed: name the final address".to_owned())
        } else {
            text.map(|text| self.clean(text))
        };
        let code = code.map(|code| match code {
            Cow::Borrowed(known) => known.to_owned(),
            Cow::Owned(words) => self.clean(&words),
        });
        let answered = Answered {
            endpoint: Arc::clone(&self.endpoint),
            status: self.status,
            code: code.filter(|code| !code.is_empty()),
            text: text.filter(|text| !text.is_empty()),
        };
        Error::answered(answered, denied, self.retry_after)
    }

    pub(crate) fn unusable(&self, problem: impl Into<Cow<'static, str>>) -> Error {
        Error::unusable(Some(Arc::clone(&self.endpoint)), problem)
    }

    /// The issuer's words, as far as they can be repeated.
    pub(crate) fn clean(&self, text: &str) -> String {
        words::clean(text, &self.secrets)
    }
}

/// The address of a path below a base.
pub(crate) fn below(field: &'static str, base: &str, path: &str) -> Result<String, Error> {
    if base.contains(['?', '#']) {
        return Err(Error::invalid(field, "leave out query and fragment: a path is put behind it"));
    }
    Ok(format!("{}/{path}", base.trim_end_matches('/')))
}

pub(crate) fn header_value(field: &'static str, value: &str) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(value)
        .map_err(|_| Error::invalid(field, "it holds a character that no header may carry, such as a line break"))
}

/// What is secret in a header: its value, without the scheme that may stand before it.
fn credentials(value: &HeaderValue) -> Option<Secret> {
    let text = str::from_utf8(value.as_bytes()).ok().filter(|_| value.is_sensitive())?;
    Some(text.split_once(' ').map_or(text, |(_, credentials)| credentials).into())
}

/// RFC 9110 section 10.2.3: seconds, or an HTTP date. The date is held against the issuer's own clock where it tells
/// it (section 6.6.1), else against ours.
fn retry_after(headers: &HeaderMap, wall: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let sent = headers.get(DATE).and_then(|value| date(value.to_str().ok()?));
    Some(date(text)?.saturating_sub(sent.unwrap_or(wall)))
}

fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests;
