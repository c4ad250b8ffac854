//! An authorization server, whose endpoints come from its metadata (RFC 8414, OpenID Connect Discovery) or the caller.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::error::Error;
use crate::schedule::DualInstant;
use crate::source::answer::decode;
use crate::source::transport::{self, CALL_DEADLINE, EndpointUrl, HttpClient, HttpSend, TokenResponse};

/// An authorization server: the URLs of its endpoints, and the client that calls them.
///
/// [`discover`](Issuer::discover) reads the endpoints from the server's metadata. [`new`](Issuer::new) makes an issuer
/// whose endpoints the caller names. Each grant, login and revocation takes an issuer, and checks it when it is built.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
///
/// let issuer = Issuer::discover(http.clone(), "https://auth.example.com");
/// let named = Issuer::new(http)
///     .token_endpoint("https://auth.example.com/token")
///     .revocation_endpoint("https://auth.example.com/revoke");
/// let grant = ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build()?;
/// let cache = TokenCache::new(grant);
/// # Ok(()) }
/// ```
///
/// Making an issuer calls no server. The first fetch of a grant reads the metadata, once for all clones of the issuer.
/// If that fails, the next fetch reads it. If an endpoint from the metadata answers 404 or 410, the metadata is read
/// again, at most every three minutes.
///
/// Every URL must be `https://`, or plain `http://` on loopback. [`allow_insecure`](Issuer::allow_insecure) allows
/// plain `http://` elsewhere. An endpoint in the metadata of an `https://` issuer must be `https://`.
#[derive(Clone)]
pub struct Issuer {
    http: Arc<dyn HttpSend>,
    /// `None` if the caller names all endpoints, so that there is no metadata.
    identifier: Option<Arc<str>>,
    metadata_url: Option<Arc<str>>,
    /// The endpoints that the caller named, by their name in the metadata.
    named: Vec<(&'static str, Arc<str>)>,
    prefers_mtls: bool,
    allows_insecure: bool,
    cached: Arc<Cached>,
}

/// The metadata that was read last.
#[derive(Default)]
struct Cached {
    document: Mutex<Option<Document>>,
    /// Whether an endpoint of the document answered that it does not exist.
    is_outdated: AtomicBool,
}

struct Document {
    metadata: Arc<Map<String, Value>>,
    read_at: DualInstant,
}

/// Why a place has no usable metadata. If all places fail, the caller gets the error with the largest weight.
struct Failure {
    weight: u8,
    error: Error,
}

/// The member of an issuer's metadata with the URL of its token endpoint.
pub(crate) const TOKEN_ENDPOINT: &str = "token_endpoint";
pub(crate) const DEVICE_AUTHORIZATION_ENDPOINT: &str = "device_authorization_endpoint";
pub(crate) const REVOCATION_ENDPOINT: &str = "revocation_endpoint";
#[cfg(feature = "authorization-code")]
pub(crate) const AUTHORIZATION_ENDPOINT: &str = "authorization_endpoint";
#[cfg(feature = "authorization-code")]
pub(crate) const PAR_ENDPOINT: &str = "pushed_authorization_request_endpoint";

/// A missing endpoint causes the metadata to be read again only if it is older than this.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(3 * 60);

// === impl Issuer ===

impl Issuer {
    /// An issuer whose endpoints the caller names.
    ///
    /// Methods such as [`token_endpoint`](Issuer::token_endpoint) name them. `http` sends the token calls. It is any
    /// tower HTTP client, and may be the one that sends the requests.
    pub fn new<B: 'static>(http: impl HttpClient<B>) -> Self {
        Self::over(transport::sync_client(http))
    }

    pub(crate) fn over(http: Arc<dyn HttpSend>) -> Self {
        Self {
            http,
            identifier: None,
            metadata_url: None,
            named: Vec::new(),
            prefers_mtls: false,
            allows_insecure: false,
            cached: Arc::default(),
        }
    }

