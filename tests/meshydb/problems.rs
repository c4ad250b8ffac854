//! The errors: every documented reason, in every format of the body.

use std::time::Duration;

use serde_json::json;
use tower_bearer::providers::meshydb::{MeshyDb, Problem};
use tower_bearer::testing::{Answer, ErrorBodies, MeshyDbServer, TokenState};
use tower_bearer::{Error, TokenCache, TokenSource};

use crate::sources::{HOUR, next_attempt, pass, says};
use crate::{ALL_BODIES, account, builder, expired_session, grants, server, session};

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_leads_to_a_new_login_with_every_error_format() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        server.refresh_lifetime(HOUR);
        let cache = expired_session(&server).await;
        let token = cache.get().await.unwrap();
        assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live, "{bodies:?}");
        assert_eq!(grants(&server), ["password", "refresh_token", "password"], "{bodies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_without_a_login_ends_the_session_and_says_what_to_do() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        let cache = TokenCache::new(account(&server).login_with_refresh_token("of yesterday").build().unwrap());
        let error = cache.get().await.unwrap_err();
        assert!(error.is_denied() && !error.is_transient(), "{bodies:?}: {error}");
        let said = error.to_string();
        assert!(said.contains("no login to fall back to") && said.contains("log in again"), "{bodies:?}: {said}");
        assert_eq!(said.contains("Token is invalid."), bodies != ErrorBodies::Empty, "{bodies:?}: {said}");
        cache.get().await.unwrap_err();
        assert_eq!((server.token_calls().total(), next_attempt(&cache)), (1, Some(30.0)), "the denial is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn an_inactive_user_is_denied() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        let cache = expired_session(&server).await;
        server.deactivate("ann");
        let error = cache.get().await.unwrap_err();
        assert!(error.is_denied(), "{bodies:?}: {error}");
        assert_eq!(says(&error).contains("no longer active"), bodies != ErrorBodies::Empty, "{bodies:?}: {error}");
        assert_eq!(grants(&server), ["password", "refresh_token", "password"], "{bodies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_does_not_deny_and_its_pause_is_kept() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        server.limit_with(Some("17"));
        let cache = session(&server);
        let error = cache.get().await.unwrap_err();
        assert!(!error.is_denied() && error.is_transient(), "{bodies:?}: {error}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
        assert_eq!(next_attempt(&cache), Some(17.0), "{bodies:?}");
        server.limit(false);
        pass(Duration::from_secs(17)).await;
        cache.get().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateways_page_does_not_deny() {
    for status in [400, 403, 502] {
        let server = server();
        server.fail(Some(Answer::raw(status, "<html><h1>No</h1></html>")));
        let error = session(&server).get().await.unwrap_err();
        assert!(!error.is_denied(), "{error}");
    }
}

// === reasons ===

async fn denied(source: impl TokenSource) -> Error {
    TokenCache::new(source).get().await.unwrap_err()
}

/// The errors of logins that the server denies, with their documented text and their problem.
async fn denials(server: &MeshyDbServer) -> Vec<(Error, &'static str, Problem)> {
    let login = |account: MeshyDb, name: &str, password: &str| {
        denied(account.login_with_password(name, password).build().unwrap())
    };
    let ann = "her password";
    let other_key = MeshyDb::builder(server.clone(), "acme", "another key").build().unwrap();
    server.refresh_lifetime(Duration::ZERO);
    let expired = session(server).get().await.unwrap().refresh_token().unwrap();
    let expired = denied(account(server).login_with_refresh_token(expired).build().unwrap()).await;
    let unknown = denied(account(server).login_with_refresh_token("of another server").build().unwrap()).await;
    let mut denials = vec![
        (login(other_key, "ann", ann).await, "Client id is invalid.", Problem::ClientId),
        (login(builder(server).scope("openid").build().unwrap(), "ann", ann).await, "Invalid Scope.", Problem::Scope),
        (login(account(server), "bob", ann).await, "Username is invalid.", Problem::Username),
        (
            login(builder(server).tenant("west").build().unwrap(), "ann", ann).await,
            "Username is invalid.",
            Problem::Username,
        ),
        (login(account(server), "ann", "guessed").await, "Password is invalid.", Problem::Password),
        (expired, "Refresh token is expired.", Problem::RefreshTokenExpired),
        (unknown, "Token is invalid.", Problem::Token),
    ];
    server.deactivate("ann");
    denials.push((login(account(server), "ann", ann).await, "User is no longer active.", Problem::UserInactive));
    denials
}

#[tokio::test(start_paused = true)]
async fn every_documented_400_is_denied_and_has_its_problem() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        for (error, words, problem) in denials(&server).await {
            assert!(error.is_denied() && !error.is_transient(), "{bodies:?} {words}: {error}");
            assert_eq!(error.status().unwrap().as_u16(), 400);
            let is_named = bodies != ErrorBodies::Empty;
            assert_eq!(error.description(), is_named.then_some(words), "{bodies:?}");
            assert_eq!(Problem::of(&error), is_named.then_some(problem), "{bodies:?} {words}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_is_the_limit_problem_in_every_format() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        server.limit(true);
        let error = session(&server).get().await.unwrap_err();
        assert_eq!(Problem::of(&error), Some(Problem::Limit), "{bodies:?}");
        assert!(!error.is_denied() && error.is_transient(), "{error}");
    }
}

/// Whether a login with this answer is denied, and its problem.
async fn problem(answer: Answer) -> (bool, Option<Problem>) {
    let server = server();
    server.fail(Some(answer));
    let error = session(&server).get().await.unwrap_err();
    (error.is_denied(), Problem::of(&error))
}

#[tokio::test(start_paused = true)]
async fn the_documented_phrases_are_recognised_in_every_field() {
    let sentences = [
        ("Token is invalid.", Problem::Token),
        ("Client id is invalid.", Problem::ClientId),
        ("Grant type is invalid.", Problem::GrantType),
        ("User is no longer active.", Problem::UserInactive),
        ("Invalid Scope.", Problem::Scope),
        ("Username is invalid.", Problem::Username),
        ("Password is invalid.", Problem::Password),
        ("Refresh token is expired.", Problem::RefreshTokenExpired),
        // This one is IdentityServer's.
        ("invalid_username_or_password", Problem::Credentials),
    ];
    for (words, expected) in sentences {
        for answer in [
            Answer::json(400, json!({ "error": "invalid_grant", "error_description": words })),
            Answer::json(400, json!({ "error": words })),
            Answer::json(400, json!({ "message": words.to_uppercase() })),
            Answer::json(400, json!(words)),
            Answer::raw(400, words),
        ] {
            assert_eq!(problem(answer.clone()).await, (true, Some(expected)), "{words} {answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_of_rfc_6749_without_a_phrase_is_recognised() {
    for (code, expected) in [
        ("invalid_client", Some(Problem::ClientId)),
        ("unauthorized_client", Some(Problem::GrantType)),
        ("unsupported_grant_type", Some(Problem::GrantType)),
        ("invalid_scope", Some(Problem::Scope)),
        ("invalid_grant", None),
        ("invalid_request", None),
        ("unheard_of", None),
    ] {
        assert_eq!(problem(Answer::oauth_error(400, code)).await, (true, expected), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_from_elsewhere_has_no_problem() {
    for answer in [
        Answer::raw(400, "<html>Your token was blocked</html>"),
        Answer::json(503, json!({ "message": "Username is invalid." })),
        Answer::raw(200, "Token is invalid."),
        Answer::fails("the token was lost on the way"),
    ] {
        assert_eq!(problem(answer.clone()).await, (false, None), "{answer:?}");
    }
    let cache = TokenCache::fixed("abc").unwrap();
    account(&server()).sign_out(&cache).await.unwrap();
    assert_eq!(Problem::of(&cache.get().await.unwrap_err()), None);
}

// === registration ===

#[tokio::test]
async fn a_taken_name_is_denied_and_so_is_a_registration_that_is_off() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        let account = account(&server);
        account.register_anonymous("device-7").await.unwrap();
        let taken = account.register_anonymous("device-7").await.unwrap_err();
        // The same name in another tenant is another user.
        builder(&server).tenant("east").build().unwrap().register_anonymous("device-7").await.unwrap();
        server.anonymous(false);
        let off = account.register_anonymous("device-8").await.unwrap_err();
        for error in [taken, off] {
            assert!(error.is_denied() && error.to_string().contains("users/register/anonymous"), "{bodies:?}: {error}");
            assert_eq!(Problem::of(&error), (bodies != ErrorBodies::Empty).then_some(Problem::Username), "{bodies:?}");
        }
        assert_eq!(server.registrations(), 2);
    }
}

/// An account at a server that gives this answer to every call, or none.
fn answers(answer: Option<(u16, &'static str)>) -> MeshyDb {
    let http = tower::service_fn(move |_: http::Request<http_body_util::Full<bytes::Bytes>>| async move {
        let Some((status, body)) = answer else { return std::future::pending().await };
        let body = http_body_util::Full::<bytes::Bytes>::from(body);
        Ok::<_, tower::BoxError>(http::Response::builder().status(status).body(body).unwrap())
    });
    MeshyDb::builder(http, "acme", "public-key").build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_fails_for_another_reason_does_not_deny() {
    let page = "<html>Bad Request</html>";
    for answer in [(503, ""), (429, "Limit"), (400, page), (302, "")] {
        let error = answers(Some(answer)).register_anonymous("device-7").await.unwrap_err();
        assert!(!error.is_denied() && error.status().unwrap().as_u16() == answer.0, "{error}");
    }
    let start = tokio::time::Instant::now();
    assert!(answers(None).register_anonymous("device-7").await.unwrap_err().is_timeout());
    assert_eq!(start.elapsed().as_secs(), 30);
    answers(Some((201, ""))).register_anonymous("device-7").await.unwrap();
    assert!(answers(None).register_anonymous("").await.unwrap_err().is_invalid());
}

#[test]
fn a_registration_without_a_runtime_is_an_error_and_not_a_panic() {
    let account = account(&server());
    let error = tokio_test::assert_ready!(tokio_test::task::spawn(account.register_anonymous("x")).poll()).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}
