//! The password grant.

use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::grant::{Grant, Login, grant, resume};
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::secret::SecretSource;

/// The password grant (RFC 6749 section 4.3), for servers that still require it.
///
/// If the server returned a refresh token, the next fetch uses it. If the refresh token is denied, or three fetches in
/// a row have failed, the same fetch logs in again. A fetch sends the password only once, even if the connection
/// breaks. [`resume`](PasswordGrantBuilder::resume) continues a saved session.
#[derive(Debug)]
pub struct PasswordGrant {
    grant: Grant,
}

/// The settings of a [`PasswordGrant`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PasswordGrantBuilder {
    grant: Grant,
}

grant!(PasswordGrant, PasswordGrantBuilder);
resume!(PasswordGrantBuilder);
client_auth!(PasswordGrantBuilder, grant.client);

// === impl PasswordGrant ===

impl PasswordGrant {
    /// Starts a builder for a user of a public client.
    ///
    /// A confidential client adds [`client_auth`](PasswordGrantBuilder::client_auth).
    pub fn builder<M>(
        issuer: &Issuer,
        client_id: impl Into<String>,
        username: impl Into<String>,
        password: impl SecretSource<M>,
    ) -> PasswordGrantBuilder {
        Self::of(Client::new(issuer, client_id), username, password)
    }

    pub(crate) fn of<M>(
        client: Client,
        username: impl Into<String>,
        password: impl SecretSource<M>,
    ) -> PasswordGrantBuilder {
        let login =
            Login::new("password").once().form("username", username).secret("password", password.into_provider());
        PasswordGrantBuilder { grant: Grant::of(client, login) }
    }
}
