//! Secrets that a closure reads at each fetch, from a vault or from a file that is rewritten.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{
    ClientAuth, ClientCredentialsGrant, JwtBearerGrant, PasswordGrant, RefreshTokenGrant, TokenExchangeGrant,
};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, SecretSource, TokenCache};

use crate::sources::{TOKEN_URL, at, each, says};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Each kind of source that needs a secret, with the name of the secret.
fn each_kind<M>(issuer: &TokenServer, secret: impl SecretSource<M> + Clone) -> Vec<(&'static str, TokenCache)> {
    let http = || issuer.clone();
    let client = |auth| TokenCache::new(ClientCredentialsGrant::builder(&at(http()), "my-app", auth).build().unwrap());
    let exchange = TokenExchangeGrant::builder(&at(http()), "the subject");
    let json = JsonLogin::builder(http(), TOKEN_URL, json!({ "secret": "" }));
    vec![
        ("client_secret", client(ClientAuth::post(secret.clone()))),
        ("client_secret", client(ClientAuth::basic(secret.clone()))),
        ("client_secret", client(ClientAuth::secret_jwt(secret.clone()))),
        ("client_assertion", client(ClientAuth::assertion(secret.clone()))),
        (
            "password",
            TokenCache::new(PasswordGrant::builder(&at(http()), "my-app", "ann", secret.clone()).build().unwrap()),
        ),
        (
            "refresh_token",
            TokenCache::new(RefreshTokenGrant::builder(&at(http()), "my-app", secret.clone()).build().unwrap()),
        ),
        ("subject_token", TokenCache::new(TokenExchangeGrant::builder(&at(http()), secret.clone()).build().unwrap())),
        ("actor_token", TokenCache::new(exchange.actor_token(secret.clone(), ACCESS_TOKEN).build().unwrap())),
        ("assertion", TokenCache::new(JwtBearerGrant::builder(&at(http()), secret.clone()).build().unwrap())),
        ("secret", TokenCache::new(json.secret_at("/secret", secret).build().unwrap())),
    ]
}

#[tokio::test(start_paused = true)]
async fn each_fetch_calls_the_closure_and_sends_the_secret_without_a_line_break() {
    let (issuer, reads) = (TokenServer::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&reads);
    let secret = move || {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok::<_, io::Error>(format!("secret-{number}\r\n")) }
    };
    for (field, cache) in each_kind(&issuer, secret) {
        let before = issuer.calls().total();
        reads.store(0, Ordering::SeqCst);
        assert_eq!(reads.load(Ordering::SeqCst), 0, "the closure is not called before the fetch");
        cache.get().await.unwrap();
        // A session uses the rotated refresh token, and not the one that it started with.
        let times = if field == "refresh_token" { 1 } else { 2 };
        cache.refresh().await.unwrap();
        assert_eq!(reads.load(Ordering::SeqCst), times, "{field}");
        let requests = &issuer.requests()[before..];
        let body = |number: usize| String::from_utf8(requests[number].body.to_vec()).unwrap();
        if requests[0].form().contains_key(field) && field != "client_assertion" {
            assert_eq!(each(requests, field), ["secret-1".to_owned(), format!("secret-{times}")], "{field}");
        } else if field == "secret" {
            assert_eq!((body(0), body(1)), (r#"{"secret":"secret-1"}"#.into(), r#"{"secret":"secret-2"}"#.into()));
        } else {
            // The secret is in the Basic header, or signs an assertion.
            assert_ne!((&requests[0].headers, body(0)), (&requests[1].headers, body(1)), "{field}");
        }
    }
}

#[tokio::test]
async fn a_basic_secret_of_a_closure_is_encoded_like_any_other() {
    let issuer = TokenServer::new();
    let auth = ClientAuth::basic(async || Ok::<_, io::Error>("its secret\n"));
    let source = ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", auth).build().unwrap();
    TokenCache::new(source).get().await.unwrap();
    assert_eq!(issuer.requests()[0].headers["authorization"], "Basic bXktYXBwOml0cyUyMHNlY3JldA==");
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_fails_causes_no_token_call_and_an_error_that_names_the_secret() {
    let issuer = TokenServer::new();
    let sealed = || async { Err::<String, _>(io::Error::other("the vault is sealed")) };
    for (field, cache) in each_kind(&issuer, sealed) {
        let error = cache.get().await.unwrap_err();
        assert!(error.is_transient() && !error.is_denied(), "{error}");
        let field = if field == "client_assertion" { "assertion" } else { field };
        assert!(error.to_string().starts_with(&format!("failed to get the {field}")), "{error}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the vault is sealed");
    }
    assert_eq!(issuer.calls().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_empty_or_holds_a_control_character_is_not_sent() {
    let issuer = TokenServer::new();
    for (text, problem) in [("", "it is empty"), ("\n", "it is empty"), ("S3cret\nS3cret", "control character")] {
        for (_, cache) in each_kind(&issuer, move || async move { Ok::<_, io::Error>(text) }) {
            let said = says(&cache.get().await.unwrap_err());
            assert!(said.contains(problem) && !said.contains("S3cret"), "{said}");
        }
    }
    assert_eq!(issuer.calls().total(), 0);
}

#[tokio::test]
async fn an_invalid_value_is_an_error_of_the_builder() {
    let http = TokenServer::new;
    for secret in ["", "from a file\n"] {
        let errors = [
            ClientCredentialsGrant::builder(&at(http()), "my-app", ClientAuth::post(secret)).build().unwrap_err(),
            ClientCredentialsGrant::builder(&at(http()), "my-app", ClientAuth::secret_jwt(secret)).build().unwrap_err(),
            ClientCredentialsGrant::builder(&at(http()), "my-app", ClientAuth::assertion(secret)).build().unwrap_err(),
            PasswordGrant::builder(&at(http()), "my-app", "ann", secret).build().unwrap_err(),
            RefreshTokenGrant::builder(&at(http()), "my-app", secret).build().unwrap_err(),
            TokenExchangeGrant::builder(&at(http()), secret).build().unwrap_err(),
            JwtBearerGrant::builder(&at(http()), secret).build().unwrap_err(),
        ];
        assert!(errors.iter().all(Error::is_invalid), "{errors:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_is_denied_pauses_like_denied_credentials() {
    let issuer = TokenServer::new();
    let denied = || async { Err::<String, _>(Error::denied("the vault forbids it")) };
    for (_, cache) in each_kind(&issuer, denied) {
        let error = cache.get().await.unwrap_err();
        assert!(error.is_denied() && !error.is_transient(), "{error}");
        assert_eq!(crate::sources::next_attempt(&cache), Some(30.0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_of_a_session_that_was_denied_is_denied() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::oauth_error(400, "invalid_grant")));
    let user = TokenCache::new(crate::sources::password(&issuer).build().unwrap());
    let subject = move || {
        let user = user.clone();
        async move { user.get().await.map(|token| token.access_token().to_owned()) }
    };
    let exchange = TokenExchangeGrant::builder(&at(issuer.clone()), subject).build().unwrap();
    let error = TokenCache::new(exchange).get().await.unwrap_err();
    assert!(error.is_denied() && says(&error).contains("invalid_grant"), "{error:?}");
    assert_eq!(issuer.calls().total(), 1);
}
