//! A login in a browser.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::decode;
use crate::source::issuer::{AUTHORIZATION_ENDPOINT, Issuer, PAR_ENDPOINT, TOKEN_ENDPOINT};
use crate::source::oauth2::client::{Client, again_if_broken};
use crate::source::oauth2::random::random;
use crate::source::oauth2::refresh::RefreshTokenGrant;
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::{redact, require_non_empty};
use crate::token::Token;

/// The authorization code grant with PKCE: a person logs in with a browser.
///
/// The grant is that of RFC 6749 section 4.1, PKCE that of RFC 7636. After the login, the server redirects the browser
/// to the application's redirect URI, with a code.
///
/// The application opens the browser and receives the redirect. It can run a small server on loopback, add a route to a
/// web application, or ask the person to paste the URL into a terminal.
///
/// A login is not a source: no refresh runs it. It returns a token, with which a session starts:
///
/// ```no_run
/// # async fn redirected() -> String { String::new() }
/// # async fn f() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{AuthorizationCodeLogin, Issuer};
///
/// let issuer = Issuer::discover(http, "https://auth.example.com");
/// let login = AuthorizationCodeLogin::builder(&issuer, "my-app", "http://127.0.0.1:8400/back")
///     .scope("openid offline_access")
///     .build()?;
/// let request = login.begin().await?;
/// println!("Open {}", request.url());
/// let token = request.finish(&redirected().await).await?;
/// let cache = TokenCache::new(login.session(token));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AuthorizationCodeLogin {
    client: Client,
    issuer: Issuer,
    redirect_uri: String,
}

/// The settings of an [`AuthorizationCodeLogin`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct AuthorizationCodeLoginBuilder {
    login: AuthorizationCodeLogin,
}

/// A login that waits until the browser is redirected back.
#[must_use = "open its URL in a browser, then pass the URL it is redirected to to `finish`"]
pub struct AuthorizationRequest {
    client: Client,
    issuer: Issuer,
    /// Whether the issuer's metadata promises the parameter `iss` in each redirect.
    names_issuer: bool,
    redirect_uri: String,
    url: String,
    state: Secret,
    verifier: Secret,
}

client_settings!(AuthorizationCodeLoginBuilder, login.client);
client_auth!(AuthorizationCodeLoginBuilder, login.client);

// === impl AuthorizationCodeLogin ===

impl AuthorizationCodeLogin {
    /// Starts a builder for the login of a public client.
    ///
    /// A confidential client adds [`client_auth`](AuthorizationCodeLoginBuilder::client_auth). The server redirects the
    /// browser to `redirect_uri`, which has to be registered there.
    pub fn builder(
        issuer: &Issuer,
        client_id: impl Into<String>,
        redirect_uri: impl Into<String>,
    ) -> AuthorizationCodeLoginBuilder {
        let client = Client::new(issuer, client_id);
        let login = Self { client, issuer: issuer.clone(), redirect_uri: redirect_uri.into() };
        AuthorizationCodeLoginBuilder { login }
    }

