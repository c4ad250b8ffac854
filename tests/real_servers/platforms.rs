//! Tokens of clouds and code hosts, from fakes with their documented answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::{BoxError, service_fn};
use tower_bearer::json::{JsonLogin, JsonLoginBuilder};
use tower_bearer::oauth2::TokenExchangeGrant;
use tower_bearer::testing::{Answer, ManualClock, Recorded, TokenServer};
use tower_bearer::{Error, FetchContext, Reason, RefreshPolicy, Token, TokenCache, TokenSource};

use crate::lifetimes::{NOW, jwt};
use crate::sources::{HOUR, TOKEN_URL, at, each, headers, map, now, pass};

const AZURE: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/";
const GOOGLE: &str = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default";

/// The result of a GET of this URL that gets this answer, and the request.
async fn get(
    url: &str,
    answer: Answer,
    set: impl FnOnce(JsonLoginBuilder) -> JsonLoginBuilder,
) -> (Result<Token, Error>, Recorded) {
    let server = TokenServer::new();
    server.queue(answer);
    let login = set(JsonLogin::get(server.clone(), url)).allow_insecure().build().unwrap();
    let token = login.fetch(FetchContext::new(Reason::First).with_clock(ManualClock::new())).await;
    (token, server.requests().remove(0))
}

/// Checks the token, its lifetime in seconds, and the request, which is a GET of this URL with these headers.
async fn lives(
    url: &str,
    answer: Answer,
    set: impl FnOnce(JsonLoginBuilder) -> JsonLoginBuilder,
    sent: &[(&'static str, &'static str)],
) -> (String, u64) {
    let (token, request) = get(url, answer, set).await;
    assert_eq!((request.method.as_str(), request.uri.to_string()), ("GET", url.to_owned()));
    let accept = ("accept", "application/json");
    assert_eq!(headers(&request), map(sent.iter().copied().chain([accept])));
    let token = token.unwrap();
    (token.access_token().to_owned(), token.lifetime().as_secs())
}

// === Azure ===

fn azure(login: JsonLoginBuilder) -> JsonLoginBuilder {
    login.header("metadata", "true").expires_at("/expires_on")
}

#[tokio::test]
async fn azures_instance_metadata_service_is_understood() {
    let answer = |expires_in: &str, left: u64| {
        let answer = json!({
            "access_token": "eyJ0eXAi", "refresh_token": "", "expires_in": expires_in,
            "expires_on": (NOW + left).to_string(), "not_before": (NOW - 300).to_string(),
            "resource": "https://management.azure.com/", "token_type": "Bearer",
        });
        Answer::json(200, answer)
    };
    let sent = [("metadata", "true")];
    assert_eq!(lives(AZURE, answer("3599", 3599), azure, &sent).await, ("eyJ0eXAi".into(), 3599));
    // The answer is from the service's cache. Its lifetime counts from when the token was issued.
    assert_eq!(lives(AZURE, answer("86399", 600), azure, &sent).await, ("eyJ0eXAi".into(), 600));
}

#[tokio::test]
async fn azures_instance_metadata_service_denies_or_asks_for_patience() {
    let failed = async |status, body: Value| get(AZURE, Answer::json(status, body), azure).await.0.unwrap_err();
    for (status, code) in [(400, "invalid_request"), (401, "unknown_source"), (400, "unauthorized_client")] {
        let error = failed(status, json!({ "error": code, "error_description": "Identity not found" })).await;
        assert!(error.is_denied() && error.description() == Some("Identity not found"), "{error}");
        assert_eq!(error.code(), Some(code));
    }
    let without_header =
        json!({ "error": "bad_request_102", "error_description": "Required metadata header not specified" });
    let error = failed(400, without_header).await.to_string();
    assert!(error.contains("bad_request_102") && error.contains("Required metadata header"), "{error}");
    // The service answers so during an update, while an identity is assigned, and after too many calls.
    for status in [404, 410, 429, 500] {
        assert!(failed(status, json!({ "error": "unknown" })).await.is_transient(), "{status}");
    }
}

