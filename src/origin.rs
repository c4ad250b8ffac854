//! Origins: how they are parsed, printed and compared.
//!
//! An origin is scheme, host and effective port (RFC 6454 section 4). A comparison of hosts ignores case and one
//! trailing dot. IPv6 addresses are compared by value, and ports by their effective number.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderValue, Uri};

use crate::error::Error;

/// The origin of an API, such as `https://api.example.com`.
///
/// `parse` and `try_into` convert a string, such as `https://[2001:db8::1]:8443` or `http://localhost:3000`. They
/// accept plain `http://` for loopback only; [`Origin::allow_insecure`] accepts it for any host.
///
/// ```
/// use tower_bearer::Origin;
///
/// let origin: Origin = "https://API.example.com:443/".parse()?;
/// assert_eq!(origin.to_string(), "https://api.example.com");
/// assert!("https://api.example.com/v1".parse::<Origin>().is_err());
/// assert!("http://api.example.com".parse::<Origin>().is_err());
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    parts: OriginParts<String>,
    /// The authority as nearly every request writes it. It is compared first, byte by byte.
    canonical: String,
}

/// The parsed parts of an origin: borrowed from a URI (`N` is `&str`), or owned (`String`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct OriginParts<N> {
    secure: bool,
    host: Host<N>,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Host<N> {
    Name(N),
    Ip(IpAddr),
}

/// Whether a request goes to one of the layer's origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginMatch {
    /// One of the layer's origins.
    Matched,
    /// Another origin.
    Other,
    /// The URI is a path without a host, and the layer does not know where such requests go.
    NoHost,
    /// One of the layer's origins, with `user:password@` before the host. The two credentials contradict each other.
    Userinfo,
    /// One of the layer's origins, and a `Host` header that names another site.
    Host,
}

/// The origins of a layer, which get the token.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    allowed: Allowed,
    relative: OriginMatch,
}

#[derive(Clone, Debug)]
enum Allowed {
    Named(Arc<[Origin]>),
    AnySecure,
}

// === impl Origin ===

impl Origin {
    /// An origin that may be plain `http://` other than loopback.
    ///
    /// The token is sent unencrypted, and anyone on the network path can read and use it. Use it in a service mesh that
    /// encrypts, or in tests.
    ///
    /// # Errors
    /// Returns an error if parsing fails for another reason than plain `http://`.
    pub fn allow_insecure(origin: &str) -> Result<Self, Error> {
        Self::read(origin)
    }

    fn read(text: &str) -> Result<Self, Error> {
        Self::try_read(text).map_err(|problem| invalid(text, problem))
    }

    fn try_read(text: &str) -> Result<Self, &'static str> {
        if !text.is_ascii() {
            return Err("the host is not ASCII; write its `xn--` form");
        }
        let uri: Uri = text.parse().map_err(|_| "not a URL; write it as https://api.example.com")?;
        let parts = OriginParts::of(&uri)
            .ok_or("scheme, host or port is missing or wrong; write it as https://api.example.com")?;
        if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return Err("an origin is scheme, host and port; leave out path, query and fragment");
        }
        if uri.authority().is_some_and(has_userinfo) {
            return Err("leave out the user and password before the host");
        }
        if text.contains('*') {
            return Err("a wildcard is not a host; name each host");
        }
        let parts = parts.to_owned();
        Ok(Self { canonical: parts.authority(), parts })
    }

    fn is_canonical(&self, secure: bool, authority: &Authority) -> bool {
        self.parts.secure == secure && self.canonical == authority.as_str()
    }

    /// Whether an authority without userinfo can be a spelling of this one. Each spelling begins with the host's name.
    fn may_be(&self, authority: &Authority) -> bool {
        let Host::Name(name) = &self.parts.host else { return true };
        let begin = authority.as_str().as_bytes().get(..name.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether this is the authority in upper case or with the default port, as in most other spellings.
    fn is_common_variant(&self, secure: bool, authority: &str) -> bool {
        let Some((head, tail)) = authority.as_bytes().split_at_checked(self.canonical.len()) else { return false };
        let names_default = matches!((secure, tail), (true, b":443") | (false, b":80"));
        self.parts.secure == secure
            && (tail.is_empty() || names_default && self.parts.port == default_port(secure))
            && head.eq_ignore_ascii_case(self.canonical.as_bytes())
    }
}

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let origin = Self::read(text)?;
        if !origin.parts.is_protected() {
            let problem = "plain http:// sends the token unencrypted; write https://, or use Origin::allow_insecure";
            return Err(invalid(text, problem));
        }
        Ok(origin)
    }
}

impl TryFrom<&str> for Origin {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl TryFrom<String> for Origin {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

/// The origin of a request's URI, without path and query.
impl TryFrom<&Uri> for Origin {
    type Error = Error;

    fn try_from(uri: &Uri) -> Result<Self, Error> {
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(Error::invalid(
                "origin",
                "the URI has no scheme and host; write it as https://api.example.com/path",
            ));
        };
        format!("{scheme}://{authority}").parse()
    }
}

impl TryFrom<&String> for Origin {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.parts.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.canonical)
    }
}

