//! Plain http beyond loopback, which `allow_insecure` allows.

use serde_json::json;
use tower_bearer::TokenCache;
use tower_bearer::json::JsonLogin;
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

#[tokio::test]
async fn so_is_a_json_login_that_posts_or_gets() {
    let server = TokenServer::new();
    let url = "http://169.254.169.254/metadata/identity/oauth2/token?resource=x";
    let logins = [JsonLogin::get(server.clone(), url), JsonLogin::builder(server.clone(), url, json!({}))];
    for (login, method) in logins.into_iter().zip(["GET", "POST"]) {
        let error = login.clone().build().unwrap_err().to_string();
        assert!(error.starts_with("invalid url: ") && error.contains("`allow_insecure`"), "{error}");
        server.queue(Answer::json(200, json!({ "access_token": "t" })));
        TokenCache::new(login.allow_insecure().build().unwrap()).get().await.unwrap();
        let request = server.requests().pop().unwrap();
        assert_eq!((request.method.as_str(), request.uri.to_string()), (method, url.to_owned()));
    }
}

#[test]
fn an_invalid_url_is_never_allowed() {
    for url in ["ftp://auth.example.com/token", "auth.example.com", "http://ann:pw@auth.example.com/token"] {
        let issuer = Issuer::new(TokenServer::new()).token_endpoint(url).allow_insecure();
        assert!(grant(&issuer).unwrap_err().is_invalid(), "{url}");
        assert!(JsonLogin::get(TokenServer::new(), url).allow_insecure().build().unwrap_err().is_invalid(), "{url}");
    }
}
