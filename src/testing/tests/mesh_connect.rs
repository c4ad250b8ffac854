use http::Request;
use serde_json::{Value, json};

use crate::testing::helpers::now;
use crate::testing::tests::{Got, SECOND, call, send};
use crate::testing::{Answer, MeshConnectServer, TokenState};

const LOGIN: &str = r#"{"clientId":"me","clientSecret":"secret"}"#;

fn server() -> MeshConnectServer {
    MeshConnectServer::new("me", "secret")
}

fn post(content_type: &str) -> http::request::Builder {
    Request::post("https://admin-api.meshconnect.com/admin/api/v1/Token").header("content-type", content_type)
}

async fn token(server: &MeshConnectServer, body: &'static str) -> Got {
    send(server, post("application/json"), body).await.unwrap()
}

async fn content(server: &MeshConnectServer) -> Value {
    token(server, LOGIN).await.json()["content"].clone()
}

#[tokio::test]
async fn a_login_is_answered_with_the_documented_envelope() {
    let server = server();
    let got = token(&server, LOGIN).await;
    let id_token = server.ledger().newest().unwrap();
    assert_eq!(got.status, 200);
    assert_eq!(
        got.json(),
        json!({
            "status": "ok",
            "message": "",
            "errorHash": "e47df370",
            "errorType": "",
            "content": { "id_token": id_token, "expires_in": 3600, "status": "available" },
        })
    );
    let of_base64url = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    assert!(id_token.split('.').count() == 3 && id_token.split('.').all(of_base64url));
    assert_ne!(content(&server).await["id_token"], json!(id_token));
    assert_eq!(server.token_calls().total(), 2);
}

#[tokio::test]
async fn json_has_three_content_types() {
    let types = [
        ("application/json; charset=utf-8", 200),
        ("Text/JSON", 200),
        ("application/vnd.mesh+json", 200),
        ("application/x-www-form-urlencoded", 400),
        ("text/plain+json", 400),
    ];
    for (content_type, status) in types {
        assert_eq!(send(&server(), post(content_type), LOGIN).await.unwrap().status, status, "{content_type}");
    }
}

#[tokio::test]
async fn a_malformed_login_is_a_bad_request() {
    let bodies = [
        r#"{"clientId":"me"}"#,
        r#"{"clientId":"me","clientSecret":""}"#,
        r#"{"clientId":1,"clientSecret":"secret"}"#,
        r#"{"clientId":"me","clientSecret":"secret","scope":"a"}"#,
        r#"["me","secret"]"#,
        "clientId=me&clientSecret=secret",
    ];
    for body in bodies {
        let got = token(&server(), body).await;
        assert_eq!((got.status.as_u16(), got.text("status")), (400, "badRequest".to_owned()), "{body}");
    }
    let missing = token(&server(), bodies[0]).await.json();
    assert_eq!((&missing["errorType"], &missing["content"]), (&json!("missingField"), &Value::Null));
    assert!(missing["displayMessage"].is_string() && missing["errorHash"].is_string());
}

#[tokio::test]
async fn a_login_may_not_carry_a_token() {
    let request = post("application/json").header("authorization", "Bearer old");
    assert_eq!(send(&server(), request, LOGIN).await.unwrap().status, 400);
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    for body in [r#"{"clientId":"me","clientSecret":"wrong"}"#, r#"{"clientId":"you","clientSecret":"secret"}"#] {
        let got = token(&server(), body).await;
        assert_eq!((got.status.as_u16(), got.text("status")), (403, "permissionDenied".to_owned()));
    }
}

#[tokio::test]
async fn either_status_can_report_a_failure_in_a_200() {
    let server = server();
    server.envelope_status(Some("tooManyRequest"));
    let got = token(&server, LOGIN).await;
    assert_eq!((got.status.as_u16(), got.text("status")), (200, "tooManyRequest".to_owned()));
    server.envelope_status(None);
    server.content_status(Some("mfaRequired"));
    let got = token(&server, LOGIN).await;
    assert_eq!((got.text("status"), &got.json()["content"]["status"]), ("ok".to_owned(), &json!("mfaRequired")));
    server.content_status(None);
    assert_eq!(content(&server).await["status"], "available");
}

#[tokio::test]
async fn the_lifetime_and_the_token_can_be_missing() {
    let server = server();
    server.lifetime(10 * SECOND);
    assert_eq!(content(&server).await["expires_in"], 10);
    server.omit_expires_in(true);
    assert_eq!(content(&server).await.get("expires_in"), None);
    server.null_token(true);
    assert_eq!(content(&server).await.get("id_token"), Some(&Value::Null));
    assert_eq!(server.ledger().issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_and_a_delay_concern_only_token_calls() {
    let server = server();
    let live = content(&server).await["id_token"].as_str().unwrap().to_owned();
    server.fail(Some(Answer::raw(502, "")));
    server.delay(3 * SECOND);
    let start = now();
    assert_eq!(call(&server, "/admin/api/v1/accounts", &live).await.status, 200);
    assert_eq!(start.elapsed().as_secs(), 0);
    assert_eq!(token(&server, LOGIN).await.status, 502);
    assert_eq!(start.elapsed().as_secs(), 3);
    server.fail(None);
    assert_eq!(token(&server, LOGIN).await.status, 200);
}

#[tokio::test]
async fn the_api_rejects_with_an_envelope_and_no_challenge() {
    let server = server();
    let live = content(&server).await["id_token"].as_str().unwrap().to_owned();
    assert_eq!(call(&server, "/admin/api/v1/accounts", &live).await.status, 200);
    server.ledger().revoke(&live);
    let got = call(&server, "/admin/api/v1/accounts", &live).await;
    assert_eq!((got.status.as_u16(), got.text("status")), (401, "permissionDenied".to_owned()));
    assert!(!got.headers.contains_key("www-authenticate"));
    assert_eq!(server.ledger().state_of(&live), TokenState::Revoked);
    assert_eq!(call(&server, "/elsewhere", &live).await.status, 404);
    assert_eq!(call(&server, "/admin/api/v1/Token", &live).await.status, 405);
    assert_eq!((server.api().accepted(), server.api().rejected(), server.requests().len()), (1, 1, 5));
}
