//! A login in a browser.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::endpoint::{Endpoint, TOKEN_ENDPOINT};
use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::random::random;
use crate::source::oauth2::refresh::RefreshToken;
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::transport::HttpClient;
use crate::source::{redact, require_non_empty};
use crate::token::Token;

/// The authorization code grant (RFC 6749 section 4.1) with PKCE (RFC 7636): a person logs in with a browser, which comes
/// back to an address of ours with a code.
///
/// Opening the browser and hearing of its return are the caller's: by a small server on loopback, a route of a web
/// application, or a line pasted into a terminal.
///
/// A login is no source: it never runs unasked inside a refresh. It brings a token, with which a session starts:
///
/// ```no_run
/// # async fn redirected() -> String { String::new() }
/// # async fn f() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{AuthorizationCode, Issuer};
///
/// let issuer = Issuer::new(http, "https://auth.example.com")?;
/// let login = AuthorizationCode::at(&issuer, "my-app", "http://127.0.0.1:8400/back")?.scope("openid offline_access");
/// let request = login.begin().await?;
/// println!("Open {}", request.url());
/// let token = request.finish(&redirected().await).await?;
/// let cache = TokenCache::new(login.session(token));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AuthorizationCode {
    client: Client,
    authorization: Endpoint,
    issuer: Option<Issuer>,
    redirect_uri: String,
}

/// A login that waits for its browser to come back.
#[must_use = "open its URL in a browser, then hand `finish` the address it comes back to"]
pub struct AuthorizationRequest {
    client: Client,
    issuer: Option<Issuer>,
    /// Whether the issuer always says who sends a code.
    names_issuer: bool,
    redirect_uri: String,
    url: String,
    state: Secret,
    verifier: Secret,
}

client_settings!(AuthorizationCode);
client_auth!(AuthorizationCode);

// === impl AuthorizationCode ===

impl AuthorizationCode {
    /// A public client at these endpoints; a confidential one adds [`client_auth`](AuthorizationCode::client_auth). The
    /// browser comes back to `redirect_uri`, which the server has to know.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id or redirect URI.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        authorization_url: &str,
        token_url: &str,
        client_id: impl Into<String>,
        redirect_uri: impl Into<String>,
    ) -> Result<Self, Error> {
        let endpoint = Endpoint::new(http, "token_url", token_url)?;
        let authorization = endpoint.at("authorization_url", authorization_url)?;
        Self::of(Client::new(endpoint, client_id)?, authorization, None, redirect_uri)
    }

    /// The same at an issuer, whose metadata says where its endpoints are.
    ///
    /// # Errors
    /// An empty client id or redirect URI.
    pub fn at(issuer: &Issuer, client_id: impl Into<String>, redirect_uri: impl Into<String>) -> Result<Self, Error> {
        let client = Client::new(Endpoint::of(issuer, TOKEN_ENDPOINT), client_id)?;
        Self::of(client, Endpoint::of(issuer, "authorization_endpoint"), Some(issuer.clone()), redirect_uri)
    }

    fn of(
        client: Client,
        authorization: Endpoint,
        issuer: Option<Issuer>,
        redirect_uri: impl Into<String>,
    ) -> Result<Self, Error> {
        let redirect_uri = redirect_uri.into();
        require_non_empty("redirect_uri", &redirect_uri)?;
        Ok(Self { client, authorization, issuer, redirect_uri })
    }

    /// Makes the address that the person's browser is sent to, with a state and a PKCE challenge of its own.
    ///
    /// # Errors
    /// The issuer's metadata could not be read.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn begin(&self) -> Result<AuthorizationRequest, Error> {
        let (state, verifier) = (random(), random());
        let address = self.authorization.address(&Clock::System).await?;
        let names_issuer = match &self.issuer {
            Some(issuer) => issuer.metadata().await?.get("authorization_response_iss_parameter_supported"),
            None => None,
        };
        let names_issuer = names_issuer == Some(&Value::Bool(true));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("response_type", "code");
        query.extend_pairs(self.client.id().map(|id| ("client_id", id)));
        query.append_pair("redirect_uri", &self.redirect_uri);
        query.append_pair("state", state.expose());
        query.append_pair("code_challenge", &challenge(&verifier));
        query.append_pair("code_challenge_method", "S256");
        self.client.settings(&mut query, true);
        let url = address.with_query(&query.finish());
        let (client, redirect_uri, issuer) = (self.client.clone(), self.redirect_uri.clone(), self.issuer.clone());
        Ok(AuthorizationRequest { client, issuer, names_issuer, redirect_uri, url, state, verifier })
    }

    /// The session this login began: it sends the login's token as long as that lives, then uses its refresh token. Most
    /// servers want the scope `offline_access` for one; without it the session ends with the token.
    pub fn session(&self, token: Token) -> RefreshToken {
        RefreshToken::of_login(self.client.clone(), token)
    }
}

/// RFC 7636 section 4.2: `S256`.
fn challenge(verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()))
}

// === impl AuthorizationRequest ===

impl AuthorizationRequest {
    /// Where the person's browser is sent.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Takes the code from the address the browser came back to (whole, or its path and query), and gets the token for it.
    ///
    /// # Errors
    /// The address belongs to another request (`state`), or comes from another issuer (`iss`, RFC 9207); the person or the
    /// server said no; the server takes no such code.
    ///
    /// # Cancel safety
    /// Dropping the future ends the login: a code works once.
    pub async fn finish(self, redirected_to: &str) -> Result<Token, Error> {
        let code = self.code(redirected_to)?;
        let form = [("grant_type", "authorization_code"), ("redirect_uri", &*self.redirect_uri)];
        self.client.login(&form, &[("code", code), ("code_verifier", self.verifier)]).await
    }

    fn code(&self, redirected_to: &str) -> Result<Secret, Error> {
        // It may be a line that was pasted.
        let query = redirected_to.trim().split('#').next().and_then(|url| url.split_once('?')).map(|(_, query)| query);
        let query = query.unwrap_or_default().as_bytes();
        let find = |name| form_urlencoded::parse(query).find(|(key, _)| key == name).map(|(_, value)| value);
        if find("state").as_deref() != Some(self.state.expose()) {
            return Err(Error::login(
                "the address the browser came back to is not of this login: its state is missing or another",
            ));
        }
        // RFC 9207 section 2.4: also where it is missing, from a server that says it never is.
        let iss = find("iss");
        if let Some(id) = self.issuer.as_ref().map(Issuer::id)
            && iss.as_deref().map_or(self.names_issuer, |iss| iss != id)
        {
            return Err(Error::login(format!("the code comes from another issuer than {id}, and was not sent to it")));
        }
        if let Some(code) = find("code").filter(|code| !code.is_empty()) {
            return Ok(code.as_ref().into());
        }
        let words = [find("error"), find("error_description")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let secrets = [self.state.clone(), self.verifier.clone()];
        Err(Error::login(match redact::clean(&words, &secrets) {
            words if words.is_empty() => "the browser came back without a code".to_owned(),
            words => format!("the authorization server said no ({words})"),
        }))
    }
}

/// The URL holds the state.
impl fmt::Debug for AuthorizationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationRequest").field("redirect_uri", &self.redirect_uri).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::source::oauth2::authorization_code::challenge;

    #[test]
    fn the_challenge_of_rfc_7636_appendix_b_is_the_one_printed_there() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into();
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
