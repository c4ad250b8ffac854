use std::time::Duration;

use http::Request;
use serde_json::json;

use crate::testing::tests::{Got, SECOND, call, send};
use crate::testing::{Answer, ErrorBodies, MeshyDbServer, TokenState};

const LOGIN: &str = "client_id=key&grant_type=password&username=ann&password=secret&scope=meshy.api%20offline_access";

fn server() -> MeshyDbServer {
    MeshyDbServer::new("acme", "key").user("ann", "secret").tenant_user("north", "ann", "other")
}

fn form(route: &str) -> http::request::Builder {
    Request::post(format!("https://auth.meshydb.com/acme/{route}"))
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
}

async fn token(server: &MeshyDbServer, body: &str) -> Got {
    send(server, form("connect/token"), body.to_owned()).await.unwrap()
}

async fn refresh(server: &MeshyDbServer, refresh_token: &str) -> Got {
    token(server, &format!("client_id=key&grant_type=refresh_token&refresh_token={refresh_token}")).await
}

async fn register(server: &MeshyDbServer, body: &'static str) -> Got {
    let request = Request::post("/acme/users/register/anonymous").header("content-type", "application/json");
    send(server, request, body).await.unwrap()
}

fn denial(got: &Got) -> (u16, String, String) {
    (got.status.as_u16(), got.text("error"), got.text("error_description"))
}

