//! A gateway in axum: each user's session is exchanged (RFC 8693) for a token of the upstream, once for all requests.
//!
//! ```text
//! cargo run -p stack-gateway
//! ```
//!
//! A browser sends the id of its session. The gateway knows the user's token of that session, exchanges it for one of
//! the upstream, and forwards the request with that. A logout ends both.
#![expect(clippy::disallowed_methods, reason = "the gateway is a task")]

mod fakes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::response::Response;
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::oauth2::{Issuer, TokenExchangeGrant};
use tower_bearer::replay::Never;
use tower_bearer::{Bearer, BearerLayer, Error, KeyedTokenCache, TokenCache};

/// The id of a session, which is the key of its upstream token. Forwarded requests have it as an extension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SessionId(Arc<str>);

/// The user's own token of each session, which the gateway's login saved.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<SessionId, String>>>);

#[derive(Clone)]
struct Gateway {
    sessions: Sessions,
    tokens: KeyedTokenCache<SessionId>,
    upstream: Bearer<Client<HttpConnector, Body>, Never>,
    base: String,
}

// === impl Sessions ===

impl Sessions {
    fn begin(&self, id: &str, token: &str) {
        self.lock().insert(SessionId(id.into()), token.to_owned());
    }

    fn end(&self, id: &SessionId) {
        self.lock().remove(id);
    }

    /// Authenticates the caller. Only an id that the gateway issued is a session.
    fn authenticate(&self, headers: &HeaderMap) -> Result<SessionId, StatusCode> {
        let id = headers.get("session").and_then(|id| id.to_str().ok()).ok_or(StatusCode::UNAUTHORIZED)?;
        let id = SessionId(id.into());
        if self.lock().contains_key(&id) { Ok(id) } else { Err(StatusCode::UNAUTHORIZED) }
    }

    /// The user's current token. Each exchange reads it, because the user's own login may have renewed it.
    fn token(&self, id: &SessionId) -> Result<String, Error> {
        self.lock().get(id).cloned().ok_or_else(|| Error::denied("the session has ended"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Gateway ===

impl Gateway {
    fn new(sessions: Sessions, token_url: &str, base: &str) -> Result<Self, BoxError> {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let calls: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let issuer = Issuer::new(calls).token_endpoint(token_url);
        let subjects = sessions.clone();
        let tokens = KeyedTokenCache::new(move |id: &SessionId| {
            let (id, subjects) = (id.clone(), subjects.clone());
            let subject = move || std::future::ready(subjects.token(&id));
            let exchange = TokenExchangeGrant::builder(&issuer, subject).client_id("gateway").client_auth("its secret");
            Ok::<_, Error>(TokenCache::new(exchange.audience("upstream").build()?))
        });
        let tokens = tokens.name("upstream").max_keys(50_000).max_token_calls(64);
        let by_session = tokens.by_key(|head| head.extensions.get::<SessionId>().cloned());
        let upstream = BearerLayer::new(by_session, [base])?.replay(Never).layer(http);
        Ok(Self { sessions, tokens, upstream, base: base.to_owned() })
    }

    fn router(self) -> Router {
        Router::new().route("/logout", post(logout)).fallback(forward).with_state(self)
    }
}

async fn forward(State(gateway): State<Gateway>, mut request: Request) -> Result<Response, StatusCode> {
    let session = gateway.sessions.authenticate(request.headers())?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = format!("{}{path}", gateway.base).parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::default();
    // A caller's own `Authorization` would win over the gateway's token. The session concerns the caller and the
    // gateway.
    for name in [AUTHORIZATION, COOKIE, HOST, CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        request.headers_mut().remove(name);
    }
    request.headers_mut().remove("session");
    request.extensions_mut().insert(session);
    let response = gateway.upstream.oneshot(request).await.map_err(|error| match Error::find(&*error) {
        // The exchange was denied, because the user's own token is no longer valid.
        Some(error) if error.is_denied() || error.is_signed_out() => StatusCode::UNAUTHORIZED,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::BAD_GATEWAY,
    })?;
    Ok(response.map(Body::new))
}

async fn logout(State(gateway): State<Gateway>, headers: HeaderMap) -> Result<StatusCode, StatusCode> {
    let session = gateway.sessions.authenticate(&headers)?;
    gateway.sessions.end(&session);
    // An exchanged token has no refresh token here, so there is nothing to revoke.
    let removed = gateway.tokens.remove(&session, async |_| Ok::<_, Error>(())).await;
    removed.map(|()| StatusCode::NO_CONTENT).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: the addresses of your token endpoint and of the upstream.
    let (sts, upstream) = (fakes::token_exchange().await, fakes::upstream().await);

    let sessions = Sessions::default();
    let gateway = Gateway::new(sessions.clone(), &sts.url("/token"), upstream.origin())?;
    let tokens = gateway.tokens.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let here = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, gateway.router()).into_future());

    let caller: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let ask = async |session: &str, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(format!("{here}{path}")).header("session", session);
        let response = caller.request(request.body(Full::default())?).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
        Ok::<_, BoxError>((status, text))
    };

    for user in ["ada", "grace", "ada", "grace"] {
        sessions.begin(&format!("session-of-{user}"), &format!("login-of-{user}"));
        let (status, who) = ask(&format!("session-of-{user}"), "GET", "/me").await?;
        println!("{user}: {status}, and the upstream saw {who}");
        assert_eq!((status, who), (StatusCode::OK, format!("Bearer upstream-of-login-of-{user}")));
    }
    println!("{} requests, {} exchanges", upstream.seen().len(), sts.seen().len());
    assert_eq!((upstream.seen().len(), sts.seen().len(), tokens.status().keys), (4, 2, 2));

    let (status, _) = ask("a-session-of-nobody", "GET", "/me").await?;
    println!("without a session: {status}");
    assert_eq!((status, upstream.seen().len()), (StatusCode::UNAUTHORIZED, 4));

    assert_eq!(ask("session-of-ada", "POST", "/logout").await?.0, StatusCode::NO_CONTENT);
    let (status, _) = ask("session-of-ada", "GET", "/me").await?;
    println!("after the logout: {status}");
    assert_eq!((status, tokens.status().keys), (StatusCode::UNAUTHORIZED, 1));
    Ok(())
}
