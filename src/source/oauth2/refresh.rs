//! The refresh token grant: a session that was saved, or that a login started.

use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::grant::{Grant, grant};
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::secret::SecretSource;
use crate::token::Token;

/// The refresh token grant (RFC 6749 section 6).
///
/// The refresh token was saved, or came from a login. A rotated one replaces it, and
/// [`TokenCacheBuilder::on_rotation`](crate::TokenCacheBuilder::on_rotation) gets it, to save it. If the refresh token
/// is denied, the [error says so](crate::Error::is_denied): log in again, and pass the new session to
/// [`TokenCache::set_source`](crate::TokenCache::set_source). For a session that can log in by itself, use another
/// grant with [`resume`](crate::oauth2::PasswordGrantBuilder::resume).
#[derive(Debug)]
pub struct RefreshTokenGrant {
    grant: Grant,
}

/// The settings of a [`RefreshTokenGrant`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RefreshTokenGrantBuilder {
    grant: Grant,
}

grant!(RefreshTokenGrant, RefreshTokenGrantBuilder);
client_auth!(RefreshTokenGrantBuilder, grant.client);

// === impl RefreshTokenGrant ===

impl RefreshTokenGrant {
    /// Starts a builder for a public client's session with this refresh token.
    ///
    /// A confidential client adds [`client_auth`](RefreshTokenGrantBuilder::client_auth).
    pub fn builder<M>(
        issuer: &Issuer,
        client_id: impl Into<String>,
        refresh_token: impl SecretSource<M>,
    ) -> RefreshTokenGrantBuilder {
        Self::of(Client::new(issuer, client_id), refresh_token)
    }

    pub(crate) fn of<M>(client: Client, refresh_token: impl SecretSource<M>) -> RefreshTokenGrantBuilder {
        RefreshTokenGrantBuilder { grant: Grant::of_refresh_token(client, refresh_token.into_provider()) }
    }

    /// The session that this login started. The login's `build` has checked the client.
    pub(super) fn of_login(client: Client, token: Token) -> Self {
        Self { grant: Grant::of_login(client, token) }
    }
}
