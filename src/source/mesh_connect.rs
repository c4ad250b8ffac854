//! Mesh Connect: a JSON login whose token comes in an envelope.
//!
//! A few lines over [`json`](crate::json), after Mesh's description of `POST /admin/api/v1/Token`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::error::Error;
use crate::source::endpoint::Endpoint;
use crate::source::json::{JsonLogin, LoginOutcome};
use crate::source::secret::{SecretProvider, SecretSource};
use crate::source::transport::{self, HttpClient};
use crate::source::{FetchContext, TokenSource, require_non_empty};
use crate::token::Token;

/// A client of Mesh Connect's account management API. Every fetch is a new login: there is no refresh token.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::{TokenCache, mesh_connect::MeshConnect};
///
/// let cache = TokenCache::new(MeshConnect::new(http, "my-client-id", "my-client-secret")?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MeshConnect {
    login: JsonLogin,
}

const ID_TOKEN: &str = "/content/id_token";

// === impl MeshConnect ===

impl MeshConnect {
    /// The client with this id and secret, at `https://admin-api.meshconnect.com`.
    ///
    /// # Errors
    /// An empty client id or secret.
    pub fn new<B: 'static, M>(
        http: impl HttpClient<B>,
        client_id: &str,
        client_secret: impl SecretSource<M>,
    ) -> Result<Self, Error> {
        require_non_empty("client_id", client_id)?;
        let client_secret = SecretProvider::checked("client_secret", client_secret)?;
        let endpoint = Endpoint::new(http, "base", &token_url("https://admin-api.meshconnect.com")?)?;
        let login = JsonLogin::over(endpoint, json!({ "clientId": client_id, "clientSecret": null }))
            .with_provider_at("/clientSecret", client_secret)
            .token_at(ID_TOKEN)?
            .lifetime_at("/content/expires_in")?
            .evaluate(evaluate);
        Ok(Self { login })
    }

    /// Another place than `https://admin-api.meshconnect.com`, such as Mesh's sandbox or a test.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn base(self, base: &str) -> Result<Self, Error> {
        Ok(Self { login: self.login.at("base", &token_url(base)?)? })
    }
}

impl TokenSource for MeshConnect {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.login.fetch(context).await
    }

    fn identity(&self) -> Vec<String> {
        self.login.identity()
    }
}

fn token_url(base: &str) -> Result<String, Error> {
    transport::join_path("base", base, "admin/api/v1/Token")
}

/// What an answer means.
///
/// | answer | taken as |
/// |---|---|
/// | 2xx, `status` ok, `content.status` no failure, an `id_token` | granted |
/// | `content.status` failed or mfaRequired | denied |
/// | `status` permissionDenied, badRequest, notFound, locked, unavailableForLegalReasons | denied |
/// | anything else: tooManyRequest, serverFailure, conflict, unknown, no envelope | failed for now |
fn evaluate(status: StatusCode, body: &Value) -> LoginOutcome {
    let text = |pointer| body.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (envelope, content) = (text("/status"), text("/content/status"));
    let ok = status.is_success() && envelope == Some("ok");
    let failed = ok && matches!(content, Some("failed" | "mfaRequired"));
    if ok && !failed && text(ID_TOKEN).is_some() {
        return LoginOutcome::Granted;
    }
    let code = match (envelope, content) {
        (Some("ok"), Some(content)) => Some(format!("ok, content.status {content}")),
        (Some(envelope), _) => Some(envelope.to_owned()),
        (None, _) => status.is_success().then(|| "status missing".to_owned()),
    };
    // What groups errors comes first: the text for people may be longer than what is repeated of it.
    let words = [
        text("/errorType").map(str::to_owned),
        text("/errorHash").map(|hash| format!("errorHash {hash}")),
        (ok && !failed).then(|| "it holds no id_token".to_owned()),
        text("/displayMessage").map(str::to_owned),
        text("/message").map(str::to_owned),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    let message = (!words.is_empty()).then(|| words.join("; "));
    match envelope {
        Some("permissionDenied" | "badRequest" | "notFound" | "locked" | "unavailableForLegalReasons") => {
            LoginOutcome::Denied { code, message }
        }
        _ if failed => LoginOutcome::Denied { code, message },
        _ => LoginOutcome::Failed { code, message },
    }
}
