//! A token endpoint: its URL, and the headers of calls to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use crate::clock::{self, Clock};
use crate::error::Error;
use crate::secret::Secret;
use crate::source::issuer::Issuer;
use crate::source::transport::{CALL_DEADLINE, EndpointUrl, HttpSend, TokenResponse};

/// The location of an endpoint, and the client that calls it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    http: Arc<dyn HttpSend>,
    location: Location,
    headers: HeaderMap,
}

#[derive(Clone)]
enum Location {
    At(EndpointUrl),
    /// The issuer's endpoint of this name in the metadata.
    Of(Issuer, &'static str),
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn at(http: Arc<dyn HttpSend>, address: EndpointUrl) -> Self {
        Self { http, location: Location::At(address), headers: HeaderMap::new() }
    }

    /// The issuer's endpoint of this name in the metadata.
    pub(crate) fn of(issuer: &Issuer, name: &'static str) -> Self {
        Self { http: issuer.http(), location: Location::Of(issuer.clone(), name), headers: HeaderMap::new() }
    }

    /// Another endpoint of the same issuer, with the same headers.
    pub(crate) fn sibling(&self, name: &'static str) -> Self {
        match &self.location {
            Location::At(_) => self.clone(),
            Location::Of(issuer, _) => Self { location: Location::Of(issuer.clone(), name), ..self.clone() },
        }
    }

    /// Returns the URL, after reading the issuer's metadata if necessary.
    pub(crate) async fn address(&self, clock: &Clock) -> Result<EndpointUrl, Error> {
        match &self.location {
            Location::At(address) => Ok(address.clone()),
            Location::Of(issuer, name) => issuer.endpoint(clock, name).await,
        }
    }

    /// The issuer, if the endpoint belongs to one.
    pub(crate) fn issuer(&self) -> Option<&Issuer> {
        match &self.location {
            Location::At(_) => None,
            Location::Of(issuer, _) => Some(issuer),
        }
    }

    /// The name of the server in errors: the endpoint's URL if the caller gave it, else the issuer.
    fn name(&self) -> &str {
        match &self.location {
            Location::At(address) => address.name(),
            Location::Of(issuer, name) => match issuer.named(name) {
                Some(url) => url.split(['?', '#']).next().unwrap_or_default(),
                None => issuer.name(),
            },
        }
    }

    /// The settings that decide which tokens the endpoint issues: the URL, and the headers that are not secret.
    pub(crate) fn identity(&self) -> Vec<String> {
        let headers = self.headers.iter().filter(|(_, value)| !value.is_sensitive());
        let headers = headers.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        [self.name().to_owned()].into_iter().chain(headers).collect()
    }

    /// Sets a header of every call. The value may hold a secret.
    pub(crate) fn header(&mut self, field: &'static str, name: &str, value: &str) -> Result<(), Error> {
        let name = HeaderName::try_from(name).map_err(|_| Error::invalid(field, "not a header name"))?;
        let mut value = header_value(field, value)?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    /// Sets a header that is not secret. `None` removes it.
    pub(crate) fn plain_header(&mut self, name: &'static str, value: Option<HeaderValue>) {
        match value {
            Some(value) => drop(self.headers.insert(name, value)),
            None => drop(self.headers.remove(name)),
        }
    }

    /// Sends one POST outside a fetch, with its own deadline. The body holds no secret.
    pub(crate) async fn call(&self, content_type: &'static str, body: Bytes) -> Result<TokenResponse, Error> {
        self.in_time(self.post(&Clock::System, content_type, None, body, Vec::new())).await
    }

    /// Waits for an answer until [`CALL_DEADLINE`]. Returns an error without a runtime, because the timer needs one.
    pub(crate) async fn in_time(
        &self,
        call: impl Future<Output = Result<TokenResponse, Error>>,
    ) -> Result<TokenResponse, Error> {
        if !clock::has_runtime() {
            return Err(Error::no_runtime());
        }
        self.within(CALL_DEADLINE, call).await
    }

    /// Waits for an answer this long. The error of a timeout names the server.
    pub(crate) async fn within(
        &self,
        timeout: Duration,
        call: impl Future<Output = Result<TokenResponse, Error>>,
    ) -> Result<TokenResponse, Error> {
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::silent(self.name().into(), timeout)),
        }
    }

    /// Sends one GET, as [`post`](Endpoint::post) sends a POST.
    pub(crate) async fn get(&self, clock: &Clock, mut secrets: Vec<Secret>) -> Result<TokenResponse, Error> {
        let address = self.address(clock).await?;
        let mut request = Request::new(Bytes::new());
        *request.headers_mut() = self.headers.clone();
        secrets.extend(request.headers().values().filter_map(credentials));
        address.send(&*self.http, clock, request, secrets).await
    }

    /// Sends one POST. The caller evaluates the status, also that of a redirect. `secrets` and the values of sensitive
    /// headers are redacted from errors.
    pub(crate) async fn post(
        &self,
        clock: &Clock,
        content_type: &'static str,
        authorization: Option<HeaderValue>,
        body: Bytes,
        mut secrets: Vec<Secret>,
    ) -> Result<TokenResponse, Error> {
        let address = self.address(clock).await?;
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
        let answer = address.send(&*self.http, clock, request, secrets).await?;
        if let Location::Of(issuer, name) = &self.location
            && matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE)
        {
            issuer.report_missing(name);
        }
        Ok(answer)
    }
}

/// Leaves out the headers, because they may hold secrets.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::At(address) => f.debug_tuple("Endpoint").field(address.name()).finish(),
            Location::Of(issuer, name) => f.debug_tuple("Endpoint").field(issuer).field(name).finish(),
        }
    }
}

pub(crate) fn header_value(field: &'static str, value: &str) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(value)
        .map_err(|_| Error::invalid(field, "it holds a character that no header may carry, such as a line break"))
}

/// The secret in a sensitive header: its value without the scheme before it.
fn credentials(value: &HeaderValue) -> Option<Secret> {
    let text = str::from_utf8(value.as_bytes()).ok().filter(|_| value.is_sensitive())?;
    Some(text.split_once(' ').map_or(text, |(_, credentials)| credentials).into())
}
