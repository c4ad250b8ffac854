//! The client credentials grant.

use crate::error::Error;
use crate::source::endpoint::{Endpoint, TOKEN_ENDPOINT};
use crate::source::issuer::Issuer;
use crate::source::oauth2::auth::ClientAuth;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::settings::client_settings;
use crate::source::transport::HttpClient;
use crate::source::{FetchContext, TokenSource};
use crate::token::Token;

/// The client credentials grant (RFC 6749 section 4.4): a service that acts for itself.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::{TokenCache, oauth2::ClientCredentials};
///
/// let login = ClientCredentials::new(http, "https://auth.example.com/token", "my-app", "its secret")?.scope("read write");
/// let cache = TokenCache::new(login);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ClientCredentials {
    client: Client,
}

client_settings!(ClientCredentials);

// === impl ClientCredentials ===

impl ClientCredentials {
    /// A confidential client at this token endpoint. A text for `auth` is the client's secret, sent in the Basic header;
    /// [`ClientAuth`] has the other ways.
    ///
    /// `http` carries the token calls: any tower HTTP client, the same that carries the requests or another.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id or secret.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        token_url: &str,
        client_id: impl Into<String>,
        auth: impl Into<ClientAuth>,
    ) -> Result<Self, Error> {
        Self::of(Endpoint::new(http, "token_url", token_url)?, client_id, auth)
    }

    /// The same at an issuer, whose metadata says where its token endpoint is.
    ///
    /// # Errors
    /// An empty client id or secret.
    pub fn at(issuer: &Issuer, client_id: impl Into<String>, auth: impl Into<ClientAuth>) -> Result<Self, Error> {
        Self::of(Endpoint::of(issuer, TOKEN_ENDPOINT), client_id, auth)
    }

    fn of(endpoint: Endpoint, client_id: impl Into<String>, auth: impl Into<ClientAuth>) -> Result<Self, Error> {
        Ok(Self { client: Client::new(endpoint, client_id)?.with_auth(auth)? })
    }
}

impl TokenSource for ClientCredentials {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.client.grant(&context, &[("grant_type", "client_credentials")], &[]).await
    }

    fn identity(&self) -> Vec<String> {
        self.client.identity("client_credentials", &[])
    }
}
