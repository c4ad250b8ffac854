//! Decides which requests may use the token. A web page may not.
//!
//! # Threat model
//! A browser on this machine lets any page send requests to loopback. Scripts cannot set the headers that reveal such a
//! request:
//!
//! - `Host` is the name of the server in the page's URL. A page whose own name resolves to 127.0.0.1 (DNS rebinding)
//!   has the same origin as the sidecar for the browser. Its requests carry the page's name, which is not a name of the
//!   sidecar.
//! - `Origin` is in every request of another origin that can have an effect (fetch, form POST, WebSocket).
//! - `Sec-Fetch-Site` is in every request, also that of an image or a plain link of another site. Without `Origin`,
//!   `none` means that the user typed the URL, and `same-origin` that the page came through the sidecar.
//!
//! Other programs send neither `Origin` nor `Sec-Fetch-Site`. Their `Host` is the address that they are configured
//! with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Request, Response, StatusCode};
use tower_bearer::Origin;
use tower_http::validate_request::ValidateRequest;

use crate::forward::{self, Body};
use crate::listen::Address;
use crate::problem::Problem;

/// The rules of one listener.
#[derive(Clone)]
pub(crate) struct Guard {
    rules: Arc<Rules>,
}

struct Rules {
    /// `None` allows any name.
    hosts: Option<Vec<HostRule>>,
    origins: Vec<Origin>,
}

/// A host name that callers may use, with one port or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostRule {
    name: String,
    port: Option<u16>,
}

const SEC_FETCH_SITE: &str = "sec-fetch-site";

// === impl Guard ===

impl Guard {
    /// The guard of the address that adds the token.
    pub(crate) fn new(listen: &Address, hosts: Vec<HostRule>, origins: Vec<Origin>) -> Self {
        let hosts = Some(default_names(listen).into_iter().chain(hosts).collect());
        Self { rules: Arc::new(Rules { hosts, origins }) }
    }

    /// The guard of the status address. On loopback the same names are allowed, and otherwise any name.
    pub(crate) fn of_status(listen: &Address, hosts: Vec<HostRule>) -> Self {
        let hosts = listen.is_local().then(|| default_names(listen).into_iter().chain(hosts).collect());
        Self { rules: Arc::new(Rules { hosts, origins: Vec::new() }) }
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        self.check_host(request)?;
        self.check_origin(request.headers())
    }

    fn check_host<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        let Some(allowed) = &self.rules.hosts else { return Ok(()) };
        let mut headers = request.headers().get_all(HOST).iter();
        // HTTP/2 names the host in the request's target, and HTTP/1 in the header. If a request has both, both are
        // checked.
        let header = headers.next().map(|host| host.to_str().unwrap_or_default());
        let target = request.uri().authority().map(Authority::as_str);
        if headers.next().is_some() || (header.is_none() && target.is_none()) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "host-missing",
                "A request has one Host header (RFC 9112 section 3.2).",
            ));
        }
        let known = |host: &str| HostRule::read(host).is_some_and(|host| allowed.iter().any(|rule| rule.allows(&host)));
        if header.into_iter().chain(target).all(known) {
            return Ok(());
        }
        Err(rejected(
            "host-rejected",
            "The request calls this sidecar by a name that is not its own. If it should have that name, start it with \
             --allow-host.",
        ))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let known = |origin: &str| {
            // The origin may be plain http, because it never gets the token.
            Origin::allow_insecure(origin).is_ok_and(|origin| self.rules.origins.contains(&origin))
        };
        let mut origins = headers.get_all(ORIGIN).iter().peekable();
        if origins.peek().is_some() {
            if origins.all(|origin| origin.to_str().is_ok_and(known)) {
                return Ok(());
            }
            return Err(rejected(
                "origin-rejected",
                "The request comes from a web page whose origin is not allowed here. If its scripts should call with \
                 this token, start the sidecar with --allow-origin.",
            ));
        }
        if headers.get_all(SEC_FETCH_SITE).iter().all(|site| site == "none" || site == "same-origin") {
            return Ok(());
        }
        Err(rejected(
            "cross-site-rejected",
            "The request comes from a page of another site (Sec-Fetch-Site), and does not say which. A page whose \
             origin is allowed calls with fetch() in the mode cors.",
        ))
    }
}

impl<B> ValidateRequest<B> for Guard {
    type ResponseBody = Body;

    fn validate(&mut self, request: &mut Request<B>) -> Result<(), Response<Body>> {
        self.check(request).map_err(|problem| {
            tracing::info!(rejected = problem.code(), "request rejected");
            problem.into_response().map(forward::sidecar_body)
        })
    }
}

fn rejected(code: &'static str, detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
}

/// The names that are allowed by default.
fn default_names(listen: &Address) -> Vec<HostRule> {
    match listen {
        Address::Tcp(address) => {
            let own = address.ip();
            let ip = match own {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            };
            // Callers cannot use 0.0.0.0 and [::].
            let own = (!own.is_unspecified()).then_some(ip);
            let names = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter().chain(own);
            names.map(|name| HostRule { name, port: Some(address.port()) }).collect()
        }
        // HTTP clients send `localhost` over a Unix socket. A browser cannot reach one.
        Address::Unix(_) => vec![HostRule { name: "localhost".to_owned(), port: None }],
    }
}

// === impl HostRule ===

impl HostRule {
    /// Reads the host of a request. Returns `None` if it is invalid or has a user name.
    fn read(text: &str) -> Option<Self> {
        let authority: Authority = text.parse().ok()?;
        let name = authority.host();
        let port = match authority.as_str().strip_prefix(name)? {
            "" => None,
            rest => Some(rest.strip_prefix(':')?.parse().ok()?),
        };
        Some(Self { name: name.to_ascii_lowercase(), port })
    }

    fn allows(&self, host: &Self) -> bool {
        // A host without a port means the port of the scheme.
        self.name == host.name && self.port.is_none_or(|port| port == host.port.unwrap_or(80))
    }
}

impl FromStr for HostRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rule =
            Self::read(text.trim()).ok_or("write a name, an address or either with a port: sidecar, sidecar:8420")?;
        if rule.name.contains('*') { Err("a wildcard is no host; name each one") } else { Ok(rule) }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}
