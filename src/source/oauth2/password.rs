//! The password grant.

use crate::error::Error;
use crate::source::endpoint::{Endpoint, TOKEN_ENDPOINT};
use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::secret::{SecretProvider, SecretSource};
use crate::source::transport::HttpClient;
use crate::source::{FetchContext, TokenSource, require_non_empty};
use crate::token::Token;

/// The password grant (RFC 6749 section 4.3), for servers that still ask for it.
///
/// Where the server hands out a refresh token, the next fetch uses that; where the refresh token is denied, it logs in
/// again.
#[derive(Debug)]
pub struct Password {
    client: Client,
    username: String,
    password: SecretProvider,
}

client_settings!(Password);
client_auth!(Password);

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
        require_non_empty("username", &username)?;
        let password = SecretProvider::checked("password", password)?;
        Ok(Self { client: client.redacting(&password), username, password })
    }
}

impl TokenSource for Password {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.client
            .renew(&context, async {
                let form = [("grant_type", "password"), ("username", &*self.username)];
                let password = self.password.get("password", context.now()).await?;
                self.client.grant(&context, &form, &[("password", password)]).await
            })
            .await
    }

    fn identity(&self) -> Vec<String> {
        self.client.identity("password", &[&self.username])
    }
}
