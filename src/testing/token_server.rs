//! A token endpoint that follows a script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::json;
use tower::BoxError;

use crate::testing::answer::Answer;
use crate::testing::calls::Calls;
use crate::testing::helpers::lock;
use crate::testing::ledger::Ledger;
use crate::testing::recorded::Recorded;
use crate::testing::script::{Script, fake_service};

/// A scripted OAuth 2 token endpoint.
///
/// It answers every POST, to any path and with any body, with a Bearer token that lives an hour: `token-1`, then
/// `token-2`, and so on. Other methods get a 405. It adds the tokens to the [`ledger`](Self::ledger), where an
/// [`Api`](crate::testing::Api) looks them up.
///
/// ```
/// # use bytes::Bytes;
/// # use http_body_util::{BodyExt, Full};
/// # use tower::ServiceExt;
/// use tower_bearer::testing::TokenServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let issuer = TokenServer::new();
/// let ask = http::Request::post("/token").body(Full::from("grant_type=client_credentials"))?;
/// let answer = issuer.clone().oneshot(ask).await?.into_body().collect().await?.to_bytes();
/// let answer: serde_json::Value = serde_json::from_slice(&answer)?;
/// assert_eq!((&answer["access_token"], &answer["expires_in"]), (&"token-1".into(), &3600.into()));
/// assert_eq!(issuer.requests()[0].form()["grant_type"], "client_credentials");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenServer {
    script: Arc<Script>,
    settings: Arc<Mutex<Settings>>,
}

#[derive(Debug)]
struct Settings {
    lifetime: Duration,
    rotate: bool,
    granted: usize,
}

impl TokenServer {
    /// An issuer with its own ledger.
    pub fn new() -> Self {
        let settings = Settings { lifetime: Duration::from_secs(3600), rotate: false, granted: 0 };
        Self { script: Arc::default(), settings: Arc::new(Mutex::new(settings)) }
    }

    /// How long the access tokens live from now on.
    ///
    /// `expires_in` holds the whole seconds of it.
    pub fn lifetime(&self, lifetime: Duration) {
        lock(&self.settings).lifetime = lifetime;
    }

    /// How long an answer takes to arrive. Its content is fixed when the call arrives.
    pub fn delay(&self, delay: Duration) {
        self.script.set_delay(delay);
    }

    /// Whether answers carry a refresh token, `refresh-N` with `token-N`.
    ///
    /// The server evaluates none.
    pub fn rotate_refresh_tokens(&self, rotate: bool) {
        lock(&self.settings).rotate = rotate;
    }

    /// Queues an answer. The server sends queued answers, in order, before any other.
    pub fn queue(&self, answer: Answer) {
        self.script.queue(answer);
    }

    /// Begins an outage; `None` ends it.
    ///
    /// In the outage every call without a queued answer gets this answer.
    pub fn fail(&self, answer: Option<Answer>) {
        self.script.fail(answer);
    }

    /// The access tokens that this server issued.
    pub fn ledger(&self) -> Ledger {
        self.script.ledger.clone()
    }

    /// The calls so far.
    pub fn calls(&self) -> &Calls {
        &self.script.calls
    }

    /// The last 1024 requests, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.script.requests()
    }

    async fn serve(self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        let request = self.script.receive(request).await;
        self.script.answer(|| self.grant(&request)).await
    }

    fn grant(&self, request: &Recorded) -> Answer {
        if request.method != Method::POST {
            return Answer::raw(405, "").header("allow", "POST");
        }
        let mut settings = lock(&self.settings);
        settings.granted += 1;
        let (number, lifetime) = (settings.granted, settings.lifetime);
        let text = format!("token-{number}");
        if !settings.rotate {
            return Answer::token(text, lifetime);
        }
        let body = json!({
            "access_token": text,
            "token_type": "Bearer",
            "expires_in": lifetime.as_secs(),
            "refresh_token": format!("refresh-{number}"),
        });
        Answer::granting(body).issuing(text, lifetime)
    }
}

impl Default for TokenServer {
    fn default() -> Self {
        Self::new()
    }
}

fake_service!(TokenServer);
