//! Any login that takes JSON and answers JSON: where in the answer the token lies is a setting.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::denial::Denial;
use crate::source::answer::lifetime::{Expiry, Issued};
use crate::source::answer::settings::expiry_settings;
use crate::source::answer::{self, decode};
use crate::source::endpoint::Endpoint;
use crate::source::secret::{SecretProvider, SecretSource};
use crate::source::transport::{HttpClient, TokenResponse};
use crate::source::{FetchContext, TokenSource};
use crate::token::{DEFAULT_LIFETIME, Token};

/// A login that is no OAuth 2: one POST with a JSON body, or one GET, answered with JSON.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use serde_json::json;
/// use tower_bearer::{TokenCache, json::JsonLogin};
///
/// let login = JsonLogin::new(http, "https://api.example.com/login", json!({ "user": "me", "key": "its secret" }))?
///     .token_at("/data/jwt")?
///     .lifetime_at("/data/ttl")?;
/// let cache = TokenCache::new(login);
/// # Ok(()) }
/// ```
pub struct JsonLogin {
    endpoint: Endpoint,
    /// `None`: the login is a GET, which has none.
    body: Option<Value>,
    /// What is put into the body at each fetch, and where.
    providers: Vec<(String, SecretProvider)>,
    token_at: String,
    expiry: Expiry,
    evaluate: Arc<Evaluate>,
}

expiry_settings!(JsonLogin, "Default: [`DEFAULT_LIFETIME`].");

type Evaluate = dyn Fn(StatusCode, &Value) -> LoginOutcome + Send + Sync;

/// What the answer to a login says, beside the token.
///
/// `code` and `message` are the issuer's words; they are bounded, cleaned and freed of the login's own texts before
/// they become part of an [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// The token is in the answer.
    Granted,
    /// The credentials are wrong, and stay wrong: the next attempt waits 30 s, doubling to 15 min.
    Denied {
        /// The provider's code for it.
        code: Option<String>,
        /// What it says to people.
        message: Option<String>,
    },
    /// Not now: the next attempt waits out the ordinary backoff.
    Failed {
        /// The provider's code for it.
        code: Option<String>,
        /// What it says to people.
        message: Option<String>,
    },
}

// === impl JsonLogin ===

