//! What an API says of itself: its protected resource metadata (RFC 9728), which names its authorization servers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Map, Value};

use crate::challenge::Challenge;
use crate::clock::Clock;
use crate::error::Error;
use crate::source::answer::decode;
use crate::source::transport::{self, CALL_DEADLINE, EndpointUrl, HttpClient, HttpSend, TokenResponse};

/// An API that says who issues tokens for it (RFC 9728), as MCP servers do.
///
/// ```
/// # use serde_json::json;
/// # use tower_bearer::testing::{Answer, TokenServer};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// # let http = TokenServer::new();
/// # http.queue(Answer::json(200, json!({ "resource": "https://mcp.example.com/mcp", "authorization_servers": ["https://auth.example.com"] })));
/// # let mut response = http::Response::new(());
/// # response.headers_mut().insert("www-authenticate", r#"Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource""#.parse().unwrap());
/// use tower_bearer::Challenge;
/// use tower_bearer::oauth2::{Issuer, ProtectedResource};
///
/// let resource = ProtectedResource::discover(http.clone(), "https://mcp.example.com/mcp")
///     .challenged_by(&Challenge::all(response.headers()));
/// let metadata = resource.metadata().await?;
/// // Only to an issuer that the program trusts with its credentials: an API can name any.
/// let known = metadata.authorization_servers().find(|server| *server == "https://auth.example.com");
/// let issuer = known.map(|server| Issuer::discover(http, server));
/// # assert!(issuer.is_some());
/// # Ok(()) }
/// ```
///
/// # Which addresses an API may name
///
/// Its challenge and its document come from the API, and the program calls what they name (RFC 9728 section 7.7):
///
/// | named | must be |
/// |---|---|
/// | the document, by `resource_metadata` in a challenge | of the API's own origin; [`metadata_url`](ProtectedResource::metadata_url) names another |
/// | an authorization server, in the document | `https://`; of an API on loopback also plain `http://` on loopback |
///
/// An `https://` authorization server may still be a host of your own network, and one that an attacker runs: its metadata is
/// read, and the client's credentials are sent to it. Compare it with those you know before a secret goes there. If they
/// cannot be known in advance, use a client that refuses the addresses of your network, and credentials that were
/// registered at that server.
#[derive(Clone)]
pub struct ProtectedResource {
    http: Arc<dyn HttpSend>,
    identifier: Arc<str>,
    metadata_url: Option<MetadataUrl>,
    allows_insecure: bool,
}

/// Where the document is, and who says so.
#[derive(Clone)]
enum MetadataUrl {
    Named(Arc<str>),
    Challenged(Arc<str>),
}

/// What an API says of itself (RFC 9728 section 2).
#[derive(Clone, Debug)]
pub struct ResourceMetadata {
    resource: String,
    authorization_servers: Vec<String>,
    members: Map<String, Value>,
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

// === impl ProtectedResource ===

impl ProtectedResource {
    /// The API with this resource identifier: its URL, exactly as its metadata writes it.
    ///
    /// The metadata is looked for where RFC 9728 section 3.1 has it, then at the root of the host, as MCP clients do.
    /// `http` is any tower HTTP client; a client with the layer serves as well, and no token goes with the call.
    pub fn discover<B: 'static>(http: impl HttpClient<B>, identifier: &str) -> Self {
        let http = transport::sync_client(http);
        Self { http, identifier: identifier.into(), metadata_url: None, allows_insecure: false }
    }

    /// Takes the address of the metadata from a response's challenges, if they name one by `resource_metadata` (RFC 9728
    /// section 5.1) in whatever scheme. It must be of the API's own origin.
    #[must_use]
    pub fn challenged_by(self, challenges: &[Challenge]) -> Self {
        let named = challenges.iter().find_map(|challenge| challenge.param("resource_metadata"));
        let metadata_url = named.map(|url| MetadataUrl::Challenged(url.into())).or(self.metadata_url);
        Self { metadata_url, ..self }
    }

    /// Names the address of the metadata, if it is neither where the identifier says nor of the API's origin.
    #[must_use]
    pub fn metadata_url(self, url: &str) -> Self {
        Self { metadata_url: Some(MetadataUrl::Named(url.into())), ..self }
    }

    /// Allows plain `http://` beyond loopback, for the API, its metadata and the authorization servers that it names:
    /// where the network itself is trusted. Whoever is on the way can then name another authorization server.
    #[must_use]
    pub fn allow_insecure(self) -> Self {
        Self { allows_insecure: true, ..self }
    }

    /// Reads the metadata. An API may change it at any time, and says so by a new challenge (RFC 9728 section 5.2).
    ///
    /// # Errors
    /// Returns an error if
    /// - the identifier or the address of the metadata is invalid, or a challenge names another origin,
    /// - no answer comes within 30 s,
    /// - there is no JSON document, or it is that of another resource (RFC 9728 section 3.3).
    ///
    /// # Cancel safety
    /// Dropping the future drops the call.
    pub async fn metadata(&self) -> Result<ResourceMetadata, Error> {
        let places = self.places()?;
        match tokio::time::timeout(CALL_DEADLINE, self.read(&places)).await {
            Ok(read) => read,
            Err(_) => Err(Error::silent(Arc::clone(places[0].name()), CALL_DEADLINE)),
        }
    }

