//! A fake server of MeshyDB, built from MeshyDB's documents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::BoxError;

use crate::testing::answer::Answer;
use crate::testing::api::Api;
use crate::testing::calls::Calls;
use crate::testing::helpers::lock;
use crate::testing::ledger::Ledger;
use crate::testing::recorded::Recorded;
use crate::testing::script::{Script, fake_service};
use crate::testing::sessions::{Denial, Pair, Sessions};

/// A fake server of MeshyDB: one account, and a protected API on the same host.
///
/// The account has users, tenants and sessions.
///
/// | route | what it does |
/// |---|---|
/// | `POST /{account}/connect/token` | grants `password` and `refresh_token` |
/// | `POST /{account}/connect/revocation` | ends the session of a refresh token (RFC 7009) |
/// | `POST /{account}/users/register/anonymous` | adds a user whose password is `nopassword` |
/// | any other below `/{account}/` | the [`api`](Self::api) |
///
/// The header `tenant` chooses a tenant; empty or absent means the default tenant. A session belongs to its tenant.
/// Each refresh returns a new refresh token and uses up the old one. A used refresh token ends the session with all its
/// tokens. The server evaluates token calls when they arrive.
///
/// ```
/// # use http_body_util::Full;
/// # use tower::ServiceExt;
/// use tower_bearer::testing::MeshyDbServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let server = MeshyDbServer::new("acme", "public-key").user("ann", "secret");
/// let login = http::Request::post("https://auth.meshydb.com/acme/connect/token")
///     .header("content-type", "application/x-www-form-urlencoded")
///     .body(Full::from("client_id=public-key&grant_type=password&username=ann&password=secret"))?;
/// assert_eq!(server.clone().oneshot(login).await?.status(), 200);
/// assert_eq!(server.ledger().issued(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MeshyDbServer {
    inner: Arc<Inner>,
}

/// The form of the bodies of MeshyDB's 400 and 429. Its documents do not define it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorBodies {
    /// RFC 6749, section 5.2: `{"error": "invalid_grant", "error_description": "..."}`.
    OAuth,
    /// JSON of another shape: `{"message": "..."}`.
    OtherJson,
    /// Plain text.
    Text,
    /// Nothing.
    Empty,
}

#[derive(Debug)]
struct Inner {
    /// `/{account}/`
    root: String,
    public_key: String,
    /// Its plan and its counter belong to the token calls. Its log holds every request.
    script: Script,
    api: Api,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sessions: Sessions,
    error_bodies: ErrorBodies,
    limited: bool,
    retry_after: Option<String>,
    answers_to_lose: usize,
    anonymous: bool,
    registrations: usize,
    revocations: usize,
}

