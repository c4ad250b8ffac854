//! A login in a browser (RFC 6749 section 4.1) with PKCE (RFC 7636), and the checks of its redirect (RFC 9207).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};
use tower_bearer::oauth2::{
    self, AuthorizationCodeLogin, AuthorizationCodeLoginBuilder, AuthorizationRequest, ClientAuth,
};
use tower_bearer::testing::{Answer, TokenServer};

use crate::sources::{HOUR, TOKEN_URL, at, by_method, form, says};

const AUTHORIZATION_URL: &str = "https://auth.example.com/authorize";
const REDIRECT_URI: &str = "http://127.0.0.1:8400/back";
const ISSUER: &str = "https://auth.example.com";

fn login(issuer: &TokenServer) -> AuthorizationCodeLoginBuilder {
    AuthorizationCodeLogin::builder(
        &at(issuer.clone()).authorization_endpoint(AUTHORIZATION_URL),
        "my-app",
        REDIRECT_URI,
    )
}

/// The parameters of the URL for the browser. Checks that none is repeated.
fn sent(request: &AuthorizationRequest) -> BTreeMap<String, String> {
    let (_, query) = request.url().split_once('?').unwrap();
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let sent: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(sent.len(), pairs.len());
    sent
}

fn redirect(request: &AuthorizationRequest, query: &str) -> String {
    format!("{REDIRECT_URI}?state={}&{query}", sent(request)["state"])
}

/// Starts a login at an issuer with this metadata.
async fn at_issuer(tokens: &TokenServer, says_iss: bool) -> AuthorizationRequest {
    let documents = TokenServer::new();
    let metadata = json!({
        "issuer": ISSUER,
        "authorization_endpoint": AUTHORIZATION_URL,
        "token_endpoint": TOKEN_URL,
        "authorization_response_iss_parameter_supported": says_iss,
    });
    documents.fail(Some(Answer::json(200, metadata)));
    let issuer = oauth2::Issuer::discover(by_method(&documents, tokens), ISSUER);
    AuthorizationCodeLogin::builder(&issuer, "my-app", REDIRECT_URI).build().unwrap().begin().await.unwrap()
}

// === the URL and the redirect ===

#[tokio::test]
async fn a_pasted_redirect_url_may_have_white_space_around_it() {
    let issuer = TokenServer::new();
    for (before, after) in [("", "\n"), ("  ", "\r\n"), ("\t", " ")] {
        let request = login(&issuer).build().unwrap().begin().await.unwrap();
        let line = format!("{before}{}{after}", redirect(&request, "code=the-code"));
        request.finish(&line).await.unwrap();
        assert_eq!(issuer.requests().pop().unwrap().form()["code"], "the-code");
    }
}

#[tokio::test]
async fn the_url_has_a_challenge_and_the_code_is_sent_with_its_verifier() {
    let issuer = TokenServer::new();
    let login = login(&issuer).scope("openid offline_access").resource("https://api.example.com");
    let request = login.parameter("prompt", "consent").build().unwrap().begin().await.unwrap();
    assert!(request.url().starts_with(&format!("{AUTHORIZATION_URL}?")), "{}", request.url());
    let mut sent = sent(&request);
    let token = request.finish(&format!("{REDIRECT_URI}?code=the%2Fcode&state={}#_=_", sent["state"])).await.unwrap();
    assert_eq!((token.access_token(), token.lifetime()), ("token-1", HOUR));
    let (challenge, state) = (sent.remove("code_challenge").unwrap(), sent.remove("state").unwrap());
    let expected = [
        ("response_type", "code"),
        ("client_id", "my-app"),
        ("redirect_uri", REDIRECT_URI),
        ("code_challenge_method", "S256"),
        ("scope", "openid offline_access"),
        ("resource", "https://api.example.com"),
        ("prompt", "consent"),
    ];
    assert_eq!(sent, form(expected));
    assert_eq!(issuer.requests()[0].uri.to_string(), TOKEN_URL);
    let mut token_call = issuer.requests()[0].form();
    let verifier = token_call.remove("code_verifier").unwrap();
    // RFC 7636 section 4.1 requires at least 43 unreserved characters.
    assert!(
        verifier.len() >= 43 && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    );
    assert_eq!(URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier)), challenge);
    assert!(state.len() >= 43 && state != verifier);
    let expected = [
        ("grant_type", "authorization_code"),
        ("redirect_uri", REDIRECT_URI),
        ("code", "the/code"),
        ("client_id", "my-app"),
        ("resource", "https://api.example.com"),
        ("prompt", "consent"),
    ];
    assert_eq!(token_call, form(expected));
}

#[tokio::test]
async fn no_two_logins_share_a_state_or_a_verifier() {
    let issuer = TokenServer::new();
    let login = login(&issuer).build().unwrap();
    for _ in 0..2 {
        let request = login.begin().await.unwrap();
        let url = redirect(&request, "code=c");
        request.finish(&url).await.unwrap();
    }
    let (first, second) = (login.begin().await.unwrap(), login.begin().await.unwrap());
    assert_ne!(sent(&first)["state"], sent(&second)["state"]);
    let verifiers = crate::sources::each(&issuer.requests(), "code_verifier");
    assert_ne!(verifiers[0], verifiers[1]);
}

