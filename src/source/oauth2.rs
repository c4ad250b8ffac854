//! OAuth 2 grants (RFC 6749): client credentials, password, refresh token.
//!
//! Each grant is a source of its own; what they share (the token endpoint, the client's authentication, the reading of
//! answers) is the private `Client`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::source::endpoint::{Answer, Endpoint, HttpClient};
use crate::source::{FetchContext, TokenSource, answer};
use crate::token::{DEFAULT_LIFETIME, Secret, Token};

/// The client credentials grant (RFC 6749 section 4.4): a service that acts for itself.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::{TokenCache, oauth2::ClientCredentials};
///
/// let login = ClientCredentials::new(http, "https://auth.example.com/token", "my-app", "its secret")?.scope("read write");
/// let cache = TokenCache::new(login);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ClientCredentials {
    client: Client,
}

/// The password grant (RFC 6749 section 4.3), for servers that still ask for it.
///
/// Where the server hands out a refresh token, the next fetch uses that; where the refresh token is denied, it logs in
/// again.
#[derive(Debug)]
pub struct Password {
    client: Client,
    username: String,
    password: Secret,
}

/// The refresh token grant (RFC 6749 section 6), from a refresh token that was saved or came from a login.
///
/// A rotated refresh token takes the place of the old; [`TokenCache::on_rotation`](crate::TokenCache::on_rotation) hands
/// it out for saving. Where it is denied there is nothing to fall back to: the error
/// [says so](crate::Error::is_denied), and a new login goes into
/// [`TokenCache::set_source`](crate::TokenCache::set_source).
#[derive(Debug)]
pub struct RefreshToken {
    client: Client,
    refresh_token: Secret,
}

/// How the client shows its secret to the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// In the `Authorization: Basic` header, form-urlencoded first: what every server must support
    /// (`client_secret_basic`).
    #[default]
    Basic,
    /// In the body, for servers that do not (`client_secret_post`).
    Body,
}

/// A client of a token endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    client_id: String,
    client_secret: Option<Secret>,
    auth: ClientAuth,
    scope: Option<String>,
    default_lifetime: Duration,
    /// Whether a 400 denies the credentials whatever its body says (unless that is a page of some gateway): for
    /// providers that document the status and not the body.
    bad_request_denies: bool,
}

/// The settings the grants share, written once.
macro_rules! client_settings {
    ($($grant:ty),*) => {$(
        impl $grant {
            /// The scope to ask for: words separated by spaces (RFC 6749 section 3.3). Not sent with a refresh token,
            /// which keeps the scope it was given.
            #[must_use]
            pub fn scope(mut self, scope: impl Into<String>) -> Self {
                self.client.scope = Some(scope.into());
                self
            }

            /// How the client's secret is sent. Default: [`ClientAuth::Basic`].
            #[must_use]
            pub fn client_auth(mut self, auth: ClientAuth) -> Self {
                self.client.auth = auth;
                self
            }

            /// Adds a header to every token call.
            ///
            /// # Errors
            /// A name or value that no header may carry.
            pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
                self.client.endpoint.header("header", name, value)?;
                Ok(self)
            }

            /// The lifetime of a token whose answer names none. Default: [`DEFAULT_LIFETIME`].
            ///
            /// # Errors
            /// Zero.
            pub fn default_lifetime(mut self, lifetime: Duration) -> Result<Self, Error> {
                self.client.default_lifetime = answer::default_lifetime(lifetime)?;
                Ok(self)
            }
        }
    )*};
}

client_settings!(ClientCredentials, Password, RefreshToken);

/// The settings of grants that public clients use too.
macro_rules! confidential {
    ($($grant:ty),*) => {$(
        impl $grant {
            /// The client's secret, for a confidential client. Without one, the client id goes into the body.
            ///
            /// # Errors
            /// An empty secret.
            pub fn client_secret(mut self, secret: impl Into<Secret>) -> Result<Self, Error> {
                self.client.client_secret = Some(filled("client_secret", secret)?);
                Ok(self)
            }
        }
    )*};
}

confidential!(Password, RefreshToken);

// === impl ClientCredentials ===

