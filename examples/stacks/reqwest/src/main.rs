//! reqwest: its builder makes the requests, its response reads the answers, and the layer is in between.
//!
//! ```text
//! cargo run -p stack-reqwest
//! ```

use std::time::Duration;

use loopback::Server;
use serde_json::{Value, json};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Api, TokenServer};
use tower_bearer::{Bearer, BearerLayer, TokenCache};
use tower_bearer_reqwest::{Reqwest, TryClone};

/// A client of an API, as an application has one.
#[derive(Clone)]
struct Client {
    http: Reqwest,
    api: Bearer<Reqwest, TryClone>,
    base: String,
}

impl Client {
    fn new(base: &str, token_url: &str) -> Result<Self, BoxError> {
        // This client follows no redirects, with any policy of the builder. To follow them, put tower-http's
        // `FollowRedirect` outside the layer.
        let http = Reqwest::build(reqwest::Client::builder().connect_timeout(Duration::from_secs(5)))?;
        let auth_server = Issuer::new(http.clone()).token_endpoint(token_url);
        let login = ClientCredentialsGrant::builder(&auth_server, "my-app", "its secret").build()?;
        let api = BearerLayer::new(TokenCache::new(login), [base])?.replay(TryClone).layer(http.clone());
        Ok(Self { http, api, base: base.to_owned() })
    }

    async fn greet(&self, name: &str) -> Result<Value, BoxError> {
        let request = self.http.client().post(format!("{}/greetings", self.base));
        let request = request.json(&json!({ "name": name })).timeout(Duration::from_secs(5)).build()?;
        let answer = self.api.clone().ready().await?.call(request.try_into()?).await?;
        Ok(reqwest::Response::from(answer).error_for_status()?.json().await?)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: the addresses of your token endpoint and of your API.
    let issuer = TokenServer::new();
    let auth = Server::fake(issuer.clone()).await;
    let api = Server::fake(Api::new(issuer.ledger())).await;

    let client = Client::new(api.origin(), &auth.url("/token"))?;
    println!("{}", client.greet("Ann").await?);

    // A 401 counts once the token is old enough to have reached every server of the API.
    tokio::time::sleep(Duration::from_secs(2)).await;
    issuer.ledger().revoke_all();
    println!("{} after the token was revoked", client.greet("Bob").await?);
    assert_eq!(api.tokens(), ["Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    Ok(())
}
