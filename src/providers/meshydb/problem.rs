//! What MeshyDB's errors mean.

use http::StatusCode;

use crate::error::Error;
use crate::secret::Secret;

pub(super) const TOKEN: &str = "connect/token";
pub(super) const REVOCATION: &str = "connect/revocation";
pub(super) const REGISTRATION: &str = "users/register/anonymous";
/// The ends of the URLs of MeshyDB's endpoints.
const PATHS: [&str; 3] = [TOKEN, REVOCATION, REGISTRATION];

/// Why MeshyDB returned an error: the reasons that it documents for 400 and 429.
///
/// The documentation names the reasons, but not the format of the body. So this recognises the codes of RFC 6749 and
/// the documented phrases, in JSON or text. If an answer names no reason, [`of`](Problem::of) returns `None`, and only
/// [`Error::is_denied`] is known.
///
/// ```
/// # async fn f(cache: tower_bearer::TokenCache) {
/// use tower_bearer::providers::meshydb::Problem;
///
/// match cache.get().await {
///     Err(error) if Problem::of(&error) == Some(Problem::UserInactive) => println!("ask the account's owner"),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// "Token is invalid": the refresh token belongs to another account, tenant or public key, or was used before.
    ///
    /// Log in again.
    Token,
    /// "Refresh token is expired". Log in again.
    RefreshTokenExpired,
    /// "Client id is invalid": the public key does not belong to this account.
    ClientId,
    /// "Grant type is invalid": this public key may not log in this way.
    GrantType,
    /// "Invalid Scope": see [`MeshyDbBuilder::scope`](crate::providers::meshydb::MeshyDbBuilder::scope).
    Scope,
    /// "Username is invalid".
    Username,
    /// "Password is invalid".
    Password,
    /// The user name or the password is invalid, and the server does not say which.
    Credentials,
    /// "User is no longer active".
    UserInactive,
    /// "You have either hit your API or Database limit": a 429. The cache retries after a pause.
    Limit,
}

// === impl Problem ===

impl Problem {
    /// Returns the problem, if the error comes from MeshyDB and names one.
    pub fn of(error: &Error) -> Option<Self> {
        let (endpoint, said) = error.said()?;
        if !PATHS.iter().any(|path| endpoint.ends_with(path)) {
            return None;
        }
        match error.status()? {
            StatusCode::TOO_MANY_REQUESTS => Some(Self::Limit),
            StatusCode::BAD_REQUEST => {
                // Use the texts before redaction, because a password may be one of these words.
                let text = |said: &Option<Secret>| said.as_ref().map_or(String::new(), |said| said.expose().to_owned());
                let (words, code) = (&text(&said.text), &text(&said.code));
                // The phrase may be in the field that RFC 6749 defines for a code.
                Self::from_phrase(words).or_else(|| Self::from_code(code)).or_else(|| Self::from_phrase(code))
            }
            _ => None,
        }
    }

    /// Recognises a documented phrase. The most specific words come first: a sentence about a password may also name
    /// the user.
    fn from_phrase(words: &str) -> Option<Self> {
        let words = words.to_ascii_lowercase().replace('_', " ");
        let says = |word| words.contains(word);
        Some(match () {
            () if says("no longer active") || says("inactive") => Self::UserInactive,
            () if says("expired") => Self::RefreshTokenExpired,
            () if says("client") || says("public key") => Self::ClientId,
            () if says("grant type") => Self::GrantType,
            () if says("scope") => Self::Scope,
            () if says("username") && says("password") => Self::Credentials,
            () if says("username") => Self::Username,
            () if says("password") => Self::Password,
            () if says("token") => Self::Token,
            () => return None,
        })
    }

    /// Recognises a code of RFC 6749 section 5.2. `invalid_grant` is not in the list, because it may mean any of four
    /// problems.
    fn from_code(code: &str) -> Option<Self> {
        match code {
            "invalid_client" => Some(Self::ClientId),
            "unsupported_grant_type" | "unauthorized_client" => Some(Self::GrantType),
            "invalid_scope" => Some(Self::Scope),
            _ => None,
        }
    }
}
