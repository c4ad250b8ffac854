//! An issuer's metadata (RFC 8414, OpenID Connect Discovery): its URLs, how often it is read, and how it is checked.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower_bearer::oauth2::{
    self, AuthorizationCodeLogin, ClientCredentialsGrant, DeviceCodeLogin, PasswordGrant, RefreshTokenGrant, Revocation,
};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, TokenCache};

use crate::sources::{TOKEN_URL, by_method, each, now, pass};

const ID: &str = "https://auth.example.com";
const REVOCATION_URL: &str = "https://auth.example.com/revoke";

fn metadata(id: &str) -> Value {
    json!({ "issuer": id, "token_endpoint": TOKEN_URL, "revocation_endpoint": REVOCATION_URL, "scopes_supported": ["a"] })
}

fn not_found() -> Answer {
    Answer::raw(404, "<html>Not found</html>")
}

/// An issuer with this identifier and these answers to requests for its metadata. Returns the fakes for metadata and
/// tokens, too.
fn issuer(id: &str, answers: impl IntoIterator<Item = Answer>) -> (oauth2::Issuer, TokenServer, TokenServer) {
    let (documents, tokens) = (TokenServer::new(), TokenServer::new());
    answers.into_iter().for_each(|answer| documents.queue(answer));
    (oauth2::Issuer::discover(by_method(&documents, &tokens), id), documents, tokens)
}

fn cache(issuer: &oauth2::Issuer) -> TokenCache {
    TokenCache::new(ClientCredentialsGrant::builder(issuer, "my-app", "its secret").build().unwrap())
}

/// The error of a fetch with these answers to requests for metadata, and the number of those requests.
async fn rejected(answers: impl IntoIterator<Item = Answer>) -> (Error, usize) {
    let (issuer, documents, tokens) = issuer(ID, answers);
    let error = cache(&issuer).get().await.unwrap_err();
    assert_eq!(tokens.calls().total(), 0);
    assert!(error.is_transient() && !error.is_denied(), "{error}");
    (error, documents.calls().total())
}

fn urls(documents: &TokenServer) -> Vec<String> {
    documents.requests().iter().map(|request| format!("{} {}", request.method, request.uri)).collect()
}

// === the URLs ===

#[tokio::test]
async fn metadata_is_read_at_the_url_of_openid_connect_and_then_at_that_of_rfc_8414() {
    let (openid, oauth) = (".well-known/openid-configuration", ".well-known/oauth-authorization-server");
    for (id, urls_expected) in [
        (ID, [format!("{ID}/{openid}"), format!("{ID}/{oauth}")]),
        ("https://a.example/", [format!("https://a.example/{openid}"), format!("https://a.example/{oauth}")]),
        ("https://a.example/b", [format!("https://a.example/b/{openid}"), format!("https://a.example/{oauth}/b")]),
        (
            "https://a.example/b/c/",
            [format!("https://a.example/b/c/{openid}"), format!("https://a.example/{oauth}/b/c")],
        ),
        ("http://[::1]:8080/b", [format!("http://[::1]:8080/b/{openid}"), format!("http://[::1]:8080/{oauth}/b")]),
    ] {
        let (issuer, documents, tokens) = issuer(id, [not_found(), Answer::json(200, metadata(id))]);
        assert_eq!(issuer.identifier(), Some(id));
        cache(&issuer).get().await.unwrap();
        assert_eq!(urls(&documents), urls_expected.map(|url| format!("GET {url}")));
        assert_eq!(tokens.requests()[0].uri.to_string(), TOKEN_URL);
        assert_eq!(documents.requests()[0].headers["accept"], "application/json");
        assert!(documents.requests().iter().all(|request| !request.headers.contains_key("authorization")));
    }
}

#[tokio::test]
async fn a_page_at_the_first_url_does_not_hide_metadata_at_the_second() {
    let pages = [
        Answer::raw(200, "<!doctype html><div id=app></div>"),
        Answer::raw(200, ""),
        Answer::json(200, json!(["not an object"])),
        Answer::raw(302, "").header("location", "https://auth.example.com/login"),
        Answer::raw(401, ""),
    ];
    for page in pages {
        let (issuer, documents, _) = issuer(ID, [page.clone(), Answer::json(200, metadata(ID))]);
        cache(&issuer).get().await.unwrap();
        assert_eq!(documents.calls().total(), 2, "{page:?}");
        let (_, calls) = rejected([page.clone(), page]).await;
        assert_eq!(calls, 2);
    }
}

#[tokio::test]
async fn an_error_of_metadata_has_the_retry_after_of_the_issuer() {
    for (status, calls_expected) in [(429, 1), (500, 2), (503, 2)] {
        let (error, calls) = rejected([Answer::raw(status, "").header("retry-after", "7"), not_found()]).await;
        assert_eq!((error.status().unwrap().as_u16(), calls), (status, calls_expected));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(error.to_string().contains("its metadata could not be read"), "{error}");
    }
    // If the connection breaks, the same URL is tried once more.
    let rejected_connection = || Answer::fails("connection refused");
    let (error, calls) = rejected([rejected_connection(), rejected_connection()]).await;
    assert!(error.to_string().contains("/.well-known/openid-configuration"), "{error}");
    assert_eq!(calls, 2);
}

