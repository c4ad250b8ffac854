//! The client credentials grant.

use crate::source::issuer::Issuer;
use crate::source::oauth2::auth::ClientAuth;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::grant::{Grant, Login, grant};
use crate::source::oauth2::settings::client_settings;

/// The client credentials grant (RFC 6749 section 4.4) of a service.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
///
/// let issuer = Issuer::discover(http, "https://auth.example.com");
/// let grant = ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").scope("read write").build()?;
/// let cache = TokenCache::new(grant);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ClientCredentialsGrant {
    grant: Grant,
}

/// The settings of a [`ClientCredentialsGrant`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientCredentialsGrantBuilder {
    grant: Grant,
}

grant!(ClientCredentialsGrant, ClientCredentialsGrantBuilder);

// === impl ClientCredentialsGrant ===

impl ClientCredentialsGrant {
    /// Starts a builder for a confidential client.
    ///
    /// A text for `auth` is the client's secret, sent in the Basic header. [`ClientAuth`] has the other methods.
    pub fn builder(
        issuer: &Issuer,
        client_id: impl Into<String>,
        auth: impl Into<ClientAuth>,
    ) -> ClientCredentialsGrantBuilder {
        let client = Client::new(issuer, client_id).with_auth(auth);
        let login = Login::new("client_credentials").without_refresh();
        ClientCredentialsGrantBuilder { grant: Grant::of(client, login) }
    }
}
