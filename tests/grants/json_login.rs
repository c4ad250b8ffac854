//! Logins that take JSON and answer JSON: the request, where the token lies, and what answers mean.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tower_bearer::json::{JsonLogin, JsonLoginBuilder, LoginOutcome};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, Token, TokenCache};

use crate::sources::{HOUR, headers, hyper_client, map, pass, serve};

const URL: &str = "https://api.example.com/login?v=2";

fn login(issuer: &TokenServer) -> JsonLoginBuilder {
    JsonLogin::builder(issuer.clone(), URL, json!({ "user": "ann", "key": "its \"secret\"" }))
}

/// What this login comes to, answered so.
async fn ask(answer: Answer, set: impl FnOnce(JsonLoginBuilder) -> JsonLoginBuilder) -> Result<Token, Error> {
    let issuer = TokenServer::new();
    issuer.queue(answer);
    TokenCache::new(set(login(&issuer)).build().unwrap()).get().await
}

#[tokio::test(start_paused = true)]
async fn every_fetch_posts_the_body_as_it_was_given() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(login(&issuer).header("x-tenant", "east").build().unwrap());
    for _ in 0..2 {
        cache.get().await.unwrap();
        pass(HOUR).await;
    }
    assert_eq!(issuer.requests().len(), 2);
    for request in issuer.requests() {
        assert_eq!((request.method.as_str(), request.uri.to_string()), ("POST", URL.to_owned()));
        let expected = [("accept", "application/json"), ("content-type", "application/json"), ("x-tenant", "east")];
        assert_eq!(headers(&request), map(expected));
        assert_eq!(request.json(), json!({ "user": "ann", "key": "its \"secret\"" }));
    }
}

#[tokio::test]
async fn a_content_type_of_the_user_is_kept() {
    let issuer = TokenServer::new();
    let source = login(&issuer).header("Content-Type", "application/vnd.api+json").build().unwrap();
    TokenCache::new(source).get().await.unwrap();
    assert_eq!(issuer.requests()[0].headers["content-type"], "application/vnd.api+json");
}

#[tokio::test]
async fn token_and_lifetime_lie_where_the_pointers_say() {
    let body = json!({ "data": [{ "a/b": "t1", "m~n": 60 }], "access_token": "t2", "expires_in": 5 });
    let token = ask(Answer::json(200, body.clone()), |login| login).await.unwrap();
    assert_eq!((token.access_token(), token.lifetime().as_secs()), ("t2", 5));
    let token = ask(Answer::json(200, body), |login| login.token_at("/data/0/a~1b").lifetime_at("/data/0/m~0n"));
    let token = token.await.unwrap();
    assert_eq!((token.access_token(), token.lifetime().as_secs()), ("t1", 60));
    // The whole answer can be the token.
    let token = ask(Answer::json(200, json!("t3")), |login| login.token_at("")).await.unwrap();
    assert_eq!((token.access_token(), token.lifetime()), ("t3", HOUR));
}

#[tokio::test]
async fn a_missing_lifetime_is_the_one_that_was_set() {
    let set = |login: JsonLoginBuilder| login.default_lifetime(Duration::from_secs(90));
    let token = ask(Answer::json(200, json!({ "access_token": "t" })), set).await.unwrap();
    assert_eq!(token.lifetime(), Duration::from_secs(90));
}

#[tokio::test]
async fn a_pointer_to_nothing_or_to_no_text_is_an_error() {
    for body in [json!({}), json!({ "access_token": null }), json!({ "access_token": ["t"] }), json!([]), json!(7)] {
        let error = ask(Answer::json(200, body.clone()), |login| login).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("access token"), "{body}: {error}");
    }
}

#[tokio::test]
async fn by_default_a_401_or_403_in_json_denies_and_the_rest_fails() {
    let words = json!({ "error": "wrong_key", "message": "The key is wrong." });
    for (status, body, denied) in [
        (401, words.to_string(), true),
        (403, words.to_string(), true),
        (401, "Unauthorized".into(), false),
        (403, "<html>".into(), false),
        (403, String::new(), false),
        (400, words.to_string(), false),
        (429, words.to_string(), false),
        (500, words.to_string(), false),
    ] {
        let error = ask(Answer::raw(status, body.clone()), |login| login).await.unwrap_err();
        assert_eq!((error.is_denied(), error.is_transient()), (denied, !denied), "{status} {body}: {error}");
        assert_eq!(error.status().unwrap().as_u16(), status);
        if body.starts_with('{') {
            assert_eq!(error.code(), Some("wrong_key"));
            assert!(error.to_string().contains("The key is wrong."), "{error}");
        }
    }
}

#[tokio::test]
async fn a_judge_of_the_user_decides() {
    let evaluate = |status: StatusCode, body: &Value| match body["result"].as_str() {
        Some("fine") => LoginOutcome::Granted,
        Some("wrong") => LoginOutcome::Denied { code: Some("E1".into()), message: None },
        _ => LoginOutcome::Failed { code: None, message: Some(format!("odd {status}")) },
    };
    let evaluated = |status, result: &str| {
        ask(Answer::json(status, json!({ "result": result, "access_token": "t" })), |login| login.evaluate(evaluate))
    };
    assert_eq!(evaluated(500, "fine").await.unwrap().access_token(), "t");
    let denied = evaluated(200, "wrong").await.unwrap_err();
    assert!(denied.is_denied());
    assert_eq!(denied.code(), Some("E1"));
    let failed = evaluated(200, "busy").await.unwrap_err();
    assert!(failed.is_transient() && failed.to_string().contains("odd 200 OK"), "{failed}");
    // A limit is not a denial, even if the evaluation says so.
    assert!(!evaluated(429, "wrong").await.unwrap_err().is_denied());
}

#[tokio::test]
async fn a_judge_sees_null_where_the_body_is_not_json() {
    let evaluate = |_, body: &Value| if body.is_null() { LoginOutcome::Granted } else { unreachable!() };
    let error = ask(Answer::raw(200, "<html>"), |login| login.evaluate(evaluate)).await.unwrap_err();
    assert!(error.to_string().contains("it is not JSON"), "{error}");
}

#[tokio::test]
async fn the_texts_and_long_numbers_of_the_login_are_not_repeated() {
    let issuer = TokenServer::new();
    let body = json!({ "credentials": [{ "name": "annabel", "pin": 48213 }, "deep secret"], "v": 2 });
    let message = "annabel has no pin 48213 (deep%20secret), try 2";
    issuer.queue(Answer::json(401, json!({ "error": "pin 48213", "message": message })));
    let error = TokenCache::new(JsonLogin::builder(issuer, URL, body).build().unwrap()).get().await.unwrap_err();
    assert_eq!(error.code(), Some("pin [redacted]"));
    let expected = "([redacted] has no pin [redacted] ([redacted]), try 2)";
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn a_login_works_over_a_socket() {
    let issuer = TokenServer::new();
    let url = format!("{}/login", serve(issuer.clone()).await);
    let source = JsonLogin::builder(hyper_client(), &url, json!({ "user": "ann" })).build().unwrap();
    assert_eq!(TokenCache::new(source).get().await.unwrap().access_token(), "token-1");
    assert_eq!(issuer.requests()[0].json(), json!({ "user": "ann" }));
}
