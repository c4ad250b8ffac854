//! The settings of every grant for resources, audiences and further parameters.

use serde_json::json;
use tower_bearer::TokenCache;
use tower_bearer::oauth2::ClientCredentialsGrant;
use tower_bearer::testing::{Answer, TokenServer};

use crate::sources::{at, client_credentials, password, says};

/// All values of a parameter, in order.
fn all(issuer: &TokenServer, call: usize, name: &str) -> Vec<String> {
    let requests = issuer.requests();
    let sent = form_urlencoded::parse(&requests[call].body).into_owned();
    sent.filter(|(key, _)| key == name).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn all_resources_and_audiences_are_sent_with_logins_and_refreshes() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let source = password(&issuer).resource("https://a.example/x?y=1").resource("urn:example:b");
    let source = source.audience("one").audience("two").parameter("region", "eu").build().unwrap();
    let cache = TokenCache::new(source);
    cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    for call in 0..2 {
        assert_eq!(all(&issuer, call, "resource"), ["https://a.example/x?y=1", "urn:example:b"]);
        assert_eq!(all(&issuer, call, "audience"), ["one", "two"]);
        assert_eq!(all(&issuer, call, "region"), ["eu"]);
    }
}

#[test]
fn a_resource_is_any_non_empty_text() {
    let source = || client_credentials(&TokenServer::new());
    for resource in [
        "", "a
:x",
    ] {
        let error = source().resource(resource).build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().starts_with("invalid resource: "), "{resource:?}: {error}");
    }
    for resource in
        ["api", "00000003-0000-0ff1-ce00-000000000000/a.example@tenant", "https://a.example/#x", "api://0000"]
    {
        source().resource(resource).build().unwrap();
    }
}

#[test]
fn parameters_of_the_grants_and_settings_are_reserved() {
    let reserved = "grant_type client_id client_secret client_assertion client_assertion_type scope username password \
                    refresh_token assertion subject_token subject_token_type actor_token actor_token_type \
                    requested_token_type code code_verifier redirect_uri device_code audience resource response_type \
                    state code_challenge code_challenge_method";
    for name in reserved.split_whitespace() {
        let error = client_credentials(&TokenServer::new()).parameter(name, "x").build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(name), "{error}");
    }
    client_credentials(&TokenServer::new()).parameter("", "x").build().unwrap_err();
}

#[tokio::test]
async fn a_parameter_may_be_a_secret() {
    let issuer = TokenServer::new();
    let source = || client_credentials(&issuer).parameter("otp", "0ne-t1me").audience("billing").build().unwrap();
    assert!(!format!("{:?} {:#?}", source(), source()).contains("0ne-t1me"));
    let words = json!({ "error": "invalid_request", "error_description": "0ne-t1me was used for billing" });
    issuer.queue(Answer::json(400, words));
    let error = TokenCache::new(source()).get().await.unwrap_err();
    assert!(!says(&error).contains("0ne-t1me"), "{error}");
    assert_eq!(error.description(), Some("[redacted] was used for billing"));
}

#[test]
fn an_empty_client_id_is_an_error() {
    assert!(ClientCredentialsGrant::builder(&at(TokenServer::new()), "", "s").build().unwrap_err().is_invalid());
    assert!(
        ClientCredentialsGrant::builder(&at(TokenServer::new()), "my-app\n", "s").build().unwrap_err().is_invalid()
    );
}
