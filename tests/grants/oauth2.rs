//! OAuth 2 grants: their requests, and their use of refresh tokens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::json;
use tower::service_fn;
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{self, ClientAuth, ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant};
use tower_bearer::testing::{Answer, Recorded, TokenServer};

use crate::sources::{
    HOUR, Streamed, TOKEN_URL, at, client_credentials, each, form, headers, hyper_client, map, pass, password,
    refresh_token, serve,
};

const FORM: &str = "application/x-www-form-urlencoded";
const LOST: &str = "connection reset";

async fn first_request(issuer: &TokenServer, cache: TokenCache) -> Recorded {
    cache.get().await.unwrap();
    let request = issuer.requests().remove(0);
    assert_eq!((request.method.as_str(), request.uri.to_string()), ("POST", TOKEN_URL.to_owned()));
    request
}

/// The refresh tokens of all token calls, or `-` for a login.
fn refreshes(issuer: &TokenServer) -> Vec<String> {
    each(&issuer.requests(), "refresh_token")
}

/// A cache whose token has expired, with the refresh token `refresh-1` of a login.
async fn expired_session(issuer: &TokenServer) -> TokenCache {
    issuer.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(issuer).build().unwrap());
    cache.get().await.unwrap();
    pass(HOUR).await;
    cache
}

#[tokio::test]
async fn client_credentials_are_sent_only_in_the_basic_header() {
    let issuer = TokenServer::new();
    let request =
        first_request(&issuer, TokenCache::new(client_credentials(&issuer).scope("read write").build().unwrap())).await;
    // my-app:its+secret
    let basic = "Basic bXktYXBwOml0cyUyMHNlY3JldA==";
    let expected = [("accept", "application/json"), ("authorization", basic), ("content-type", FORM)];
    assert_eq!(headers(&request), map(expected));
    assert!(request.headers["authorization"].is_sensitive());
    assert_eq!(request.form(), form([("grant_type", "client_credentials"), ("scope", "read write")]));
}

#[tokio::test]
async fn client_credentials_in_the_body_send_no_authorization() {
    let issuer = TokenServer::new();
    let source =
        ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", ClientAuth::post("its secret")).build().unwrap();
    let request = first_request(&issuer, TokenCache::new(source)).await;
    assert_eq!(headers(&request), map([("accept", "application/json"), ("content-type", FORM)]));
    let expected = [("grant_type", "client_credentials"), ("client_id", "my-app"), ("client_secret", "its secret")];
    assert_eq!(request.form(), form(expected));
}

#[tokio::test]
async fn a_password_login_of_a_public_client_names_the_client_in_the_body() {
    let issuer = TokenServer::new();
    let source = PasswordGrant::builder(&at(issuer.clone()), "my-app", "ann&bob", "p+w %=ü").build().unwrap();
    let request = first_request(&issuer, TokenCache::new(source)).await;
    assert_eq!(headers(&request), map([("accept", "application/json"), ("content-type", FORM)]));
    let expected =
        [("grant_type", "password"), ("client_id", "my-app"), ("username", "ann&bob"), ("password", "p+w %=ü")];
    assert_eq!(request.form(), form(expected));
    assert!(request.body.is_ascii());
}

#[tokio::test(start_paused = true)]
async fn a_confidential_client_authenticates_login_and_refresh() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let cache = TokenCache::new(password(&issuer).client_auth("its secret").scope("read").build().unwrap());
    cache.get().await.unwrap();
    pass(HOUR).await;
    cache.get().await.unwrap();
    let [login, refresh] = issuer.requests().try_into().unwrap();
    assert_eq!(login.headers["authorization"], "Basic bXktYXBwOml0cyUyMHNlY3JldA==");
    assert_eq!(headers(&login), headers(&refresh));
    let user = [("grant_type", "password"), ("username", "ann"), ("password", "her password"), ("scope", "read")];
    assert_eq!(login.form(), form(user));
    assert_eq!(refresh.form(), form([("grant_type", "refresh_token"), ("refresh_token", "refresh-1")]));
}