#[tokio::test]
async fn azures_app_service_is_understood() {
    let url = "http://localhost:42356/msi/token?api-version=2019-08-01&resource=https://vault.azure.net";
    let answer = json!({
        "access_token": "eyJ0eXAi", "expires_on": (NOW + 300).to_string(), "resource": "https://vault.azure.net",
        "token_type": "Bearer", "client_id": "00000000-0000-0000-0000-000000000000",
    });
    let with_header = |login: JsonLoginBuilder| login.header("x-identity-header", "853b9a84");
    let sent = [("x-identity-header", "853b9a84")];
    assert_eq!(lives(url, Answer::json(200, answer), with_header, &sent).await, ("eyJ0eXAi".into(), 300));
    let failed = json!({ "statusCode": 500, "message": "An unexpected error occured while fetching the AAD Token." });
    let error = get(url, Answer::json(500, failed), with_header).await.0.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("while fetching the AAD Token"), "{error}");
}

// === Google Cloud ===

fn google(login: JsonLoginBuilder) -> JsonLoginBuilder {
    login.header("metadata-flavor", "Google")
}

#[tokio::test]
async fn googles_metadata_server_is_understood() {
    let sent = [("metadata-flavor", "Google")];
    let answer = Answer::json(200, json!({ "access_token": "ya29.c.b0A", "expires_in": 3454, "token_type": "Bearer" }));
    assert_eq!(lives(&format!("{GOOGLE}/token"), answer, google, &sent).await, ("ya29.c.b0A".into(), 3454));
    // The server sends ID tokens as text.
    let (url, id_token) = (format!("{GOOGLE}/identity?audience=https://api.example.com"), jwt(NOW + 3600));
    let bare = |login| google(login).token_at("");
    assert_eq!(lives(&url, Answer::raw(200, id_token.clone()), bare, &sent).await, (id_token, 3600));
    // The 404 means that there is no service account, and the 403 that the header is missing.
    for (status, body) in
        [(404, "<!DOCTYPE html><title>Error 404 (Not Found)</title>"), (403, "<title>Missing</title>")]
    {
        let (failed, _) = get(&url, Answer::raw(status, body), bare).await;
        assert!(failed.unwrap_err().is_transient());
    }
}

/// The token of a metadata server that returns the same token until few minutes of its lifetime remain.
#[derive(Default)]
struct Cached {
    number: u32,
    ends: Option<tokio::time::Instant>,
    calls: u32,
}

#[tokio::test(start_paused = true)]
async fn a_margin_below_that_of_a_metadata_server_spares_fetches_that_bring_nothing_new() {
    let cached = Arc::new(Mutex::new(Cached::default()));
    let server = Arc::clone(&cached);
    let http = service_fn(move |_: Request<Full<Bytes>>| {
        let mut cached = server.lock().unwrap();
        cached.calls += 1;
        let left = |ends: Option<tokio::time::Instant>| ends.map_or(Duration::ZERO, |ends| ends - now());
        // This is the shortest remaining lifetime in Google's libraries.
        if left(cached.ends) <= Duration::from_secs(4 * 60) {
            cached.number += 1;
            cached.ends = Some(now() + HOUR);
        }
        let token = format!("ya29.{}", cached.number);
        let answer =
            json!({ "access_token": token, "expires_in": left(cached.ends).as_secs(), "token_type": "Bearer" });
        async move { Ok::<_, BoxError>(Response::new(Full::new(Bytes::from(answer.to_string())))) }
    });
    let login = google(JsonLogin::get(http, &format!("{GOOGLE}/token"))).allow_insecure().build().unwrap();
    let policy = RefreshPolicy::new().margin(Duration::from_secs(3 * 60));
    let cache = TokenCache::builder(login).refresh_policy(policy).build().unwrap();
    for _ in 0..10 * 360 {
        cache.get().await.unwrap();
        assert!(cache.status().last_failure.is_none());
        pass(Duration::from_secs(10)).await;
        tokio::task::yield_now().await;
    }
    let cached = cached.lock().unwrap();
    assert_eq!((cached.calls, cached.number), (11, 11));
}

