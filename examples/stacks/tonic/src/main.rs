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
use tower::{BoxError, ServiceBuilder};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::replay::Buffered;
use tower_bearer::testing::TokenServer;
use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache};

mod fake;
mod status;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: the addresses of your token endpoint and of your API.
    let issuer = TokenServer::new();
    let api = Server::start(fake::health(issuer.ledger()).await).await;
    let auth_server = Issuer::new(issuer.clone()).token_endpoint("https://auth.example.com/token");
    let login = ClientCredentialsGrant::builder(&auth_server, "my-app", "its secret").build()?;

    let channel = Endpoint::from_shared(api.origin().to_owned())?.connect_lazy();
    let layer = BearerLayer::new(TokenCache::new(login), [api.origin()])?
        // A gRPC server rejects with a gRPC status, in a 200.
        .rejection_policy(RejectionPolicy::new().grpc())
        // The requests of a channel are paths, and only the channel knows the host.
        .allow_relative_uris()
        // A call's messages are a stream. A recording of it can be sent again.
        .replay(Buffered::new(64 * 1024).wrap(Body::new));
    let service = ServiceBuilder::new().map_err(status::of).layer(layer).service(channel);
    let mut health = HealthClient::new(service);

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