// === impl OriginParts ===

impl<'a> OriginParts<&'a str> {
    /// `None` for a URI without scheme or host, with another scheme than http and https, or with an invalid host or
    /// port.
    fn of(uri: &'a Uri) -> Option<Self> {
        Self::read(is_secure(uri)?, uri.authority()?.as_str()).map(|(parts, _)| parts)
    }

    /// The parts, and whether a user and password precede the host.
    ///
    /// It rejects an invalid port (`:99999`, `[::1]evil.test`), which [`Uri`] treats as a missing port. It makes one
    /// pass over the bytes, because each request whose URL is written in another way than the origin comes here.
    fn read(secure: bool, authority: &'a str) -> Option<(Self, bool)> {
        let (mut begin, mut colon) = (0, None);
        for (index, byte) in authority.bytes().enumerate() {
            match byte {
                b'@' => (begin, colon) = (index + 1, None),
                b':' if colon.is_none() => colon = Some(index),
                _ => {}
            }
        }
        let end = if authority.as_bytes().get(begin) == Some(&b'[') {
            begin + authority.as_bytes()[begin..].iter().position(|byte| *byte == b']')? + 1
        } else {
            colon.unwrap_or(authority.len())
        };
        let port = match authority.as_bytes()[end..] {
            [] | [b':'] => default_port(secure),
            [b':', ref digits @ ..] if digits.iter().all(u8::is_ascii_digit) => authority[end + 1..].parse().ok()?,
            _ => return None,
        };
        Some((Self { secure, host: Host::of(&authority[begin..end])?, port }, begin > 0))
    }

    fn to_owned(self) -> OriginParts<String> {
        let host = match self.host {
            Host::Name(name) => Host::Name(name.to_ascii_lowercase()),
            Host::Ip(ip) => Host::Ip(ip),
        };
        OriginParts { secure: self.secure, host, port: self.port }
    }
}

impl<N: AsRef<str>> OriginParts<N> {
    fn is_protected(&self) -> bool {
        self.secure || self.host.is_loopback()
    }

    fn is(&self, other: &OriginParts<&str>) -> bool {
        self.secure == other.secure && self.port == other.port && self.host.is(&other.host)
    }

    /// As `Uri` writes it: no default port, no trailing dot, lower case.
    fn authority(&self) -> String {
        let host = match &self.host {
            Host::Name(name) => name.as_ref().to_owned(),
            Host::Ip(IpAddr::V4(ip)) => ip.to_string(),
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        if self.port == default_port(self.secure) { host } else { format!("{host}:{}", self.port) }
    }
}

impl<'a> Host<&'a str> {
    fn of(text: &'a str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Ip(ip.into()));
        }
        let name = match text.as_bytes() {
            [] | [b'.'] | [.., b'.', b'.'] => return None,
            [.., b'.'] => &text[..text.len() - 1],
            _ => text,
        };
        // Nearly every name begins with a letter, and no address does, so this skips most attempts to parse an address.
        let address = name.as_bytes()[0].is_ascii_digit().then(|| name.parse::<Ipv4Addr>().ok()).flatten();
        Some(address.map_or(Self::Name(name), |ip| Self::Ip(ip.into())))
    }
}

impl<N: AsRef<str>> Host<N> {
    fn is_loopback(&self) -> bool {
        match self {
            // Subdomains of localhost do not count, although RFC 6761 section 6.3 says so. Most resolvers ask the
            // network for them, and the host of a false answer would get token and secret in clear text.
            Self::Name(name) => name.as_ref().eq_ignore_ascii_case("localhost"),
            Self::Ip(ip) => ip.is_loopback(),
        }
    }

    fn is(&self, other: &Host<&str>) -> bool {
        match (self, other) {
            (Self::Name(name), Host::Name(other)) => name.as_ref().eq_ignore_ascii_case(other),
            (Self::Ip(ip), Host::Ip(other)) => ip == other,
            _ => false,
        }
    }
}

// === impl Origins ===

impl Origins {
    pub(crate) fn named(origins: Vec<Origin>) -> Result<Self, Error> {
        if origins.is_empty() {
            return Err(Error::invalid("origins", "name at least one, such as https://api.example.com"));
        }
        Ok(Self { allowed: Allowed::Named(origins.into()), relative: OriginMatch::NoHost })
    }

    pub(crate) fn any_secure() -> Self {
        Self { allowed: Allowed::AnySecure, relative: OriginMatch::NoHost }
    }

    /// Treats requests without a host as requests to one of these origins.
    pub(crate) fn with_relative_uris(self) -> Self {
        Self { relative: OriginMatch::Matched, ..self }
    }

    #[inline(always)]
    pub(crate) fn classify(&self, uri: &Uri) -> OriginMatch {
        // The fast path of nearly every request. Other spellings take the slow path.
        if let (Some(secure), Some(authority)) = (is_secure(uri), uri.authority())
            && match &self.allowed {
                Allowed::Named(origins) => match &**origins {
                    [origin] => origin.is_canonical(secure, authority),
                    origins => is_canonical_in(origins, secure, authority),
                },
                Allowed::AnySecure => secure && !has_userinfo(authority),
            }
        {
            return OriginMatch::Matched;
        }
        self.read(uri)
    }

