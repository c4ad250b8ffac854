//! Mesh Connect: a JSON login whose answer wraps the token in an envelope.
//!
//! It is a thin wrapper of [`json`](crate::json), and follows Mesh's documentation of `POST /admin/api/v1/Token`.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::error::Error;
use crate::source::json::{JsonLogin, JsonLoginBuilder, LoginOutcome};
use crate::source::secret::{SecretProvider, SecretSource};
use crate::source::transport::{self, EndpointUrl, HttpClient, HttpSend};
use crate::source::{FetchContext, TokenSource, require_non_empty};
use crate::token::Token;

/// A client of Mesh Connect's account management API.
///
/// There is no refresh token, so every fetch logs in.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::{TokenCache, providers::mesh_connect::MeshConnect};
///
/// let login = MeshConnect::builder(http, "my-client-id", "my-client-secret").build()?;
/// let cache = TokenCache::new(login);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MeshConnect {
    login: JsonLogin,
}

/// The settings of a [`MeshConnect`] client.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MeshConnectBuilder {
    http: Arc<dyn HttpSend>,
    client_id: String,
    client_secret: SecretProvider,
    base: String,
    allows_insecure: bool,
}

const ID_TOKEN: &str = "/content/id_token";

// === impl MeshConnect ===

impl MeshConnect {
    /// Starts a builder for the client with this id and secret.
    ///
    /// It logs in at `https://admin-api.meshconnect.com`.
    pub fn builder<B: 'static, M>(
        http: impl HttpClient<B>,
        client_id: &str,
        client_secret: impl SecretSource<M>,
    ) -> MeshConnectBuilder {
        MeshConnectBuilder {
            http: transport::sync_client(http),
            client_id: client_id.to_owned(),
            client_secret: client_secret.into_provider(),
            base: "https://admin-api.meshconnect.com".to_owned(),
            allows_insecure: false,
        }
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

// === impl MeshConnectBuilder ===

impl MeshConnectBuilder {
    /// Replaces the base URL, for Mesh's sandbox or for a test.
    ///
    /// Default: `https://admin-api.meshconnect.com`.
    pub fn base(self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self }
    }

    /// Allows plain `http://` beyond loopback for [`base`](MeshConnectBuilder::base).
    ///
    /// Call it only if the network itself is trusted.
    pub fn allow_insecure(self) -> Self {
        Self { allows_insecure: true, ..self }
    }

    /// Checks the settings, and builds the source.
    ///
    /// # Errors
    /// Returns an error that names the field if
    /// - the client id or the secret is empty;
    /// - the base is not a URL, or is plain `http://` that is not allowed.
    pub fn build(self) -> Result<MeshConnect, Error> {
        require_non_empty("client_id", &self.client_id)?;
        self.client_secret.check("client_secret")?;
        let url = transport::join_path("base", &self.base, "admin/api/v1/Token")?;
        // Under the name of the setting: the login would name its `url`.
        EndpointUrl::checked("base", &url, self.allows_insecure)?;
        let body = json!({ "clientId": self.client_id, "clientSecret": null });
        let login = JsonLoginBuilder::over(self.http, &url, Some(body))
            .with_provider_at("/clientSecret", self.client_secret)
            .token_at(ID_TOKEN)
            .lifetime_at("/content/expires_in")
            .evaluate(evaluate);
        let login = if self.allows_insecure { login.allow_insecure() } else { login };
        Ok(MeshConnect { login: login.build()? })
    }
}

impl fmt::Debug for MeshConnectBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshConnectBuilder").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Evaluates an answer.
///
/// | answer | outcome |
/// |---|---|
/// | 2xx, `status` ok, `content.status` not a failure, an `id_token` | granted |
/// | `content.status` failed or mfaRequired | denied |
/// | `status` permissionDenied, badRequest, notFound, locked, unavailableForLegalReasons | denied |
/// | anything else: tooManyRequest, serverFailure, conflict, unknown, no envelope | failed, and retried after a pause |
fn evaluate(status: StatusCode, body: &Value) -> LoginOutcome {
    let text = |pointer| body.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (envelope, content) = (text("/status"), text("/content/status"));
    let ok = status.is_success() && envelope == Some("ok");
    let failed = ok && matches!(content, Some("failed" | "mfaRequired"));
    if ok && !failed && text(ID_TOKEN).is_some() {
        return LoginOutcome::Granted;
    }
    let code = match (envelope, content) {
        (Some("ok"), Some(content)) => Some(content.to_owned()),
        (envelope, _) => envelope.map(str::to_owned),
    };
    // The type and the hash come first, because the errors' texts for people may be truncated.
    let words = [
        text("/errorType").map(str::to_owned),
        text("/errorHash").map(|hash| format!("errorHash {hash}")),
        (ok && !failed).then(|| "it holds no id_token".to_owned()),
        (status.is_success() && envelope.is_none()).then(|| "status missing".to_owned()),
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
