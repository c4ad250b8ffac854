//! The grants that exchange another token or an assertion for a token.

use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::grant::{Grant, Login, grant, resume};
use crate::source::oauth2::settings::{client_auth, client_settings, optional_client};
use crate::source::secret::SecretSource;

/// Token exchange (RFC 8693): a token in exchange for another one.
///
/// An async closure returns the other token at each fetch. If the server returned a refresh token, the next fetch uses
/// it. If there is none, or the issuer denies it, the fetch exchanges again. An exchange belongs to its subject and
/// actor tokens: if either of them changes, the refresh token of the last exchange is not used. The subject token may
/// come from another [`TokenCache`](crate::TokenCache), or from a file that is rewritten:
///
/// ```
/// # fn f(user: tower_bearer::TokenCache) -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{Issuer, TokenExchangeGrant};
///
/// let subject = move || {
///     let user = user.clone();
///     async move { user.get().await.map(|token| token.access_token().to_owned()) }
/// };
/// let issuer = Issuer::discover(http, "https://sts.example.com");
/// let exchange = TokenExchangeGrant::builder(&issuer, subject)
///     .client_id("my-app")
///     .client_auth("its secret")
///     .audience("billing")
///     .build()?;
/// let cache = TokenCache::new(exchange);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TokenExchangeGrant {
    grant: Grant,
}

/// The settings of a [`TokenExchangeGrant`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenExchangeGrantBuilder {
    grant: Grant,
}

/// The JWT bearer grant (RFC 7523 section 2.1): a token for an assertion.
///
/// The assertion is a text, an async closure that returns one at each fetch, or (feature `jwt`) an `Assertion`, which
/// signs a new one each time. A text is for tests, because a server accepts most assertions only once.
#[derive(Debug)]
pub struct JwtBearerGrant {
    grant: Grant,
}

/// The settings of a [`JwtBearerGrant`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct JwtBearerGrantBuilder {
    grant: Grant,
}

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

grant!(TokenExchangeGrant, TokenExchangeGrantBuilder);
resume!(TokenExchangeGrantBuilder);
optional_client!(TokenExchangeGrantBuilder, grant.client);
client_auth!(TokenExchangeGrantBuilder, grant.client);

grant!(JwtBearerGrant, JwtBearerGrantBuilder);
resume!(JwtBearerGrantBuilder);
optional_client!(JwtBearerGrantBuilder, grant.client);
client_auth!(JwtBearerGrantBuilder, grant.client);

// === impl TokenExchangeGrant ===

impl TokenExchangeGrant {
    /// Starts a builder that exchanges this subject token.
    ///
    /// The token is an access token, unless [`subject_token_type`](TokenExchangeGrantBuilder::subject_token_type) names
    /// another type.
    pub fn builder<M>(issuer: &Issuer, subject_token: impl SecretSource<M>) -> TokenExchangeGrantBuilder {
        let login = Login::new("urn:ietf:params:oauth:grant-type:token-exchange")
            .bound_to_secrets()
            .form("subject_token_type", ACCESS_TOKEN)
            .secret("subject_token", subject_token.into_provider());
        TokenExchangeGrantBuilder { grant: Grant::of(Client::without_client_id(issuer), login) }
    }
}

// === impl TokenExchangeGrantBuilder ===

impl TokenExchangeGrantBuilder {
    /// Sets the type of the subject token, an identifier of RFC 8693 section 3.
    ///
    /// Default: `urn:ietf:params:oauth:token-type:access_token`.
    pub fn subject_token_type(self, identifier: impl Into<String>) -> Self {
        Self { grant: self.grant.with_form("subject_token_type", identifier) }
    }

    /// Sets the token of the party that acts for the subject, and the token's type.
    pub fn actor_token<M>(self, actor_token: impl SecretSource<M>, identifier: impl Into<String>) -> Self {
        let grant = self.grant.with_form("actor_token_type", identifier);
        Self { grant: grant.with_secret("actor_token", actor_token.into_provider()) }
    }

    /// Sets the type of the token to get, an identifier of RFC 8693 section 3.
    ///
    /// The type has to be one that is sent as a bearer token.
    pub fn requested_token_type(self, identifier: impl Into<String>) -> Self {
        Self { grant: self.grant.with_form("requested_token_type", identifier) }
    }
}

// === impl JwtBearerGrant ===

impl JwtBearerGrant {
    /// Starts a builder for this assertion.
    pub fn builder<M>(issuer: &Issuer, assertion: impl SecretSource<M>) -> JwtBearerGrantBuilder {
        let login =
            Login::new("urn:ietf:params:oauth:grant-type:jwt-bearer").secret("assertion", assertion.into_provider());
        JwtBearerGrantBuilder { grant: Grant::of(Client::without_client_id(issuer), login) }
    }
}
