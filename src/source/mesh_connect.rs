//! Mesh Connect: a JSON login whose token comes in an envelope.
//!
//! A few lines over [`json`](crate::json), after Mesh's description of `POST /admin/api/v1/Token`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::error::Error;
use crate::source::endpoint::{Endpoint, HttpClient};
use crate::source::json::{JsonLogin, Verdict};
use crate::source::{FetchContext, TokenSource};
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

// === impl MeshConnect ===

impl MeshConnect {
    /// The client with this id and secret, at `https://admin-api.meshconnect.com`.
    ///
    /// # Errors
    /// An empty client id or secret.
    pub fn new<B: 'static>(http: impl HttpClient<B>, client_id: &str, client_secret: &str) -> Result<Self, Error> {
        if client_id.is_empty() {
            return Err(Error::invalid("client_id", "it is empty"));
        }
        if client_secret.is_empty() {
            return Err(Error::invalid("client_secret", "it is empty"));
        }
        let endpoint = Endpoint::new(http, "base", &token_url("https://admin-api.meshconnect.com"))?;
        let login = JsonLogin::over(endpoint, json!({ "clientId": client_id, "clientSecret": client_secret }))
            .token_at("/content/id_token")?
            .lifetime_at("/content/expires_in")?
            .judge(judge);
        Ok(Self { login })
    }

    /// Another place than `https://admin-api.meshconnect.com`, such as Mesh's sandbox or a test.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn base(self, base: &str) -> Result<Self, Error> {
        Ok(Self { login: self.login.at("base", &token_url(base))? })
    }
}

impl TokenSource for MeshConnect {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.login.fetch(context).await
    }
}

fn token_url(base: &str) -> String {
    format!("{}/admin/api/v1/Token", base.trim_end_matches('/'))
}

/// A 2xx grants only with `status` ok and a `content.status` that is no failure; the rest is told by the envelope.
fn judge(status: StatusCode, body: &Value) -> Verdict {
    let text = |pointer| body.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (envelope, content) = (text("/status"), text("/content/status"));
    let failed = matches!(content, Some("failed" | "mfaRequired"));
    if status.is_success() && envelope == Some("ok") && !failed {
        return Verdict::Granted;
    }
    let code = match envelope {
        Some("ok") if failed => content.map(|content| format!("content.status {content}")),
        Some(envelope) => Some(envelope.to_owned()),
        None if status.is_success() => Some("status missing".to_owned()),
        None => None,
    };
    let words = [text("/errorType"), text("/displayMessage"), text("/message")];
    let hash = text("/errorHash").map(|hash| format!("errorHash {hash}"));
    let words: Vec<_> = words.into_iter().flatten().map(str::to_owned).chain(hash).collect();
    let message = (!words.is_empty()).then(|| words.join("; "));
    match envelope {
        Some("permissionDenied" | "badRequest") => Verdict::Denied { code, message },
        Some("ok") if failed => Verdict::Denied { code, message },
        _ => Verdict::Failed { code, message },
    }
}

#[cfg(test)]
mod tests;