impl JsonLogin {
    /// A login at this address with this body. The token is looked for at `/access_token`, its lifetime in seconds at
    /// `/expires_in`.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn new<B: 'static>(http: impl HttpClient<B>, url: &str, body: Value) -> Result<Self, Error> {
        Ok(Self::over(Endpoint::new(http, "url", url)?, body))
    }

    /// A login that is a GET of this address, with the [headers](JsonLogin::header) that say who asks: metadata services of
    /// clouds, job tokens of code hosts. The rest is as with [`new`](JsonLogin::new).
    ///
    /// ```
    /// # fn main() -> Result<(), tower_bearer::Error> {
    /// # let http = tower_bearer::testing::TokenServer::new();
    /// use tower_bearer::json::JsonLogin;
    ///
    /// let login = JsonLogin::get(http, "https://ci.example.com/id-token?audience=deploy")?
    ///     .header("authorization", "bearer the-token-of-the-job")?
    ///     .token_at("/value")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn get<B: 'static>(http: impl HttpClient<B>, url: &str) -> Result<Self, Error> {
        Ok(Self { body: None, ..Self::over(Endpoint::new(http, "url", url)?, Value::Null) })
    }

    pub(crate) fn over(endpoint: Endpoint, body: Value) -> Self {
        Self {
            endpoint,
            body: Some(body),
            providers: Vec::new(),
            token_at: "/access_token".into(),
            expiry: Expiry::new(),
            evaluate: Arc::new(by_status),
        }
    }

    /// A secret in the body that is asked for at each fetch: it takes the place of what the body has at this JSON pointer
    /// (RFC 6901).
    ///
    /// ```
    /// # fn main() -> Result<(), tower_bearer::Error> {
    /// # use http_body_util::Full; use bytes::Bytes;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    /// use serde_json::json;
    /// use tower_bearer::json::JsonLogin;
    ///
    /// let login = JsonLogin::new(http, "https://api.example.com/login", json!({ "user": "me", "key": "" }))?
    ///     .secret_at("/key", async || tokio::fs::read_to_string("/run/secrets/key").await)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Not a JSON pointer, or one to nowhere in the body; an empty secret.
    pub fn secret_at<M>(self, pointer: impl Into<String>, secret: impl SecretSource<M>) -> Result<Self, Error> {
        let pointer = answer::pointer("secret_at", pointer)?;
        if self.body.as_ref().and_then(|body| body.pointer(&pointer)).is_none() {
            return Err(Error::invalid("secret_at", format!("the body has nothing at {pointer}")));
        }
        Ok(self.with_provider_at(pointer, SecretProvider::checked("secret", secret)?))
    }

    pub(crate) fn with_provider_at(mut self, pointer: impl Into<String>, provider: SecretProvider) -> Self {
        self.providers.push((pointer.into(), provider));
        self
    }

    /// Where in the answer the token lies: a JSON pointer (RFC 6901). An empty one is for an answer that is the token and
    /// nothing else, in JSON or not.
    ///
    /// # Errors
    /// Not a JSON pointer.
    pub fn token_at(self, pointer: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { token_at: answer::pointer("token_at", pointer)?, ..self })
    }

    /// Adds a header to the login.
    ///
    /// # Errors
    /// A name or value that no header may carry.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        self.endpoint.header("header", name, value)?;
        Ok(self)
    }

    /// How an answer is evaluated before its token is looked at; the body is `Null` where it is not JSON.
    ///
    /// By default a 2xx grants unless it holds an error in the place of a token; a 401 or 403 with a JSON body denies, as
    /// does a code of RFC 6749 with which the same login can never succeed; everything else failed.
    #[must_use]
    pub fn evaluate(self, evaluate: impl Fn(StatusCode, &Value) -> LoginOutcome + Send + Sync + 'static) -> Self {
        Self { evaluate: Arc::new(evaluate), ..self }
    }

    fn read(&self, mut answer: TokenResponse) -> Result<Token, Error> {
        let bare = || self.token_at.is_empty().then(|| answer::bare_token(&answer.body).ok()).flatten();
        let body = decode::answer(&answer.body).or_else(|| bare().map(|token| token.access_token().into()));
        let body = body.unwrap_or(Value::Null);
        let text = body.pointer(&self.token_at);
        // Also a token that is not taken is a secret.
        answer.secrets.extend(text.and_then(Value::as_str).map(Secret::from));
        let error = |denied, code: Option<Cow<'static, str>>, message: Option<&str>| {
            Err(answer.error(denied && answer.status != StatusCode::TOO_MANY_REQUESTS, code, message))
        };
        match (self.evaluate)(answer.status, &body) {
            LoginOutcome::Granted if body.is_null() => Err(answer.unreadable("it is not JSON")),
            LoginOutcome::Granted => {
                let denial = Denial::read(Some(&body), &answer.body, answer.status);
                if denial.is_explicit && text.is_none_or(|text| text.is_null() || text == "") {
                    return error(denial.is_final(), denial.code(), denial.words.as_deref());
                }
                self.token(&answer, &body)
            }
            LoginOutcome::Denied { code, message } => error(true, code.map(Cow::Owned), message.as_deref()),
            LoginOutcome::Failed { code, message } => error(false, code.map(Cow::Owned), message.as_deref()),
        }
    }

    fn token(&self, answer: &TokenResponse, body: &Value) -> Result<Token, Error> {
        let token = answer::token(body.pointer(&self.token_at)).map_err(|problem| answer.unusable(problem))?;
        let beside = answer::parent(body, &self.token_at);
        let issued = Issued { answer: body, beside, token: token.access_token(), at: answer.now, now: answer.now };
        let lifetime = self.expiry.read(&issued, DEFAULT_LIFETIME);
        let lifetime =
            lifetime.map_err(|problem| answer.unusable(problem.describe("the server hands out an old one")))?;
        Ok(token.with_lifetime(lifetime))
    }
}

impl TokenSource for JsonLogin {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        // What the issuer's words must not repeat: every text in the body, and its longer numbers.
        let mut secrets = answer::replaced_secrets(&context).collect();
        let answer = match self.body.clone() {
            Some(mut body) => {
                for (pointer, provider) in &self.providers {
                    let secret = provider.get("secret", context.now()).await?;
                    *body.pointer_mut(pointer).expect("looked for before") = secret.expose().into();
                }
                answer::collect_strings(&body, &mut secrets);
                let body = body.to_string().into();
                let post = self.endpoint.post(context.clock(), "application/json", None, body, secrets);
                self.endpoint.within(context.response_timeout(), post).await?
            }
            None => {
                let get = self.endpoint.get(context.clock(), secrets);
                self.endpoint.within(context.response_timeout(), get).await?
            }
        };
        self.read(answer)
    }

    /// The address alone: the body may hold a password, of which no digest is to be written anywhere.
    fn identity(&self) -> Vec<String> {
        [vec!["json".to_owned()], self.endpoint.identity()].concat()
    }
}

impl fmt::Debug for JsonLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLogin")
            .field("endpoint", &self.endpoint)
            .field("token_at", &self.token_at)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

fn by_status(status: StatusCode, body: &Value) -> LoginOutcome {
    let denial = Denial::read(Some(body), &[], status);
    let is_final = denial.is_final() && status.is_client_error();
    let (code, message) = (denial.code, denial.words);
    match status {
        status if status.is_success() => LoginOutcome::Granted,
        _ if is_final => LoginOutcome::Denied { code, message },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !body.is_null() => LoginOutcome::Denied { code, message },
        _ => LoginOutcome::Failed { code, message },
    }
}