impl ClientCredentials {
    /// A confidential client at this token endpoint.
    ///
    /// `http` carries the token calls: any tower HTTP client, the same that carries the requests or another.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id or secret.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        client_secret: impl Into<Secret>,
    ) -> Result<Self, Error> {
        let mut client = Client::new(Endpoint::new(http, "token_url", token_url)?, client_id)?;
        client.client_secret = Some(filled("client_secret", client_secret)?);
        Ok(Self { client })
    }
}

impl TokenSource for ClientCredentials {
    async fn fetch(&self, _: FetchContext) -> Result<Token, Error> {
        self.client.grant(&[("grant_type", "client_credentials")], &[]).await
    }
}

// === impl Password ===

impl Password {
    /// A user of a public client at this token endpoint; a confidential one adds
    /// [`client_secret`](Password::client_secret).
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id, user name or password.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        username: impl Into<String>,
        password: impl Into<Secret>,
    ) -> Result<Self, Error> {
        Self::of(Client::new(Endpoint::new(http, "token_url", token_url)?, client_id)?, username, password)
    }

    pub(crate) fn of(client: Client, username: impl Into<String>, password: impl Into<Secret>) -> Result<Self, Error> {
        let username = username.into();
        if username.is_empty() {
            return Err(Error::invalid("username", "it is empty"));
        }
        Ok(Self { client, username, password: filled("password", password)? })
    }
}

impl TokenSource for Password {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        if let Some(refresh_token) = context.refresh_token() {
            match self.client.refresh(&refresh_token).await {
                Err(error) if ends_session(&error) => {}
                other => return other,
            }
        }
        let password = self.password.expose();
        let form = [("grant_type", "password"), ("username", &*self.username), ("password", password)];
        self.client.grant(&form, &[&self.password]).await
    }
}

// === impl RefreshToken ===

impl RefreshToken {
    /// A session of a public client at this token endpoint, from its refresh token; a confidential client adds
    /// [`client_secret`](RefreshToken::client_secret).
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id or refresh token.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        refresh_token: impl Into<Secret>,
    ) -> Result<Self, Error> {
        Self::of(Client::new(Endpoint::new(http, "token_url", token_url)?, client_id)?, refresh_token)
    }

    pub(crate) fn of(client: Client, refresh_token: impl Into<Secret>) -> Result<Self, Error> {
        Ok(Self { client, refresh_token: filled("refresh_token", refresh_token)? })
    }
}

impl TokenSource for RefreshToken {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let refresh_token = context.refresh_token().unwrap_or_else(|| self.refresh_token.clone());
        self.client.refresh(&refresh_token).await
    }
}

// === impl Client ===

impl Client {
    pub(crate) fn new(endpoint: Endpoint, client_id: impl Into<String>) -> Result<Self, Error> {
        let client_id = client_id.into();
        if client_id.is_empty() {
            return Err(Error::invalid("client_id", "it is empty"));
        }
        Ok(Self {
            endpoint,
            client_id,
            client_secret: None,
            auth: ClientAuth::Basic,
            scope: None,
            default_lifetime: DEFAULT_LIFETIME,
            bad_request_denies: false,
        })
    }

    /// For a provider whose 400 denies whatever its body says.
    pub(crate) fn with_denying_bad_request(self) -> Self {
        Self { bad_request_denies: true, ..self }
    }

    pub(crate) fn with_scope(self, scope: String) -> Self {
        Self { scope: Some(scope), ..self }
    }

