//! Plain http beyond loopback, by its name.

use serde_json::json;
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::providers::mesh_connect::MeshConnect;
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, MeshConnectServer, MeshyDbServer, TokenServer};

use crate::sources::by_method;

const TOKEN_URL: &str = "http://keycloak.auth.svc:8080/token";
const ID: &str = "http://keycloak.auth.svc:8080";

fn grant(issuer: &Issuer) -> Result<TokenCache, tower_bearer::Error> {
    ClientCredentialsGrant::builder(issuer, "my-app", "its secret").build().map(TokenCache::new)
}

#[tokio::test]
async fn a_token_endpoint_is_rejected_with_the_name_of_what_allows_it() {
    let server = TokenServer::new();
    let issuer = Issuer::new(server.clone()).token_endpoint(TOKEN_URL);
    let error = grant(&issuer).unwrap_err();
    assert!(error.to_string().contains("`allow_insecure`"), "{error}");
    grant(&issuer.allow_insecure()).unwrap().get().await.unwrap();
    assert_eq!(server.requests()[0].uri, TOKEN_URL);
}

#[tokio::test]
async fn metadata_and_the_endpoints_in_it_are_allowed_by_the_same_name() {
    let (documents, tokens) = (TokenServer::new(), TokenServer::new());
    documents.queue(Answer::json(200, json!({ "issuer": ID, "token_endpoint": TOKEN_URL })));
    let issuer = Issuer::discover(by_method(&documents, &tokens), ID);
    assert!(grant(&issuer).unwrap_err().to_string().contains("`allow_insecure`"));
    grant(&issuer.allow_insecure()).unwrap().get().await.unwrap();
    assert_eq!(tokens.requests()[0].uri, TOKEN_URL);
}

#[tokio::test]
async fn so_are_the_logins_of_providers() {
    let server = MeshyDbServer::new("acme", "public-key").user("ann", "her password");
    let meshy = MeshyDb::builder(server.clone(), "acme", "public-key").auth_base("http://meshy.internal");
    assert!(meshy.clone().build().unwrap_err().to_string().contains("`allow_insecure`"));
    let meshy = meshy.allow_insecure().build().unwrap();
    TokenCache::new(meshy.login_with_password("ann", "her password").build().unwrap()).get().await.unwrap();
    assert_eq!(server.requests()[0].uri, "http://meshy.internal/acme/connect/token");

    let server = MeshConnectServer::new("my-client", "my-secret");
    let login = MeshConnect::builder(server.clone(), "my-client", "my-secret").base("http://mesh.internal");
    assert!(login.clone().build().unwrap_err().to_string().contains("`allow_insecure`"));
    TokenCache::new(login.allow_insecure().build().unwrap()).get().await.unwrap();
}

#[test]
fn what_is_no_url_is_not_allowed_by_any_name() {
    for url in ["ftp://auth.example.com/token", "auth.example.com", "http://ann:pw@auth.example.com/token"] {
        let issuer = Issuer::new(TokenServer::new()).token_endpoint(url).allow_insecure();
        assert!(grant(&issuer).unwrap_err().is_invalid(), "{url}");
    }
}
