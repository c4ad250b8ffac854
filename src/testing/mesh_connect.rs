//! A fake server of Mesh Connect, built from Mesh Connect's documents.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::BoxError;

use crate::testing::answer::Answer;
use crate::testing::api::Api;
use crate::testing::calls::Calls;
use crate::testing::helpers::{jwt_like, lock};
use crate::testing::ledger::Ledger;
use crate::testing::recorded::Recorded;
use crate::testing::script::{Script, fake_service};

const ROOT: &str = "/admin/api/v1/";

/// A fake server of Mesh Connect: a JSON login and a protected API on one host.
///
/// `POST /admin/api/v1/Token` takes a JSON object with exactly `clientId` and `clientSecret`, both not empty. It
/// returns the token in an envelope. A malformed call, or one with an `Authorization` header, gets a 400. Wrong
/// credentials get a
/// 403. Any other path below `/admin/api/v1/` is the [`api`](Self::api), whose 401 has an envelope and no
/// `WWW-Authenticate`.
///
/// ```
/// # use http_body_util::Full;
/// # use tower::ServiceExt;
/// use tower_bearer::testing::MeshConnectServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let server = MeshConnectServer::new("my-client", "secret");
/// let login = http::Request::post("https://admin-api.meshconnect.com/admin/api/v1/Token")
///     .header("content-type", "application/json")
///     .body(Full::from(r#"{"clientId":"my-client","clientSecret":"wrong"}"#))?;
/// assert_eq!(server.clone().oneshot(login).await?.status(), 403);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MeshConnectServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client_id: String,
    client_secret: String,
    /// Its plan and its counter belong to the token calls. Its log holds every request.
    script: Script,
    api: Api,
    settings: Mutex<Settings>,
}

#[derive(Debug)]
struct Settings {
    lifetime: Duration,
    envelope_status: Option<String>,
    content_status: Option<String>,
    omit_expires_in: bool,
    null_token: bool,
}

impl MeshConnectServer {
    /// A server with one client.
    pub fn new(client_id: &str, client_secret: &str) -> Self {
        let ledger = Ledger::new();
        let settings = Settings {
            lifetime: Duration::from_secs(3600),
            envelope_status: None,
            content_status: None,
            omit_expires_in: false,
            null_token: false,
        };
        let inner = Inner {
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            script: Script::new(ledger.clone()),
            api: Api::with_rejection(ledger, |_| failure(401, "permissionDenied", "", "Token is invalid.")),
            settings: Mutex::new(settings),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How long the tokens live from now on; an hour by default.
    pub fn lifetime(&self, lifetime: Duration) {
        lock(&self.inner.settings).lifetime = lifetime;
    }

    /// How long the answer to a token call takes to arrive.
    pub fn delay(&self, delay: Duration) {
        self.inner.script.set_delay(delay);
    }

    /// Begins an outage in which every token call gets this answer; `None` ends it.
    pub fn fail(&self, answer: Option<Answer>) {
        self.inner.script.fail(answer);
    }

    /// The `status` of the envelope in the 200 of a token call, instead of `ok`.
    ///
    /// It may be `tooManyRequest`, for example. The answer contains the token nevertheless.
    pub fn envelope_status(&self, status: Option<&str>) {
        lock(&self.inner.settings).envelope_status = status.map(str::to_owned);
    }

    /// The `status` of the content in the 200 of a token call, instead of `available`.
    ///
    /// It may be `mfaRequired`, for example. The answer contains the token nevertheless.
    pub fn content_status(&self, status: Option<&str>) {
        lock(&self.inner.settings).content_status = status.map(str::to_owned);
    }

    /// Whether the answer omits `expires_in`.
    pub fn omit_expires_in(&self, omit: bool) {
        lock(&self.inner.settings).omit_expires_in = omit;
    }

    /// Whether `id_token` is null in the answer.
    pub fn null_token(&self, null: bool) {
        lock(&self.inner.settings).null_token = null;
    }

    /// The tokens that this server issued.
    pub fn ledger(&self) -> Ledger {
        self.inner.script.ledger.clone()
    }

    /// The calls of the token endpoint.
    pub fn token_calls(&self) -> &Calls {
        &self.inner.script.calls
    }

    /// The protected API on the same host.
    pub fn api(&self) -> &Api {
        &self.inner.api
    }

    /// The last 1024 requests on any route, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.inner.script.requests()
    }

    async fn serve(self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        let Inner { script, api, .. } = &*self.inner;
        let request = script.receive(request).await;
        match request.uri.path().strip_prefix(ROOT) {
            Some("Token") if request.method == Method::POST => script.answer(|| self.token(&request)).await,
            Some("Token") => script.answer_at_once(Answer::raw(405, "")).await,
            Some(_) => api.answer(request).await,
            None => script.answer_at_once(Answer::raw(404, "")).await,
        }
    }

    fn token(&self, request: &Recorded) -> Answer {
        let (client_id, client_secret) = match credentials(request) {
            Ok(credentials) => credentials,
            Err((error_type, message)) => return failure(400, "badRequest", error_type, message),
        };
        if client_id != self.inner.client_id || client_secret != self.inner.client_secret {
            let message = "Client Id or Client Secret are not correct.";
            return failure(403, "permissionDenied", "invalidCredentials", message);
        }

        let settings = lock(&self.inner.settings);
        let mut content = json!({ "status": settings.content_status.as_deref().unwrap_or("available") });
        content["id_token"] = if settings.null_token {
            Value::Null
        } else {
            let text = jwt_like();
            self.inner.script.ledger.issue(text.clone(), settings.lifetime);
            json!(text)
        };
        if !settings.omit_expires_in {
            content["expires_in"] = json!(settings.lifetime.as_secs());
        }
        let status = settings.envelope_status.as_deref().unwrap_or("ok");
        let body =
            json!({ "status": status, "message": "", "errorHash": "e47df370", "errorType": "", "content": content });
        Answer::json(200, body)
    }
}

/// The two members of a well-formed login, else the error type and the message of the 400.
fn credentials(request: &Recorded) -> Result<(String, String), (&'static str, &'static str)> {
    let media_type = request.media_type();
    let vendor_json = media_type.starts_with("application/") && media_type.ends_with("+json");
    if !vendor_json && !["application/json", "text/json"].contains(&media_type.as_str()) {
        return Err(("invalidRequest", "The content type is not JSON."));
    }
    if request.headers.contains_key(AUTHORIZATION) {
        return Err(("invalidRequest", "An Authorization header was not expected."));
    }
    let Ok(Value::Object(mut body)) = serde_json::from_slice(&request.body) else {
        return Err(("invalidRequest", "The body is not a JSON object."));
    };
    let mut take = |name| match body.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        _ => Err(("missingField", "Client Id and Client Secret are required.")),
    };
    let both = (take("clientId")?, take("clientSecret")?);
    if body.is_empty() { Ok(both) } else { Err(("invalidRequest", "The body has unknown members.")) }
}

fn failure(http_status: u16, status: &str, error_type: &str, message: &str) -> Answer {
    let body = json!({
        "status": status,
        "message": message,
        "displayMessage": "Something went wrong. Please try again.",
        "errorHash": "cd59bd31",
        "errorType": error_type,
    });
    Answer::json(http_status, body)
}

fake_service!(MeshConnectServer);