#[tokio::test]
async fn a_saved_refresh_token_is_sent_without_a_scope() {
    let issuer = TokenServer::new();
    let request = first_request(&issuer, TokenCache::new(refresh_token(&issuer).scope("read").build().unwrap())).await;
    let expected = [("grant_type", "refresh_token"), ("refresh_token", "saved"), ("client_id", "my-app")];
    assert_eq!(request.form(), form(expected));
    assert_eq!(headers(&request), map([("accept", "application/json"), ("content-type", FORM)]));

    let source = RefreshTokenGrant::builder(&at(issuer.clone()), "my-app", "saved");
    TokenCache::new(source.client_auth(ClientAuth::post("s")).build().unwrap()).get().await.unwrap();
    assert_eq!(issuer.requests()[1].form()["client_secret"], "s");
}

#[tokio::test]
async fn an_empty_scope_is_not_sent() {
    let issuer = TokenServer::new();
    let request = first_request(&issuer, TokenCache::new(client_credentials(&issuer).scope("").build().unwrap())).await;
    assert_eq!(request.form(), form([("grant_type", "client_credentials")]));
}

#[tokio::test]
async fn headers_of_the_user_override_all_but_the_authorization() {
    let issuer = TokenServer::new();
    let source = client_credentials(&issuer);
    let source = source.header("x-api-key", "k").header("Accept", "application/vnd.x+json");
    let source = source.header("authorization", "Basic other").build().unwrap();
    let request = first_request(&issuer, TokenCache::new(source)).await;
    let expected = [
        ("accept", "application/vnd.x+json"),
        ("authorization", "Basic bXktYXBwOml0cyUyMHNlY3JldA=="),
        ("content-type", FORM),
        ("x-api-key", "k"),
    ];
    assert_eq!(headers(&request), map(expected));
    assert!(request.headers["x-api-key"].is_sensitive());
}

