//! A fake server: an issuer whose refresh tokens work once, and an API. Each login is approved at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use loopback::Server;
use serde_json::{Value, json};
use tower::{BoxError, ServiceExt, service_fn};
use tower_bearer::testing::{Api, Ledger};

/// The state of the server. Clones share it.
#[derive(Clone)]
pub(crate) struct Fake {
    ledger: Ledger,
    issued: Arc<Mutex<Issued>>,
}

struct Issued {
    lifetime: Duration,
    /// The valid refresh token.
    refresh_token: Option<String>,
    /// The calls of the token endpoint and of the revocation endpoint.
    calls: Vec<String>,
}

/// Serves until the program is ended.
pub(crate) async fn serve() -> Result<(), BoxError> {
    let server = Fake::new(Duration::from_secs(10)).start().await;
    println!("Tokens live for 10 seconds. In another terminal:\n\nexport CLI_SERVER={}", server.origin());
    std::future::pending().await
}

// === impl Fake ===

impl Fake {
    pub(crate) fn new(lifetime: Duration) -> Self {
        let issued = Issued { lifetime, refresh_token: None, calls: Vec::new() };
        Self { ledger: Ledger::new(), issued: Arc::new(Mutex::new(issued)) }
    }

    /// Sets how long the next tokens live.
    pub(crate) fn lifetime(&self, lifetime: Duration) {
        self.issued().lifetime = lifetime;
    }

    /// Ends the session at the issuer.
    pub(crate) fn end_session(&self) {
        self.issued().refresh_token = None;
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.issued().calls.clone()
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the fake on a free port of loopback.
    pub(crate) async fn start(&self) -> Server {
        let fake = self.clone();
        let api = Api::new(self.ledger.clone());
        Server::fake(service_fn(move |request: Request<Full<Bytes>>| {
            let (fake, api) = (fake.clone(), api.clone());
            async move {
                match request.uri().path() {
                    "/device" | "/token" | "/revoke" => fake.answer(request).await,
                    _ => api.oneshot(request).await,
                }
            }
        }))
        .await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        let path = request.uri().path().to_owned();
        let form = request.into_body().collect().await?.to_bytes();
        let field = |name: &str| form_urlencoded::parse(&form).find(|field| field.0 == name).map(|field| field.1);
        let mut issued = self.issued();
        let (status, body) = match (&*path, field("grant_type").as_deref()) {
            ("/device", _) => (
                200,
                json!({
                    "device_code": "the device's",
                    "user_code": "WDJB-MJHT",
                    "verification_uri": "https://example.com/device",
                    "expires_in": 600,
                    "interval": 1,
                }),
            ),
            ("/revoke", _) => {
                issued.end(&self.ledger, "revoked");
                (200, Value::Null)
            }
            (_, Some("refresh_token")) if field("refresh_token").as_deref() != issued.refresh_token.as_deref() => {
                issued.end(&self.ledger, "denied");
                (400, json!({ "error": "invalid_grant" }))
            }
            (_, grant) => {
                issued.calls.push(if grant == Some("refresh_token") { "refreshed" } else { "logged in" }.to_owned());
                (200, issued.grant(&self.ledger))
            }
        };
        println!("{path}: {status}");
        Ok(Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(body.to_string().into())?)
    }
}

// === impl Issued ===

impl Issued {
    fn grant(&mut self, ledger: &Ledger) -> Value {
        let number = ledger.issued() + 1;
        let (access_token, refresh_token) = (format!("token-{number}"), format!("refresh-{number}"));
        ledger.issue(&access_token, self.lifetime);
        self.refresh_token = Some(refresh_token.clone());
        json!({
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": self.lifetime.as_secs(),
            "refresh_token": refresh_token,
        })
    }

    /// Ends the session and all its tokens, as an issuer does after the reuse of a refresh token.
    fn end(&mut self, ledger: &Ledger, why: &str) {
        self.refresh_token = None;
        ledger.revoke_all();
        self.calls.push(why.to_owned());
    }
}
