//! OAuth 2: the grants of RFC 6749, and those that came after it.
//!
//! | type | for | defined in |
//! |---|---|---|
//! | [`ClientCredentials`] | a service that acts for itself | RFC 6749 section 4.4 |
//! | [`Password`] | servers that still ask for user name and password | RFC 6749 section 4.3 |
//! | [`RefreshToken`] | a session that was saved, or that a login began | RFC 6749 section 6 |
//! | [`TokenExchange`] | a token for another token | RFC 8693 |
//! | [`JwtBearer`] | a token for an assertion | RFC 7523 section 2.1 |
//! | [`DeviceCode`] | a login on another device: an async function, then a [`RefreshToken`] | RFC 8628 |
//! | `AuthorizationCode` | a login in a browser, with PKCE: the same | RFC 6749 section 4.1, RFC 7636 |
//!
//! `AuthorizationCode` needs the feature `authorization-code`; `Assertion` and `SigningKey`, for what a key signs, need
//! the feature `jwt`.
//!
//! Each grant is made with [`new`](ClientCredentials::new) from the address of the token endpoint, or with
//! [`at`](ClientCredentials::at) from an [`Issuer`] whose metadata says where that is. [`ClientAuth`] is how the client
//! authenticates, [`Revocation`] how a token is ended.

use crate::error::Error;
#[cfg(any(feature = "jwt", feature = "authorization-code"))]
use crate::secret::Secret;
use crate::source::endpoint::{Endpoint, HttpClient};
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::secret::{SecretSource, Supply};
use crate::source::{FetchContext, TokenSource, filled};
use crate::token::Token;

mod assertion;
mod auth;
#[cfg(feature = "authorization-code")]
mod authorization_code;
mod client;
mod device;
#[cfg(feature = "jwt")]
mod jwt;
mod refresh;
mod revocation;
mod settings;

pub use crate::source::issuer::Issuer;
pub use assertion::{JwtBearer, TokenExchange};
pub use auth::ClientAuth;
#[cfg(feature = "authorization-code")]
pub use authorization_code::{AuthorizationCode, AuthorizationRequest};
pub(crate) use client::Client;
pub use device::{DeviceAuthorization, DeviceCode};
#[cfg(feature = "jwt")]
pub use jwt::{Algorithm, Assertion, SigningKey};
pub use refresh::RefreshToken;
pub use revocation::Revocation;

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
    password: Supply,
}

const TOKEN_ENDPOINT: &str = "token_endpoint";

client_settings!(ClientCredentials);
client_settings!(Password);
client_auth!(Password);

// === impl ClientCredentials ===

impl ClientCredentials {
    /// A confidential client at this token endpoint. A text for `auth` is the client's secret, sent in the Basic header;
    /// [`ClientAuth`] has the other ways.
    ///
    /// `http` carries the token calls: any tower HTTP client, the same that carries the requests or another.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id or secret.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        auth: impl Into<ClientAuth>,
    ) -> Result<Self, Error> {
        Self::of(Endpoint::new(http, "token_url", token_url)?, client_id, auth)
    }

    /// The same at an issuer, whose metadata says where its token endpoint is.
    ///
    /// # Errors
    /// An empty client id or secret.
    pub fn at(issuer: &Issuer, client_id: impl Into<String>, auth: impl Into<ClientAuth>) -> Result<Self, Error> {
        Self::of(Endpoint::of(issuer, TOKEN_ENDPOINT), client_id, auth)
    }

    fn of(endpoint: Endpoint, client_id: impl Into<String>, auth: impl Into<ClientAuth>) -> Result<Self, Error> {
        Ok(Self { client: Client::new(endpoint, client_id)?.with_auth(auth)? })
    }
}

impl TokenSource for ClientCredentials {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.client.grant(&context, &[("grant_type", "client_credentials")], &[]).await
    }
}

// === impl Password ===

impl Password {
    /// A user of a public client at this token endpoint; a confidential one adds
    /// [`client_auth`](Password::client_auth).
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id, user name or password.
    pub fn new<B: 'static, M>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        username: impl Into<String>,
        password: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        Self::of(Client::new(Endpoint::new(http, "token_url", token_url)?, client_id)?, username, password)
    }

    /// The same at an issuer, whose metadata says where its token endpoint is.
    ///
    /// # Errors
    /// An empty client id, user name or password.
    pub fn at<M>(
        issuer: &Issuer,
        client_id: impl Into<String>,
        username: impl Into<String>,
        password: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        Self::of(Client::new(Endpoint::of(issuer, TOKEN_ENDPOINT), client_id)?, username, password)
    }

    pub(crate) fn of<M>(
        client: Client,
        username: impl Into<String>,
        password: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        let username = username.into();
        filled("username", &username)?;
        let password = Supply::checked("password", password)?;
        Ok(Self { client: client.knowing(&password), username, password })
    }
}

impl TokenSource for Password {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.client
            .renew(&context, async {
                let form = [("grant_type", "password"), ("username", &*self.username)];
                let password = self.password.get("password").await?;
                self.client.grant(&context, &form, &[("password", password)]).await
            })
            .await
    }
}

/// 32 bytes from the operating system, base64url: a `jti`, a state, a code verifier (RFC 7636 section 4.1).
#[cfg(any(feature = "jwt", feature = "authorization-code"))]
fn random() -> Secret {
    use base64::Engine;

    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes).into()
}
