//! Where: the only room that knows what an origin is, how it is written, and when two are the same.
//!
//! An origin is scheme, host and effective port (RFC 6454 section 4). Hosts are compared without regard to case and to
//! one trailing dot, IPv6 addresses by value, ports by their effective number.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderValue, Uri};

use crate::error::Error;

/// Where a token belongs: `https://api.example.com`, `https://[2001:db8::1]:8443`, `http://localhost:3000`.
///
/// Made from a string with `parse` or `try_into`; plain `http://` is accepted for loopback only, and by name through
/// [`Origin::allow_insecure`].
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
    place: Place<String>,
    /// The authority as nearly every request writes it: compared first, byte by byte.
    written: String,
}

/// What a URI says of its place, and what an origin keeps of that: `N` is `&str` or `String`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place<N> {
    secure: bool,
    host: Host<N>,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Host<N> {
    Name(N),
    Ip(IpAddr),
}

/// What a layer says of a request's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginMatch {
    Ours,
    Foreign,
    /// A path without a host, and nobody said where such requests go.
    Unplaced,
    /// One of our origins, with `user:password@` before it: the two credentials contradict each other.
    Userinfo,
    /// One of our origins, and a `Host` header that names another site.
    Host,
}

/// The origins a layer puts tokens on.
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
    /// An origin that may be plain `http://` beyond loopback: the token travels unencrypted, and whoever sees it can
    /// use it. For a mesh that encrypts beneath, or a test bed.
    ///
    /// # Errors
    /// As for parsing, but for the scheme.
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
        let place =
            Place::of(&uri).ok_or("scheme, host or port is missing or wrong; write it as https://api.example.com")?;
        if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return Err("an origin is scheme, host and port; leave out path, query and fragment");
        }
        if uri.authority().is_some_and(has_userinfo) {
            return Err("leave out the user and password before the host");
        }
        if text.contains('*') {
            return Err("a wildcard is no host; name each one");
        }
        let place = place.to_owned();
        Ok(Self { written: place.authority(), place })
    }

    fn is_written(&self, secure: bool, authority: &Authority) -> bool {
        self.place.secure == secure && self.written == authority.as_str()
    }

    /// Whether an authority without a user can be this one in whatever spelling: all begin with the host's name.
    fn may_be(&self, authority: &Authority) -> bool {
        let Host::Name(name) = &self.place.host else { return true };
        let begin = authority.as_str().as_bytes().get(..name.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether this is the authority in capitals, or with the default port: what most other spellings are.
    fn is_spelled(&self, secure: bool, authority: &str) -> bool {
        let Some((head, tail)) = authority.as_bytes().split_at_checked(self.written.len()) else { return false };
        let names_default = matches!((secure, tail), (true, b":443") | (false, b":80"));
        self.place.secure == secure
            && (tail.is_empty() || names_default && self.place.port == default_port(secure))
            && head.eq_ignore_ascii_case(self.written.as_bytes())
    }
}

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let origin = Self::read(text)?;
        if !origin.place.is_protected() {
            let problem = "plain http:// shows the token to everyone on the way; write https://, or name it with Origin::allow_insecure";
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

/// The origin of a request's URI: its path and query are left out.
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
        let scheme = if self.place.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.written)
    }
}

// === impl Place ===

impl<'a> Place<&'a str> {
    /// `None` for a URI without scheme or host, with another scheme than http and https, or with a host or port that is
    /// none.
    fn of(uri: &'a Uri) -> Option<Self> {
        Self::read(is_secure(uri)?, uri.authority()?.as_str()).map(|(place, _)| place)
    }

    /// The place, and whether a user and password stand before it.
    ///
    /// Strictly: [`Uri`] takes what follows a host and is no port (`:99999`, `[::1]evil.test`) for no port at all. In one
    /// pass over the bytes, because a request whose URL is written in another way than the origin comes here each time.
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

    fn to_owned(self) -> Place<String> {
        let host = match self.host {
            Host::Name(name) => Host::Name(name.to_ascii_lowercase()),
            Host::Ip(ip) => Host::Ip(ip),
        };
        Place { secure: self.secure, host, port: self.port }
    }
}

impl<N: AsRef<str>> Place<N> {
    fn is_protected(&self) -> bool {
        self.secure || self.host.is_loopback()
    }

    fn is(&self, other: &Place<&str>) -> bool {
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
        // Nearly every name begins with a letter, and no address does.
        let address = name.as_bytes()[0].is_ascii_digit().then(|| name.parse::<Ipv4Addr>().ok()).flatten();
        Some(address.map_or(Self::Name(name), |ip| Self::Ip(ip.into())))
    }
}

