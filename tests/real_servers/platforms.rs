//! Tokens that clouds and code hosts hand out, by fakes of their documented answers.

use serde_json::{Value, json};
use tower_bearer::json::{JsonLogin, JsonLoginBuilder};
use tower_bearer::testing::{Answer, ManualClock, TokenServer};
use tower_bearer::{Error, FetchContext, Reason, Token, TokenSource};

use crate::lifetimes::{NOW, jwt};
use crate::sources::TOKEN_URL;

async fn get(answer: Answer, set: impl FnOnce(JsonLoginBuilder) -> JsonLoginBuilder) -> Result<Token, Error> {
    let issuer = TokenServer::new();
    issuer.queue(answer);
    let login = set(JsonLogin::get(issuer, TOKEN_URL)).build().unwrap();
    login.fetch(FetchContext::new(Reason::First).with_clock(ManualClock::new())).await
}

async fn lives(answer: Value, set: impl FnOnce(JsonLoginBuilder) -> JsonLoginBuilder) -> (String, u64) {
    let token = get(Answer::json(200, answer), set).await.unwrap();
    (token.access_token().to_owned(), token.lifetime().as_secs())
}

#[tokio::test]
async fn azures_instance_metadata_service_is_understood() {
    let answer = json!({
        "access_token": "eyJ0eXAi", "client_id": "00000000-0000-0000-0000-000000000000", "expires_in": "86399",
        "expires_on": (NOW + 86400).to_string(), "ext_expires_in": "86399", "not_before": (NOW - 300).to_string(),
        "resource": "https://management.azure.com/", "token_type": "Bearer",
    });
    assert_eq!(lives(answer, |login| login.header("metadata", "true")).await, ("eyJ0eXAi".into(), 86399));
    let denied = json!({ "error": "invalid_request", "error_description": "Identity not found" });
    let error = get(Answer::json(400, denied), |login| login).await.unwrap_err();
    assert!(error.is_denied() && error.description() == Some("Identity not found"), "{error}");
    // While an identity is being assigned it answers so; its documents say to try again.
    for answer in [Answer::json(404, json!({ "error": "not_found" })), Answer::raw(410, ""), Answer::raw(500, "")] {
        assert!(get(answer, |login| login).await.unwrap_err().is_transient());
    }
}

#[tokio::test]
async fn azures_app_service_is_understood() {
    let answer = json!({
        "access_token": "eyJ0eXAi", "expires_on": (NOW + 300).to_string(), "resource": "https://vault.azure.net",
        "token_type": "Bearer", "client_id": "00000000-0000-0000-0000-000000000000",
    });
    assert_eq!(lives(answer, |login| login).await, ("eyJ0eXAi".into(), 300));
    let failed = json!({ "statusCode": 500, "message": "An unexpected error occured while fetching the AAD Token." });
    let error = get(Answer::json(500, failed), |login| login).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("while fetching the AAD Token"), "{error}");
}

#[tokio::test]
async fn googles_metadata_server_is_understood() {
    let answer = json!({ "access_token": "ya29.c.b0A", "expires_in": 3454, "token_type": "Bearer" });
    let flavored = |login: JsonLoginBuilder| login.header("metadata-flavor", "Google");
    assert_eq!(lives(answer, flavored).await, ("ya29.c.b0A".into(), 3454));
    // Its identity tokens are text.
    let identity = jwt(NOW + 3600);
    let token = get(Answer::raw(200, identity.clone()), |login| flavored(login).token_at("")).await.unwrap();
    assert_eq!((token.access_token(), token.lifetime().as_secs()), (&*identity, 3600));
}

#[tokio::test]
async fn the_job_token_of_actions_is_understood() {
    let token = jwt(NOW + 600);
    let at = |login: JsonLoginBuilder| login.token_at("/value");
    assert_eq!(lives(json!({ "count": 1857, "value": token }), at).await, (token, 600));
}

#[cfg(all(unix, feature = "exec"))]
#[tokio::test]
async fn the_web_identity_token_of_aws_is_understood() {
    let printed = json!({ "WebIdentityToken": jwt(NOW + 300), "Expiration": "2023-11-14T22:18:20+00:00" });
    let command = tower_bearer::exec::TokenCommand::builder("printf").args(["%s".to_owned(), printed.to_string()]);
    let command = command.token_at("/WebIdentityToken").expires_at("/Expiration").build().unwrap();
    let token = command.fetch(FetchContext::new(Reason::First).with_clock(ManualClock::new())).await.unwrap();
    assert_eq!(token.lifetime().as_secs(), 300);
}
