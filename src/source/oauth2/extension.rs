//! A grant whose type the server defines.

use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::grant::{Grant, Login, grant, resume};
use crate::source::oauth2::settings::{client_auth, client_settings, optional_client};
use crate::source::secret::SecretSource;

/// An extension grant (RFC 6749 section 4.5): any grant type, with its parameters.
///
/// It covers the grants that servers define themselves, SAML 2.0 assertions (RFC 7522), and UMA tickets:
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{ExtensionGrant, Issuer};
///
/// let issuer = Issuer::new(http).token_endpoint("https://zoom.us/oauth/token");
/// let grant = ExtensionGrant::builder(&issuer, "account_credentials")
///     .grant_parameter("account_id", "my-account")
///     .client_id("my-app")
///     .client_auth("its secret")
///     .build()?;
/// let cache = TokenCache::new(grant);
/// # Ok(()) }
/// ```
///
/// If the server returned a refresh token, the next fetch uses it. If there is none, or the issuer denies it, the fetch
/// sends the grant again.
#[derive(Debug)]
pub struct ExtensionGrant {
    grant: Grant,
}

/// The settings of an [`ExtensionGrant`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ExtensionGrantBuilder {
    grant: Grant,
}

grant!(ExtensionGrant, ExtensionGrantBuilder);
resume!(ExtensionGrantBuilder);
optional_client!(ExtensionGrantBuilder, grant.client);
client_auth!(ExtensionGrantBuilder, grant.client);

// === impl ExtensionGrant ===

impl ExtensionGrant {
    /// Starts a builder for the grant type that the server calls so (`grant_type`).
    pub fn builder(issuer: &Issuer, grant_type: &str) -> ExtensionGrantBuilder {
        ExtensionGrantBuilder { grant: Grant::of(Client::without_client_id(issuer), Login::new(grant_type)) }
    }
}

// === impl ExtensionGrantBuilder ===

impl ExtensionGrantBuilder {
    /// Sets a parameter of the grant.
    ///
    /// Unlike a [`parameter`](Self::parameter), it is not sent with a refresh token. It may be a secret: a text, or an
    /// async closure that is called at each fetch. An empty value is invalid, and so is a name that the client or the
    /// grant type itself sends.
    pub fn grant_parameter<M>(self, name: &str, value: impl SecretSource<M>) -> Self {
        Self { grant: self.grant.with_secret(name.to_owned(), value.into_provider()) }
    }
}
