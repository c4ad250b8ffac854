//! The proxy over real servers: what goes through, and what does not.

use std::convert::Infallible;

use http_body::Frame;
use http_body_util::StreamBody;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;
use tower_bearer::testing::{Answer, Ledger};

use super::*;

/// A proxy to this API, and how to ask it.
async fn proxied(api: &Api, issuer: &Issuer) -> (Server, Client<HttpConnector, Body>, Server) {
    let server = Server::fake(api.clone()).await;
    let login = ClientCredentials::new(issuer.clone(), "https://auth.example.com/token", "app", "secret");
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
async fn a_callers_own_credentials_go_no_further() {
    let issuer = Issuer::new();
    let (proxy, caller, api) = proxied(&Api::new(issuer.ledger()), &issuer).await;
    assert_eq!(caller.request(get(&proxy)).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(api.tokens(), ["Bearer token-1"]);
}

#[tokio::test]
async fn a_rejection_of_the_proxy_is_no_rejection_of_its_caller() {
    let issuer = Issuer::new();
    let (proxy, caller, _api) = proxied(&Api::new(Ledger::new()), &issuer).await;
    assert_eq!(caller.request(get(&proxy)).await.expect("an answer").status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn without_a_token_the_proxy_is_unavailable() {
    let issuer = Issuer::new();
    issuer.fail(Some(Answer::oauth_error(401, "invalid_client")));
    let (proxy, caller, api) = proxied(&Api::new(issuer.ledger()), &issuer).await;
    assert_eq!(caller.request(get(&proxy)).await.expect("an answer").status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(api.seen().len(), 0);
}

#[tokio::test]
async fn bodies_stream_through_both_ways_whatever_their_length() {
    const PIECE: usize = LIMIT / 2;
    let echo = |request: http::Request<_>| async move { Ok::<_, Infallible>(Response::new(request.into_body())) };
    let echo = Server::start(service_fn(echo)).await;
    let (proxy, caller) = before(&echo, TokenCache::fixed("t").expect("a token")).await;
    let (pieces, body) = tokio::sync::mpsc::unbounded_channel();
    let body = Body::new(StreamBody::new(UnboundedReceiverStream::new(body)));
    let post = Request::post(proxy.url("/")).body(body).expect("a request");
    let mut answer = soon(caller.request(post)).await.expect("an answer").into_body();
    for n in 0..4 {
        // Sent when the one before has come back.
        pieces
            .send(Ok::<_, Infallible>(Frame::data(bytes::Bytes::from(vec![n; PIECE]))))
            .expect("the upload is not over");
        let mut came = 0;
        while came < PIECE {
            let frame = soon(answer.frame()).await.expect("more").expect("no error");
            came += frame.into_data().expect("data").len();
        }
    }
    drop(pieces);
    assert!(soon(answer.frame()).await.is_none());
    assert_eq!(echo.tokens(), ["Bearer t"]);
}

/// A hang would say nothing.
async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("nobody waits for what is not sent yet")
}
