//! The challenges of a 401: a parser of `WWW-Authenticate` (RFC 9110 section 11.6.1), and the Bearer scheme's
//! parameters (RFC 6750 section 3).
//!
//! ```text
//! challenge  = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//! auth-param = token BWS "=" BWS ( token / quoted-string )
//! ```
//!
//! A comma separates challenges, and also parameters. If a `=` follows the first word after a comma, that word names a
//! parameter. Otherwise it begins a new challenge. Servers often send invalid challenges. The parser stops at the first
//! invalid part of a header, and keeps what it has parsed.

use std::fmt;

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One challenge of a `WWW-Authenticate` header.
///
/// ```
/// use tower_bearer::Challenge;
///
/// let response = http::Response::builder()
///     .header("www-authenticate", r#"Basic realm="old", Bearer error="insufficient_scope", scope="read write""#)
///     .body(())?;
/// let challenges = Challenge::all(response.headers());
/// let bearer = challenges.iter().find(|challenge| challenge.is("bearer")).expect("there is one");
/// assert_eq!(bearer.param("error"), Some("insufficient_scope"));
/// assert_eq!(bearer.param("scope"), Some("read write"));
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    token68: Option<String>,
    params: Vec<(String, String)>,
}

/// A parser of one header value. It holds the unparsed rest.
struct Reader<'a>(&'a [u8]);

/// One parsed part of a header value.
enum Item<'a> {
    /// The scheme, which begins a challenge.
    Scheme(&'a [u8]),
    Token68(&'a [u8]),
    Param(&'a [u8], Value<'a>),
}

/// The unparsed value of a parameter.
#[derive(Clone, Copy)]
enum Value<'a> {
    Word(&'a [u8]),
    /// A quoted string, without its quotes but with its escapes.
    Quoted(&'a [u8]),
}

/// Errors of the Bearer scheme that a new token of the same kind does not fix (RFC 6750 section 3.1, RFC 9470 section
/// 3). [`is_for_any_token`] recognizes them by the letter after their first `_`.
const NOT_FIXED_BY_REFRESH: [&str; 3] = ["insufficient_scope", "invalid_request", "insufficient_user_authentication"];
const BEARER: &[u8] = b"bearer";

// === impl Challenge ===

impl Challenge {
    /// Returns all challenges of a response's `WWW-Authenticate` headers, in order.
    pub fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        each(headers, |item| match (item, all.last_mut()) {
            (Item::Scheme(scheme), _) => {
                all.push(Self { scheme: text(scheme), token68: None, params: Vec::new() });
            }
            (Item::Token68(token68), Some(challenge)) => challenge.token68 = Some(text(token68)),
            (Item::Param(name, value), Some(challenge)) => challenge.params.push((text(name), value.text())),
            (_, None) => unreachable!("a scheme comes first"),
        });
        all
    }

    /// Returns the scheme as the server wrote it. [`is`](Challenge::is) compares it.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns whether this is the scheme. The comparison ignores case.
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// Returns the value of a parameter, without quotes and escapes.
    ///
    /// The comparison of names ignores case. Registered names are `realm`, `scope`, `error`, `error_description`,
    /// `error_uri` (RFC 6750), `resource_metadata` (RFC 9728), `max_age` and `acr_values` (RFC 9470).
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Returns all parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns the token68, which schemes such as Negotiate send instead of parameters.
    pub fn token68(&self) -> Option<&str> {
        self.token68.as_deref()
    }
}

/// It leaves out the `token68`, which may be a secret of another scheme.
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("scheme", &self.scheme).field("params", &self.params).finish_non_exhaustive()
    }
}

/// Whether the response asks for another Bearer token.
///
/// It does if it has a Bearer challenge or no challenge at all, and none of the errors in [`NOT_FIXED_BY_REFRESH`].
/// `any_scheme`: challenges of other schemes do not count. It does not allocate.
pub(crate) fn asks_for_bearer(headers: &HeaderMap, any_scheme: bool) -> bool {
    let (mut any, mut any_bearer, mut in_bearer, mut excluded) = (false, false, false, false);
    let mut visit = |item: Item<'_>| match item {
        Item::Scheme(scheme) => {
            any = true;
            in_bearer = scheme.eq_ignore_ascii_case(BEARER);
            any_bearer |= in_bearer;
        }
        // If a challenge has two errors, the first counts, as for `Challenge::param`.
        Item::Param(name, value) if in_bearer && name.eq_ignore_ascii_case(b"error") => {
            in_bearer = false;
            excluded |= NOT_FIXED_BY_REFRESH.iter().any(|error| value.is(error));
        }
        Item::Param(..) | Item::Token68(_) => {}
    };
    for value in headers.get_all(WWW_AUTHENTICATE) {
        match is_for_any_token(value.as_bytes()) {
            true => visit(Item::Scheme(BEARER)),
            false => Reader(value.as_bytes()).read(&mut visit),
        }
    }
    (any_bearer || any_scheme || !any) && !excluded
}

