//! The parameters of token calls.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_bearer::oauth2::{Algorithm, Assertion, ClientAuth, ClientCredentialsGrant, ExtensionGrant, JwtBearerGrant};
use tower_bearer::testing::{Answer, ManualClock, TokenServer};
use tower_bearer::{FetchContext, Token, TokenCache};

use crate::signed::{ED25519, key};
use crate::sources::{HOUR, TOKEN_URL, at, each, form, headers, pass, password, says};

const BASIC: &str = "Basic bXktYXBwOml0cyUyMHNlY3JldA==";

// === a grant type of the server's own ===

#[tokio::test]
async fn a_grant_type_of_the_servers_own_is_its_name_its_parameters_and_a_client() {
    let server = TokenServer::new();
    let grant = ExtensionGrant::builder(&at(server.clone()), "account_credentials")
        .grant_parameter("account_id", "my-account")
        .client_id("my-app")
        .client_auth("its secret")
        .build()
        .unwrap();
    TokenCache::new(grant).get().await.unwrap();
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(request.form(), form([("grant_type", "account_credentials"), ("account_id", "my-account")]));
    assert_eq!(headers(&request)["authorization"], BASIC);
}

#[tokio::test]
async fn a_secret_of_such_a_grant_is_asked_for_at_each_fetch_and_never_repeated() {
    let server = TokenServer::new();
    let saml = "urn:ietf:params:oauth:grant-type:saml2-bearer";
    let grant = ExtensionGrant::builder(&at(server.clone()), saml)
        .grant_parameter("assertion", async || Ok::<_, io::Error>("PHNhbWw+\n"))
        .scope("read")
        .build()
        .unwrap();
    assert!(!format!("{grant:?}").contains("PHNhbWw"));
    let cache = TokenCache::new(grant);
    cache.get().await.unwrap();
    let expected = [("grant_type", saml), ("assertion", "PHNhbWw+"), ("scope", "read")];
    assert_eq!(server.requests()[0].form(), form(expected));
    server.queue(Answer::json(400, json!({ "error": "invalid_grant", "error_description": "PHNhbWw+ is over" })));
    let error = cache.refresh().await.unwrap_err();
    assert!(!says(&error).contains("PHNhbWw"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn such_a_grant_refreshes_without_its_own_parameters_and_is_sent_again_when_that_is_denied() {
    let server = TokenServer::new();
    server.rotate_refresh_tokens(true);
    let uma = "urn:ietf:params:oauth:grant-type:uma-ticket";
    let grant = ExtensionGrant::builder(&at(server.clone()), uma).grant_parameter("ticket", "t1cket");
    let cache = TokenCache::new(grant.parameter("region", "eu").client_id("my-app").build().unwrap());
    cache.get().await.unwrap();
    pass(HOUR).await;
    cache.get().await.unwrap();
    server.queue(Answer::oauth_error(400, "invalid_grant"));
    cache.refresh().await.unwrap();
    assert_eq!(each(&server.requests(), "grant_type"), [uma, "refresh_token", "refresh_token", uma]);
    assert_eq!(each(&server.requests(), "ticket"), ["t1cket", "-", "-", "t1cket"]);
    assert_eq!(each(&server.requests(), "region"), ["eu"; 4]);
}

#[test]
fn a_parameter_that_the_client_sends_is_no_parameter_of_a_grant() {
    for (name, value) in [("", "x"), ("grant_type", "x"), ("client_secret", "x"), ("scope", "x"), ("account", "")] {
        let grant = ExtensionGrant::builder(&at(TokenServer::new()), "own").grant_parameter(name, value);
        let error = grant.build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("grant_parameter"), "{name}: {error}");
    }
    let error = ExtensionGrant::builder(&at(TokenServer::new()), "").build().unwrap_err();
    assert!(error.to_string().starts_with("invalid grant_type: "), "{error}");
}

// === a refresh ===

#[tokio::test]
async fn a_refresh_carries_the_scope_that_is_set() {
    let server = TokenServer::new();
    server.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(&server).scope("read write").refresh_scope("read").build().unwrap());
    cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    assert_eq!(each(&server.requests(), "scope"), ["read write", "read"]);
}

// === resources and clients ===

#[tokio::test]
async fn a_resource_need_not_be_a_uri() {
    let server = TokenServer::new();
    let resource = "00000003-0000-0ff1-ce00-000000000000/contoso.example@5eb9";
    let grant = ClientCredentialsGrant::builder(&at(server.clone()), "my-app", "its secret").resource(resource);
    TokenCache::new(grant.build().unwrap()).get().await.unwrap();
    assert_eq!(server.requests()[0].form()["resource"], resource);
}

#[tokio::test]
async fn the_client_id_is_in_the_body_in_addition_to_basic_if_set() {
    let server = TokenServer::new();
    let auth = ClientAuth::basic("its secret").client_id_in_body();
    let grant = ClientCredentialsGrant::builder(&at(server.clone()), "my-app", auth).build().unwrap();
    TokenCache::new(grant).get().await.unwrap();
    let [request] = server.requests().try_into().unwrap();
    assert_eq!(request.form(), form([("grant_type", "client_credentials"), ("client_id", "my-app")]));
    assert_eq!(headers(&request)["authorization"], BASIC);
}

// === assertions ===

fn claims(jwt: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn an_issuer_whose_clock_is_behind_takes_an_assertion() {
    let (server, clock) = (TokenServer::new(), ManualClock::new());
    let assertion = Assertion::builder(key(Algorithm::EdDSA, ED25519), "me").audience(TOKEN_URL).build().unwrap();
    let grant = JwtBearerGrant::builder(&at(server.clone()), assertion).client_id("my-app");
    let grant = grant.client_auth(ClientAuth::private_key_jwt(key(Algorithm::EdDSA, ED25519))).build().unwrap();
    TokenCache::builder(grant).clock(clock).build().unwrap().get().await.unwrap();
    let sent = server.requests().remove(0).form();
    for name in ["assertion", "client_assertion"] {
        let claims = claims(&sent[name]);
        let now = 1_700_000_000;
        assert_eq!(
            (&claims["iat"], &claims["nbf"], &claims["exp"]),
            (&json!(now - 60), &json!(now - 60), &json!(now + 60))
        );
    }
}

#[tokio::test]
async fn a_custom_login_signs_an_assertion_at_the_time_of_the_cache() {
    let key = key(Algorithm::EdDSA, ED25519);
    let app = Assertion::builder(key, "my-app-id").lifetime(Duration::from_secs(540)).build().unwrap();
    let source = move |context: FetchContext| {
        let signed = app.sign(context.now());
        async move { Token::new(signed?.expose()) }
    };
    let token = TokenCache::builder(source).clock(ManualClock::new()).build().unwrap().get().await.unwrap();
    let claims = claims(token.access_token());
    assert_eq!((&claims["iss"], claims.get("aud")), (&json!("my-app-id"), None));
    // Code hosts accept at most ten minutes.
    assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1_699_999_940), &json!(1_700_000_540)));
}