// === how often metadata is read ===

#[tokio::test(start_paused = true)]
async fn metadata_is_read_once_for_all_clones_and_waiters() {
    let (issuer, documents, tokens) = issuer(ID, [Answer::json(200, metadata(ID)).after(Duration::from_secs(1))]);
    let mut waiting = JoinSet::new();
    for _ in 0..10 {
        let cache = cache(&issuer.clone());
        waiting.spawn(async move { cache.get().await.map(drop) });
    }
    for answer in waiting.join_all().await {
        answer.unwrap();
    }
    assert_eq!((documents.calls().total(), tokens.calls().total()), (1, 10));
    assert_eq!(issuer.metadata().await.unwrap()["scopes_supported"], json!(["a"]));
    PasswordGrant::builder(&issuer, "my-app", "ann", "p").build().map(TokenCache::new).unwrap().get().await.unwrap();
    RefreshTokenGrant::builder(&issuer, "my-app", "saved").build().map(TokenCache::new).unwrap().get().await.unwrap();
    assert_eq!(each(&tokens.requests()[10..], "grant_type"), ["password", "refresh_token"]);
    assert_eq!(documents.calls().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_read_metadata_is_not_remembered() {
    let (issuer, documents, _) = issuer(ID, [Answer::raw(429, ""), Answer::json(200, metadata(ID))]);
    let cache = cache(&issuer);
    cache.get().await.unwrap_err();
    pass(Duration::from_secs(60)).await;
    cache.get().await.unwrap();
    assert_eq!(documents.calls().total(), 2);
}

#[tokio::test(start_paused = true)]
async fn reading_metadata_times_out_after_30_s() {
    let (issuer, documents, _) = issuer(ID, []);
    documents.fail(Some(Answer::hangs()));
    let start = now();
    let error = issuer.metadata().await.unwrap_err();
    assert_eq!((now() - start).as_secs(), 30);
    assert!(
        error.is_timeout() && error.to_string().contains(&format!("timed out after 30s without an answer from {ID}")),
        "{error}"
    );
    let login = AuthorizationCodeLogin::builder(&issuer, "my-app", "http://127.0.0.1/back").build().unwrap();
    assert!(login.begin().await.unwrap_err().is_timeout());
    let login = DeviceCodeLogin::builder(&issuer, "my-app").build().unwrap();
    assert!(login.begin().await.unwrap_err().is_timeout());
}

// === checks of the metadata ===

#[tokio::test]
async fn metadata_of_another_issuer_is_rejected() {
    for other in ["https://auth.example.com/", "https://evil.example", "HTTPS://auth.example.com"] {
        let (error, calls) = rejected([Answer::json(200, metadata(other)), not_found()]).await;
        let said = error.to_string();
        assert!(said.contains(other) && said.contains(&format!("{ID} was asked for")), "{said}");
        assert_eq!(calls, 2);
    }
    let (error, _) = rejected([Answer::json(200, json!({ "token_endpoint": TOKEN_URL })), not_found()]).await;
    assert!(error.to_string().contains("it names no issuer"), "{error}");
}

#[tokio::test]
async fn an_error_names_an_endpoint_that_is_missing_or_insecure() {
    for (endpoint, words) in [
        (json!(null), "its metadata names no token_endpoint"),
        (json!(7), "its metadata names no token_endpoint"),
        (json!("http://auth.example.com/token"), "plain http://"),
        (json!("/token"), "token_endpoint"),
        (json!("https://user:pw@auth.example.com/token"), "token_endpoint"),
    ] {
        let mut metadata = metadata(ID);
        metadata["token_endpoint"] = endpoint;
        let (error, _) = rejected([Answer::json(200, metadata)]).await;
        assert!(error.to_string().contains(words) && error.to_string().contains(ID), "{error}");
        assert!(!error.to_string().contains("user:pw"), "{error}");
    }
}

#[tokio::test]
async fn the_revocation_endpoint_is_read_from_metadata() {
    let (issuer, _, tokens) = issuer(ID, [Answer::json(200, metadata(ID))]);
    let revocation = Revocation::builder(&issuer, "my-app").build().unwrap();
    revocation.revoke_refresh_token(&"r".into()).await.unwrap();
    assert_eq!(tokens.requests()[0].uri.to_string(), REVOCATION_URL);
}

#[test]
fn an_identifier_is_an_https_url_without_query_and_fragment() {
    for id in ["", "auth.example.com", "http://auth.example.com", "https://a.example?x", "https://a.example#x"] {
        let issuer = oauth2::Issuer::discover(TokenServer::new(), id);
        let error = ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build().unwrap_err();
        assert!(error.is_invalid() && error.to_string().starts_with("invalid issuer: "), "{id}: {error}");
    }
    let issuer = oauth2::Issuer::discover(TokenServer::new(), "http://127.0.0.1:8080");
    ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build().unwrap();
}
