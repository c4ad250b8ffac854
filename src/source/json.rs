//! Any login with a JSON answer. A setting says where in the answer the token is.

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
use crate::source::transport::{self, EndpointUrl, HttpClient, HttpSend, TokenResponse};
use crate::source::{FetchContext, TokenSource};
use crate::token::{DEFAULT_LIFETIME, Token};

/// A login without OAuth 2: one POST with a JSON body, or one GET. The answer is JSON.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use serde_json::json;
/// use tower_bearer::{TokenCache, json::JsonLogin};
///
/// let login = JsonLogin::builder(http, "https://api.example.com/login", json!({ "user": "me", "key": "its secret" }))
///     .token_at("/data/jwt")
///     .lifetime_at("/data/ttl")
///     .build()?;
/// let cache = TokenCache::new(login);
/// # Ok(()) }
/// ```
pub struct JsonLogin {
    endpoint: Endpoint,
    login: Login,
}

/// The settings of a [`JsonLogin`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct JsonLoginBuilder {
    http: Arc<dyn HttpSend>,
    url: String,
    headers: Vec<(String, Secret)>,
    allows_insecure: bool,
    login: Login,
}

/// The request to send, and how to read the answer.
#[derive(Clone)]
struct Login {
    /// `None` for a GET, which has no body.
    body: Option<Value>,
    /// The pointers into the body, and the secrets that each fetch puts there.
    providers: Vec<(String, SecretProvider)>,
    token_at: String,
    expiry: Expiry,
    evaluate: Arc<Evaluate>,
}

expiry_settings!(JsonLoginBuilder, login.expiry, "Default: [`DEFAULT_LIFETIME`].");

type Evaluate = dyn Fn(StatusCode, &Value) -> LoginOutcome + Send + Sync;

/// What the answer to a login says apart from the token.
///
/// `code` and `message` are the issuer's words. Before they become part of an [`Error`], they are shortened and
/// cleaned, and the login's own texts are redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// The token is in the answer.
    Granted,
    /// The credentials are wrong and stay wrong. The next attempt waits 30 s, doubling to 15 min.
    Denied {
        /// The provider's error code.
        code: Option<String>,
        /// The provider's message to people.
        message: Option<String>,
    },
    /// The login failed and may succeed later. The next attempt waits for the ordinary backoff.
    Failed {
        /// The provider's error code.
        code: Option<String>,
        /// The provider's message to people.
        message: Option<String>,
    },
}

// === impl JsonLogin ===

impl JsonLogin {
    /// A login that sends this body to this URL.
    ///
    /// By default, the token is at `/access_token` and its lifetime in seconds at `/expires_in`.
    pub fn builder<B: 'static>(http: impl HttpClient<B>, url: &str, body: Value) -> JsonLoginBuilder {
        JsonLoginBuilder::over(transport::sync_client(http), url, Some(body))
    }

    /// A login by a GET of this URL, such as a cloud's metadata service.
    ///
    /// [Headers](JsonLoginBuilder::header) identify the client. The defaults are those of
    /// [`builder`](JsonLogin::builder).
    ///
    /// ```
    /// # fn main() -> Result<(), tower_bearer::Error> {
    /// # let http = tower_bearer::testing::TokenServer::new();
    /// use tower_bearer::json::JsonLogin;
    ///
    /// let login = JsonLogin::get(http, "https://ci.example.com/id-token?audience=deploy")
    ///     .header("authorization", "bearer the-token-of-the-job")
    ///     .token_at("/value")
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn get<B: 'static>(http: impl HttpClient<B>, url: &str) -> JsonLoginBuilder {
        JsonLoginBuilder::over(transport::sync_client(http), url, None)
    }
}

impl TokenSource for JsonLogin {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        // Errors must not repeat the body's texts and longer numbers, even if the issuer's answer does.
        let mut secrets = answer::replaced_secrets(&context).collect();
        let answer = match self.login.body.clone() {
            Some(mut body) => {
                for (pointer, provider) in &self.login.providers {
                    let secret = provider.get("secret", context.now()).await?;
                    *body.pointer_mut(pointer).expect("checked by `build`") = secret.expose().into();
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
        self.login.read(answer)
    }

    /// The URL alone. The body may hold a password, and no digest of a password may be stored.
    fn identity(&self) -> Vec<String> {
        [vec!["json".to_owned()], self.endpoint.identity()].concat()
    }
}

impl fmt::Debug for JsonLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLogin")
            .field("endpoint", &self.endpoint)
            .field("token_at", &self.login.token_at)
            .field("expiry", &self.login.expiry)
            .finish_non_exhaustive()
    }
}

// === impl JsonLoginBuilder ===

impl JsonLoginBuilder {
    pub(crate) fn over(http: Arc<dyn HttpSend>, url: &str, body: Option<Value>) -> Self {
        let login = Login {
            body,
            providers: Vec::new(),
            token_at: "/access_token".into(),
            expiry: Expiry::new(),
            evaluate: Arc::new(by_status),
        };
        Self { http, url: url.to_owned(), headers: Vec::new(), allows_insecure: false, login }
    }

