//! reqwest-middleware: the layer is one more middleware, and the code that sends requests is unchanged.
//!
//! ```text
//! cargo run -p stack-reqwest-middleware
//! ```

use std::time::Duration;

use loopback::Server;
use reqwest_middleware::ClientWithMiddleware;
use tower::BoxError;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Api, TokenServer};
use tower_bearer::{BearerLayer, TokenCache};
use tower_bearer_reqwest::{BearerMiddleware, Reqwest};

fn client(base: &str, token_url: &str) -> Result<ClientWithMiddleware, BoxError> {
    // The token calls do not go through the chain, because they would then need a token.
    let auth_server = Issuer::new(Reqwest::build(reqwest::Client::builder())?).token_endpoint(token_url);
    let login = ClientCredentialsGrant::builder(&auth_server, "my-app", "its secret").build()?;
    let layer = BearerLayer::new(TokenCache::new(login), [base])?;
    // This client follows redirects within one origin only; reqwest's default policy leaks the token.
    let client = BearerMiddleware::client_builder(reqwest::Client::builder())?;
    // In your program: retries before the middleware, traces of each send after it.
    Ok(client.with(BearerMiddleware::new(layer)).build())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: the addresses of your token endpoint and of your API.
    let issuer = TokenServer::new();
    let auth = Server::fake(issuer.clone()).await;
    let api = Server::fake(Api::new(issuer.ledger())).await;

    let client = client(api.origin(), &auth.url("/token"))?;
    let post = || client.post(api.url("/greetings")).body("Ann").timeout(Duration::from_secs(5)).send();
    println!("{}", post().await?.error_for_status()?.text().await?);

    // A 401 counts once the token is old enough to have reached every server of the API.
    tokio::time::sleep(Duration::from_secs(2)).await;
    issuer.ledger().revoke_all();
    println!("{} after the token was revoked", post().await?.error_for_status()?.text().await?);
    assert_eq!(api.tokens(), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    Ok(())
}