    #[cold]
    fn read(&self, uri: &Uri) -> OriginMatch {
        let Some(authority) = uri.authority() else {
            // If a client joins `//evil.test` to a base URL, it names a host.
            let joined = uri.path().starts_with("//") || uri.path().starts_with("/\\");
            return if joined { OriginMatch::NoHost } else { self.relative };
        };
        let Some(secure) = is_secure(uri) else { return OriginMatch::Other };
        if let Allowed::Named(origins) = &self.allowed {
            if origins.iter().any(|origin| origin.is_common_variant(secure, authority.as_str())) {
                return OriginMatch::Matched;
            }
            if !has_userinfo(authority) && !origins.iter().any(|origin| origin.may_be(authority)) {
                return OriginMatch::Other;
            }
        }
        let Some((parts, has_userinfo)) = OriginParts::read(secure, authority.as_str()) else {
            return OriginMatch::Other;
        };
        match self.allows(&parts) {
            true if has_userinfo => OriginMatch::Userinfo,
            true => OriginMatch::Matched,
            false => OriginMatch::Other,
        }
    }

    fn allows(&self, parts: &OriginParts<&str>) -> bool {
        match &self.allowed {
            Allowed::Named(origins) => origins.iter().any(|origin| origin.parts.is(parts)),
            Allowed::AnySecure => parts.is_protected(),
        }
    }

    /// Whether the `Host` header of a request to one of these origins agrees with the URI.
    ///
    /// It agrees if it names the URI's host, also without the port, or another of these origins.
    #[inline]
    pub(crate) fn allow_host(&self, uri: &Uri, host: &HeaderValue) -> bool {
        let named = match &self.allowed {
            Allowed::Named(origins) => {
                origins.first().is_some_and(|origin| origin.canonical.as_bytes() == host.as_bytes())
            }
            Allowed::AnySecure => false,
        };
        named
            || uri.authority().is_some_and(|authority| authority.as_str().as_bytes() == host.as_bytes())
            || self.allow_other_host(uri, host)
    }

    #[cold]
    fn allow_other_host(&self, uri: &Uri, host: &HeaderValue) -> bool {
        let Ok(host) = host.to_str() else { return false };
        let has_no_port = host.ends_with(']') || !host.contains(':');
        let agrees = |secure: bool| {
            let Some((parts, false)) = OriginParts::read(secure, host) else { return false };
            self.allows(&parts) || has_no_port && OriginParts::of(uri).is_some_and(|of_uri| of_uri.host.is(&parts.host))
        };
        // A URI without a scheme may mean either.
        is_secure(uri).map_or_else(|| agrees(true) || agrees(false), agrees)
    }
}

/// A separate function, because the loop would cost 14 instructions for a layer with one origin, which is the usual
/// case.
#[inline(never)]
fn is_canonical_in(origins: &[Origin], secure: bool, authority: &Authority) -> bool {
    origins.iter().any(|origin| origin.is_canonical(secure, authority))
}

/// Quotes the invalid origin, unless it may contain a secret.
fn invalid(text: &str, problem: &str) -> Error {
    if text.contains(['@', '?']) {
        return Error::invalid("origin", problem.to_owned());
    }
    Error::invalid("origin", format!("`{}`: {problem}", text.escape_debug()))
}

/// Parses the URL of a token endpoint: `https://` or `http://`, without userinfo.
pub(crate) fn endpoint(field: &'static str, url: &str) -> Result<Uri, Error> {
    let invalid = |problem: &'static str| Error::invalid(field, problem);
    if !url.is_ascii() {
        return Err(invalid("not ASCII; write a host in its `xn--` form and percent-encode the path"));
    }
    let uri: Uri = url.parse().map_err(|_| invalid("not a URL; write it as https://auth.example.com/token"))?;
    if OriginParts::of(&uri).is_none() {
        return Err(invalid("scheme, host or port is missing or wrong; write it as https://auth.example.com/token"));
    }
    if uri.authority().is_some_and(has_userinfo) {
        return Err(invalid("leave out the user and password before the host; pass credentials as separate arguments"));
    }
    Ok(uri)
}

/// Whether requests to this URL are unencrypted: plain `http://` other than loopback.
pub(crate) fn is_exposed(uri: &Uri) -> bool {
    OriginParts::of(uri).is_some_and(|parts| !parts.is_protected())
}

/// Whether both URIs have the same origin (RFC 6454 section 5).
pub(crate) fn is_same(one: &Uri, other: &Uri) -> bool {
    OriginParts::of(one).zip(OriginParts::of(other)).is_some_and(|(one, other)| one.is(&other))
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// Whether the scheme is https rather than http; `None` for another scheme or none.
#[inline(always)]
fn is_secure(uri: &Uri) -> Option<bool> {
    match uri.scheme_str()? {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

fn has_userinfo(authority: &Authority) -> bool {
    authority.as_str().as_bytes().contains(&b'@')
}

#[cfg(test)]
mod tests;
