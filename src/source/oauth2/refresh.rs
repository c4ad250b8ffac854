//! The refresh token grant: a session that was saved, or that a login began.

use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::grant::{Grant, grant};
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::secret::SecretSource;
use crate::token::Token;

/// The refresh token grant (RFC 6749 section 6), from a refresh token that was saved or came from a login.
///
/// A rotated refresh token takes the place of the old; [`TokenCacheBuilder::on_rotation`](crate::TokenCacheBuilder::on_rotation) hands
/// it out for saving. If it is denied there is nothing to fall back to: the error
/// [says so](crate::Error::is_denied), and a new login goes into
/// [`TokenCache::set_source`](crate::TokenCache::set_source). A session that can log in by itself is one of the other
/// grants, with [`resume`](crate::oauth2::PasswordGrantBuilder::resume).
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
    /// The session of a public client that goes on from this refresh token; a confidential client adds
    /// [`client_auth`](RefreshTokenGrantBuilder::client_auth).
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

    /// The session that this login began. Its client was checked when the login was built.
    pub(super) fn of_login(client: Client, token: Token) -> Self {
        Self { grant: Grant::of_login(client, token) }
    }
}