    /// Asks for a secret at each fetch, and puts it into the body.
    ///
    /// The secret replaces the value at this JSON pointer (RFC 6901).
    ///
    /// ```
    /// # fn main() -> Result<(), tower_bearer::Error> {
    /// # use http_body_util::Full; use bytes::Bytes;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    /// use serde_json::json;
    /// use tower_bearer::json::JsonLogin;
    ///
    /// let login = JsonLogin::builder(http, "https://api.example.com/login", json!({ "user": "me", "key": "" }))
    ///     .secret_at("/key", async || tokio::fs::read_to_string("/run/secrets/key").await)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn secret_at<M>(self, pointer: impl Into<String>, secret: impl SecretSource<M>) -> Self {
        self.with_provider_at(pointer, secret.into_provider())
    }

    pub(crate) fn with_provider_at(mut self, pointer: impl Into<String>, provider: SecretProvider) -> Self {
        self.login.providers.push((pointer.into(), provider));
        self
    }

    /// Where in the answer the token is, as a JSON pointer (RFC 6901).
    ///
    /// The empty pointer is for an answer that is the token and nothing else, in JSON or not.
    pub fn token_at(mut self, pointer: impl Into<String>) -> Self {
        self.login.token_at = pointer.into();
        self
    }

    /// Sets a header of the login. The value may hold a secret.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Allows plain `http://` beyond loopback, for a network that is trusted.
    ///
    /// An example is a machine that calls its cloud's metadata service. On any other network, others can read the
    /// credentials and tokens. Building such a login emits the event `insecure_issuer` as a warning.
    pub fn allow_insecure(self) -> Self {
        Self { allows_insecure: true, ..self }
    }

    /// How to evaluate an answer before its token is read.
    ///
    /// The body is `Null` if the answer is not JSON. By default:
    /// - a 2xx is granted, unless it holds an error and no token,
    /// - a 401 or 403 with a JSON body is denied,
    /// - a 4xx is denied if its code means that the same login can never succeed, such as `invalid_grant`,
    /// - any other answer is a failure.
    pub fn evaluate(mut self, evaluate: impl Fn(StatusCode, &Value) -> LoginOutcome + Send + Sync + 'static) -> Self {
        self.login.evaluate = Arc::new(evaluate);
        self
    }

    /// Checks the settings, and builds the login.
    ///
    /// # Errors
    /// Returns an error that names the field if
    /// - the URL is invalid, or is plain `http://` that is not allowed,
    /// - the name or value of a header is invalid,
    /// - a JSON pointer is invalid, or the body has nothing at the pointer of a secret,
    /// - a secret is empty, or a duration is zero.
    pub fn build(self) -> Result<JsonLogin, Error> {
        let address = EndpointUrl::checked("url", &self.url, self.allows_insecure)?;
        let mut endpoint = Endpoint::at(self.http, address.clone());
        for (name, value) in &self.headers {
            endpoint.header("header", name, value.expose())?;
        }
        self.login.check()?;
        EndpointUrl::warn_if_exposed([&address]);
        Ok(JsonLogin { endpoint, login: self.login })
    }
}

/// Leaves out the headers, the body and the URL, because they may hold secrets.
impl fmt::Debug for JsonLoginBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLoginBuilder").field("token_at", &self.login.token_at).finish_non_exhaustive()
    }
}

// === impl Login ===

impl Login {
    fn check(&self) -> Result<(), Error> {
        answer::check_pointer("token_at", &self.token_at)?;
        self.expiry.check()?;
        for (pointer, provider) in &self.providers {
            answer::check_pointer("secret_at", pointer)?;
            if self.body.as_ref().and_then(|body| body.pointer(pointer)).is_none() {
                return Err(Error::invalid("secret_at", format!("the body has nothing at {pointer}")));
            }
            provider.check("secret")?;
        }
        Ok(())
    }

    fn read(&self, mut answer: TokenResponse) -> Result<Token, Error> {
        let bare = || self.token_at.is_empty().then(|| answer::bare_token(&answer.body).ok()).flatten();
        let body = decode::answer(&answer.body).or_else(|| bare().map(|token| token.access_token().into()));
        let body = body.unwrap_or(Value::Null);
        let text = body.pointer(&self.token_at);
        // A token is a secret even if it is not used.
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
        let parent = answer::parent(body, &self.token_at);
        let issued = Issued { answer: body, parent, token: token.access_token(), at: answer.now, now: answer.now };
        let lifetime = self.expiry.read(&issued, DEFAULT_LIFETIME);
        let lifetime =
            lifetime.map_err(|problem| answer.unusable(problem.describe("the server returned an old token")))?;
        Ok(token.with_lifetime(lifetime))
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
