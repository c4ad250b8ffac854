//! Reads an API's protected resource metadata (RFC 9728), which names its authorization servers.

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

/// An API that names its token issuers in metadata (RFC 9728), as MCP servers do.
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
/// // An API can name any issuer. Use only one that the program trusts with its credentials.
/// let known = metadata.authorization_servers().find(|server| *server == "https://auth.example.com");
/// let issuer = known.map(|server| Issuer::discover(http, server));
/// # assert!(issuer.is_some());
/// # Ok(()) }
/// ```
///
/// # Which URLs an API may name
///
/// Challenge and document come from the API, and the program calls the URLs that they name (RFC 9728 section 7.7):
///
/// | named | must be |
/// |---|---|
/// | the document, by `resource_metadata` in a challenge | at the API's origin; use [`metadata_url`](ProtectedResource::metadata_url) for another |
/// | an authorization server, in the document | `https://`; for an API on loopback also plain `http://` on loopback |
///
/// An `https://` authorization server may still be a host of your own network, or belong to an attacker. The program
/// reads its metadata and sends the client's credentials to it. Compare it with the servers that you know before you
/// send a secret. If you cannot know them in advance, use a client that refuses the addresses of your network, and
/// credentials that were registered at that server.
#[derive(Clone)]
pub struct ProtectedResource {
    http: Arc<dyn HttpSend>,
    identifier: Arc<str>,
    metadata_url: Option<MetadataUrl>,
    allows_insecure: bool,
}

/// The URL of the document.
#[derive(Clone)]
enum MetadataUrl {
    /// From the program.
    Named(Arc<str>),
    /// From a challenge of the API.
    Challenged(Arc<str>),
}

/// The metadata of an API (RFC 9728 section 2).
#[derive(Clone, Debug)]
pub struct ResourceMetadata {
    resource: String,
    authorization_servers: Vec<String>,
    members: Map<String, Value>,
}

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

// === impl ProtectedResource ===

impl ProtectedResource {
    /// Names the API by its resource identifier: its URL, exactly as in its metadata.
    ///
    /// [`metadata`](Self::metadata) looks at the URL of RFC 9728 section 3.1, then at the root of the host, as MCP
    /// clients do. `http` is any tower HTTP client. It may include the layer, which adds no token to this call.
    pub fn discover<B: 'static>(http: impl HttpClient<B>, identifier: &str) -> Self {
        let http = transport::sync_client(http);
        Self { http, identifier: identifier.into(), metadata_url: None, allows_insecure: false }
    }

    /// Takes the URL of the metadata from a response's challenges, if they name one.
    ///
    /// A challenge of any scheme names it by `resource_metadata` (RFC 9728 section 5.1). It must have the API's origin.
    #[must_use]
    pub fn challenged_by(self, challenges: &[Challenge]) -> Self {
        let named = challenges.iter().find_map(|challenge| challenge.param("resource_metadata"));
        let metadata_url = named.map(|url| MetadataUrl::Challenged(url.into())).or(self.metadata_url);
        Self { metadata_url, ..self }
    }

    /// Sets the URL of the metadata, which may have any origin.
    #[must_use]
    pub fn metadata_url(self, url: &str) -> Self {
        Self { metadata_url: Some(MetadataUrl::Named(url.into())), ..self }
    }

    /// Allows plain `http://` beyond loopback, if the network itself is trusted.
    ///
    /// It applies to the API, its metadata and the authorization servers that it names. An attacker on the network can
    /// then name another authorization server.
    #[must_use]
    pub fn allow_insecure(self) -> Self {
        Self { allows_insecure: true, ..self }
    }

    /// Reads the metadata.
    ///
    /// An API may change it at any time, and announces that by a new challenge (RFC 9728 section 5.2).
    ///
    /// # Errors
    /// Returns an error if
    /// - the identifier or the URL of the metadata is invalid, or a challenge names another origin,
    /// - the server does not answer within 30 s,
    /// - the answer is not a JSON document, or is that of another resource (RFC 9728 section 3.3).
    ///
    /// # Cancel safety
    /// Dropping the future drops the call.
    pub async fn metadata(&self) -> Result<ResourceMetadata, Error> {
        let urls = self.urls()?;
        match tokio::time::timeout(CALL_DEADLINE, self.read(&urls)).await {
            Ok(read) => read,
            Err(_) => Err(Error::silent(Arc::clone(urls[0].name()), CALL_DEADLINE)),
        }
    }

    /// The possible URLs of the metadata, in order. There is at least one.
    fn urls(&self) -> Result<Vec<EndpointUrl>, Error> {
        let checked = |field, url: &str| EndpointUrl::checked(field, url, self.allows_insecure);
        let resource = checked("resource", &self.identifier)?;
        if self.identifier.contains('#') {
            return Err(Error::invalid("resource", "remove the fragment; a resource identifier has none"));
        }
        match &self.metadata_url {
            Some(MetadataUrl::Named(url)) => Ok(vec![checked("metadata_url", url)?]),
            Some(MetadataUrl::Challenged(url)) => {
                let url = checked("resource_metadata", url)?;
                if !url.has_origin_of(&resource) {
                    let problem = "the challenge names a URL of another origin; if that is right, set it with `ProtectedResource::metadata_url`";
                    return Err(Error::invalid("resource_metadata", problem));
                }
                Ok(vec![url])
            }
            None => {
                let (host, path) = split(&self.identifier);
                let path = if path == "/" { "" } else { path };
                let mut urls = vec![checked("resource", &format!("{host}{WELL_KNOWN}{path}"))?];
                if !path.is_empty() {
                    urls.push(checked("resource", &format!("{host}{WELL_KNOWN}"))?);
                }
                Ok(urls)
            }
        }
    }

    /// Reads the first document that is valid. The error is that of the first URL, unless its status is 404.
    async fn read(&self, urls: &[EndpointUrl]) -> Result<ResourceMetadata, Error> {
        let mut failure: Option<Error> = None;
        for url in urls {
            let answer = url.send(&*self.http, &Clock::System, Request::new(Bytes::new()), Vec::new()).await;
            match answer.and_then(|answer| self.read_answer(&answer)) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => {
                    failure = failure.filter(|first| first.status() != Some(StatusCode::NOT_FOUND)).or(Some(error))
                }
            }
        }
        Err(failure.expect("there is a URL"))
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
                    "it is that of the resource {other}, not of {asked}; name the resource exactly as its metadata does"
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
    /// Returns the resource identifier.
    ///
    /// Pass it to the `resource` setting of a grant (RFC 8707), so that no other API can use the token.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Returns the issuer identifiers of the authorization servers.
    ///
    /// They are for [`Issuer::discover`](crate::oauth2::Issuer::discover). Invalid URLs and plain `http://` are left
    /// out, as described [above](ProtectedResource).
    pub fn authorization_servers(&self) -> impl Iterator<Item = &str> {
        self.authorization_servers.iter().map(String::as_str)
    }

    /// Returns the scopes that the API publishes.
    ///
    /// Do not request all of them (RFC 9728 section 7.2). The `scope` of a challenge names those that a request needs.
    pub fn scopes_supported(&self) -> impl Iterator<Item = &str> {
        strings(&self.members, "scopes_supported")
    }

    /// Returns all members, as the API sent them.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }
}

/// The strings of an array.
fn strings<'a>(members: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a str> {
    members.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Splits a URL after the host.
fn split(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?']).map_or(url.len(), |end| host + end);
    url.split_at(end)
}
