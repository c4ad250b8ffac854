//! A token endpoint: where it is, and with which headers it is called.

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

/// The address of an endpoint and the way there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    http: Arc<dyn HttpSend>,
    location: Location,
    headers: HeaderMap,
}

#[derive(Clone)]
enum Location {
    At(EndpointUrl),
    /// Where the issuer has it, by its name in metadata.
    Of(Issuer, &'static str),
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn at(http: Arc<dyn HttpSend>, address: EndpointUrl) -> Self {
        Self { http, location: Location::At(address), headers: HeaderMap::new() }
    }

    /// The endpoint of an issuer, by its name in metadata.
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

    /// Where it is; reads the issuer's metadata if that has not been read yet.
    pub(crate) async fn address(&self, clock: &Clock) -> Result<EndpointUrl, Error> {
        match &self.location {
            Location::At(address) => Ok(address.clone()),
            Location::Of(issuer, name) => issuer.endpoint(clock, name).await,
        }
    }

    /// The issuer that this is an endpoint of.
    pub(crate) fn issuer(&self) -> Option<&Issuer> {
        match &self.location {
            Location::At(_) => None,
            Location::Of(issuer, _) => Some(issuer),
        }
    }

    /// What errors call the server that answers here: the endpoint if its address is named, else the issuer.
    fn name(&self) -> &str {
        match &self.location {
            Location::At(address) => address.name(),
            Location::Of(issuer, name) => match issuer.named(name) {
                Some(url) => url.split(['?', '#']).next().unwrap_or_default(),
                None => issuer.name(),
            },
        }
    }

    /// What shapes the tokens that come from here: the address, and the headers that are no secrets.
    pub(crate) fn identity(&self) -> Vec<String> {
        let headers = self.headers.iter().filter(|(_, value)| !value.is_sensitive());
        let headers = headers.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        [self.name().to_owned()].into_iter().chain(headers).collect()
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
    pub(crate) async fn call(&self, content_type: &'static str, body: Bytes) -> Result<TokenResponse, Error> {
        self.in_time(self.post(&Clock::System, content_type, None, body, Vec::new())).await
    }

    /// Waits for an answer as long as a login or a revocation waits. Without a runtime there is no timer to wait with.
    pub(crate) async fn in_time(
        &self,
        call: impl Future<Output = Result<TokenResponse, Error>>,
    ) -> Result<TokenResponse, Error> {
        if !clock::has_runtime() {
            return Err(Error::no_runtime());
        }
        self.within(CALL_DEADLINE, call).await
    }

    /// Waits for an answer this long; the error names who was silent.
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

    /// One GET, of which the same is true as of a [`post`](Endpoint::post).
    pub(crate) async fn get(&self, clock: &Clock, mut secrets: Vec<Secret>) -> Result<TokenResponse, Error> {
        let address = self.address(clock).await?;
        let mut request = Request::new(Bytes::new());
        *request.headers_mut() = self.headers.clone();
        secrets.extend(request.headers().values().filter_map(credentials));
        address.send(&*self.http, clock, request, secrets).await
    }

    /// One POST. The status is not evaluated; a redirect is an answer like any other. `secrets` and the headers' values
    /// are what no error repeats.
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

/// Headers may hold secrets of the user.
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

/// What is secret in a header: its value, without the scheme that may stand before it.
fn credentials(value: &HeaderValue) -> Option<Secret> {
    let text = str::from_utf8(value.as_bytes()).ok().filter(|_| value.is_sensitive())?;
    Some(text.split_once(' ').map_or(text, |(_, credentials)| credentials).into())
}
