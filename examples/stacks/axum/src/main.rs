//! axum as a reverse proxy: callers have no token, and the proxy's requests to the API carry one.
//!
//! ```text
//! cargo run -p stack-axum
//! ```
#![expect(clippy::disallowed_methods, reason = "the proxy is a task")]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HOST, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{StatusCode, Uri, Version};
use axum::response::Response;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use loopback::Server;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::replay::{Buffered, ReplayBody};
use tower_bearer::testing::{Api, TokenServer};
use tower_bearer::{Bearer, BearerLayer, Error, TokenCache};

/// The limit of a recorded upload, which is sent again after a 401.
const LIMIT: usize = 64 * 1024;

type Upstream = Bearer<Client<HttpConnector, Body>, Buffered<fn(ReplayBody<Body>) -> Body>>;

#[derive(Clone)]
struct Proxy {
    upstream: Upstream,
    base: String,
}

fn proxy(base: &str, token: TokenCache) -> Result<Router, BoxError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let wrap: fn(ReplayBody<Body>) -> Body = Body::new;
    let upstream = BearerLayer::new(token, [base])?.replay(Buffered::new(LIMIT).wrap(wrap)).layer(http);
    Ok(Router::new().fallback(forward).with_state(Proxy { upstream, base: base.to_owned() }))
}

async fn forward(State(proxy): State<Proxy>, mut request: Request) -> Result<Response, StatusCode> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = format!("{}{path}", proxy.base).parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::default();
    // A caller's own `Authorization` would win over the proxy's token. The other headers concern the caller and the
    // proxy.
    for name in [AUTHORIZATION, COOKIE, HOST, CONNECTION, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE] {
        request.headers_mut().remove(name);
    }
    let response = proxy.upstream.oneshot(request).await.map_err(|error| match Error::find(&*error) {
        // There is no token. The reason belongs in the log, and not in the response.
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        None => StatusCode::BAD_GATEWAY,
    })?;
    // The API rejected the proxy, and not the caller.
    if response.status() == StatusCode::UNAUTHORIZED {
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(response.map(Body::new))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: the addresses of your token endpoint and of your API.
    let issuer = TokenServer::new();
    let api = Server::fake(Api::new(issuer.ledger())).await;
    let auth_server = Issuer::new(issuer.clone()).token_endpoint("https://auth.example.com/token");
    let login = ClientCredentialsGrant::builder(&auth_server, "my-app", "its secret").build()?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let here = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, proxy(api.origin(), TokenCache::new(login))?).into_future());

    let caller: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let post = || Request::post(format!("{here}/things?n=1")).body(Full::from("hello")).expect("a request");
    let answer = caller.request(post()).await?;
    println!("{}", answer.status());
    assert_eq!(answer.into_body().collect().await?.to_bytes(), r#"{"accepted":true}"#);

    // A 401 counts once the token is old enough to have reached every server of the API.
    tokio::time::sleep(Duration::from_secs(2)).await;
    issuer.ledger().revoke_all();
    let answer = caller.request(post()).await?;
    println!("{} after the token was revoked", answer.status());
    assert_eq!((answer.status(), api.seen()[0].uri.to_string()), (StatusCode::OK, "/things?n=1".to_owned()));
    assert_eq!(api.tokens(), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    Ok(())
}

#[cfg(test)]
mod tests;
