//! The refresh token grant: a session that was saved, or that a login began.

use std::time::SystemTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::endpoint::{Endpoint, TOKEN_ENDPOINT};
use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::secret::{SecretProvider, SecretSource};
use crate::source::transport::HttpClient;
use crate::source::{FetchContext, Reason, TokenSource};
use crate::token::Token;

/// The refresh token grant (RFC 6749 section 6), from a refresh token that was saved or came from a login.
///
/// A rotated refresh token takes the place of the old; [`TokenCache::on_rotation`](crate::TokenCache::on_rotation) hands
/// it out for saving. Where it is denied there is nothing to fall back to: the error
/// [says so](crate::Error::is_denied), and a new login goes into
/// [`TokenCache::set_source`](crate::TokenCache::set_source).
#[derive(Debug)]
pub struct RefreshToken {
    client: Client,
    initial: Initial,
}

#[derive(Debug)]
enum Initial {
    Saved(SecretProvider),
    /// What a login brought: sent as long as it lives, and refreshed where it can be.
    Login(Token),
}

client_settings!(RefreshToken);
client_auth!(RefreshToken);

// === impl RefreshToken ===

impl RefreshToken {
    /// A session of a public client at this token endpoint, from its refresh token; a confidential client adds
    /// [`client_auth`](RefreshToken::client_auth).
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id or refresh token.
    pub fn new<B: 'static, M>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        refresh_token: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        Self::of(Client::new(Endpoint::new(http, "token_url", token_url)?, client_id)?, refresh_token)
    }

    /// The same at an issuer, whose metadata says where its token endpoint is.
    ///
    /// # Errors
    /// An empty client id or refresh token.
    pub fn at<M>(
        issuer: &Issuer,
        client_id: impl Into<String>,
        refresh_token: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        Self::of(Client::new(Endpoint::of(issuer, TOKEN_ENDPOINT), client_id)?, refresh_token)
    }

    pub(crate) fn of<M>(client: Client, refresh_token: impl SecretSource<M>) -> Result<Self, Error> {
        let refresh_token = SecretProvider::checked("refresh_token", refresh_token)?;
        Ok(Self { client: client.redacting(&refresh_token).without_login(), initial: Initial::Saved(refresh_token) })
    }

    /// The session that this login began.
    pub(super) fn of_login(client: Client, token: Token) -> Self {
        Self { client: client.without_login(), initial: Initial::Login(token) }
    }
}

impl TokenSource for RefreshToken {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let refresh_token = match (&self.initial, context.refresh_token()) {
            (_, Some(newest)) => newest,
            (Initial::Saved(refresh_token), None) => refresh_token.get("refresh_token", context.now()).await?,
            (Initial::Login(token), None) => {
                if context.replaced().is_none()
                    && context.reason() != Reason::Asked
                    && let Some(token) = with_remaining_lifetime(token, context.now())
                {
                    return Ok(token);
                }
                token.refresh_token().ok_or_else(|| {
                    Error::denied("the login brought no refresh token (most servers want the scope offline_access for it): log in again")
                })?
            }
        };
        self.client.refresh(&context, &refresh_token).await
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        match &self.initial {
            Initial::Saved(refresh_token) => {
                // Outside a fetch.
                let now = Clock::System.now().system_time();
                Ok(Some(refresh_token.get("refresh_token", now).await?))
            }
            Initial::Login(token) => Ok(token.refresh_token()),
        }
    }

    fn identity(&self) -> Vec<String> {
        self.client.identity("refresh_token", &[])
    }
}

/// A login's token with what is left of its life, where that is worth it or all there is.
fn with_remaining_lifetime(token: &Token, now: SystemTime) -> Option<Token> {
    // A clock that was set back makes no token live longer.
    let left = token.expires_at()?.duration_since(now).ok()?.min(token.lifetime());
    let gone = token.lifetime() - left;
    let rest = token.clone().with_lifetime(left);
    let rest = match token.refresh_in() {
        Some(refresh_in) => rest.with_refresh_in(refresh_in.saturating_sub(gone)),
        None => rest,
    };
    (left > token.lifetime() / 5 || token.refresh_token().is_none()).then_some(rest)
}
