//! The proxy over real servers: what it forwards, and what it does not.

use std::convert::Infallible;

use http_body::Frame;
use http_body_util::StreamBody;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;
use tower_bearer::testing::{Answer, Ledger};

use super::*;

/// A proxy to this API, and a client.
async fn proxied(api: &Api, issuer: &TokenServer) -> (Server, Client<HttpConnector, Body>, Server) {
    let server = Server::fake(api.clone()).await;
    let issuer = Issuer::new(issuer.clone()).token_endpoint("https://auth.example.com/token");
    let login = ClientCredentialsGrant::builder(&issuer, "app", "secret").build();
    let (proxy, caller) = before(&server, TokenCache::new(login.expect("a login"))).await;
    (proxy, caller, server)
}

async fn before(server: &Server, token: TokenCache) -> (Server, Client<HttpConnector, Body>) {
    let proxy = proxy(server.origin(), token).expect("a proxy");
    let service = service_fn(move |request: http::Request<_>| proxy.clone().oneshot(request.map(Body::new)));
    (Server::start(service).await, Client::builder(TokioExecutor::new()).build_http())
}

fn get(proxy: &Server) -> http::Request<Body> {
    Request::get(proxy.url("/")).header("authorization", "Bearer stolen").body(Body::empty()).expect("a request")
}

#[tokio::test]
async fn the_proxy_does_not_forward_a_callers_credentials() {
    let issuer = TokenServer::new();
    let (proxy, caller, api) = proxied(&Api::new(issuer.ledger()), &issuer).await;
    assert_eq!(caller.request(get(&proxy)).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(api.tokens(), ["Bearer token-1"]);
}

#[tokio::test]
async fn a_rejection_of_the_proxy_is_not_a_401_for_the_caller() {
    let issuer = TokenServer::new();
    let (proxy, caller, _api) = proxied(&Api::new(Ledger::new()), &issuer).await;
    assert_eq!(caller.request(get(&proxy)).await.expect("an answer").status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn without_a_token_the_proxy_is_unavailable() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::oauth_error(401, "invalid_client")));
    let (proxy, caller, api) = proxied(&Api::new(issuer.ledger()), &issuer).await;
    assert_eq!(caller.request(get(&proxy)).await.expect("an answer").status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn bodies_of_any_length_stream_in_both_directions() {
    const PIECE: usize = LIMIT / 2;
    let echo = |request: http::Request<_>| async move { Ok::<_, Infallible>(Response::new(request.into_body())) };
    let echo = Server::start(service_fn(echo)).await;
    let (proxy, caller) = before(&echo, TokenCache::fixed("t").expect("a token")).await;
    let (pieces, body) = tokio::sync::mpsc::unbounded_channel();
    let body = Body::new(StreamBody::new(UnboundedReceiverStream::new(body)));
    let post = Request::post(proxy.url("/")).body(body).expect("a request");
    let mut answer = within_a_minute(caller.request(post)).await.expect("an answer").into_body();
    for n in 0..4 {
        // Each piece is sent when the previous one has come back.
        pieces.send(Ok::<_, Infallible>(Frame::data(bytes::Bytes::from(vec![n; PIECE])))).expect("the upload is open");
        let mut came = 0;
        while came < PIECE {
            let frame = within_a_minute(answer.frame()).await.expect("more").expect("no error");
            came += frame.into_data().expect("data").len();
        }
    }
    drop(pieces);
    assert!(within_a_minute(answer.frame()).await.is_none());
    assert_eq!(echo.tokens(), ["Bearer t"]);
}

/// Turns a hang into a failure with a message.
async fn within_a_minute<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("no side waits for data that is not sent yet")
}
