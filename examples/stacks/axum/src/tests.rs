//! The proxy over real servers: what goes through, and what does not.

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use tower_bearer::testing::{Answer, Ledger};

use super::*;

/// A proxy to this API, and how to ask it.
async fn proxied(api: &Api, issuer: &Issuer) -> (Server, Client<HttpConnector, Body>, Server) {
    let server = Server::fake(api.clone()).await;
    let login = ClientCredentials::new(issuer.clone(), "https://auth.example.com/token", "app", "secret");
    let proxy = proxy(server.origin(), TokenCache::new(login.expect("a login"))).expect("a proxy");
    let service = tower::service_fn(move |request: http::Request<_>| proxy.clone().oneshot(request.map(Body::new)));
    (Server::start(service).await, Client::builder(TokioExecutor::new()).build_http(), server)
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
async fn a_refusal_of_the_proxy_is_no_refusal_of_its_caller() {
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
async fn an_upload_streams_through_whatever_its_length() {
    let issuer = Issuer::new();
    let accepting = Api::new(issuer.ledger());
    let (proxy, caller, _api) = proxied(&accepting, &issuer).await;
    let pieces = (0..8).map(|_| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(vec![7; LIMIT / 4]))));
    let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
    let post = Request::post(proxy.url("/upload")).body(body).expect("a request");
    let answer = caller.request(post).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), r#"{"accepted":true}"#);
    assert_eq!(accepting.requests()[0].body.len(), 2 * LIMIT);
}
