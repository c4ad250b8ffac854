//! OAuth 2 grants (RFC 6749): client credentials, password, refresh token.
//!
//! Each grant is a source of its own; what they share (the token endpoint, the client's authentication, the reading of
//! answers) is in `oauth2/client.rs`.

use std::time::Duration;

use crate::error::Error;
use crate::source::endpoint::{Endpoint, HttpClient};
use crate::source::oauth2::client::ends_session;
use crate::source::{FetchContext, TokenSource, answer, filled};
use crate::token::{Secret, Token};

mod client;

pub(crate) use client::Client;
pub use client::ClientAuth;

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

            /// The lifetime of a token whose answer names none. Default: [`DEFAULT_LIFETIME`](crate::DEFAULT_LIFETIME).
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
                self.client.client_secret = Some(self::secret("client_secret", secret)?);
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
        client.client_secret = Some(secret("client_secret", client_secret)?);
        Ok(Self { client })
    }
}

impl TokenSource for ClientCredentials {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.client.grant(&context, &[("grant_type", "client_credentials")]).await
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
        filled("username", &username)?;
        let password = secret("password", password)?;
        Ok(Self { client: client.knowing(&password), username, password })
    }
}

impl TokenSource for Password {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        if let Some(refresh_token) = context.refresh_token() {
            match self.client.refresh(&context, &refresh_token).await {
                Err(error) if ends_session(&error) => {}
                other => return other,
            }
        }
        let password = self.password.expose();
        let form = [("grant_type", "password"), ("username", &*self.username), ("password", password)];
        self.client.grant(&context, &form).await
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
        let refresh_token = secret("refresh_token", refresh_token)?;
        Ok(Self { client: client.knowing(&refresh_token).without_login(), refresh_token })
    }
}

impl TokenSource for RefreshToken {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let refresh_token = context.refresh_token().unwrap_or_else(|| self.refresh_token.clone());
        self.client.refresh(&context, &refresh_token).await
    }
}

fn secret(field: &'static str, secret: impl Into<Secret>) -> Result<Secret, Error> {
    let secret = secret.into();
    filled(field, secret.expose())?;
    Ok(secret)
}