    /// Asks with the refresh token. An answer that was lost is asked for again at once, with the same refresh token:
    /// the server may have rotated it already, and most give the pair once more. An answer without a refresh token
    /// leaves the old one valid (RFC 6749 section 6).
    async fn refresh(&self, refresh_token: &Secret) -> Result<Token, Error> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
        let mut answer = self.ask(&form, false).await;
        if answer.as_ref().is_err_and(Error::is_ambiguous) {
            answer = self.ask(&form, false).await;
        }
        let token = self.read(&answer?, &[refresh_token])?;
        Ok(if token.refresh_token().is_some() { token } else { token.with_refresh_token(refresh_token.clone()) })
    }

    /// Asks with a grant of its own.
    async fn grant(&self, form: &[(&str, &str)], secrets: &[&Secret]) -> Result<Token, Error> {
        self.read(&self.ask(form, true).await?, secrets)
    }

    async fn ask(&self, form: &[(&str, &str)], scoped: bool) -> Result<Answer, Error> {
        let (authorization, body) = self.request(form, scoped);
        self.endpoint.post("application/x-www-form-urlencoded", authorization, body.into()).await
    }

    /// The form, and the header where the client authenticates there.
    fn request(&self, form: &[(&str, &str)], scoped: bool) -> (Option<HeaderValue>, String) {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        if let Some(scope) = self.scope.as_ref().filter(|_| scoped) {
            body.append_pair("scope", scope);
        }
        let authorization = match (&self.client_secret, self.auth) {
            (Some(secret), ClientAuth::Basic) => Some(basic(&self.client_id, secret)),
            (secret, _) => {
                body.append_pair("client_id", &self.client_id);
                body.extend_pairs(secret.iter().map(|secret| ("client_secret", secret.expose())));
                None
            }
        };
        (authorization, body.finish())
    }

    /// RFC 6749 section 5. The error code counts whatever the status says: servers disagree about the status.
    fn read(&self, answer: &Answer, secrets: &[&Secret]) -> Result<Token, Error> {
        let body = serde_json::from_slice::<Map<String, Value>>(&answer.body);
        let text = |name| body.as_ref().ok().and_then(|body| body.get(name)).and_then(Value::as_str);
        if !answer.status.is_success() || (text("error").is_some() && text("access_token").is_none()) {
            let code = text("error");
            let page = answer.body.trim_ascii_start().starts_with(b"<");
            let known = code.is_some_and(denies)
                || (self.bad_request_denies && answer.status == StatusCode::BAD_REQUEST && !page);
            let denied = known && answer.status != StatusCode::TOO_MANY_REQUESTS;
            let secrets: Vec<_> = secrets.iter().copied().chain(&self.client_secret).collect();
            return Err(answer.error(denied, code, text("error_description"), &secrets));
        }
        let mut body = body.map_err(|_| answer.unusable("it is not a JSON object"))?;
        if let Some(other) =
            body.get("token_type").and_then(Value::as_str).filter(|kind| !kind.eq_ignore_ascii_case("bearer"))
        {
            let other: String = other.chars().filter(|c| c.is_ascii_alphanumeric()).take(32).collect();
            return Err(answer.unusable(format!("its token type is {other}, not Bearer")));
        }
        let mut token = answer::token(answer, body.get("access_token"), body.get("expires_in"), self.default_lifetime)?;
        let mut take = |name| match body.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        if let Some(refresh_token) = take("refresh_token") {
            token = token.with_refresh_token(refresh_token);
        }
        if let Some(scope) = take("scope") {
            token = token.with_scope(scope);
        }
        if let Some(id_token) = take("id_token") {
            token = token.with_id_token(id_token);
        }
        body.retain(|name, _| !matches!(&**name, "access_token" | "token_type" | "expires_in"));
        Ok(token.with_extra(body))
    }
}

/// RFC 6749 section 2.3.1: both are form-urlencoded before they go into the Basic scheme (RFC 7617).
fn basic(client_id: &str, secret: &Secret) -> HeaderValue {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret.expose())));
    HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is a header value")
}

/// The codes of RFC 6749 sections 5.2 and 4.1.2.1 with which the same call can never succeed.
fn denies(code: &str) -> bool {
    const FINAL: [&str; 7] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "access_denied",
    ];
    FINAL.contains(&code)
}

/// Whether a refused refresh means that the refresh token is over, so that the login is asked again: `invalid_grant`,
/// or a 400 that names no code we know. The other codes would deny the login as well.
fn ends_session(error: &Error) -> bool {
    match error.code() {
        Some("invalid_grant") => true,
        Some(code) if denies(code) => false,
        _ => error.status() == Some(StatusCode::BAD_REQUEST),
    }
}

fn filled(field: &'static str, secret: impl Into<Secret>) -> Result<Secret, Error> {
    let secret = secret.into();
    if secret.expose().is_empty() {
        return Err(Error::invalid(field, "it is empty"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests;