#[tokio::test(start_paused = true)]
async fn each_refresh_uses_the_newest_refresh_token() {
    let issuer = TokenServer::new();
    let cache = expired_session(&issuer).await;
    for number in 2..=3 {
        let token = cache.get().await.unwrap();
        assert_eq!(token.refresh_token().unwrap().expose(), format!("refresh-{number}"));
        pass(HOUR).await;
    }
    assert_eq!(refreshes(&issuer), ["-", "refresh-1", "refresh-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_refresh_token_replaces_the_saved_one() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let cache = TokenCache::new(refresh_token(&issuer).build().unwrap());
    for _ in 0..2 {
        cache.get().await.unwrap();
        pass(HOUR).await;
    }
    assert_eq!(refreshes(&issuer), ["saved", "refresh-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_refresh_token_keeps_the_old_one() {
    let issuer = TokenServer::new();
    let cache = expired_session(&issuer).await;
    let token = json!({ "access_token": "t", "expires_in": 3600 });
    for kept in [json!(null), json!(""), json!(7)] {
        let mut answer = token.clone();
        answer["refresh_token"] = kept;
        issuer.queue(Answer::json(200, answer));
        assert_eq!(cache.get().await.unwrap().refresh_token().unwrap().expose(), "refresh-1");
        pass(HOUR).await;
    }
    issuer.queue(Answer::json(200, token));
    assert_eq!(cache.get().await.unwrap().refresh_token().unwrap().expose(), "refresh-1");
    assert_eq!(refreshes(&issuer), ["-", "refresh-1", "refresh-1", "refresh-1", "refresh-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_leads_to_a_new_login() {
    let denials = [
        Answer::oauth_error(400, "invalid_grant"),
        Answer::oauth_error(401, "invalid_grant"),
        Answer::oauth_error(403, "access_denied"),
        Answer::oauth_error(400, "unauthorized_client"),
        Answer::oauth_error(400, "unsupported_grant_type"),
        Answer::oauth_error(400, "invalid_request"),
        Answer::oauth_error(400, "token_expired"),
        Answer::json(400, json!({ "message": "Token is invalid." })),
        Answer::raw(400, "Token is invalid."),
        Answer::raw(400, ""),
    ];
    for denial in denials {
        let issuer = TokenServer::new();
        let cache = expired_session(&issuer).await;
        issuer.queue(denial.clone());
        assert_eq!(cache.get().await.unwrap().access_token(), "token-2", "{denial:?}");
        assert_eq!(refreshes(&issuer), ["-", "refresh-1", "-"], "{denial:?}");
        assert_eq!(each(&issuer.requests(), "grant_type"), ["password", "refresh_token", "password"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_for_another_reason_leads_to_no_login() {
    let others = [
        Answer::oauth_error(401, "invalid_client"),
        Answer::oauth_error(400, "invalid_client"),
        Answer::oauth_error(429, "invalid_grant"),
        Answer::raw(403, "<html>Forbidden</html>"),
        Answer::raw(503, "<h1>Service unavailable</h1>"),
        Answer::raw(200, "{"),
    ];
    for answer in others {
        let issuer = TokenServer::new();
        let cache = expired_session(&issuer).await;
        issuer.queue(answer.clone());
        cache.get().await.unwrap_err();
        assert_eq!(refreshes(&issuer), ["-", "refresh-1"], "{answer:?}");
        // The failure did not lose the refresh token.
        cache.refresh().await.unwrap();
        assert_eq!(refreshes(&issuer), ["-", "refresh-1", "refresh-1"], "{answer:?}");
    }
}

#[tokio::test]
async fn a_denied_refresh_token_without_a_login_ends_the_session_and_says_what_to_do() {
    for answer in [Answer::oauth_error(400, "invalid_grant"), Answer::oauth_error(401, "invalid_grant")] {
        let issuer = TokenServer::new();
        issuer.fail(Some(answer));
        let error = TokenCache::new(refresh_token(&issuer).build().unwrap()).get().await.unwrap_err();
        assert!(error.is_denied() && !error.is_transient());
        assert_eq!(error.code(), Some("invalid_grant"));
        let said = error.to_string();
        assert!(said.contains("no login to fall back to") && said.contains("log in again"), "{said}");
        assert_eq!(issuer.calls().total(), 1);
    }
    // If the client is denied, another login would not help.
    let issuer = TokenServer::new();
    issuer.queue(Answer::oauth_error(401, "invalid_client"));
    let error = TokenCache::new(refresh_token(&issuer).build().unwrap()).get().await.unwrap_err();
    assert!(error.is_denied() && !error.to_string().contains("fall back"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_with_a_lost_answer_is_retried_once_with_the_same_refresh_token() {
    let issuer = TokenServer::new();
    let cache = expired_session(&issuer).await;
    issuer.queue(Answer::fails(LOST));
    cache.get().await.unwrap();
    assert_eq!(refreshes(&issuer), ["-", "refresh-1", "refresh-1"]);

    pass(HOUR).await;
    issuer.fail(Some(Answer::fails(LOST)));
    let error = cache.get().await.unwrap_err();
    assert!(error.is_transient() && !error.is_denied(), "{error}");
    assert_eq!(refreshes(&issuer)[3..], ["refresh-2", "refresh-2"]);
}

#[tokio::test]
async fn a_password_login_with_a_lost_answer_is_not_retried_at_once() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::fails(LOST)));
    TokenCache::new(password(&issuer).build().unwrap()).get().await.unwrap_err();
    assert_eq!(issuer.calls().total(), 1);
}

#[tokio::test]
async fn a_truncated_answer_counts_as_lost() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let breaking = service_fn(move |_: Request<Full<Bytes>>| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        let rest = if first { Err(LOST.into()) } else { Ok(Bytes::from(r#":"t"}"#)) };
        let mut data = VecDeque::from([Ok(Bytes::from(r#"{"access_token""#)), rest]);
        async move { Ok::<_, Infallible>(Response::new(Streamed(move || data.pop_front()))) }
    });
    let source = RefreshTokenGrant::builder(&at(breaking), "my-app", "saved").build().unwrap();
    assert_eq!(TokenCache::new(source).get().await.unwrap().access_token(), "t");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_grants_work_over_a_socket() {
    let issuer = TokenServer::new();
    issuer.rotate_refresh_tokens(true);
    let url = format!("{}/token", serve(issuer.clone()).await);
    let login = PasswordGrant::builder(
        &oauth2::Issuer::new(hyper_client()).token_endpoint(&url),
        "my-app",
        "ann",
        "her password",
    )
    .build()
    .unwrap();
    let cache = TokenCache::new(login);
    assert_eq!(cache.get().await.unwrap().access_token(), "token-1");
    assert_eq!(cache.refresh().await.unwrap().access_token(), "token-2");
    cache.set_source(
        ClientCredentialsGrant::builder(
            &oauth2::Issuer::new(hyper_client()).token_endpoint(&url),
            "my-app",
            "its secret",
        )
        .build()
        .unwrap(),
    );
    assert_eq!(cache.get().await.unwrap().access_token(), "token-3");
    assert_eq!(refreshes(&issuer), ["-", "refresh-1", "-"]);
}
