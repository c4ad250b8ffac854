//! A token for something that proves who asks: another token, or an assertion.

use crate::error::Error;
use crate::source::endpoint::{Endpoint, TOKEN_ENDPOINT};
use crate::source::issuer::Issuer;
use crate::source::oauth2::client::Client;
use crate::source::oauth2::settings::{client_settings, optional_client};
use crate::source::secret::{SecretProvider, SecretSource};
use crate::source::transport::HttpClient;
use crate::source::{FetchContext, TokenSource, require_non_empty};
use crate::token::Token;

/// Token exchange (RFC 8693): a token for another, which an async closure hands over at each fetch.
///
/// Where the server hands out a refresh token, the next fetch uses that; where there is none, or it is denied, it
/// exchanges again. The token may be that of another [`TokenCache`](crate::TokenCache), or a file that is rewritten:
///
/// ```
/// # fn f(user: tower_bearer::TokenCache) -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::{TokenCache, oauth2::TokenExchange};
///
/// let subject = move || {
///     let user = user.clone();
///     async move { user.get().await.map(|token| token.access_token().to_owned()) }
/// };
/// let exchange = TokenExchange::new(http, "https://sts.example.com/token", subject)?
///     .client("my-app", "its secret")?
///     .audience("billing");
/// let cache = TokenCache::new(exchange);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TokenExchange {
    client: Client,
    subject: SecretProvider,
    subject_type: String,
    actor: Option<(SecretProvider, String)>,
    requested_type: Option<String>,
}

/// The JWT bearer grant (RFC 7523 section 2.1): a token for an assertion.
///
/// The assertion is a text, what an async closure returns at each fetch, or (feature `jwt`) an `Assertion`, which signs
/// a new one each time. A server takes most assertions once: a text is for tests.
#[derive(Debug)]
pub struct JwtBearer {
    client: Client,
    assertion: SecretProvider,
}

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

client_settings!(TokenExchange);
optional_client!(TokenExchange);
client_settings!(JwtBearer);
optional_client!(JwtBearer);

// === impl TokenExchange ===

impl TokenExchange {
    /// An exchange of this access token at this token endpoint.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty token.
    pub fn new<B: 'static, M>(
        http: impl HttpClient<B>,
        token_url: &str,
        subject_token: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        Self::of(Endpoint::new(http, "token_url", token_url)?, subject_token)
    }

    /// The same at an issuer, whose metadata says where its token endpoint is.
    ///
    /// # Errors
    /// An empty token.
    pub fn at<M>(issuer: &Issuer, subject_token: impl SecretSource<M>) -> Result<Self, Error> {
        Self::of(Endpoint::of(issuer, TOKEN_ENDPOINT), subject_token)
    }

    fn of<M>(endpoint: Endpoint, subject_token: impl SecretSource<M>) -> Result<Self, Error> {
        let subject = SecretProvider::checked("subject_token", subject_token)?;
        let client = Client::without_client_id(endpoint).redacting(&subject);
        Ok(Self { client, subject, subject_type: ACCESS_TOKEN.to_owned(), actor: None, requested_type: None })
    }

    /// What the subject token is, by the identifiers of RFC 8693 section 3. Default:
    /// `urn:ietf:params:oauth:token-type:access_token`.
    ///
    /// # Errors
    /// An empty one.
    pub fn subject_token_type(mut self, identifier: impl Into<String>) -> Result<Self, Error> {
        self.subject_type = identifier.into();
        require_non_empty("subject_token_type", &self.subject_type)?;
        Ok(self)
    }

    /// The token of who acts for the subject, and what it is.
    ///
    /// # Errors
    /// An empty token or identifier.
    pub fn actor_token<M>(
        mut self,
        actor_token: impl SecretSource<M>,
        identifier: impl Into<String>,
    ) -> Result<Self, Error> {
        let (actor, identifier) = (SecretProvider::checked("actor_token", actor_token)?, identifier.into());
        require_non_empty("actor_token_type", &identifier)?;
        self.client = self.client.redacting(&actor);
        self.actor = Some((actor, identifier));
        Ok(self)
    }

    /// What kind of token is wanted, by the identifiers of RFC 8693 section 3; it has to be one that is sent as a
    /// bearer token.
    ///
    /// # Errors
    /// An empty identifier.
    pub fn requested_token_type(mut self, identifier: impl Into<String>) -> Result<Self, Error> {
        let identifier = identifier.into();
        require_non_empty("requested_token_type", &identifier)?;
        self.requested_type = Some(identifier);
        Ok(self)
    }
}

impl TokenSource for TokenExchange {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let exchange = async {
            let now = context.now();
            let mut form = vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token_type", &self.subject_type),
            ];
            let mut tokens = vec![("subject_token", self.subject.get("subject_token", now).await?)];
            if let Some((actor, identifier)) = &self.actor {
                form.push(("actor_token_type", identifier));
                tokens.push(("actor_token", actor.get("actor_token", now).await?));
            }
            form.extend(self.requested_type.as_deref().map(|identifier| ("requested_token_type", identifier)));
            self.client.grant(&context, &form, &tokens).await
        };
        self.client.renew(&context, exchange).await
    }

    fn identity(&self) -> Vec<String> {
        self.client
            .identity("token_exchange", &[&self.subject_type, self.requested_type.as_deref().unwrap_or_default()])
    }
}

// === impl JwtBearer ===

impl JwtBearer {
    /// A token for this assertion at this token endpoint.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty assertion.
    pub fn new<B: 'static, M>(
        http: impl HttpClient<B>,
        token_url: &str,
        assertion: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        Self::of(Endpoint::new(http, "token_url", token_url)?, assertion)
    }

    /// The same at an issuer, whose metadata says where its token endpoint is.
    ///
    /// # Errors
    /// An empty assertion.
    pub fn at<M>(issuer: &Issuer, assertion: impl SecretSource<M>) -> Result<Self, Error> {
        Self::of(Endpoint::of(issuer, TOKEN_ENDPOINT), assertion)
    }

    fn of<M>(endpoint: Endpoint, assertion: impl SecretSource<M>) -> Result<Self, Error> {
        let assertion = SecretProvider::checked("assertion", assertion)?;
        Ok(Self { client: Client::without_client_id(endpoint).redacting(&assertion), assertion })
    }
}

impl TokenSource for JwtBearer {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let login = async {
            let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")];
            let assertion = self.assertion.get("assertion", context.now()).await?;
            self.client.grant(&context, &form, &[("assertion", assertion)]).await
        };
        self.client.renew(&context, login).await
    }

    fn identity(&self) -> Vec<String> {
        self.client.identity("jwt_bearer", &[])
    }
}