    /// Where the metadata may be, in this order; never empty.
    fn places(&self) -> Result<Vec<EndpointUrl>, Error> {
        let checked = |field, url: &str| EndpointUrl::checked(field, url, self.allows_insecure);
        let resource = checked("resource", &self.identifier)?;
        if self.identifier.contains('#') {
            return Err(Error::invalid("resource", "leave out the fragment: no resource identifier has one"));
        }
        match &self.metadata_url {
            Some(MetadataUrl::Named(url)) => Ok(vec![checked("metadata_url", url)?]),
            Some(MetadataUrl::Challenged(url)) => {
                let place = checked("resource_metadata", url)?;
                if !place.has_origin_of(&resource) {
                    let problem = "the challenge names an address of another origin than the API's; if it is right, name it with `ProtectedResource::metadata_url`";
                    return Err(Error::invalid("resource_metadata", problem));
                }
                Ok(vec![place])
            }
            None => {
                let (host, path) = split(&self.identifier);
                let path = if path == "/" { "" } else { path };
                let mut places = vec![checked("resource", &format!("{host}{WELL_KNOWN}{path}"))?];
                if !path.is_empty() {
                    places.push(checked("resource", &format!("{host}{WELL_KNOWN}"))?);
                }
                Ok(places)
            }
        }
    }

    /// Reads the first document that is right. The error is that of the first place, unless there is nothing there.
    async fn read(&self, places: &[EndpointUrl]) -> Result<ResourceMetadata, Error> {
        let mut failure: Option<Error> = None;
        for place in places {
            let answer = place.send(&*self.http, &Clock::System, Request::new(Bytes::new()), Vec::new()).await;
            match answer.and_then(|answer| self.read_answer(&answer)) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => {
                    failure = failure.filter(|first| first.status() != Some(StatusCode::NOT_FOUND)).or(Some(error))
                }
            }
        }
        Err(failure.expect("there is a place"))
    }

    fn read_answer(&self, answer: &TokenResponse) -> Result<ResourceMetadata, Error> {
        if answer.status != StatusCode::OK {
            return Err(answer.error(false, None, Some("the metadata of the resource could not be read")));
        }
        let Some(Value::Object(members)) = decode::json(&answer.body) else {
            return Err(answer.unreadable("the metadata of a resource is a JSON object"));
        };
        let resource = match members.get("resource").and_then(Value::as_str) {
            Some(resource) if resource == &*self.identifier => resource.to_owned(),
            Some(other) => {
                let (other, asked) = (answer.clean(other), &self.identifier);
                let problem = format!(
                    "it is that of the resource {other}, and {asked} was asked for; name the one that is meant, exactly as it is written"
                );
                return Err(answer.unusable(problem));
            }
            None => return Err(answer.unusable("it names no resource")),
        };
        let named: Vec<_> = strings(&members, "authorization_servers").collect();
        let is_allowed = |server: &str| {
            let url = EndpointUrl::checked("authorization_servers", server, self.allows_insecure);
            url.is_ok_and(|url| url.is_https() || !self.identifier.starts_with("https:") || self.allows_insecure)
        };
        let authorization_servers: Vec<_> =
            named.iter().filter(|server| is_allowed(server)).map(|server| (*server).to_owned()).collect();
        if authorization_servers.is_empty() && !named.is_empty() {
            return Err(answer.unusable("none of the authorization servers that it names is an https:// URL"));
        }
        Ok(ResourceMetadata { resource, authorization_servers, members })
    }
}

impl fmt::Debug for ProtectedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProtectedResource").field(&self.identifier).finish()
    }
}

// === impl ResourceMetadata ===

impl ResourceMetadata {
    /// The resource identifier: what a token call names by the `resource` setting of a grant (RFC 8707), so that another API
    /// cannot use the token.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The issuer identifiers of the authorization servers, for [`Issuer::discover`](crate::oauth2::Issuer::discover);
    /// without those that are no URLs, or plain `http://`.
    pub fn authorization_servers(&self) -> impl Iterator<Item = &str> {
        self.authorization_servers.iter().map(String::as_str)
    }

    /// The scopes that the API tells of. They are no advice to ask for all of them (RFC 9728 section 7.2); what a request
    /// needs is the `scope` of its challenge.
    pub fn scopes_supported(&self) -> impl Iterator<Item = &str> {
        strings(&self.members, "scopes_supported")
    }

    /// All members, as the API sent them.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }
}

/// The texts of a list.
fn strings<'a>(members: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a str> {
    members.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Scheme and host of a URL, and what follows them.
fn split(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?']).map_or(url.len(), |end| host + end);
    url.split_at(end)
}
