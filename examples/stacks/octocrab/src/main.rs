//! octocrab: an SDK that takes any tower service. The layer adds the token, and octocrab has none.
//!
//! ```text
//! cargo run -p stack-octocrab
//! ```

use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopback::Server;
use octocrab::service::middleware::base_uri::BaseUriLayer;
use octocrab::{AuthState, OctoBody, Octocrab, OctocrabBuilder};
use serde_json::{Value, json};
use tower::{BoxError, Layer};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Api, TokenServer};
use tower_bearer::{BearerLayer, TokenCache};

fn github(base: &str, token: TokenCache) -> Result<Octocrab, BoxError> {
    let http: Client<_, OctoBody> = Client::builder(TokioExecutor::new()).build_http();
    let layer = BearerLayer::new(token, [base])?.replay(|body: &OctoBody| body.try_clone());
    let github = OctocrabBuilder::new_empty()
        .with_service(layer.layer(http))
        // octocrab's requests are paths. Each layer is outside the layers that were added before.
        .with_layer(&BaseUriLayer::new(base.parse()?))
        .with_auth(AuthState::None)
        .build()?;
    Ok(github)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: https://api.github.com, and your source of tokens.
    let issuer = TokenServer::new();
    let server = Server::fake(Api::new(issuer.ledger())).await;
    let auth_server = Issuer::new(issuer.clone()).token_endpoint("https://auth.example.com/token");
    let login = ClientCredentialsGrant::builder(&auth_server, "my-app", "its secret").build()?;
    let github = github(server.origin(), TokenCache::new(login))?;

    let user: Value = github.get("/user", None::<&()>).await?;
    println!("GET /user: {user}");

    // A 401 counts once the token is old enough to have reached every server of the API.
    tokio::time::sleep(Duration::from_secs(2)).await;
    issuer.ledger().revoke_all();
    let issue: Value = github.post("/repos/acme/rocket/issues", Some(&json!({ "title": "It flies" }))).await?;
    println!("POST /repos/acme/rocket/issues: {issue} after the token was revoked");
    assert_eq!(server.tokens(), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    Ok(())
}