impl<N: AsRef<str>> Host<N> {
    fn is_loopback(&self) -> bool {
        match self {
            // Not the names below it, although RFC 6761 section 6.3 says so: most resolvers ask the network for them, and
            // whoever answers would get token and secret in clear text.
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
        Ok(Self { allowed: Allowed::Named(origins.into()), relative: OriginMatch::Unplaced })
    }

    pub(crate) fn any_secure() -> Self {
        Self { allowed: Allowed::AnySecure, relative: OriginMatch::Unplaced }
    }

    /// Counts requests without a host as ours.
    pub(crate) fn with_relative_uris(self) -> Self {
        Self { relative: OriginMatch::Ours, ..self }
    }

    #[inline(always)]
    pub(crate) fn classify(&self, uri: &Uri) -> OriginMatch {
        // The way nearly every request goes; what is written otherwise is read with care.
        if let (Some(secure), Some(authority)) = (is_secure(uri), uri.authority())
            && match &self.allowed {
                Allowed::Named(origins) => match &**origins {
                    [origin] => origin.is_written(secure, authority),
                    origins => is_written_in(origins, secure, authority),
                },
                Allowed::AnySecure => secure && !has_userinfo(authority),
            }
        {
            return OriginMatch::Ours;
        }
        self.read(uri)
    }

    #[cold]
    fn read(&self, uri: &Uri) -> OriginMatch {
        let Some(authority) = uri.authority() else {
            // To a client that joins it to a base URL, `//evil.test` names a host.
            let joined = uri.path().starts_with("//") || uri.path().starts_with("/\\");
            return if joined { OriginMatch::Unplaced } else { self.relative };
        };
        let Some(secure) = is_secure(uri) else { return OriginMatch::Foreign };
        if let Allowed::Named(origins) = &self.allowed {
            if origins.iter().any(|origin| origin.is_spelled(secure, authority.as_str())) {
                return OriginMatch::Ours;
            }
            if !has_userinfo(authority) && !origins.iter().any(|origin| origin.may_be(authority)) {
                return OriginMatch::Foreign;
            }
        }
        let Some((place, has_userinfo)) = Place::read(secure, authority.as_str()) else { return OriginMatch::Foreign };
        match self.allows(&place) {
            true if has_userinfo => OriginMatch::Userinfo,
            true => OriginMatch::Ours,
            false => OriginMatch::Foreign,
        }
    }

    fn allows(&self, place: &Place<&str>) -> bool {
        match &self.allowed {
            Allowed::Named(origins) => origins.iter().any(|origin| origin.place.is(place)),
            Allowed::AnySecure => place.is_protected(),
        }
    }

    /// Whether the `Host` header of a request to one of these origins leads there, too: it names the URI's host, perhaps
    /// without the port, or another of these origins.
    #[inline]
    pub(crate) fn allow_host(&self, uri: &Uri, host: &HeaderValue) -> bool {
        let named = match &self.allowed {
            Allowed::Named(origins) => {
                origins.first().is_some_and(|origin| origin.written.as_bytes() == host.as_bytes())
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
        let leads_there = |secure: bool| {
            let Some((place, false)) = Place::read(secure, host) else { return false };
            self.allows(&place) || has_no_port && Place::of(uri).is_some_and(|of_uri| of_uri.host.is(&place.host))
        };
        // Of a path only it is not known which.
        is_secure(uri).map_or_else(|| leads_there(true) || leads_there(false), leads_there)
    }
}

/// Apart: in the way of the one origin that nearly every layer has, a loop costs 14 instructions.
#[inline(never)]
fn is_written_in(origins: &[Origin], secure: bool, authority: &Authority) -> bool {
    origins.iter().any(|origin| origin.is_written(secure, authority))
}

/// Says which origin it was, unless it may hold a secret.
fn invalid(text: &str, problem: &str) -> Error {
    if text.contains(['@', '?']) {
        return Error::invalid("origin", problem.to_owned());
    }
    Error::invalid("origin", format!("`{}`: {problem}", text.escape_debug()))
}

/// Reads the address of a token endpoint: `https://`, or plain `http://` on loopback or if that is allowed; no userinfo.
pub(crate) fn endpoint(field: &'static str, url: &str, allow_insecure: bool) -> Result<Uri, Error> {
    let invalid = |problem: &'static str| Error::invalid(field, problem);
    if !url.is_ascii() {
        return Err(invalid("not ASCII; write a host in its `xn--` form and percent-encode the path"));
    }
    let uri: Uri = url.parse().map_err(|_| invalid("not a URL; write it as https://auth.example.com/token"))?;
    let place = Place::of(&uri).ok_or_else(|| {
        invalid("scheme, host or port is missing or wrong; write it as https://auth.example.com/token")
    })?;
    if uri.authority().is_some_and(has_userinfo) {
        return Err(invalid(
            "leave out the user and password before the host; credentials have arguments of their own",
        ));
    }
    if !allow_insecure && !place.is_protected() {
        return Err(invalid("plain http:// shows the credentials to everyone on the way; write https://"));
    }
    Ok(uri)
}

/// Whether what is sent to this address can be read on the way: plain `http://` beyond loopback.
pub(crate) fn is_exposed(uri: &Uri) -> bool {
    Place::of(uri).is_some_and(|place| !place.is_protected())
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// Whether it is https rather than http; `None` for another scheme, and without one.
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
