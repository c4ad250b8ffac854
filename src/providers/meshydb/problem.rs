//! What MeshyDB's errors mean.

use http::StatusCode;

use crate::error::Error;
use crate::secret::Secret;

pub(super) const TOKEN: &str = "connect/token";
pub(super) const REVOCATION: &str = "connect/revocation";
pub(super) const REGISTRATION: &str = "users/register/anonymous";
/// How the addresses of MeshyDB's endpoints end.
const PATHS: [&str; 3] = [TOKEN, REVOCATION, REGISTRATION];

/// What MeshyDB's token endpoint said no to: the reasons that its documentation lists under 400 and 429.
///
/// The documentation names the reasons and not the body they come in; so both the codes of RFC 6749 and the
/// documentation's words are read, in JSON or text. Where an answer names no reason there is `None`, and
/// [`Error::is_denied`] is all there is to know.
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
    /// "Token is invalid": the refresh token is not one of this account, tenant and public key, or was used before. Log in
    /// again.
    Token,
    /// "Refresh token is expired". Log in again.
    RefreshTokenExpired,
    /// "Client id is invalid": the public key is not one of this account.
    ClientId,
    /// "Grant type is invalid": this public key may not log in this way.
    GrantType,
    /// "Invalid Scope": see [`MeshyDbBuilder::scope`](crate::providers::meshydb::MeshyDbBuilder::scope).
    Scope,
    /// "Username is invalid".
    Username,
    /// "Password is invalid".
    Password,
    /// User name or password are invalid, and the server does not say which.
    Credentials,
    /// "User is no longer active".
    UserInactive,
    /// "You have either hit your API or Database limit": a 429. It passes, and the cache tries again after a pause.
    Limit,
}

// === impl Problem ===

impl Problem {
    /// What this error of a MeshyDB session is about, where it came from MeshyDB and says so.
    pub fn of(error: &Error) -> Option<Self> {
        let (endpoint, said) = error.said()?;
        if !PATHS.iter().any(|path| endpoint.ends_with(path)) {
            return None;
        }
        match error.status()? {
            StatusCode::TOO_MANY_REQUESTS => Some(Self::Limit),
            StatusCode::BAD_REQUEST => {
                // As they were sent: a password may be one of these words.
                let text = |said: &Option<Secret>| said.as_ref().map_or(String::new(), |said| said.expose().to_owned());
                let (words, code) = (&text(&said.text), &text(&said.code));
                // The words may also stand where RFC 6749 has its code.
                Self::in_words(words).or_else(|| Self::in_code(code)).or_else(|| Self::in_words(code))
            }
            _ => None,
        }
    }

    /// The most telling words first: a sentence on a password may speak of its user as well.
    fn in_words(words: &str) -> Option<Self> {
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

    /// RFC 6749 section 5.2. `invalid_grant` may be any of four.
    fn in_code(code: &str) -> Option<Self> {
        match code {
            "invalid_client" => Some(Self::ClientId),
            "unsupported_grant_type" | "unauthorized_client" => Some(Self::GrantType),
            "invalid_scope" => Some(Self::Scope),
            _ => None,
        }
    }
}
