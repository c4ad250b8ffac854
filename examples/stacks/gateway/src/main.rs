//! A gateway in axum: each user's session is exchanged (RFC 8693) for a token of the upstream, once for all requests.
//!
//! ```text
//! cargo run -p stack-gateway
//! REDIS_URL=redis://127.0.0.1:6379 cargo run -p stack-gateway
//! ```
//!
//! A browser sends the id of its session. The gateway knows the user's token of that session, exchanges it for one of
//! the upstream, and forwards the request with that. A logout ends both.
//!
//! With a store in Redis, several gateways share one exchange for each session, and a logout at one of them ends the
//! session at all. Without `REDIS_URL`, the example starts the redis-server of the path for that part.
#![expect(clippy::disallowed_methods, reason = "the gateway is a task")]

mod fakes;
mod redis_server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
use tower_bearer::store::SharedSession;
use tower_bearer::{Bearer, BearerLayer, Error, KeyedTokenCache, TokenCache};
use tower_bearer_redis::RedisStore;

use crate::redis_server::RedisServer;

/// The id of a session, which is the key of its upstream token. Forwarded requests have it as an extension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SessionId(Arc<str>);

/// The login of each session. If there are several gateways, keep it in a database.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<SessionId, Login>>>);

#[derive(Clone)]
struct Login {
    /// Names the session in the store, because the id must not be stored there: it is enough to use the session.
    number: usize,
    /// The user's own token.
    token: String,
}

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
        let mut sessions = self.lock();
        // A login that is renewed keeps its number.
        let number = sessions.get(&SessionId(id.into())).map_or(sessions.len() + 1, |login| login.number);
        sessions.insert(SessionId(id.into()), Login { number, token: token.to_owned() });
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

    /// The current login. Each exchange reads it, because the user's own login may have renewed it.
    fn login(&self, id: &SessionId) -> Result<Login, Error> {
        self.lock().get(id).cloned().ok_or_else(|| Error::denied("the session has ended"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Login>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Gateway ===

impl Gateway {
    fn new(sessions: Sessions, token_url: &str, base: &str, store: Option<RedisStore>) -> Result<Self, BoxError> {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let calls: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let issuer = Issuer::new(calls).token_endpoint(token_url);
        let subjects = sessions.clone();
        let tokens = KeyedTokenCache::new(move |id: &SessionId| {
            let (id, subjects) = (id.clone(), subjects.clone());
            let number = subjects.login(&id)?.number;
            let subject = move || std::future::ready(subjects.login(&id).map(|login| login.token));
            let exchange = TokenExchangeGrant::builder(&issuer, subject).client_id("gateway").client_auth("its secret");
            let cache = TokenCache::builder(exchange.audience("upstream").build()?);
            match &store {
                // One connection for all sessions, and a record and a lease for each.
                Some(store) => {
                    let shared = SharedSession::new(store.clone(), format!("upstream/session-{number}"));
                    cache.shared_session(shared).build()
                }
                None => cache.build(),
            }
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
    println!("one gateway");
    run(None, 1).await?;

    let (url, _server) = match std::env::var("REDIS_URL") {
        Ok(url) => (url, None),
        Err(_) => match RedisServer::start()? {
            Some(server) => (server.url.clone(), Some(server)),
            None => {
                println!("no redis-server on the path and no REDIS_URL: the part with Redis is skipped");
                return Ok(());
            }
        },
    };
    println!("two gateways and Redis");
    run(Some(&url), 2).await
}

/// Calls the upstream through this many gateways.
async fn run(redis: Option<&str>, gateways: usize) -> Result<(), BoxError> {
    // In your program: the addresses of your token endpoint and of the upstream.
    let (sts, upstream) = (fakes::token_exchange().await, fakes::upstream().await);

    let sessions = Sessions::default();
    let (mut tokens, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..gateways {
        // Each gateway has its own connection. The prefix differs in each run, because the numbers of sessions do not.
        let prefix = format!("stack-gateway-{}", std::process::id());
        let store = redis.map(|url| RedisStore::new(url)?.prefix(prefix)).transpose()?;
        let gateway = Gateway::new(sessions.clone(), &sts.url("/token"), upstream.origin(), store)?;
        tokens.push(gateway.tokens.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(format!("http://{}", listener.local_addr()?));
        tokio::spawn(axum::serve(listener, gateway.router()).into_future());
    }

    let caller: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let ask = async |here: &str, session: &str, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(format!("{here}{path}")).header("session", session);
        let response = caller.request(request.body(Full::default())?).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
        Ok::<_, BoxError>((status, text))
    };

    for (user, here) in ["ada", "grace", "grace", "ada"].into_iter().zip(addresses.iter().cycle()) {
        sessions.begin(&format!("session-of-{user}"), &format!("login-of-{user}"));
        let (status, who) = ask(here, &format!("session-of-{user}"), "GET", "/me").await?;
        println!("{user}: {status}, and the upstream saw {who}");
        assert_eq!((status, who), (StatusCode::OK, format!("Bearer upstream-of-login-of-{user}")));
    }
    println!("{} requests, {} exchanges", upstream.seen().len(), sts.seen().len());
    assert_eq!((upstream.seen().len(), sts.seen().len()), (4, 2));
    assert!(tokens.iter().all(|tokens| tokens.status().keys == 2), "each gateway has both sessions");

    let here = &addresses[0];
    let (status, _) = ask(here, "a-session-of-nobody", "GET", "/me").await?;
    println!("without a session: {status}");
    assert_eq!((status, upstream.seen().len()), (StatusCode::UNAUTHORIZED, 4));

    assert_eq!(ask(here, "session-of-ada", "POST", "/logout").await?.0, StatusCode::NO_CONTENT);
    for here in &addresses {
        let (status, _) = ask(here, "session-of-ada", "GET", "/me").await?;
        println!("after the logout: {status}");
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(tokens[0].status().keys, 1);
    for others in &tokens[1..] {
        // The other gateways drop the token of the session when they receive the message of the logout.
        let cache = others.cache(&SessionId("session-of-ada".into()))?;
        let signed_out = async {
            while !cache.status().signed_out {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), signed_out).await?;
        println!("the other gateway has ended the session, too");
    }
    Ok(())
}