/// Whether a header begins with a Bearer challenge and cannot contain an error of [`NOT_FIXED_BY_REFRESH`].
///
/// This recognizes nearly every rejection, for a tenth of the cost of parsing. If it returns `false`, the header has to
/// be parsed.
fn is_for_any_token(header: &[u8]) -> bool {
    let Some((scheme, rest)) = header.split_at_checked(BEARER.len()) else { return false };
    let ends_there = rest.first().is_none_or(|byte| b" \t,".contains(byte));
    // Without a branch, so that the compiler vectorizes it. A backslash counts, because an escape could hide an error.
    let may_exclude =
        |(byte, next): (&u8, &u8)| (*byte == b'\\') | (*byte == b'_') & matches!(next, b's' | b'r' | b'u');
    ends_there
        && scheme.eq_ignore_ascii_case(BEARER)
        && !rest.iter().zip(rest.iter().skip(1)).fold(false, |found, pair| found | may_exclude(pair))
}

fn each<'a>(headers: &'a HeaderMap, mut visit: impl FnMut(Item<'a>)) {
    for value in headers.get_all(WWW_AUTHENTICATE) {
        Reader(value.as_bytes()).read(&mut visit);
    }
}

/// Decodes Latin-1, which every header value is.
fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

// === impl Value ===

impl Value<'_> {
    /// Decodes the value. RFC 9110 section 5.6.4: a backslash escapes the next byte. Invalid UTF-8 is replaced.
    fn text(self) -> String {
        match self {
            Self::Word(word) => text(word),
            Self::Quoted(raw) => {
                let mut unescaped = Vec::with_capacity(raw.len());
                let mut bytes = raw.iter().copied();
                while let Some(byte) = bytes.next() {
                    unescaped.extend(if byte == b'\\' { bytes.next() } else { Some(byte) });
                }
                String::from_utf8_lossy(&unescaped).into_owned()
            }
        }
    }

    fn is(self, other: &str) -> bool {
        match self {
            Self::Word(word) => word == other.as_bytes(),
            Self::Quoted(raw) if raw.contains(&b'\\') => self.text() == other,
            Self::Quoted(raw) => raw == other.as_bytes(),
        }
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn read(&mut self, visit: &mut impl FnMut(Item<'a>)) {
        loop {
            self.skip(b" \t,");
            let Some(scheme) = self.token() else { return };
            let spaced = self.skip(b" \t") > 0;
            if !spaced && !self.at_boundary() {
                return;
            }
            visit(Item::Scheme(scheme));
            if let Some(token68) = self.token68() {
                visit(Item::Token68(token68));
                continue;
            }
            // Also after `Bearer,`, because a parameter that follows cannot begin a new challenge.
            while let Some((name, value)) = self.param() {
                visit(Item::Param(name, value));
            }
        }
    }

    /// Parses the next parameter, if there is one. The comma before it is optional, because some servers leave it out.
    fn param(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        let before = self.0;
        self.skip(b" \t,");
        let name = self.token();
        self.skip(b" \t");
        if name.is_none() || self.next() != Some(b'=') {
            // A new challenge begins, or the rest is invalid.
            self.0 = before;
            return None;
        }
        self.skip(b" \t");
        let value = if self.0.first() == Some(&b'"') { self.quoted() } else { self.word() };
        Some((name?, value))
    }

    /// Parses a quoted string (RFC 9110 section 5.6.4). A missing closing quote is accepted.
    fn quoted(&mut self) -> Value<'a> {
        self.next();
        let text = self.0;
        let mut end = 0;
        while let Some(byte) = self.next().filter(|byte| *byte != b'"') {
            end += 1;
            if byte == b'\\' && self.next().is_some() {
                end += 1;
            }
        }
        Value::Quoted(&text[..end])
    }

    /// Parses an unquoted value: a token, or invalid text up to the next space or comma.
    fn word(&mut self) -> Value<'a> {
        let end = self.0.iter().position(|byte| b" \t,".contains(byte)).unwrap_or(self.0.len());
        Value::Word(self.cut(end))
    }

    /// Parses a token (RFC 9110 section 5.6.2).
    fn token(&mut self) -> Option<&'a [u8]> {
        let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let end = self.0.iter().position(|byte| !of_token(byte)).unwrap_or(self.0.len());
        (end > 0).then(|| self.cut(end))
    }

    /// Parses a token68 (RFC 9110 section 11.2): one word, perhaps with `=` at its end, and nothing after it.
    fn token68(&mut self) -> Option<&'a [u8]> {
        let of_token68 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
        let word = self.0.iter().position(|byte| !of_token68(byte)).unwrap_or(self.0.len());
        let end = word + self.0[word..].iter().take_while(|byte| **byte == b'=').count();
        let boundary = Reader(self.0[end..].trim_ascii_start()).at_boundary();
        (word > 0 && boundary).then(|| self.cut(end))
    }

    fn at_boundary(&self) -> bool {
        matches!(self.0.first(), None | Some(b','))
    }

    fn cut(&mut self, end: usize) -> &'a [u8] {
        let (text, rest) = self.0.split_at(end);
        self.0 = rest;
        text
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, bytes: &[u8]) -> usize {
        let end = self.0.iter().position(|byte| !bytes.contains(byte)).unwrap_or(self.0.len());
        self.0 = &self.0[end..];
        end
    }
}

#[cfg(test)]
mod tests;