    /// The issuer with this identifier, whose metadata has the URLs of its endpoints.
    ///
    /// The identifier is a URL without query and fragment, written exactly as in the metadata. The metadata is searched
    /// in the places of OpenID Connect Discovery and RFC 8414, and taken from the first place that has it. `http` also
    /// sends the token calls.
    pub fn discover<B: 'static>(http: impl HttpClient<B>, identifier: &str) -> Self {
        Self { identifier: Some(identifier.into()), ..Self::new(http) }
    }

    /// Names the token endpoint. A named endpoint takes precedence over the one in the metadata.
    #[must_use]
    pub fn token_endpoint(self, url: &str) -> Self {
        self.with_endpoint(TOKEN_ENDPOINT, url)
    }

    /// Names the endpoint at which a login on another device begins (RFC 8628).
    #[must_use]
    pub fn device_authorization_endpoint(self, url: &str) -> Self {
        self.with_endpoint(DEVICE_AUTHORIZATION_ENDPOINT, url)
    }

    /// Names the endpoint that revokes tokens (RFC 7009).
    #[must_use]
    pub fn revocation_endpoint(self, url: &str) -> Self {
        self.with_endpoint(REVOCATION_ENDPOINT, url)
    }

    /// Names the endpoint that the user's browser opens (RFC 6749 section 3.1).
    #[cfg(feature = "authorization-code")]
    #[must_use]
    pub fn authorization_endpoint(self, url: &str) -> Self {
        self.with_endpoint(AUTHORIZATION_ENDPOINT, url)
    }

    /// Names the endpoint that takes authorization requests in advance (RFC 9126).
    ///
    /// Logins in a browser then use it.
    #[cfg(feature = "authorization-code")]
    #[must_use]
    pub fn pushed_authorization_request_endpoint(self, url: &str) -> Self {
        self.with_endpoint(PAR_ENDPOINT, url)
    }

    fn with_endpoint(mut self, name: &'static str, url: &str) -> Self {
        self.named.retain(|(named, _)| *named != name);
        self.named.push((name, url.into()));
        self
    }

    /// Sets the URL of the metadata, if the identifier does not lead to it.
    ///
    /// The identifier then need not be a URL that can be called. Examples are a server in a container that has another
    /// name outside, and a server with many tenants whose document has a placeholder for the tenant.
    #[must_use]
    pub fn metadata_url(self, url: &str) -> Self {
        Self { metadata_url: Some(url.into()), cached: Arc::default(), ..self }
    }

    /// Prefers the endpoints in the metadata that take client certificates.
    ///
    /// They are the `mtls_endpoint_aliases` of RFC 8705 section 5. The HTTP client presents the certificate. A client
    /// that authenticates by its certificate alone uses [`ClientAuth::none`](crate::oauth2::ClientAuth::none).
    #[must_use]
    pub fn prefer_mtls_endpoints(self) -> Self {
        Self { prefers_mtls: true, ..self }
    }

    /// Allows plain `http://` beyond loopback for every URL of this issuer.
    ///
    /// Use it only on a trusted network, because others on the network can read the credentials and tokens. Building a
    /// grant, login or revocation then emits the event `insecure_issuer` as a warning.
    #[must_use]
    pub fn allow_insecure(self) -> Self {
        Self { allows_insecure: true, ..self }
    }

    /// The issuer identifier, or `None` for an issuer whose endpoints are named.
    pub fn identifier(&self) -> Option<&str> {
        self.identifier.as_deref()
    }

    /// The metadata, with the members of RFC 8414 section 2.
    ///
    /// Examples are `token_endpoint` and `jwks_uri`.
    ///
    /// # Errors
    /// Returns an error if
    /// - the issuer has no identifier, or one of its URLs is invalid,
    /// - no answer comes within 30 s,
    /// - no place has a JSON document, or it names another issuer (RFC 8414 section 3.3).
    ///
    /// # Cancel safety
    /// Dropping the future drops the call. The next caller reads the metadata again.
    pub async fn metadata(&self) -> Result<Arc<Map<String, Value>>, Error> {
        self.metadata_at(&Clock::System).await
    }

    /// Checks every URL, and that the issuer has metadata or these endpoints.
    pub(crate) fn check(&self, endpoints: &[&'static str]) -> Result<(), Error> {
        let mut urls = match &self.identifier {
            Some(_) => self.places()?,
            None if self.metadata_url.is_some() => {
                return Err(Error::invalid(
                    "metadata_url",
                    "an issuer of named endpoints has no metadata; use `discover`",
                ));
            }
            None => Vec::new(),
        };
        for (name, url) in &self.named {
            urls.push(EndpointUrl::checked(name, url, self.allows_insecure)?);
        }
        if self.identifier.is_none()
            && let Some(missing) = endpoints.iter().find(|endpoint| self.named(endpoint).is_none())
        {
            return Err(Error::invalid(missing, format!("the issuer has none; name it with `Issuer::{missing}`")));
        }
        EndpointUrl::warn_if_exposed(&urls);
        Ok(())
    }

    /// The URL of the endpoint of this name.
    pub(crate) async fn endpoint(&self, clock: &Clock, name: &'static str) -> Result<EndpointUrl, Error> {
        match self.named(name) {
            Some(url) => EndpointUrl::checked(name, url, self.allows_insecure),
            None => self.discovered(clock, name).await,
        }
    }

    async fn discovered(&self, clock: &Clock, name: &'static str) -> Result<EndpointUrl, Error> {
        let unusable = |problem| Error::unusable(Some(self.name().into()), problem);
        let metadata = self.metadata_at(clock).await?;
        let alias = metadata.get("mtls_endpoint_aliases").filter(|_| self.prefers_mtls).and_then(|all| all.get(name));
        let Some(url) = alias.or_else(|| metadata.get(name)).and_then(Value::as_str) else {
            return Err(unusable(format!("its metadata names no {name}")));
        };
        let url = EndpointUrl::checked(name, url, self.allows_insecure)
            .map_err(|error| unusable(format!("in its metadata, {error}")))?;
        let is_downgrade = !url.is_https() && self.places()?.iter().any(EndpointUrl::is_https);
        if is_downgrade && !self.allows_insecure {
            let problem = format!("in its metadata, {name} is plain http://, and the issuer is https://");
            return Err(unusable(problem));
        }
        Ok(url)
    }

    /// Records that the endpoint of this name no longer exists.
    pub(crate) fn report_missing(&self, name: &str) {
        if self.named(name).is_none() {
            self.cached.is_outdated.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(named, _)| *named == name).map(|(_, url)| &**url)
    }

    /// The issuer's name in errors, and the audience of assertions (RFC 7523 section 3): the identifier, else the token
    /// endpoint.
    pub(crate) fn name(&self) -> &str {
        let named = || self.named(TOKEN_ENDPOINT).or(self.named.first().map(|(_, url)| &**url));
        let name = self.identifier().or_else(named).unwrap_or_default();
        name.split(['?', '#']).next().unwrap_or_default()
    }

    pub(crate) fn http(&self) -> Arc<dyn HttpSend> {
        Arc::clone(&self.http)
    }

    pub(crate) async fn metadata_at(&self, clock: &Clock) -> Result<Arc<Map<String, Value>>, Error> {
        let mut document = self.cached.document.lock().await;
        let now = clock.now();
        if let Some(Document { metadata, read_at }) = &*document
            && (!self.cached.is_outdated.load(Ordering::Relaxed) || !read_at.after(READ_AGAIN_AFTER).is_past(now))
        {
            return Ok(Arc::clone(metadata));
        }
        let read = match tokio::time::timeout(CALL_DEADLINE, self.read(clock)).await {
            Ok(read) => read,
            Err(_) => Err(Error::silent(self.name().into(), CALL_DEADLINE)),
        };
        let metadata = match (read, &*document) {
            (Ok(metadata), _) => Arc::new(metadata),
            // Old metadata is better than none. `read_at` is set anew, so a later call tries again.
            (Err(_), Some(former)) => Arc::clone(&former.metadata),
            (Err(error), None) => return Err(error),
        };
        self.cached.is_outdated.store(false, Ordering::Relaxed);
        *document = Some(Document { metadata: Arc::clone(&metadata), read_at: now });
        Ok(metadata)
    }

    /// The URLs at which the metadata may be, in order.
    ///
    /// | place | for the issuer `https://a.example/b` |
    /// |---|---|
    /// | OpenID Connect Discovery section 4 | `https://a.example/b/.well-known/openid-configuration` |
    /// | RFC 8414 section 3 | `https://a.example/.well-known/oauth-authorization-server/b` |
    /// | RFC 8414 section 5 | `https://a.example/.well-known/openid-configuration/b` |
    /// | not in a standard, but used by some servers | `https://a.example/b/.well-known/oauth-authorization-server` |
    fn places(&self) -> Result<Vec<EndpointUrl>, Error> {
        if let Some(url) = &self.metadata_url {
            return Ok(vec![EndpointUrl::checked("metadata_url", url, self.allows_insecure)?]);
        }
        let Some(identifier) = self.identifier() else {
            return Err(Error::invalid(
                "issuer",
                "an issuer of named endpoints has no metadata; use `Issuer::discover`",
            ));
        };
        let (openid, oauth) = (".well-known/openid-configuration", ".well-known/oauth-authorization-server");
        let mut places = vec![transport::join_path("issuer", identifier, openid)?, inserted(identifier, oauth)];
        for other in [inserted(identifier, openid), transport::join_path("issuer", identifier, oauth)?] {
            if !places.contains(&other) {
                places.push(other);
            }
        }
        places.iter().map(|place| EndpointUrl::checked("issuer", place, self.allows_insecure)).collect()
    }

    /// Reads the metadata from the first place that has it.
    async fn read(&self, clock: &Clock) -> Result<Map<String, Value>, Error> {
        let mut failure: Option<Failure> = None;
        let mut partial = None;
        for place in self.places()? {
            let answer = place.send(&*self.http, clock, Request::new(Bytes::new()), Vec::new()).await;
            // The other places are on the same server. If it is down or limits the rate, do not call it again.
            let is_last = match &answer {
                Ok(answer) => answer.status == StatusCode::TOO_MANY_REQUESTS,
                Err(error) => error.is_ambiguous(),
            };
            let answer = answer.map_err(|error| Failure { weight: 2, error });
            match answer.and_then(|answer| self.read_answer(&answer)) {
                Ok(metadata) if metadata.get(TOKEN_ENDPOINT).is_some_and(Value::is_string) => return Ok(metadata),
                Ok(metadata) => partial = partial.or(Some(metadata)),
                Err(other) if failure.as_ref().is_none_or(|failure| other.weight > failure.weight) => {
                    failure = Some(other);
                }
                Err(_) => {}
            }
            if is_last {
                break;
            }
        }
        match (partial, failure) {
            (Some(metadata), _) => Ok(metadata),
            (None, Some(failure)) => Err(failure.error),
            (None, None) => unreachable!("there is a place"),
        }
    }

    fn read_answer(&self, answer: &TokenResponse) -> Result<Map<String, Value>, Failure> {
        let identifier = self.identifier().unwrap_or_default();
        if !answer.status.is_success() {
            let problem = match words(&answer.body) {
                Some(words) => format!("its metadata could not be read: {words}"),
                None => "its metadata could not be read".to_owned(),
            };
            let weight = if answer.status == StatusCode::NOT_FOUND { 0 } else { 3 };
            return Err(Failure { weight, error: answer.error(false, None, Some(&problem)) });
        }
        let Some(Value::Object(metadata)) = decode::json(&answer.body) else {
            return Err(Failure { weight: 1, error: answer.unreadable("the metadata of an issuer is a JSON object") });
        };
        match metadata.get("issuer").and_then(Value::as_str) {
            Some(issuer) if issuer == identifier => Ok(metadata),
            Some(other) => {
                let other = answer.clean(other);
                let problem = format!("it is that of the issuer {other}, and {identifier} was asked for");
                Err(Failure { weight: 2, error: answer.unusable(problem) })
            }
            None => Err(Failure { weight: 1, error: answer.unusable("it names no issuer") }),
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issuer").field(&self.name()).finish()
    }
}

/// Inserts the well-known part between host and path (RFC 8414 section 3).
fn inserted(identifier: &str, well_known: &str) -> String {
    let identifier = identifier.trim_end_matches('/');
    let host = identifier.find("://").map_or(0, |scheme| scheme + 3);
    let path = identifier[host..].find('/').map_or(identifier.len(), |path| host + path);
    format!("{}/{well_known}{}", &identifier[..path], &identifier[path..])
}

/// The message of a server that does not send its metadata: a member of a JSON object, or a sentence.
fn words(body: &[u8]) -> Option<String> {
    if let Some(Value::Object(body)) = decode::json(body) {
        let text = |name: &&str| body.get(*name)?.as_str().map(str::to_owned);
        return ["error_description", "message", "detail", "error"].iter().find_map(text);
    }
    let text = decode::text(body);
    text.trim().starts_with(char::is_alphabetic).then(|| text.trim().to_owned())
}
