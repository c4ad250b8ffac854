//! The places of metadata, the choice between several documents, and when metadata is read again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};
use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, HttpClient, TokenCache};

use crate::sources::{TOKEN_URL, by_method, pass};

const ID: &str = "https://auth.example.com/tenant1";
const OPENID: &str = ".well-known/openid-configuration";
const OAUTH: &str = ".well-known/oauth-authorization-server";

fn metadata() -> Value {
    json!({ "issuer": ID, "token_endpoint": TOKEN_URL })
}

/// An issuer with this answer at each path, and the calls that it received.
fn serving(place: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (impl HttpClient<Full<Bytes>>, Calls) {
    let (calls, place) = (Calls::default(), Arc::new(place));
    let seen = calls.clone();
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        let server = TokenServer::new();
        let uri = request.uri().to_string();
        seen.0.lock().unwrap().push(format!("{} {uri}", request.method()));
        if request.method() == Method::GET || !uri.ends_with("/token") {
            server.queue(place(&uri));
        }
        server.oneshot(request)
    });
    (http, calls)
}

#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn reads(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|call| call.starts_with("GET ")).count()
    }

    fn last(&self) -> String {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

fn cache(issuer: &Issuer) -> TokenCache {
    TokenCache::new(ClientCredentialsGrant::builder(issuer, "my-app", "its secret").build().unwrap())
}

/// The result if the places, in order, give these answers.
async fn read(answers: impl IntoIterator<Item = Answer>) -> Result<(), Error> {
    let (documents, tokens) = (TokenServer::new(), TokenServer::new());
    answers.into_iter().for_each(|answer| documents.queue(answer));
    documents.fail(Some(Answer::raw(404, "<html>Not found</html>")));
    cache(&Issuer::discover(by_method(&documents, &tokens), ID)).get().await.map(drop)
}

// === places ===

#[tokio::test]
async fn a_document_is_found_in_each_place_that_servers_have_it() {
    for place in [
        format!("https://auth.example.com/tenant1/{OPENID}"),
        format!("https://auth.example.com/{OAUTH}/tenant1"),
        format!("https://auth.example.com/{OPENID}/tenant1"),
        format!("https://auth.example.com/tenant1/{OAUTH}"),
    ] {
        let only = place.clone();
        let (http, calls) = serving(move |uri| {
            if uri == only { Answer::json(200, metadata()) } else { Answer::raw(404, "<html>Not found</html>") }
        });
        cache(&Issuer::discover(http, ID)).get().await.unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(calls.last(), format!("POST {TOKEN_URL}"));
    }
}

#[tokio::test]
async fn an_issuer_without_a_path_has_two_places() {
    let (http, calls) = serving(|_| Answer::raw(404, ""));
    cache(&Issuer::discover(http, "https://auth.example.com")).get().await.unwrap_err();
    assert_eq!(calls.reads(), 2);
}

#[tokio::test]
async fn the_first_place_that_has_the_document_counts() {
    let mut other = metadata();
    other["issuer"] = json!("https://auth.example.com");
    let incomplete = json!({ "issuer": ID, "jwks_uri": "https://auth.example.com/jwks" });
    for first in [
        Answer::json(200, json!({ "message": "Hello" })),
        Answer::json(200, other),
        Answer::json(200, incomplete),
        Answer::raw(500, "<h1>Internal error</h1>"),
        Answer::raw(403, "no"),
        Answer::raw(200, "x".repeat(1024 * 1024 + 1)),
    ] {
        read([first.clone(), Answer::json(200, metadata())]).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn a_document_without_the_endpoint_is_an_error_if_there_is_no_better_one() {
    let error = read([Answer::json(200, json!({ "issuer": ID }))]).await.unwrap_err();
    assert!(error.to_string().contains("its metadata names no token_endpoint"), "{error}");
}

#[tokio::test]
async fn the_most_telling_failure_is_the_error() {
    let rejected = || Answer::json(403, json!({ "message": "your address is not allowed" }));
    let error = read([rejected()]).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(403));
    assert!(error.to_string().contains("your address is not allowed"), "{error}");
    let error = read([Answer::raw(404, ""), rejected()]).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(403));
    let error = read([rejected(), Answer::fails("connection reset")]).await.unwrap_err();
    assert!(error.to_string().contains("your address is not allowed"), "{error}");
    let moved = Answer::raw(301, "").header("location", "https://login.example.com/");
    let error = read([moved]).await.unwrap_err();
    assert!(error.to_string().contains("it redirects"), "{error}");
    let other = json!({ "issuer": "https://login.example.com", "token_endpoint": TOKEN_URL });
    let error = read([Answer::raw(200, "<html>"), Answer::json(200, other)]).await.unwrap_err();
    assert!(error.to_string().contains("the issuer https://login.example.com"), "{error}");
}

// === identifier and address apart ===

#[tokio::test]
async fn the_address_of_the_document_may_be_another_than_the_identifier_says() {
    // The first is a server in a container, and the second has many tenants.
    for identifier in ["http://localhost:8080/realms/x", "https://login.example.com/{tenantid}/v2.0"] {
        let document = json!({ "issuer": identifier, "token_endpoint": "http://keycloak:8080/token" });
        let (http, calls) = serving(move |_| Answer::json(200, document.clone()));
        let issuer = Issuer::discover(http, identifier).metadata_url("http://keycloak:8080/metadata");
        cache(&issuer.allow_insecure()).get().await.unwrap();
        assert_eq!(*calls.0.lock().unwrap(), ["GET http://keycloak:8080/metadata", "POST http://keycloak:8080/token"]);
    }
}

#[tokio::test]
async fn a_named_endpoint_takes_precedence_over_the_metadata() {
    let mut document = metadata();
    document["token_endpoint"] = json!("https://unreachable.example/token");
    let (http, calls) = serving(move |_| Answer::json(200, document.clone()));
    cache(&Issuer::discover(http, ID).token_endpoint(TOKEN_URL)).get().await.unwrap();
    assert_eq!(*calls.0.lock().unwrap(), [format!("POST {TOKEN_URL}")]);
}

// === endpoints that moved ===

/// An issuer whose token endpoint has moved from `/old`. `named` is the endpoint in its metadata.
fn moving(named: Arc<Mutex<&'static str>>) -> (Issuer, Calls) {
    let (http, calls) = serving(move |uri| {
        if uri.ends_with("/old") {
            return Answer::raw(404, "<html>Not found</html>");
        }
        let mut document = metadata();
        document["token_endpoint"] = json!(*named.lock().unwrap());
        Answer::json(200, document)
    });
    (Issuer::discover(http, ID), calls)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_is_looked_up_again_within_minutes() {
    let named = Arc::new(Mutex::new("https://auth.example.com/old"));
    let (issuer, calls) = moving(Arc::clone(&named));
    let cache = cache(&issuer);
    let error = cache.get().await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(404));
    *named.lock().unwrap() = TOKEN_URL;
    let mut minutes = 0;
    while cache.get().await.is_err() {
        pass(Duration::from_secs(60)).await;
        minutes += 1;
        assert!(minutes <= 5, "the new endpoint is found");
    }
    assert_eq!((calls.reads(), calls.last()), (2, format!("POST {TOKEN_URL}")));
}

#[tokio::test(start_paused = true)]
async fn metadata_that_still_names_a_dead_endpoint_is_read_every_few_minutes_at_most() {
    let (issuer, calls) = moving(Arc::new(Mutex::new("https://auth.example.com/old")));
    let cache = cache(&issuer);
    for _ in 0..60 {
        cache.get().await.unwrap_err();
        pass(Duration::from_secs(60)).await;
    }
    assert!((10..=21).contains(&calls.reads()), "{} readings in an hour", calls.reads());
}

#[tokio::test(start_paused = true)]
async fn the_former_metadata_stays_if_it_cannot_be_read_again() {
    let (documents, tokens) = (TokenServer::new(), TokenServer::new());
    documents.queue(Answer::json(200, metadata()));
    documents.fail(Some(Answer::raw(503, "")));
    tokens.queue(Answer::raw(404, ""));
    let cache = cache(&Issuer::discover(by_method(&documents, &tokens), ID));
    cache.get().await.unwrap_err();
    pass(Duration::from_secs(300)).await;
    cache.get().await.unwrap();
    assert!(documents.calls().total() > 1);
}

// === what is taken from a document ===

#[tokio::test]
async fn the_aliases_for_client_certificates_are_taken_if_asked_for() {
    let mut document = metadata();
    document["mtls_endpoint_aliases"] = json!({ "token_endpoint": "https://mtls.example.com/token" });
    for (prefers, url) in [(false, TOKEN_URL), (true, "https://mtls.example.com/token")] {
        let document = document.clone();
        let (http, calls) = serving(move |_| Answer::json(200, document.clone()));
        let issuer = Issuer::discover(http, ID);
        let issuer = if prefers { issuer.prefer_mtls_endpoints() } else { issuer };
        let grant = ClientCredentialsGrant::builder(&issuer, "my-app", ClientAuth::none()).build().unwrap();
        TokenCache::new(grant).get().await.unwrap();
        assert_eq!(calls.last(), format!("POST {url}"));
    }
}

#[tokio::test]
async fn an_https_issuer_names_no_endpoint_on_plain_http_loopback() {
    let mut document = metadata();
    document["token_endpoint"] = json!("http://127.0.0.1:8080/token");
    let error = read([Answer::json(200, document.clone())]).await.unwrap_err();
    assert!(error.to_string().contains("token_endpoint is plain http://"), "{error}");
    // An issuer on loopback may name such an endpoint.
    document["issuer"] = json!("http://127.0.0.1:8080");
    let (http, _) = serving(move |_| Answer::json(200, document.clone()));
    cache(&Issuer::discover(http, "http://127.0.0.1:8080")).get().await.unwrap();
}