impl MeshyDbServer {
    /// A server with one account and no users.
    pub fn new(account_name: &str, public_key: &str) -> Self {
        let ledger = Ledger::new();
        let state = State {
            sessions: Sessions::new(ledger.clone()),
            error_bodies: ErrorBodies::OAuth,
            limited: false,
            retry_after: None,
            answers_to_lose: 0,
            anonymous: true,
            registrations: 0,
            revocations: 0,
        };
        let inner = Inner {
            root: format!("/{account_name}/"),
            public_key: public_key.to_owned(),
            script: Script::new(ledger.clone()),
            api: Api::new(ledger),
            state: Mutex::new(state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a user to the default tenant.
    pub fn user(self, username: &str, password: &str) -> Self {
        self.tenant_user("", username, password)
    }

    /// Adds a user to a tenant.
    pub fn tenant_user(self, tenant: &str, username: &str, password: &str) -> Self {
        lock(&self.inner.state).sessions.add_user(tenant, username, password);
        self
    }

    /// How long access tokens live from now on; an hour by default.
    pub fn lifetime(&self, lifetime: Duration) {
        lock(&self.inner.state).sessions.rules.lifetime = lifetime;
    }

    /// How long refresh tokens live from now on; 30 days by default.
    pub fn refresh_lifetime(&self, lifetime: Duration) {
        lock(&self.inner.state).sessions.rules.refresh_lifetime = lifetime;
    }

    /// How long the answer to a token call takes to arrive.
    pub fn delay(&self, delay: Duration) {
        self.inner.script.set_delay(delay);
    }

    /// Whether a refresh returns a new refresh token (the default).
    ///
    /// If not, the old one stays valid.
    pub fn rotate(&self, rotate: bool) {
        lock(&self.inner.state).sessions.rules.rotate = rotate;
    }

    /// How long a used refresh token still gets its new pair; zero by default.
    pub fn reuse_grace(&self, grace: Duration) {
        lock(&self.inner.state).sessions.rules.reuse_grace = grace;
    }

    /// Whether a refresh revokes the session's earlier access tokens; no by default.
    pub fn revoke_old_on_refresh(&self, revoke: bool) {
        lock(&self.inner.state).sessions.rules.revoke_old_on_refresh = revoke;
    }

    /// Whether token calls get a 429 without a `Retry-After`.
    pub fn limit(&self, limited: bool) {
        let mut state = lock(&self.inner.state);
        (state.limited, state.retry_after) = (limited, None);
    }

    /// Answers token calls 429 with this `Retry-After`.
    ///
    /// [`limit(false)`](Self::limit) ends it.
    pub fn limit_with(&self, retry_after: Option<&str>) {
        let mut state = lock(&self.inner.state);
        (state.limited, state.retry_after) = (true, retry_after.map(str::to_owned));
    }

    /// Begins an outage in which every token call gets this answer; `None` ends it.
    pub fn fail(&self, answer: Option<Answer>) {
        self.inner.script.fail(answer);
    }

    /// Loses the answers of the next `count` granted token calls.
    ///
    /// The server issues the tokens, and then the connection fails.
    pub fn lose_answers(&self, count: usize) {
        lock(&self.inner.state).answers_to_lose = count;
    }

    /// Deactivates the users of that name in every tenant.
    ///
    /// Their logins and refreshes are denied, and their access tokens stay valid.
    pub fn deactivate(&self, username: &str) {
        lock(&self.inner.state).sessions.deactivate(username);
    }

    /// Whether anonymous users may register; yes by default.
    pub fn anonymous(&self, allowed: bool) {
        lock(&self.inner.state).anonymous = allowed;
    }

    /// The form of the body of a 400 or a 429; RFC 6749 JSON by default.
    pub fn error_bodies(&self, bodies: ErrorBodies) {
        lock(&self.inner.state).error_bodies = bodies;
    }

    /// The access tokens that this server issued.
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

    /// How many times a used refresh token came after the grace period.
    pub fn reuses(&self) -> usize {
        lock(&self.inner.state).sessions.reuses
    }

    /// How many sessions a revocation call has ended.
    pub fn revocations(&self) -> usize {
        lock(&self.inner.state).revocations
    }

    /// How many anonymous users have registered.
    pub fn registrations(&self) -> usize {
        lock(&self.inner.state).registrations
    }

    /// The last 1024 requests on any route, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.inner.script.requests()
    }

    async fn serve(self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        let Inner { root, script, api, .. } = &*self.inner;
        let request = script.receive(request).await;
        let route = request.uri.path().strip_prefix(root.as_str());
        let post = request.method == Method::POST;
        match route {
            Some("connect/token") if post => script.answer(|| self.token(&request)).await,
            Some("connect/revocation") if post => script.answer_at_once(self.revocation(&request)).await,
            Some("connect/token" | "connect/revocation") => script.answer_at_once(Answer::raw(405, "")).await,
            Some("users/register/anonymous") if post => script.answer_at_once(self.register(&request)).await,
            Some(_) => api.answer(request).await,
            None => script.answer_at_once(Answer::raw(404, "")).await,
        }
    }

    fn token(&self, request: &Recorded) -> Answer {
        let mut state = lock(&self.inner.state);
        if state.limited {
            let why = "You have either hit your API or Database limit. Please review your account.";
            let answer = state.denied(429, Denial { code: "too_many_requests", why });
            return match &state.retry_after {
                Some(value) => answer.header("retry-after", value),
                None => answer,
            };
        }
        match self.grant(&mut state.sessions, request) {
            Ok(_) if state.answers_to_lose > 0 => {
                state.answers_to_lose -= 1;
                Answer::fails("the connection broke before the answer arrived")
            }
            Ok(pair) => Answer::granting(pair.to_json()),
            Err(denial) => state.denied(400, denial),
        }
    }

    fn grant(&self, sessions: &mut Sessions, request: &Recorded) -> Result<Pair, Denial> {
        let form = self.form(request)?;
        let grant_type = required(&form, "grant_type", "Grant type is invalid.")?;
        let scope: Vec<_> = form.get("scope").into_iter().flat_map(|scope| scope.split(' ')).collect();
        if form.contains_key("scope") && !scope.contains(&"meshy.api") {
            return Err(Denial { code: "invalid_scope", why: "Invalid Scope." });
        }
        match grant_type {
            "password" => {
                let username = required(&form, "username", "Username is invalid.")?;
                let password = required(&form, "password", "Password is invalid.")?;
                sessions.login(tenant(request), username, password, scope.contains(&"offline_access"))
            }
            "refresh_token" => {
                let token = required(&form, "refresh_token", "Token is invalid.")?;
                sessions.refresh(tenant(request), token)
            }
            _ => Err(Denial { code: "unsupported_grant_type", why: "Grant type is invalid." }),
        }
    }

    fn revocation(&self, request: &Recorded) -> Answer {
        let mut state = lock(&self.inner.state);
        match self.revoke(&mut state.sessions, request) {
            Ok(ended) => {
                state.revocations += usize::from(ended);
                // An unknown token gets a 200 as well (RFC 7009, section 2.2).
                Answer::raw(200, "")
            }
            Err(denial) => state.denied(400, denial),
        }
    }

    fn revoke(&self, sessions: &mut Sessions, request: &Recorded) -> Result<bool, Denial> {
        let form = self.form(request)?;
        let token = required(&form, "token", "Token is invalid.")?;
        Ok(sessions.revoke(tenant(request), token))
    }

    fn register(&self, request: &Recorded) -> Answer {
        let mut state = lock(&self.inner.state);
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let username = body["username"].as_str().unwrap_or_default();
        let wanted = state.anonymous && request.media_type() == "application/json" && !username.is_empty();
        if !wanted || !state.sessions.register(tenant(request), username) {
            return state.denied(400, Denial { code: "invalid_request", why: "Username is invalid." });
        }
        state.registrations += 1;
        Answer::json(201, json!({ "username": username }))
    }

    /// The form of a request from the account's client, without empty parameters.
    fn form(&self, request: &Recorded) -> Result<BTreeMap<String, String>, Denial> {
        let mut form = request.form();
        // A parameter must not repeat (RFC 6749, section 3.2).
        let repeated = form_urlencoded::parse(&request.body).count() > form.len();
        if repeated || request.media_type() != "application/x-www-form-urlencoded" {
            return Err(Denial { code: "invalid_request", why: "The form is invalid." });
        }
        // A parameter without a value counts as absent (the same section).
        form.retain(|_, value| !value.is_empty());
        match form.get("client_id") {
            Some(client_id) if *client_id == self.inner.public_key => Ok(form),
            _ => Err(Denial { code: "invalid_client", why: "Client id is invalid." }),
        }
    }
}

impl State {
    fn denied(&self, status: u16, denial: Denial) -> Answer {
        let Denial { code, why } = denial;
        match self.error_bodies {
            ErrorBodies::OAuth => Answer::json(status, json!({ "error": code, "error_description": why })),
            ErrorBodies::OtherJson => Answer::json(status, json!({ "message": why })),
            ErrorBodies::Text => Answer::raw(status, why).header("content-type", "text/plain"),
            ErrorBodies::Empty => Answer::raw(status, ""),
        }
    }
}

/// Empty for the default tenant.
fn tenant(request: &Recorded) -> &str {
    request.headers.get("tenant").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn required<'a>(form: &'a BTreeMap<String, String>, name: &str, why: &'static str) -> Result<&'a str, Denial> {
    form.get(name).map(String::as_str).ok_or(Denial { code: "invalid_request", why })
}

fake_service!(MeshyDbServer);