#[tokio::test]
async fn a_confidential_client_authenticates_and_puts_no_secret_into_the_url() {
    let issuer = TokenServer::new();
    let request = login(&issuer).client_auth(ClientAuth::post("its secret")).build().unwrap().begin().await.unwrap();
    assert!(!request.url().contains("secret"), "{}", request.url());
    let url = redirect(&request, "code=c");
    request.finish(&url).await.unwrap();
    assert_eq!(issuer.requests()[0].form()["client_secret"], "its secret");
}

#[tokio::test]
async fn an_authorization_endpoint_keeps_its_query() {
    let url = "https://auth.example.com/authorize?policy=b2c";
    let login =
        AuthorizationCodeLogin::builder(&at(TokenServer::new()).authorization_endpoint(url), "my-app", REDIRECT_URI)
            .build()
            .unwrap();
    let request = login.begin().await.unwrap();
    assert!(request.url().starts_with(&format!("{url}&client_id=my-app&response_type=code")), "{}", request.url());
    AuthorizationCodeLogin::builder(
        &at(TokenServer::new()).authorization_endpoint("http://auth.example.com/"),
        "my-app",
        REDIRECT_URI,
    )
    .build()
    .unwrap_err();
}

#[tokio::test]
async fn the_path_and_query_of_the_redirect_are_enough() {
    let issuer = TokenServer::new();
    let request = login(&issuer).build().unwrap().begin().await.unwrap();
    let url = format!("/back?code=c&state={}", sent(&request)["state"]);
    request.finish(&url).await.unwrap();
}

// === checks of the redirect ===

#[tokio::test]
async fn a_redirect_with_another_state_causes_no_token_call() {
    let issuer = TokenServer::new();
    for query in ["?code=c&state=another", "?code=c", "?code=c&state=", "", "#code=c"] {
        let request = login(&issuer).build().unwrap().begin().await.unwrap();
        let error = request.finish(&format!("{REDIRECT_URI}{query}")).await.unwrap_err();
        assert!(error.to_string().contains("state") && !error.is_transient(), "{error}");
    }
    assert_eq!(issuer.calls().total(), 0);
}

#[tokio::test]
async fn a_code_of_another_issuer_causes_no_token_call() {
    let tokens = TokenServer::new();
    for (says_iss, query) in [(false, "code=c&iss=https://evil.example"), (true, "code=c&iss="), (true, "code=c")] {
        let request = at_issuer(&tokens, says_iss).await;
        let url = redirect(&request, query);
        let error = request.finish(&url).await.unwrap_err();
        assert!(error.to_string().contains(ISSUER) && !error.to_string().contains("evil"), "{error}");
    }
    assert_eq!(tokens.calls().total(), 0);
    for (says_iss, query) in [(false, "code=c"), (true, "code=c&iss=https%3A%2F%2Fauth.example.com")] {
        let request = at_issuer(&tokens, says_iss).await;
        let url = redirect(&request, query);
        request.finish(&url).await.unwrap();
    }
    assert_eq!(tokens.calls().total(), 2);
}

#[tokio::test]
async fn a_denial_has_the_cleaned_text_of_the_server() {
    let issuer = TokenServer::new();
    let request = login(&issuer).build().unwrap().begin().await.unwrap();
    let state = sent(&request)["state"].clone();
    let url = redirect(&request, &format!("error=access_denied&error_description=no%1b[2J+{state}+today"));
    let error = request.finish(&url).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("access_denied: no [2J [redacted] today"), "{said}");
    assert!(!says(&error).contains(&state) && !says(&error).contains('\u{1b}'), "{said}");
    assert!(!error.is_transient());

    let request = login(&issuer).build().unwrap().begin().await.unwrap();
    let long = "x".repeat(10_000);
    let url = redirect(&request, &format!("error={long}"));
    assert!(request.finish(&url).await.unwrap_err().to_string().len() < 400);

    for nothing in ["", "code=", "error="] {
        let request = login(&issuer).build().unwrap().begin().await.unwrap();
        let url = redirect(&request, nothing);
        let error = request.finish(&url).await.unwrap_err();
        assert!(error.to_string().contains("holds no code"), "{error}");
    }
    assert_eq!(issuer.calls().total(), 0);
}

#[tokio::test]
async fn a_code_that_the_server_rejects_is_denied_and_not_retried() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(400, json!({ "error": "invalid_grant", "error_description": "no such code: c0de-1" })));
    let request = login(&issuer).build().unwrap().begin().await.unwrap();
    let url = redirect(&request, "code=c0de-1");
    let error = request.finish(&url).await.unwrap_err();
    assert!(error.is_denied() && error.description() == Some("no such code: [redacted]"), "{error}");
    assert_eq!(issuer.calls().total(), 1);
}

#[tokio::test]
async fn a_code_is_sent_once_more_if_the_connection_breaks() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::fails("connection reset"));
    let request = login(&issuer).build().unwrap().begin().await.unwrap();
    let url = redirect(&request, "code=c0de-1");
    request.finish(&url).await.unwrap();
    assert_eq!(issuer.calls().total(), 2);
    issuer.fail(Some(Answer::fails("connection reset")));
    let request = login(&issuer).build().unwrap().begin().await.unwrap();
    let url = redirect(&request, "code=c0de-2");
    request.finish(&url).await.unwrap_err();
    assert_eq!(issuer.calls().total(), 4);
}

#[test]
fn the_parameters_of_the_login_itself_cannot_be_set() {
    for name in ["state", "code_challenge", "code_challenge_method", "response_type", "redirect_uri", "client_id"] {
        let error = login(&TokenServer::new()).parameter(name, "x").build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(name), "{error}");
    }
}