fn denied(code: &str, why: &str) -> (u16, String, String) {
    (400, code.to_owned(), why.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_login_is_answered_as_documented() {
    let server = server();
    let got = token(&server, LOGIN).await;
    let access_token = got.text("access_token");
    assert_eq!((got.status.as_u16(), &got.headers["cache-control"]), (200, &"no-store".parse().unwrap()));
    assert_eq!(
        got.json(),
        json!({
            "access_token": access_token,
            "expires_in": 3600,
            "token_type": "Bearer",
            "refresh_token": got.text("refresh_token"),
        })
    );
    assert!(access_token.starts_with("ey") && access_token.split('.').count() == 3);
    assert_eq!(server.ledger().state_of(&access_token), TokenState::Live);
    assert_eq!(server.token_calls().total(), 1);
}

#[tokio::test]
async fn only_the_offline_scope_returns_a_refresh_token() {
    let login = LOGIN.replace("%20offline_access", "");
    assert!(token(&server(), &login).await.json().get("refresh_token").is_none());
    let unscoped = login.replace("&scope=meshy.api", "");
    assert_eq!(token(&server(), &unscoped).await.status, 200);
}

#[tokio::test]
async fn a_denied_login_has_the_providers_text() {
    let server = server();
    let cases = [
        ("client_id=key", "client_id=kez", "invalid_client", "Client id is invalid."),
        ("client_id=key&", "", "invalid_client", "Client id is invalid."),
        ("grant_type=password&", "", "invalid_request", "Grant type is invalid."),
        ("grant_type=password", "grant_type=client_credentials", "unsupported_grant_type", "Grant type is invalid."),
        ("meshy.api", "openid", "invalid_scope", "Invalid Scope."),
        ("username=ann&", "", "invalid_request", "Username is invalid."),
        ("username=ann", "username=bob", "invalid_grant", "Username is invalid."),
        ("password=secret", "password=wrong", "invalid_grant", "Password is invalid."),
        ("username=ann", "username=ann&username=ann", "invalid_request", "The form is invalid."),
        ("username=ann", "username=", "invalid_request", "Username is invalid."),
        ("grant_type=password", "grant_type=", "invalid_request", "Grant type is invalid."),
    ];
    for (from, to, code, why) in cases {
        let got = token(&server, &LOGIN.replacen(from, to, 1)).await;
        assert_eq!(denial(&got), denied(code, why), "{to:?} for {from:?}");
    }
    assert_eq!(denial(&refresh(&server, "unknown").await), denied("invalid_grant", "Token is invalid."));
    let without_content_type = send(&server, Request::post("/acme/connect/token"), LOGIN).await.unwrap();
    assert_eq!(denial(&without_content_type), denied("invalid_request", "The form is invalid."));
    assert_eq!(server.ledger().issued(), 0);
}

#[tokio::test]
async fn a_refresh_rotates_the_refresh_token_and_lets_the_old_access_token_live() {
    let server = server();
    let first = token(&server, LOGIN).await;
    let second = refresh(&server, &first.text("refresh_token")).await;
    assert_ne!(first.text("refresh_token"), second.text("refresh_token"));
    assert_eq!(server.ledger().state_of(&first.text("access_token")), TokenState::Live);
    assert_eq!(refresh(&server, &second.text("refresh_token")).await.status, 200);
    assert_eq!(server.reuses(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_of_eight_refreshes_gets_a_token_and_reuse_revokes_it() {
    let server = server();
    let first = token(&server, LOGIN).await.text("refresh_token");
    server.delay(SECOND);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (server, first) = (server.clone(), first.clone());
        running.spawn(async move { refresh(&server, &first).await });
    }
    let answers = running.join_all().await;
    let won: Vec<_> = answers.iter().filter(|got| got.status == 200).collect();
    assert_eq!((won.len(), server.reuses(), server.token_calls().most_at_once()), (1, 7, 8));
    assert_eq!(call(&server, "/acme/meshes", &won[0].text("access_token")).await.status, 401);
    let newest = refresh(&server, &won[0].text("refresh_token")).await;
    assert_eq!(denial(&newest), denied("invalid_grant", "Token is invalid."));
}

#[tokio::test(start_paused = true)]
async fn a_used_refresh_token_gets_the_same_pair_only_within_the_grace() {
    let server = server();
    server.reuse_grace(10 * SECOND);
    let first = token(&server, LOGIN).await.text("refresh_token");
    let pair = refresh(&server, &first).await;
    tokio::time::advance(9 * SECOND).await;
    let again = refresh(&server, &first).await;
    assert_eq!(again.text("refresh_token"), pair.text("refresh_token"));
    assert_eq!(again.text("access_token"), pair.text("access_token"));
    assert_eq!((again.json()["expires_in"].as_u64(), server.reuses()), (Some(3591), 0));
    tokio::time::advance(SECOND).await;
    assert_eq!((refresh(&server, &first).await.status.as_u16(), server.reuses()), (400, 1));
}

#[tokio::test]
async fn without_rotation_the_old_refresh_token_stays_valid() {
    let server = server();
    server.rotate(false);
    let first = token(&server, LOGIN).await.text("refresh_token");
    for _ in 0..2 {
        let got = refresh(&server, &first).await;
        assert_eq!((got.status.as_u16(), got.json().get("refresh_token")), (200, None));
    }
}

#[tokio::test]
async fn a_refresh_can_end_the_old_access_token_at_once() {
    let server = server();
    server.revoke_old_on_refresh(true);
    let first = token(&server, LOGIN).await;
    let second = refresh(&server, &first.text("refresh_token")).await;
    let ledger = server.ledger();
    assert_eq!(ledger.state_of(&first.text("access_token")), TokenState::Revoked);
    assert_eq!(ledger.state_of(&second.text("access_token")), TokenState::Live);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_expires() {
    let server = server();
    server.refresh_lifetime(10 * SECOND);
    let first = token(&server, LOGIN).await;
    tokio::time::advance(10 * SECOND).await;
    let got = refresh(&server, &first.text("refresh_token")).await;
    assert_eq!(denial(&got), denied("invalid_grant", "Refresh token is expired."));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_whose_answer_is_dropped_uses_up_the_refresh_token() {
    let server = server();
    let first = token(&server, LOGIN).await.text("refresh_token");
    server.delay(10 * SECOND);
    assert!(tokio::time::timeout(SECOND, refresh(&server, &first)).await.is_err());
    assert_eq!((refresh(&server, &first).await.status.as_u16(), server.reuses()), (400, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_breaks_the_connection_after_the_token_was_issued() {
    let server = server();
    let first = token(&server, LOGIN).await.text("refresh_token");
    server.reuse_grace(SECOND);
    server.lose_answers(1);
    let body = format!("client_id=key&grant_type=refresh_token&refresh_token={first}");
    assert!(send(&server, form("connect/token"), body).await.is_err());
    assert_eq!(server.ledger().issued(), 2);
    let again = refresh(&server, &first).await;
    assert_eq!(Some(again.text("access_token")), server.ledger().newest());
    assert_eq!(server.ledger().issued(), 2);
}

#[tokio::test]
async fn a_deactivated_user_can_neither_log_in_nor_refresh() {
    let server = server();
    let first = token(&server, LOGIN).await;
    server.deactivate("ann");
    let expected = denied("invalid_grant", "User is no longer active.");
    assert_eq!(denial(&token(&server, LOGIN).await), expected);
    assert_eq!(denial(&refresh(&server, &first.text("refresh_token")).await), expected);
}

#[tokio::test]
async fn a_session_belongs_to_its_tenant() {
    let server = server();
    let north = |route| form(route).header("tenant", "north");
    let login = LOGIN.replace("secret", "other");
    assert_eq!(send(&server, north("connect/token"), LOGIN).await.unwrap().status, 400);
    let first = send(&server, north("connect/token"), login).await.unwrap().text("refresh_token");
    let refreshed = format!("client_id=key&grant_type=refresh_token&refresh_token={first}");

    assert_eq!(denial(&refresh(&server, &first).await), denied("invalid_grant", "Token is invalid."));
    assert_eq!(
        send(&server, form("connect/revocation"), format!("client_id=key&token={first}")).await.unwrap().status,
        200
    );
    assert_eq!((server.revocations(), server.reuses()), (0, 0));
    assert_eq!(send(&server, north("connect/token"), refreshed).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_empty_tenant_is_the_default_one() {
    let got = send(&server(), form("connect/token").header("tenant", ""), LOGIN).await.unwrap();
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn an_anonymous_user_registers_once_and_logs_in() {
    let server = server();
    let login = "client_id=key&grant_type=password&username=device-1&password=nopassword";
    assert_eq!(token(&server, login).await.status, 400);
    let got = register(&server, r#"{"username":"device-1"}"#).await;
    assert_eq!((got.status.as_u16(), got.text("username")), (201, "device-1".to_owned()));
    assert_eq!(token(&server, login).await.status, 200);
    assert_eq!(register(&server, r#"{"username":"device-1"}"#).await.status, 400);
    assert_eq!(register(&server, r#"{"username":""}"#).await.status, 400);
    assert_eq!(register(&server, "device-2").await.status, 400);
    let without_content_type =
        send(&server, Request::post("/acme/users/register/anonymous"), r#"{"username":"device-2"}"#).await;
    assert_eq!(without_content_type.unwrap().status, 400);
    server.anonymous(false);
    assert_eq!(register(&server, r#"{"username":"device-2"}"#).await.status, 400);
    assert_eq!(server.registrations(), 1);
}

#[tokio::test]
async fn a_revoked_refresh_token_ends_its_session() {
    let server = server();
    let first = token(&server, LOGIN).await;
    let revoke = |token: &str| format!("token={token}&token_type_hint=refresh_token&client_id=key");
    for body in [revoke(&first.text("refresh_token")), revoke("unknown")] {
        let got = send(&server, form("connect/revocation"), body).await.unwrap();
        assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
    }
    assert_eq!(server.revocations(), 1);
    assert_eq!(server.ledger().state_of(&first.text("access_token")), TokenState::Revoked);
    let got = refresh(&server, &first.text("refresh_token")).await;
    assert_eq!(denial(&got), denied("invalid_grant", "Token is invalid."));
    let unknown_client = send(&server, form("connect/revocation"), "token=a&client_id=kez").await.unwrap();
    assert_eq!(denial(&unknown_client), denied("invalid_client", "Client id is invalid."));
    let nothing = send(&server, form("connect/revocation"), "client_id=key").await.unwrap();
    assert_eq!(denial(&nothing), denied("invalid_request", "Token is invalid."));
}

#[tokio::test]
async fn any_other_path_of_the_account_is_the_protected_api() {
    let server = server();
    let live = token(&server, LOGIN).await.text("access_token");
    assert_eq!(call(&server, "https://api.meshydb.com/acme/meshes/person", &live).await.status, 200);
    let rejected = call(&server, "/acme/meshes/person", "unknown").await;
    assert_eq!(rejected.headers["www-authenticate"], r#"Bearer error="invalid_token""#);
    assert_eq!(call(&server, "/other/meshes/person", &live).await.status, 404);
    assert_eq!(call(&server, "/acme/connect/token", &live).await.status, 405);
    assert_eq!((server.api().accepted(), server.api().rejected()), (1, 1));
    assert_eq!((server.requests().len(), server.token_calls().total()), (5, 1));
}

#[tokio::test]
async fn a_limited_account_gets_a_retry_after() {
    let server = server();
    server.limit_with(Some("7"));
    let got = token(&server, LOGIN).await;
    assert_eq!((got.status.as_u16(), &got.headers["retry-after"]), (429, &"7".parse().unwrap()));
    server.limit(true);
    let got = token(&server, LOGIN).await;
    assert_eq!((got.status.as_u16(), got.headers.get("retry-after")), (429, None));
    server.limit(false);
    assert_eq!(token(&server, LOGIN).await.status, 200);
}

#[tokio::test]
async fn error_bodies_have_each_form() {
    let server = server();
    let shapes = [
        (ErrorBodies::OAuth, r#"{"error":"invalid_grant","error_description":"Token is invalid."}"#),
        (ErrorBodies::OtherJson, r#"{"message":"Token is invalid."}"#),
        (ErrorBodies::Text, "Token is invalid."),
        (ErrorBodies::Empty, ""),
    ];
    for (shape, body) in shapes {
        server.error_bodies(shape);
        let got = refresh(&server, "unknown").await;
        assert_eq!((got.status.as_u16(), got.body.as_ref()), (400, body.as_bytes()), "{shape:?}");
    }
}

#[tokio::test]
async fn an_outage_concerns_only_the_token_calls() {
    let server = server();
    let live = token(&server, LOGIN).await.text("access_token");
    server.fail(Some(Answer::raw(503, "<html>")));
    assert_eq!(token(&server, LOGIN).await.status, 503);
    assert_eq!(call(&server, "/acme/meshes", &live).await.status, 200);
    server.fail(None);
    assert_eq!(token(&server, LOGIN).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_access_token_is_valid_for_its_lifetime() {
    let server = server();
    server.lifetime(10 * SECOND);
    let got = token(&server, LOGIN).await;
    assert_eq!(got.json()["expires_in"], 10);
    tokio::time::advance(10 * SECOND - Duration::from_nanos(1)).await;
    assert_eq!(call(&server, "/acme/meshes", &got.text("access_token")).await.status, 200);
    tokio::time::advance(Duration::from_nanos(1)).await;
    assert_eq!(call(&server, "/acme/meshes", &got.text("access_token")).await.status, 401);
}

#[tokio::test]
async fn a_token_of_one_server_is_unknown_to_another() {
    let (one, other) = (server(), server());
    let first = token(&one, LOGIN).await;
    token(&other, LOGIN).await;
    assert_eq!(other.ledger().state_of(&first.text("access_token")), TokenState::Unknown);
    assert_eq!(refresh(&other, &first.text("refresh_token")).await.status, 400);
    assert_eq!(other.reuses(), 0);
}
