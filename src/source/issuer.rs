//! What an authorization server says of itself: its metadata (RFC 8414, OpenID Connect Discovery).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::clock::Clock;
use crate::error::Error;
use crate::source::answer::decode;
use crate::source::transport::{self, CALL_DEADLINE, EndpointUrl, HttpClient, HttpSend, TokenResponse};

/// An authorization server, known by its issuer identifier; its endpoints are looked up in its metadata.
///
/// Nothing is asked for when it is made. The first fetch of a source that was made from it reads the document, once for
/// all clones; one that could not be read is asked for again with the next fetch.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{ClientCredentials, Issuer};
///
/// let issuer = Issuer::new(http, "https://auth.example.com")?;
/// let cache = TokenCache::new(ClientCredentials::at(&issuer, "my-app", "its secret")?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Issuer {
    shared: Arc<Shared>,
}

struct Shared {
    http: Arc<dyn HttpSend>,
    id: String,
    /// Where the document may be: OpenID Connect's location, then that of RFC 8414.
    locations: [EndpointUrl; 2],
    metadata: OnceCell<Map<String, Value>>,
}

// === impl Issuer ===

impl Issuer {
    /// The server with this identifier, exactly as it writes it: an `https://` URL without query and fragment. Plain
    /// `http://` is taken for loopback.
    ///
    /// # Errors
    /// Not such a URL.
    pub fn new<B: 'static>(http: impl HttpClient<B>, id: &str) -> Result<Self, Error> {
        let appended = transport::join_path("issuer", id, ".well-known/openid-configuration")?;
        let locations = [EndpointUrl::new("issuer", &appended)?, EndpointUrl::new("issuer", &inserted(id))?];
        let shared =
            Shared { http: transport::sync_client(http), id: id.to_owned(), locations, metadata: OnceCell::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The issuer identifier.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The metadata: its members are named in RFC 8414 section 2, such as `token_endpoint` and `jwks_uri`.
    ///
    /// # Errors
    /// No answer within 30 s; neither place has a JSON document; it names another issuer (RFC 8414 section 3.3).
    ///
    /// # Cancel safety
    /// Dropping the future drops the question; the next caller asks again.
    pub async fn metadata(&self) -> Result<&Map<String, Value>, Error> {
        self.metadata_at(&Clock::System).await
    }

    async fn metadata_at(&self, clock: &Clock) -> Result<&Map<String, Value>, Error> {
        self.shared.metadata.get_or_try_init(|| self.shared.read_in_time(clock)).await
    }

    /// Where the endpoint of this name is.
    pub(crate) async fn endpoint(&self, clock: &Clock, name: &'static str) -> Result<EndpointUrl, Error> {
        let issuer = || Some(self.id().into());
        match self.metadata_at(clock).await?.get(name).and_then(Value::as_str) {
            Some(url) => EndpointUrl::new(name, url)
                .map_err(|error| Error::unusable(issuer(), format!("in its metadata, {error}"))),
            None => Err(Error::unusable(issuer(), format!("its metadata names no {name}"))),
        }
    }

    pub(crate) fn http(&self) -> Arc<dyn HttpSend> {
        Arc::clone(&self.shared.http)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issuer").field(&self.shared.id).finish()
    }
}

// === impl Shared ===

impl Shared {
    async fn read_in_time(&self, clock: &Clock) -> Result<Map<String, Value>, Error> {
        match tokio::time::timeout(CALL_DEADLINE, self.read(clock)).await {
            Ok(metadata) => metadata,
            Err(_) => Err(Error::silent(self.id.as_str().into(), CALL_DEADLINE)),
        }
    }

    async fn read(&self, clock: &Clock) -> Result<Map<String, Value>, Error> {
        let [openid, oauth] = &self.locations;
        let mut answer = self.get(clock, openid).await?;
        // It is not there (a server without OpenID Connect): a 404, a login page, or the first page of some site.
        if !is_outage(answer.status) && document(&answer).is_none() {
            answer = self.get(clock, oauth).await?;
        }
        if !answer.status.is_success() {
            return Err(answer.error(false, None, Some("its metadata could not be read")));
        }
        let Some(metadata) = document(&answer) else {
            return Err(answer.unreadable("the metadata of an issuer is a JSON object"));
        };
        match metadata.get("issuer").and_then(Value::as_str) {
            Some(issuer) if issuer == self.id => Ok(metadata),
            Some(other) => {
                let other = answer.clean(other);
                Err(answer.unusable(format!("it is that of the issuer {other}, and {} was asked for", self.id)))
            }
            None => Err(answer.unusable("it names no issuer")),
        }
    }

    async fn get(&self, clock: &Clock, location: &EndpointUrl) -> Result<TokenResponse, Error> {
        location.send(&*self.http, clock, Request::new(Bytes::new()), Vec::new()).await
    }
}

fn document(answer: &TokenResponse) -> Option<Map<String, Value>> {
    match decode::json(&answer.body) {
        Some(Value::Object(members)) if answer.status.is_success() => Some(members),
        _ => None,
    }
}

fn is_outage(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// RFC 8414 section 3: the well-known part stands between host and path.
fn inserted(id: &str) -> String {
    const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";
    let id = id.trim_end_matches('/');
    let host = id.find("://").map_or(0, |scheme| scheme + 3);
    let path = id[host..].find('/').map_or(id.len(), |path| host + path);
    format!("{}{WELL_KNOWN}{}", &id[..path], &id[path..])
}
