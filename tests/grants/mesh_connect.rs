//! Mesh Connect: the documented request, and every answer of its envelope.

use std::time::Duration;

use serde_json::{Value, json};
use tower_bearer::providers::mesh_connect::MeshConnect;
use tower_bearer::testing::{Answer, MeshConnectServer};
use tower_bearer::{Error, Token, TokenCache};

use crate::sources::{HOUR, call_api, headers, hyper_client, map, pass, serve};

fn server() -> MeshConnectServer {
    MeshConnectServer::new("my-client", "my-secret")
}

fn login(server: &MeshConnectServer) -> TokenCache {
    TokenCache::new(MeshConnect::builder(server.clone(), "my-client", "my-secret").build().unwrap())
}

async fn ask(answer: Answer) -> Result<Token, Error> {
    let server = server();
    server.fail(Some(answer));
    login(&server).get().await
}

/// The documented envelope, with changes in its top-level members and in its content.
fn envelope(top: Value, content: Value) -> Value {
    let mut whole = json!({ "status": "ok", "message": "", "errorHash": "e47df370", "errorType": "" });
    whole["content"] = json!({ "id_token": "ey.J.x", "expires_in": 600, "status": "available" });
    for (into, changes) in [("/content", content), ("", top)] {
        for (name, value) in changes.as_object().unwrap() {
            whole.pointer_mut(into).unwrap()[name] = value.clone();
        }
    }
    whole
}

fn ok(top: Value, content: Value) -> Answer {
    Answer::json(200, envelope(top, content))
}

