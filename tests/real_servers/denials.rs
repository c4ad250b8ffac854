//! The forms of denials.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tower_bearer::json::{JsonLogin, LoginOutcome};
use tower_bearer::oauth2::{DeviceCodeLogin, RefreshTokenGrant};
use tower_bearer::providers::meshydb::{MeshyDb, Problem};
use tower_bearer::testing::{Answer, MeshConnectServer, TokenServer};
use tower_bearer::{TokenCache, providers::mesh_connect::MeshConnect};

use crate::session;
use crate::sources::{HOUR, TOKEN_URL, ask, at, each, now, pass, password, refresh_token};

/// The number of token calls in an hour with one request a second, if every refresh gets this answer.
async fn calls_in_an_hour(answer: Answer) -> usize {
    let issuer = TokenServer::new();
    issuer.fail(Some(answer));
    let cache = TokenCache::new(refresh_token(&issuer).build().unwrap());
    for _ in 0..3600 {
        cache.get().await.unwrap_err();
        pass(Duration::from_secs(1)).await;
    }
    issuer.calls().total()
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_denied_in_the_servers_own_words_is_denied() {
    for (status, body, code) in [
        (200, r#"{"error":"bad_refresh_token"}"#, Some("bad_refresh_token")),
        (200, "error=bad_refresh_token&error_description=The+refresh+token+is+incorrect", Some("bad_refresh_token")),
        (200, r#"{"ok":false,"error":"invalid_refresh_token"}"#, Some("invalid_refresh_token")),
        (
            400,
            r#"{"errors":[{"errorType":"invalid_grant","message":"Refresh token invalid"}],"success":false}"#,
            Some("invalid_grant"),
        ),
        (400, r#"{"error":"interaction_required"}"#, Some("interaction_required")),
        (401, r#"{"error":"invalid_token"}"#, Some("invalid_token")),
        (400, r#"{"status":400,"message":"Invalid refresh token"}"#, None),
        (401, r#"{"detail":"Token is invalid or expired","code":"token_not_valid"}"#, Some("token_not_valid")),
        (403, r#"{"error":{"code":403,"message":"session revoked"}}"#, None),
        (400, r#"{"error":{"code":"invalid_grant"}}"#, Some("invalid_grant")),
        (
            400,
            r#"{"message":"Bad Request","errors":[{"resource":"RefreshToken","field":"refresh_token","code":"invalid"}]}"#,
            Some("invalid"),
        ),
        (
            400,
            r#"{"__type":"NotAuthorizedException","message":"Refresh Token has expired"}"#,
            Some("NotAuthorizedException"),
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"TOKEN_EXPIRED","status":"INVALID_ARGUMENT"}}"#,
            Some("INVALID_ARGUMENT"),
        ),
        (401, r#"{"errors":[{"code":89,"message":"Invalid or expired token."}]}"#, Some("89")),
        (200, r#"{"errcode":40030,"errmsg":"invalid refresh_token"}"#, Some("40030")),
        (200, r#"{"code":20026,"msg":"refresh token is invalid"}"#, Some("20026")),
        (
            200,
            r#"{"data":{"description":"Refresh token is invalid","error_code":10010},"message":"error"}"#,
            Some("10010"),
        ),
    ] {
        let (cache, _) = session(Answer::raw(status, body));
        let error = cache.get().await.unwrap_err();
        assert!(error.is_denied() && error.code() == code, "{status} {body}: {error}");
        assert!(error.to_string().contains("log in again"), "{error}");
        assert!(calls_in_an_hour(Answer::raw(status, body)).await <= 12, "{status} {body}");

        // A session with a password logs in during the same fetch.
        let issuer = TokenServer::new();
        issuer.rotate_refresh_tokens(true);
        let cache = TokenCache::new(password(&issuer).build().unwrap());
        cache.get().await.unwrap();
        pass(HOUR).await;
        issuer.queue(Answer::raw(status, body));
        assert_eq!(cache.get().await.unwrap().access_token(), "token-2", "{status} {body}");
        assert_eq!(each(&issuer.requests(), "grant_type"), ["password", "refresh_token", "password"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_temporary_error_denies_no_refresh() {
    let wait = |answer: Answer| answer.header("retry-after", "7");
    for answer in [
        Answer::oauth_error(400, "temporarily_unavailable"),
        Answer::oauth_error(400, "slow_down"),
        Answer::oauth_error(429, "bad_refresh_token"),
        Answer::oauth_error(500, "bad_refresh_token"),
        Answer::oauth_error(503, "invalid_token"),
        Answer::oauth_error(404, "bad_refresh_token"),
        Answer::oauth_error(400, "rate_limit_exceeded"),
        Answer::raw(400, "<html>Your session is invalid</html>"),
        Answer::raw(401, "<!doctype html>Log in"),
        Answer::json(401, json!({ "message": "Unauthorized" })),
        Answer::json(403, json!({ "message": "Forbidden" })),
        Answer::json(403, json!({ "message": "Token calls are throttled" })),
        Answer::json(200, json!({ "error": { "message": "quota exceeded" } })),
        wait(Answer::oauth_error(401, "bad_refresh_token")),
        Answer::json(200, json!({ "ok": false, "error": "ratelimited" })),
        Answer::json(400, json!({ "error": "Access Denied", "error_description": "You have made too many requests." })),
        Answer::json(200, json!({ "code": 200, "msg": "the token is in data", "data": { "type": "token" } })),
    ] {
        let (cache, _) = session(answer.clone());
        let error = cache.get().await.unwrap_err();
        assert!(error.is_transient() && !error.is_denied(), "{answer:?}: {error}");
    }
    // Such a code denies only a refresh, because in other calls too many of these errors are temporary.
    assert!(!ask(Answer::oauth_error(401, "invalid_token")).await.unwrap_err().is_denied());
}

#[tokio::test]
async fn an_empty_access_token_with_an_error_is_the_error() {
    for token in [json!(""), json!(null)] {
        let answer = json!({ "access_token": token, "error": "invalid_grant" });
        let error = ask(Answer::json(200, answer)).await.unwrap_err();
        assert!(error.is_denied() && error.code() == Some("invalid_grant"), "{error}");
    }
    // An answer with a token is not an error, even if it has a member `error`.
    for error in [json!(""), json!(null), json!(false), json!({}), json!("deprecated_client")] {
        let answer = json!({ "access_token": "t", "error": error, "errors": [] });
        assert_eq!(ask(Answer::json(200, answer)).await.unwrap().access_token(), "t");
    }
}

#[tokio::test]
async fn an_error_may_lie_in_the_envelope_or_around_it() {
    for body in [
        json!({ "data": { "error": "invalid_grant" } }),
        json!({ "data": {}, "error": "invalid_grant" }),
        json!({ "ok": false, "error": "invalid_grant" }),
    ] {
        for status in [200, 400] {
            let issuer = TokenServer::new();
            issuer.queue(Answer::json(status, body.clone()));
            let error =
                TokenCache::new(refresh_token(&issuer).answer_at("/data").build().unwrap()).get().await.unwrap_err();
            assert!(error.is_denied() && error.code() == Some("invalid_grant"), "{status} {body}: {error}");
        }
    }
}

#[tokio::test]
async fn a_token_in_an_answer_that_cannot_be_read_is_not_shown() {
    for body in ["Bad call: access_token=s3cret-1 is in use", "Sorry: {\"refresh_token\":\"s3cret-1\"} is in use"] {
        let said = ask(Answer::raw(400, body)).await.unwrap_err().to_string();
        assert!(!said.contains("s3cret") && said.contains("is in use"), "{said}");
    }
}

#[tokio::test]
async fn the_issuers_words_are_in_the_error() {
    for (status, body, words) in [
        (401, json!({ "detail": "Incorrect username or password" }), &["Incorrect username or password"][..]),
        (400, json!({ "error": { "message": "Error validating", "code": 190 } }), &["Error validating", "190"]),
        (
            401,
            json!({ "errorCode": "invalid_client", "errorSummary": "Invalid value" }),
            &["invalid_client", "Invalid value"],
        ),
        (400, json!({ "title": "Bad Request", "detail": "unknown tenant" }), &["Bad Request", "unknown tenant"]),
        (200, json!({ "error": { "message": "quota exceeded" } }), &["quota exceeded"]),
        (
            400,
            json!({ "reason": "unsupported grant type", "error": "unsupported_grant_type" }),
            &["unsupported grant type", "unsupported_grant_type"],
        ),
        (401, json!([{ "errorCode": "E7", "message": "session over" }]), &["E7", "session over"]),
        (500, json!({ "fault": { "faultstring": "no proxy for path" } }), &["no proxy for path"]),
        (422, json!({ "errors": { "email": ["is not known"] } }), &["is not known"]),
    ] {
        let said = ask(Answer::json(status, body.clone())).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{body}: {said}");
        // A JSON login finds the words in the same places.
        let issuer = TokenServer::new();
        issuer.queue(Answer::json(status, body.clone()));
        let login = JsonLogin::builder(issuer, TOKEN_URL, json!({})).build().unwrap();
        let said = TokenCache::new(login).get().await.unwrap_err().to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{body}: {said}");
    }
    let long = json!({ "detail": "its secret ".repeat(1000) });
    let said = ask(Answer::json(401, long)).await.unwrap_err().to_string();
    assert!(said.len() < 600 && !said.contains("its secret"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_with_a_fraction_is_waited_for() {
    for (value, seconds) in [("292.052427053", 293), ("60.0", 60)] {
        let error = ask(Answer::raw(429, "").header("retry-after", value)).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(seconds)), "{value}");
    }
}

#[tokio::test]
async fn the_users_own_evaluation_decides() {
    let evaluated = async |status: u16, body: serde_json::Value| {
        let issuer = TokenServer::new();
        issuer.queue(Answer::json(status, body));
        let source = refresh_token(&issuer).evaluate(|status, body| match body["code"].as_i64() {
            Some(0) => Some(LoginOutcome::Granted),
            Some(4011) => {
                Some(LoginOutcome::Denied { code: Some("4011".into()), message: Some("the key is saved".into()) })
            }
            Some(50) if status == StatusCode::UNAUTHORIZED => Some(LoginOutcome::Failed { code: None, message: None }),
            _ => None,
        });
        TokenCache::new(source.build().unwrap()).get().await
    };
    let denied = evaluated(403, json!({ "code": 4011 })).await.unwrap_err();
    assert!(denied.is_denied() && denied.code() == Some("4011"), "{denied}");
    assert_eq!(denied.description(), Some("the key is [redacted]"));
    assert!(!evaluated(429, json!({ "code": 4011 })).await.unwrap_err().is_denied());
    assert!(!evaluated(401, json!({ "code": 50, "error": "invalid_grant" })).await.unwrap_err().is_denied());
    assert_eq!(evaluated(500, json!({ "code": 0, "access_token": "t" })).await.unwrap().access_token(), "t");
    assert!(evaluated(400, json!({ "error": "invalid_grant" })).await.unwrap_err().is_denied());
    assert_eq!(evaluated(200, json!({ "access_token": "t" })).await.unwrap().access_token(), "t");
}

#[tokio::test]
async fn a_404_says_to_check_the_address() {
    for answer in [Answer::raw(404, ""), Answer::raw(404, "<html>"), Answer::raw(405, ""), Answer::json(410, json!({}))]
    {
        let error = ask(answer.clone()).await.unwrap_err();
        let said = error.to_string();
        assert!(error.is_transient() && said.contains("check the address") && !said.contains("may pass"), "{said}");
        let (cache, _) = session(answer);
        assert!(cache.get().await.unwrap_err().to_string().contains("check the address"));
    }
}

#[tokio::test]
async fn an_invalid_client_is_not_asked_to_log_in_again() {
    let issuer = TokenServer::new();
    let meshy = || {
        MeshyDb::builder(issuer.clone(), "acme", "public-key")
            .build()
            .unwrap()
            .login_with_refresh_token("saved")
            .build()
            .unwrap()
    };
    for answer in [
        Answer::oauth_error(400, "invalid_client"),
        Answer::json(400, json!({ "message": "Client id is invalid." })),
        Answer::raw(400, "Client id is invalid."),
    ] {
        issuer.queue(answer);
        let error = TokenCache::new(meshy()).get().await.unwrap_err();
        let said = error.to_string();
        assert!(error.is_denied() && said.contains("check its id and secret") && !said.contains("log in"), "{said}");
        assert_eq!(Problem::of(&error), Some(Problem::ClientId));
    }
}

#[tokio::test]
async fn a_problem_of_meshydb_is_one_of_meshydb_only() {
    let mesh = MeshConnectServer::new("id", "secret");
    mesh.fail(Some(Answer::raw(429, "")));
    let error = TokenCache::new(MeshConnect::builder(mesh, "id", "secret").build().unwrap()).get().await.unwrap_err();
    assert_eq!((error.status().unwrap().as_u16(), Problem::of(&error)), (429, None));
    assert_eq!(Problem::of(&ask(Answer::raw(429, "")).await.unwrap_err()), None);
}

#[tokio::test]
async fn a_problem_is_read_from_the_answer_before_redaction() {
    let issuer = TokenServer::new();
    let meshy = MeshyDb::builder(issuer.clone(), "acme", "public-key").build().unwrap();
    issuer.queue(Answer::json(400, json!({ "message": "Password is invalid." })));
    let cache = TokenCache::new(meshy.login_with_password("ann", "password").build().unwrap());
    let error = cache.get().await.unwrap_err();
    assert_eq!(error.description(), Some("[redacted] is invalid."));
    assert_eq!(Problem::of(&error), Some(Problem::Password));
}

#[tokio::test]
async fn the_code_of_a_mesh_connect_status_is_a_word() {
    let server = MeshConnectServer::new("id", "secret");
    server.content_status(Some("mfaRequired"));
    let error =
        TokenCache::new(MeshConnect::builder(server.clone(), "id", "secret").build().unwrap()).get().await.unwrap_err();
    assert_eq!(error.code(), Some("mfaRequired"));
    server.fail(Some(Answer::json(200, json!({ "content": {} }))));
    let error = TokenCache::new(MeshConnect::builder(server, "id", "secret").build().unwrap()).get().await.unwrap_err();
    assert!(error.code().is_none() && error.to_string().contains("status missing"), "{error}");
}

#[tokio::test]
async fn a_token_of_another_client_is_about_the_token() {
    let words = "The refresh token was not issued to this client id.";
    let (cache, _) = session(Answer::json(400, json!({ "error": "invalid_grant", "error_description": words })));
    assert!(cache.get().await.unwrap_err().to_string().contains("log in again"));
}

#[tokio::test]
async fn a_json_login_is_denied_by_the_codes_of_the_rfcs_too() {
    let login = async |status, body| {
        let issuer = TokenServer::new();
        issuer.queue(Answer::json(status, body));
        TokenCache::new(JsonLogin::builder(issuer, TOKEN_URL, json!({})).build().unwrap()).get().await
    };
    for (status, denied) in [(200, true), (400, true), (404, true), (429, false), (503, false)] {
        let error =
            login(status, json!({ "error": { "code": "invalid_grant", "message": "gone" } })).await.unwrap_err();
        assert_eq!((error.is_denied(), error.code()), (denied, Some("invalid_grant")), "{status}: {error}");
        assert_eq!(error.description(), Some("gone"));
    }
    assert!(login(200, json!({ "access_token": "t", "error": "invalid_grant" })).await.is_ok());
}

/// The beginning of the code is the end of the client secret.
#[tokio::test(start_paused = true)]
async fn a_device_login_continues_although_a_secret_looks_like_its_code() {
    let issuer = TokenServer::new();
    let code =
        json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://example.com", "interval": 5 });
    issuer.queue(Answer::json(200, code));
    (0..3).for_each(|_| issuer.queue(Answer::oauth_error(400, "authorization_pending")));
    let login = DeviceCodeLogin::builder(&at(issuer.clone()).device_authorization_endpoint(TOKEN_URL), "my-app")
        .client_auth("pending-review-secret")
        .build()
        .unwrap();
    let login = login.begin().await.unwrap();
    let start = now();
    login.finish().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn a_code_is_read_although_a_secret_looks_like_its_end() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(refresh_token(&issuer).build().unwrap());
    assert_eq!(cache.get().await.unwrap().access_token(), "token-1");
    issuer.queue(Answer::oauth_error(401, "invalid_token"));
    let error = cache.refresh().await.unwrap_err();
    assert!(error.is_denied() && error.code() == Some("invalid_token"), "{error}");
    issuer.queue(Answer::oauth_error(400, "bad_token"));
    assert_eq!(cache.refresh().await.unwrap_err().code(), Some("bad_token"));
    issuer.queue(Answer::oauth_error(400, "authorization_pending"));
    let source = RefreshTokenGrant::builder(&at(issuer), "my-app", "pending-review-secret").build().unwrap();
    assert_eq!(TokenCache::new(source).get().await.unwrap_err().code(), Some("authorization_pending"));
}
