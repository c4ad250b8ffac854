//! Revocation of tokens at the issuer.

use crate::error::Error;
use crate::secret::Secret;
use crate::source::issuer::{Issuer, REVOCATION_ENDPOINT};
use crate::source::oauth2::client::{Client, again_if_broken};
use crate::source::oauth2::settings::client_auth;
use crate::token::Token;

/// Revocation of tokens (RFC 7009).
///
/// With [`TokenCache::sign_out`](crate::TokenCache::sign_out) it ends a session:
///
/// ```
/// # async fn f(cache: tower_bearer::TokenCache) -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::oauth2::{Issuer, Revocation};
///
/// let issuer = Issuer::discover(http, "https://auth.example.com");
/// let revocation = Revocation::builder(&issuer, "my-app").client_auth("its secret").build()?;
/// cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Revocation {
    client: Client,
}

/// The settings of a [`Revocation`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RevocationBuilder {
    client: Client,
}

client_auth!(RevocationBuilder, client);

// === impl Revocation ===

impl Revocation {
    /// Starts a builder for a public client.
    ///
    /// A confidential client adds [`client_auth`](RevocationBuilder::client_auth).
    pub fn builder(issuer: &Issuer, client_id: impl Into<String>) -> RevocationBuilder {
        Self::of(Client::new(issuer, client_id))
    }

    /// Starts a builder for a provider's client.
    pub(crate) fn of(client: Client) -> RevocationBuilder {
        RevocationBuilder { client }
    }

    /// Revokes a refresh token.
    ///
    /// Most servers revoke its access tokens, too. An unknown token is not an error (RFC 7009 section 2.2).
    ///
    /// # Errors
    /// Returns an error if no answer comes within 30 s, or if the status is not 2xx. The token may then still work.
    ///
    /// # Cancel safety
    /// Dropping the future drops the call, which may have reached the server.
    pub async fn revoke_refresh_token(&self, refresh_token: &Secret) -> Result<(), Error> {
        self.revoke("refresh_token", refresh_token.clone()).await
    }

    /// Revokes an access token.
    ///
    /// # Errors
    /// Returns an error as [`revoke_refresh_token`](Revocation::revoke_refresh_token) does. Its [`code`](Error::code)
    /// is `unsupported_token_type` if the server cannot revoke access tokens.
    ///
    /// # Cancel safety
    /// Dropping the future drops the call, which may have reached the server.
    pub async fn revoke_access_token(&self, token: &Token) -> Result<(), Error> {
        self.revoke("access_token", token.access_token().into()).await
    }

    async fn revoke(&self, hint: &str, token: Secret) -> Result<(), Error> {
        let (form, token) = ([("token_type_hint", hint)], [("token", token)]);
        let endpoint = self.client.endpoint.sibling(REVOCATION_ENDPOINT);
        let answer = again_if_broken(|| self.client.call(&endpoint, &form, &token, None)).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.client.failure(&answer)) }
    }
}

// === impl RevocationBuilder ===

impl RevocationBuilder {
    /// Checks the settings and the issuer's URLs, and builds the revocation.
    ///
    /// # Errors
    /// Returns an error that names the field if a setting or a URL is invalid, or if the issuer has no endpoint for it.
    pub fn build(self) -> Result<Revocation, Error> {
        Ok(Revocation { client: self.client.build(&[REVOCATION_ENDPOINT])? })
    }
}