// === AWS ===

#[cfg(all(unix, feature = "exec"))]
mod aws {
    use serde_json::{Value, json};
    use tower_bearer::exec::{TokenCommand, TokenCommandBuilder};
    use tower_bearer::testing::ManualClock;
    use tower_bearer::{FetchContext, Reason, Token, TokenSource};

    use crate::lifetimes::{NOW, jwt};

    async fn printed(json: Value, set: impl FnOnce(TokenCommandBuilder) -> TokenCommandBuilder) -> Token {
        let command = set(TokenCommand::builder("printf").args(["%s".to_owned(), json.to_string()])).build().unwrap();
        command.fetch(FetchContext::new(Reason::First).with_clock(ManualClock::new())).await.unwrap()
    }

    #[tokio::test]
    async fn the_web_identity_token_of_sts_is_understood() {
        let answer = json!({ "WebIdentityToken": jwt(NOW + 300), "Expiration": "2023-11-14T22:18:20+00:00" });
        let token = printed(answer, |command| command.token_at("/WebIdentityToken").expires_at("/Expiration")).await;
        assert_eq!((token.access_token(), token.lifetime().as_secs()), (&*jwt(NOW + 300), 300));
    }

    #[tokio::test]
    async fn the_token_of_an_eks_cluster_is_understood() {
        let answer = json!({
            "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1", "spec": {},
            "status": { "expirationTimestamp": "2023-11-14T22:27:20Z", "token": "k8s-aws-v1.aHR0cHM6Ly9zdHM" },
        });
        let token = printed(answer, |command| command).await;
        assert_eq!((token.access_token(), token.lifetime().as_secs()), ("k8s-aws-v1.aHR0cHM6Ly9zdHM", 840));
    }
}

// === code hosts ===

#[tokio::test]
async fn the_job_token_of_actions_is_understood() {
    let url = "https://run-actions.example.com/idtoken/7/1?api-version=2.0&audience=deploy";
    let job = |login: JsonLoginBuilder| login.header("authorization", "bearer s3cret").token_at("/value");
    let answer = Answer::json(200, json!({ "count": 1857, "value": jwt(NOW + 600) }));
    assert_eq!(lives(url, answer, job, &[("authorization", "bearer s3cret")]).await, (jwt(NOW + 600), 600));
    // This is the answer after the job has ended.
    let error = get(url, Answer::json(401, json!({ "message": "no such job: s3cret" })), job).await.0.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("no such job: [redacted]"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_id_token_of_a_gitlab_job_is_the_subject_of_each_exchange() {
    let (issuer, id_token) = (TokenServer::new(), jwt(NOW + 3600));
    let exchange = TokenExchangeGrant::builder(&at(issuer.clone()), &*id_token)
        .subject_token_type("urn:ietf:params:oauth:token-type:jwt");
    let cache = TokenCache::new(exchange.build().unwrap());
    for _ in 0..2 {
        issuer.queue(Answer::json(
            200,
            json!({ "access_token": "exchanged", "expires_in": 600, "token_type": "Bearer" }),
        ));
        cache.get().await.unwrap();
        pass(Duration::from_secs(600)).await;
    }
    // This is the answer after the job's timeout.
    issuer.queue(Answer::json(400, json!({ "error": "invalid_grant", "error_description": "the token has expired" })));
    let error = cache.get().await.unwrap_err();
    assert!(error.is_denied() && error.description() == Some("the token has expired"), "{error}");
    assert_eq!(each(&issuer.requests(), "subject_token"), [&*id_token, &*id_token, &*id_token]);
    assert_eq!(issuer.requests()[0].uri, TOKEN_URL);
}
