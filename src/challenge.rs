//! What a 401 says: the grammar of `WWW-Authenticate` (RFC 9110 section 11.6.1), and the Bearer scheme's own words
//! (RFC 6750 section 3).
//!
//! ```text
//! challenge  = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//! auth-param = token BWS "=" BWS ( token / quoted-string )
//! ```
//!
//! Challenges and parameters are separated by the same comma. What follows one is a parameter where a `=` comes after
//! its first word, and a new challenge otherwise. Servers get this wrong in many ways; what cannot be read ends the
//! reading of its header, and what was read before it counts.

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

/// What is left of one header value.
struct Reader<'a>(&'a [u8]);

// === impl Challenge ===

impl Challenge {
    /// All challenges of a response, over all its `WWW-Authenticate` headers, in order.
    pub fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut all = Vec::new();
        for value in headers.get_all(WWW_AUTHENTICATE) {
            Reader(value.as_bytes()).challenges(&mut all);
        }
        all
    }

    /// The scheme as it was written; compare with [`is`](Challenge::is).
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Whether this is the scheme, in any case.
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The value of a parameter, its name in any case, quotes and escapes taken away: `realm`, `scope`, `error`,
    /// `error_description`, `error_uri` (RFC 6750), `resource_metadata` (RFC 9728), `max_age`, `acr_values` (RFC 9470).
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// All parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(name, value)| (&**name, &**value))
    }

    /// What schemes such as Negotiate send instead of parameters.
    pub fn token68(&self) -> Option<&str> {
        self.token68.as_deref()
    }
}

/// Without the `token68`, which may be a secret of the scheme it belongs to.
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("scheme", &self.scheme).field("params", &self.params).finish_non_exhaustive()
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn challenges(&mut self, all: &mut Vec<Challenge>) {
        loop {
            self.skip(b" \t,");
            let Some(scheme) = self.token() else { return };
            let spaced = self.skip(b" \t") > 0;
            if !spaced && !self.at_boundary() {
                return;
            }
            let token68 = self.token68();
            // Also behind `Bearer,`: to no grammar is that comma the end of a challenge when a parameter follows it.
            let params = if token68.is_none() { std::iter::from_fn(|| self.param()).collect() } else { Vec::new() };
            all.push(Challenge { scheme, token68, params });
        }
    }

    /// The next parameter, where there is one. The comma before it is not insisted on: some servers forget it.
    fn param(&mut self) -> Option<(String, String)> {
        let before = self.0;
        self.skip(b" \t,");
        let name = self.token();
        self.skip(b" \t");
        if name.is_none() || self.next() != Some(b'=') {
            // A new challenge, or nothing that can be read.
            self.0 = before;
            return None;
        }
        self.skip(b" \t");
        let value = if self.0.first() == Some(&b'"') { self.quoted() } else { self.word() };
        Some((name?, value))
    }

    /// RFC 9110 section 5.6.4. Text that is not UTF-8, or has no closing quote, is read as far as it goes.
    fn quoted(&mut self) -> String {
        self.next();
        let mut text = Vec::new();
        while let Some(byte) = self.next().filter(|byte| *byte != b'"') {
            // An escape stands for what follows it.
            text.extend(if byte == b'\\' { self.next() } else { Some(byte) });
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A value without quotes: a token, or what a careless server took for one.
    fn word(&mut self) -> String {
        let end = self.0.iter().position(|byte| b" \t,".contains(byte)).unwrap_or(self.0.len());
        self.cut(end)
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> Option<String> {
        let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let end = self.0.iter().position(|byte| !of_token(byte)).unwrap_or(self.0.len());
        (end > 0).then(|| self.cut(end))
    }

    /// RFC 9110 section 11.2: one word, perhaps with `=` at its end, and nothing after it.
    fn token68(&mut self) -> Option<String> {
        let of_token68 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
        let word = self.0.iter().position(|byte| !of_token68(byte)).unwrap_or(self.0.len());
        let end = word + self.0[word..].iter().take_while(|byte| **byte == b'=').count();
        let boundary = Reader(self.0[end..].trim_ascii_start()).at_boundary();
        (word > 0 && boundary).then(|| self.cut(end))
    }

    fn at_boundary(&self) -> bool {
        matches!(self.0.first(), None | Some(b','))
    }

    fn cut(&mut self, end: usize) -> String {
        let (text, rest) = self.0.split_at(end);
        self.0 = rest;
        text.iter().copied().map(char::from).collect()
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
