//! A call that gets no token ends with a status that says what to do.

use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceBuilder;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::replay::Buffered;
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache};

#[path = "../src/status.rs"]
mod status;

/// The status of a call whose token call gets this answer.
async fn status_after(answer: Answer) -> Status {
    let issuer = TokenServer::new();
    issuer.queue(answer);
    let at = Issuer::new(issuer).token_endpoint("https://issuer.test/token");
    let cache = TokenCache::new(ClientCredentialsGrant::builder(&at, "app", "secret").build().expect("valid"));
    let api = "http://127.0.0.1:9";
    let layer = BearerLayer::new(cache, [api]).expect("an origin");
    let layer = layer.rejection_policy(RejectionPolicy::new().grpc()).allow_relative_uris();
    let layer = layer.replay(Buffered::new(64 * 1024).wrap(Body::new));
    let channel = Endpoint::from_static(api).connect_lazy();
    let mut health = HealthClient::new(ServiceBuilder::new().map_err(status::of).layer(layer).service(channel));
    health.check(HealthCheckRequest { service: String::new() }).await.expect_err("there is no token")
}

#[tokio::test]
async fn a_denied_client_is_unauthenticated() {
    let status = status_after(Answer::json(401, serde_json::json!({ "error": "invalid_client" }))).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn an_issuer_that_is_down_is_unavailable() {
    let status = status_after(Answer::json(503, serde_json::json!({}))).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}