#[tokio::test(start_paused = true)]
async fn every_fetch_is_the_documented_request() {
    let server = server();
    let cache = login(&server);
    for _ in 0..2 {
        cache.get().await.unwrap();
        pass(HOUR).await;
    }
    for request in server.requests() {
        assert_eq!(request.method, "POST");
        assert_eq!(request.uri, "https://admin-api.meshconnect.com/admin/api/v1/Token");
        assert_eq!(headers(&request), map([("accept", "application/json"), ("content-type", "application/json")]));
        assert_eq!(request.json(), json!({ "clientId": "my-client", "clientSecret": "my-secret" }));
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn the_base_url_is_a_setting() {
    let server = server();
    let source = MeshConnect::builder(server.clone(), "my-client", "my-secret");
    TokenCache::new(source.base("https://sandbox.example.com/mesh/").build().unwrap()).get().await.unwrap_err();
    assert_eq!(server.requests()[0].uri, "https://sandbox.example.com/mesh/admin/api/v1/Token");
}

#[tokio::test]
async fn the_documented_answer_grants() {
    let token = ask(ok(json!({}), json!({}))).await.unwrap();
    assert_eq!((token.access_token(), token.lifetime()), ("ey.J.x", Duration::from_secs(600)));
    assert!(token.refresh_token().is_none());
}

#[tokio::test]
async fn nullable_and_unknown_members_do_not_matter() {
    let odd = json!({ "message": null, "displayMessage": null, "errorHash": null, "errorType": null, "errorData": {} });
    ask(ok(odd, json!({ "teamCode": 7 }))).await.unwrap();
    let bare = json!({ "status": "ok", "content": { "id_token": "ey.J.x" } });
    assert_eq!(ask(Answer::json(201, bare)).await.unwrap().lifetime(), HOUR);
}

#[tokio::test]
async fn a_missing_lifetime_is_an_hour() {
    assert_eq!(ask(ok(json!({}), json!({ "expires_in": null }))).await.unwrap().lifetime(), HOUR);
    let server = server();
    server.omit_expires_in(true);
    assert_eq!(login(&server).get().await.unwrap().lifetime(), HOUR);
}

#[tokio::test]
async fn the_content_may_have_any_status_that_is_not_a_failure() {
    for status in [json!("succeeded"), json!("available"), json!(null), json!("unheardOf"), json!(7)] {
        let answer = ask(ok(json!({}), json!({ "status": status }))).await;
        assert!(answer.is_ok(), "{status}: {answer:?}");
    }
}

#[tokio::test]
async fn a_failed_content_denies_even_with_a_token() {
    for status in ["failed", "mfaRequired"] {
        let server = server();
        server.content_status(Some(status));
        let error = login(&server).get().await.unwrap_err();
        assert!(error.is_denied() && error.to_string().contains(status), "{error}");
    }
}

#[tokio::test]
async fn every_other_envelope_status_is_an_error_that_names_it() {
    let denied = ["permissionDenied", "badRequest", "notFound", "locked", "unavailableForLegalReasons"];
    let transient = ["serverFailure", "tooManyRequest", "conflict", "unheardOf", "OK"];
    for (names, is_denied) in [(denied, true), (transient, false)] {
        for name in names {
            // The answer holds a token. Some statuses are errors.
            for status in [200, 400, 403, 500] {
                let error =
                    ask(Answer::json(status, envelope(json!({ "status": name }), json!({})))).await.unwrap_err();
                let kind = (error.is_denied(), error.is_transient());
                assert_eq!(kind, (is_denied, !is_denied), "{status} {name}: {error}");
                assert_eq!((error.code(), error.status().unwrap().as_u16()), (Some(name), status));
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_token_names_its_status() {
    let nothing = [
        ok(json!({}), json!({ "id_token": null })),
        ok(json!({}), json!({ "id_token": "" })),
        ok(json!({}), json!({ "id_token": 7 })),
    ];
    for answer in nothing {
        let error = ask(answer).await.unwrap_err();
        let said = error.to_string();
        assert!(!error.is_denied() && error.code() == Some("available"), "{said}");
        assert!(said.contains("it holds no id_token") && said.contains("e47df370"), "{said}");
    }
    let error = ask(ok(json!({ "content": null }), json!({}))).await.unwrap_err();
    assert!(!error.is_denied() && error.to_string().contains("200 ok (errorHash"), "{error}");
}

#[tokio::test]
async fn a_2xx_without_a_status_is_an_error_that_says_so() {
    for top in [json!({ "status": null }), json!({ "status": "" }), json!({ "status": 1 })] {
        let error = ask(ok(top, json!({}))).await.unwrap_err();
        assert!(!error.is_denied() && error.to_string().contains("status missing"), "{error}");
    }
}

#[tokio::test]
async fn a_429_is_never_denied_and_says_how_long_to_wait() {
    let envelope = envelope(json!({ "status": "permissionDenied" }), json!({}));
    let error = ask(Answer::json(429, envelope).header("retry-after", "9")).await.unwrap_err();
    assert!(!error.is_denied(), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
}

#[tokio::test]
async fn an_answer_that_is_not_an_envelope_does_not_deny() {
    for body in ["", "<html>Forbidden</html>", "null", "[]", "7", r#""badRequest""#, "{}", "{\"status\":"] {
        for status in [200, 302, 400, 401, 403, 502] {
            let error = ask(Answer::raw(status, body)).await.unwrap_err();
            assert!(!error.is_denied() && error.is_transient(), "{status} {body}: {error}");
        }
    }
}

#[tokio::test]
async fn an_error_has_the_members_of_the_envelope() {
    let envelope = json!({
        "status": "badRequest",
        "message": "Client secret: not set",
        "displayMessage": "Please check your settings",
        "errorHash": "cd59bd31",
        "errorType": "missingField",
        "errorData": { "x": 1 },
    });
    for (http_status, status) in [(400, "badRequest"), (403, "permissionDenied"), (200, "tooManyRequest")] {
        let mut envelope = envelope.clone();
        envelope["status"] = json!(status);
        let error = ask(Answer::json(http_status, envelope)).await.unwrap_err();
        let said = error.to_string();
        for word in [status, "Client secret: not set", "Please check your settings", "cd59bd31", "missingField"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!((error.code(), error.status().unwrap().as_u16()), (Some(status), http_status));
        assert!(error.description().unwrap().contains("Please check your settings"), "{said}");
    }
    // A long text for people does not truncate the error's type and hash.
    let mut long = envelope;
    long["displayMessage"] = json!("please ".repeat(100));
    let said = ask(Answer::json(400, long)).await.unwrap_err().to_string();
    assert!(said.contains("cd59bd31") && said.contains("missingField") && said.len() < 500, "{said}");
}

#[tokio::test]
async fn every_member_of_an_error_but_its_status_may_be_null() {
    let nothing =
        json!({ "message": null, "displayMessage": null, "errorHash": null, "errorType": null, "content": null });
    for (status, is_denied) in [("badRequest", true), ("permissionDenied", true), ("tooManyRequest", false)] {
        for mut envelope in [nothing.clone(), json!({})] {
            envelope["status"] = json!(status);
            let error = ask(Answer::json(400, envelope)).await.unwrap_err();
            assert_eq!(
                (error.is_denied(), error.code(), error.description()),
                (is_denied, Some(status), None),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let server = server();
    let cache = TokenCache::new(MeshConnect::builder(server.clone(), "my-client", "not my-secret").build().unwrap());
    let error = cache.get().await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert_eq!((error.status().unwrap().as_u16(), error.code()), (403, Some("permissionDenied")));
}

#[tokio::test]
async fn a_login_works_over_a_socket() {
    let server = server();
    let base = serve(server.clone()).await;
    let source = MeshConnect::builder(hyper_client(), "my-client", "my-secret").base(&base).build().unwrap();
    let cache = TokenCache::new(source);
    for _ in 0..2 {
        assert_eq!(call_api(&cache, &base, "/admin/api/v1/accounts").await, 200);
    }
    assert_eq!((server.api().accepted(), server.token_calls().total()), (2, 1));
}
