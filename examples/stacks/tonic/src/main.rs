//! tonic: a generated client over the layer over a channel. `UNAUTHENTICATED` is a rejection, for streams too.
//!
//! ```text
//! cargo run -p stack-tonic
//! ```

use std::time::Duration;

use loopback::Server;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{BoxError, Layer};
use tower_bearer::replay::Buffered;
use tower_bearer::testing::Issuer;
use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache, oauth2::ClientCredentials};

mod fake;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Yours: the addresses of your token endpoint and of your API.
    let issuer = Issuer::new();
    let api = Server::start(fake::health(issuer.ledger()).await).await;
    let login = ClientCredentials::new(issuer.clone(), "https://auth.example.com/token", "my-app", "its secret")?;

    let channel = Endpoint::from_shared(api.origin().to_owned())?.connect_lazy();
    let layer = BearerLayer::new(TokenCache::new(login), [api.origin()])?
        // A gRPC server rejects with a status of its own, in a 200.
        .rejection_policy(RejectionPolicy::new().grpc())
        // The requests of a channel are paths; where they go, only the channel knows.
        .allow_relative_uris()
        // A call's messages are a stream. Recorded, they can go again.
        .replay(Buffered::new(64 * 1024).wrap(Body::new));
    let mut health = HealthClient::new(layer.layer(channel));

    let ask = || HealthCheckRequest { service: String::new() };
    let answer = health.check(ask()).await?.into_inner();
    println!("check: {:?}", answer.status());

    // A rejection counts once the token is old enough to have reached every server of the API.
    tokio::time::sleep(Duration::from_secs(2)).await;
    issuer.ledger().revoke_all();
    let mut stream = health.watch(ask()).await?.into_inner();
    let first = stream.message().await?.expect("a status");
    println!("watch: {:?} after the token was revoked", first.status());
    assert_eq!(first.status, ServingStatus::Serving as i32);
    assert_eq!(api.tokens(), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    Ok(())
}
