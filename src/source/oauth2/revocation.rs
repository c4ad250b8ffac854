//! The end of a token, told to its issuer.

use crate::error::Error;
use crate::secret::Secret;
use crate::source::endpoint::Endpoint;
use crate::source::issuer::Issuer;
use crate::source::oauth2::client::{Client, again_if_broken};
use crate::source::oauth2::settings::client_auth;
use crate::source::transport::HttpClient;
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
/// use tower_bearer::oauth2::Revocation;
///
/// let revocation = Revocation::new(http, "https://auth.example.com/revoke", "my-app")?.client_auth("its secret")?;
/// cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Revocation {
    client: Client,
}

client_auth!(Revocation);

// === impl Revocation ===

impl Revocation {
    /// A public client at this revocation endpoint; a confidential one adds [`client_auth`](Revocation::client_auth).
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        revocation_url: &str,
        client_id: impl Into<String>,
    ) -> Result<Self, Error> {
        Ok(Self { client: Client::new(Endpoint::new(http, "revocation_url", revocation_url)?, client_id)? })
    }

    /// The same at an issuer, whose metadata says where its revocation endpoint is.
    ///
    /// # Errors
    /// An empty client id.
    pub fn at(issuer: &Issuer, client_id: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { client: Client::new(Endpoint::of(issuer, "revocation_endpoint"), client_id)? })
    }

    /// For a provider's own client.
    pub(crate) fn of(client: Client) -> Self {
        Self { client }
    }

    /// Ends a refresh token, and with it, at most servers, the access tokens that came of it.
    ///
    /// # Errors
    /// No answer within 30 s, or one that is not 2xx: the token may still work. One that the server does not know is
    /// none (RFC 7009 section 2.2).
    ///
    /// # Cancel safety
    /// Dropping the future drops the call, which may have reached the server.
    pub async fn revoke_refresh_token(&self, refresh_token: &Secret) -> Result<(), Error> {
        self.revoke("refresh_token", refresh_token.clone()).await
    }

    /// Ends an access token, where the server can; one that cannot answers `unsupported_token_type`
    /// ([`Error::code`]).
    ///
    /// # Errors
    /// As [`revoke_refresh_token`](Revocation::revoke_refresh_token).
    ///
    /// # Cancel safety
    /// Dropping the future drops the call, which may have reached the server.
    pub async fn revoke_access_token(&self, token: &Token) -> Result<(), Error> {
        self.revoke("access_token", token.access_token().into()).await
    }

    async fn revoke(&self, hint: &str, token: Secret) -> Result<(), Error> {
        let (form, token) = ([("token_type_hint", hint)], [("token", token)]);
        let ask = || self.client.call(&self.client.endpoint, &form, &token, false);
        let answer = again_if_broken(ask).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.client.failure(&answer)) }
    }
}
