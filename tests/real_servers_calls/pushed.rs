//! Pushed authorization requests (RFC 9126).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tower_bearer::oauth2::{AuthorizationCodeLogin, AuthorizationCodeLoginBuilder, ClientAuth, Issuer};
use tower_bearer::testing::{Answer, TokenServer};

use crate::sources::{TOKEN_URL, at, by_method, form, headers, says};

const AUTHORIZATION_URL: &str = "https://auth.example.com/authorize";
const PAR_URL: &str = "https://auth.example.com/par";
const BACK: &str = "http://127.0.0.1:8400/back";
const ID: &str = "https://auth.example.com";
const REFERENCE: &str = "urn:ietf:params:oauth:request_uri:6esc_11ACC5bwc014ltc14eY22c";

fn pushed() -> Answer {
    Answer::json(201, json!({ "request_uri": REFERENCE, "expires_in": 60 }))
}

/// A login at a server with an endpoint for pushed requests.
fn login(server: &TokenServer) -> AuthorizationCodeLoginBuilder {
    let issuer = at(server.clone()).authorization_endpoint(AUTHORIZATION_URL);
    AuthorizationCodeLogin::builder(&issuer.pushed_authorization_request_endpoint(PAR_URL), "my-app", BACK)
}

fn query(url: &str) -> BTreeMap<String, String> {
    let (address, query) = url.split_once('?').unwrap();
    assert_eq!(address, AUTHORIZATION_URL);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

#[tokio::test]
async fn the_request_is_pushed_and_the_browser_is_sent_with_a_reference_to_it() {
    let server = TokenServer::new();
    server.queue(pushed());
    let login = login(&server).scope("openid").resource("https://api.example.com").parameter("prompt", "consent");
    let request = login.build().unwrap().begin().await.unwrap();
    assert_eq!(query(request.url()), form([("client_id", "my-app"), ("request_uri", REFERENCE)]));
    let [push] = server.requests().try_into().unwrap();
    assert_eq!((push.method.as_str(), push.uri.to_string()), ("POST", PAR_URL.to_owned()));
    let mut sent = push.form();
    let (state, challenge) = (sent.remove("state").unwrap(), sent.remove("code_challenge").unwrap());
    assert!(state.len() >= 43 && challenge.len() == 43);
    let expected = [
        ("response_type", "code"),
        ("redirect_uri", BACK),
        ("code_challenge_method", "S256"),
        ("client_id", "my-app"),
        ("scope", "openid"),
        ("resource", "https://api.example.com"),
        ("prompt", "consent"),
    ];
    assert_eq!(sent, form(expected));
    request.finish(&format!("{BACK}?code=c&state={state}")).await.unwrap();
    assert_eq!(server.requests()[1].uri, TOKEN_URL);
}

#[tokio::test]
async fn a_confidential_client_authenticates_and_names_itself_in_the_request() {
    let server = TokenServer::new();
    for auth in [ClientAuth::basic("its secret"), ClientAuth::post("its secret")] {
        server.queue(pushed());
        let request = login(&server).client_auth(auth).build().unwrap().begin().await.unwrap();
        assert!(!request.url().contains("secret"), "{}", request.url());
    }
    let [basic, post] = server.requests().try_into().unwrap();
    assert_eq!(headers(&basic)["authorization"], "Basic bXktYXBwOml0cyUyMHNlY3JldA==");
    assert_eq!(post.form()["client_secret"], "its secret");
    for request in [basic, post] {
        let ids = form_urlencoded::parse(&request.body).filter(|(name, _)| name == "client_id").count();
        assert_eq!((ids, request.form().contains_key("client_id")), (1, true));
    }
}

async fn begin(metadata: Value) -> (Result<String, String>, usize) {
    let (documents, server) = (TokenServer::new(), TokenServer::new());
    documents.queue(Answer::json(200, metadata));
    server.queue(pushed());
    let issuer = Issuer::discover(by_method(&documents, &server), ID);
    let login = AuthorizationCodeLogin::builder(&issuer, "my-app", BACK).build().unwrap();
    let url = login.begin().await.map(|request| request.url().to_owned()).map_err(|error| error.to_string());
    (url, server.calls().total())
}

#[tokio::test]
async fn the_metadata_says_whether_it_is_required() {
    let mut metadata = json!({
        "issuer": ID,
        "token_endpoint": TOKEN_URL,
        "authorization_endpoint": AUTHORIZATION_URL,
        "pushed_authorization_request_endpoint": PAR_URL,
    });
    let (url, calls) = begin(metadata.clone()).await;
    assert!(url.unwrap().contains("code_challenge=") && calls == 0);
    metadata["require_pushed_authorization_requests"] = json!(true);
    let (url, calls) = begin(metadata.clone()).await;
    assert_eq!((query(&url.unwrap())["request_uri"].as_str(), calls), (REFERENCE, 1));
    metadata["pushed_authorization_request_endpoint"] = json!(null);
    let (url, _) = begin(metadata).await;
    assert!(url.unwrap_err().contains("names no pushed_authorization_request_endpoint"));
}

#[tokio::test]
async fn a_server_that_does_not_take_it_says_why() {
    for answer in
        [Answer::json(201, json!({})), Answer::raw(200, "<html>"), Answer::json(201, json!({ "request_uri": "" }))]
    {
        let server = TokenServer::new();
        server.queue(answer);
        let error = login(&server).build().unwrap().begin().await.unwrap_err();
        assert!(error.to_string().contains(PAR_URL) && error.to_string().contains("request_uri"), "{error}");
    }
    let server = TokenServer::new();
    server.queue(Answer::json(400, json!({ "error": "invalid_request", "error_description": "no such redirect_uri" })));
    let error = login(&server).build().unwrap().begin().await.unwrap_err();
    assert!(error.is_denied() && says(&error).contains("no such redirect_uri"), "{error}");
}