    /// Makes the URL to open in the person's browser.
    ///
    /// The URL has a new state and a new PKCE challenge. If the issuer's metadata requires a pushed authorization
    /// request, or if its endpoint is named, this first pushes the request to the server (RFC 9126). The URL then
    /// refers to it.
    ///
    /// # Errors
    /// Returns an error if the issuer's metadata cannot be read, or if the server does not accept the pushed request.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind but a pushed request, which expires.
    pub async fn begin(&self) -> Result<AuthorizationRequest, Error> {
        let (state, verifier) = (random(), random());
        let address = self.issuer.endpoint(&Clock::System, AUTHORIZATION_ENDPOINT).await?;
        let metadata = match self.issuer.identifier() {
            Some(_) => Some(self.issuer.metadata().await?),
            None => None,
        };
        let says = |name| metadata.as_ref().is_some_and(|metadata| metadata.get(name) == Some(&Value::Bool(true)));
        let names_issuer = says("authorization_response_iss_parameter_supported");
        let challenge = challenge(&verifier);
        let form = [
            ("response_type", "code"),
            ("redirect_uri", &*self.redirect_uri),
            ("state", state.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.client.id().map(|id| ("client_id", id)));
        if self.issuer.named(PAR_ENDPOINT).is_some() || says("require_pushed_authorization_requests") {
            query.append_pair("request_uri", &self.push(&form).await?);
        } else {
            query.extend_pairs(form);
            self.client.settings(&mut query, self.client.scope());
        }
        let url = address.with_query(&query.finish());
        let (client, redirect_uri, issuer) = (self.client.clone(), self.redirect_uri.clone(), self.issuer.clone());
        Ok(AuthorizationRequest { client, issuer, names_issuer, redirect_uri, url, state, verifier })
    }

    /// Pushes the request to the server (RFC 9126 section 2.1), and returns its `request_uri`.
    async fn push(&self, form: &[(&str, &str)]) -> Result<String, Error> {
        // The id is a parameter of the request, even if the client authenticates by a header.
        let client = self.client.clone().with_id_in_body();
        let endpoint = client.endpoint.sibling(PAR_ENDPOINT);
        let answer = client.call(&endpoint, form, &[], client.scope()).await?;
        if !answer.status.is_success() {
            return Err(client.failure(&answer));
        }
        let body = decode::json(&answer.body).unwrap_or_default();
        let request_uri = body.get("request_uri").and_then(Value::as_str).filter(|uri| !uri.is_empty());
        request_uri.map(str::to_owned).ok_or_else(|| answer.unusable("it names no request_uri"))
    }

    /// Returns the session that this login started.
    ///
    /// The session uses the login's token until it nears its end, then the refresh token. Most servers return a refresh
    /// token only for the scope `offline_access`. Without one the session ends with the token.
    pub fn session(&self, token: Token) -> RefreshTokenGrant {
        RefreshTokenGrant::of_login(self.client.clone(), token)
    }
}

// === impl AuthorizationCodeLoginBuilder ===

impl AuthorizationCodeLoginBuilder {
    /// Checks the settings and the issuer's URLs, and builds the login.
    ///
    /// # Errors
    /// Returns an error that names the field if a setting or a URL is invalid, or if the issuer has no endpoint for it.
    pub fn build(self) -> Result<AuthorizationCodeLogin, Error> {
        require_non_empty("redirect_uri", &self.login.redirect_uri)?;
        let client = self.login.client.build(&[TOKEN_ENDPOINT, AUTHORIZATION_ENDPOINT])?;
        Ok(AuthorizationCodeLogin { client, ..self.login })
    }
}

/// Computes the challenge by the method `S256` (RFC 7636 section 4.2).
fn challenge(verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()))
}

// === impl AuthorizationRequest ===

impl AuthorizationRequest {
    /// Returns the URL to open in the person's browser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Exchanges the code in the URL that the browser was redirected to for a token.
    ///
    /// `redirected_to` is the whole URL, or its path and query.
    ///
    /// # Errors
    /// Returns an error if
    /// - the URL belongs to another request (`state`), or comes from another issuer (`iss`, RFC 9207);
    /// - the person or the server denied the login;
    /// - the server does not accept the code.
    ///
    /// # Cancel safety
    /// Dropping the future ends the login: a code works once.
    pub async fn finish(self, redirected_to: &str) -> Result<Token, Error> {
        let code = self.code(redirected_to)?;
        let form = [("grant_type", "authorization_code"), ("redirect_uri", &*self.redirect_uri)];
        let secrets = [("code", code), ("code_verifier", self.verifier)];
        again_if_broken(|| self.client.login(&form, &secrets)).await
    }

    fn code(&self, redirected_to: &str) -> Result<Secret, Error> {
        // A pasted line may have white space around it.
        let query = redirected_to.trim().split('#').next().and_then(|url| url.split_once('?')).map(|(_, query)| query);
        let query = query.unwrap_or_default().as_bytes();
        let find = |name| form_urlencoded::parse(query).find(|(key, _)| key == name).map(|(_, value)| value);
        if find("state").as_deref() != Some(self.state.expose()) {
            return Err(Error::login(
                "the redirect URL does not belong to this login: its state is missing or differs; start a new login",
            ));
        }
        // RFC 9207 section 2.4: a missing `iss` is an error, too, if the server promises one.
        let iss = find("iss");
        if let Some(id) = self.issuer.identifier()
            && iss.as_deref().map_or(self.names_issuer, |iss| iss != id)
        {
            return Err(Error::login(format!(
                "the redirect does not come from the issuer {id}, so its code was not used; start a new login"
            )));
        }
        if let Some(code) = find("code").filter(|code| !code.is_empty()) {
            return Ok(code.as_ref().into());
        }
        let words = [find("error"), find("error_description")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let secrets = [self.state.clone(), self.verifier.clone()];
        Err(Error::login(match redact::clean(&words, &secrets) {
            words if words.is_empty() => "the redirect URL holds no code".to_owned(),
            words => format!("the authorization server denied the login ({words})"),
        }))
    }
}

/// Leaves out the URL, because it holds the state.
impl fmt::Debug for AuthorizationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationRequest").field("redirect_uri", &self.redirect_uri).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::source::oauth2::authorization_code::challenge;

    #[test]
    fn the_challenge_matches_the_example_of_rfc_7636_appendix_b() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into();
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
