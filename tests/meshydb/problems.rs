//! What an error says: every documented reason, in every form of body.

use std::time::Duration;

use serde_json::json;
use tower_bearer::meshydb::{MeshyDb, Problem};
use tower_bearer::testing::{Answer, ErrorBodies, MeshyDbServer, TokenState};
use tower_bearer::{Error, TokenCache, TokenSource};

use crate::sources::{HOUR, next_attempt, pass, says};
use crate::{ALL_BODIES, account, ended_session, grants, server, session};

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_leads_to_a_new_login_whatever_the_error_looks_like() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        server.refresh_lifetime(HOUR);
        let cache = ended_session(&server).await;
        let token = cache.get().await.unwrap();
        assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live, "{bodies:?}");
        assert_eq!(grants(&server), ["password", "refresh_token", "password"], "{bodies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_alone_is_the_end_and_says_what_to_do() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        let cache = TokenCache::new(account(&server).login_with_refresh_token("of yesterday").unwrap());
        let error = cache.get().await.unwrap_err();
        assert!(error.is_denied() && !error.is_transient(), "{bodies:?}: {error}");
        let said = error.to_string();
        assert!(said.contains("no login to fall back to") && said.contains("log in again"), "{bodies:?}: {said}");
        assert_eq!(said.contains("Token is invalid."), bodies != ErrorBodies::Empty, "{bodies:?}: {said}");
        cache.get().await.unwrap_err();
        assert_eq!((server.token_calls().total(), next_attempt(&cache)), (1, Some(30.0)), "remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_who_is_no_longer_active_is_denied() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        let cache = ended_session(&server).await;
        server.deactivate("ann");
        let error = cache.get().await.unwrap_err();
        assert!(error.is_denied(), "{bodies:?}: {error}");
        assert_eq!(says(&error).contains("no longer active"), bodies != ErrorBodies::Empty, "{bodies:?}: {error}");
        assert_eq!(grants(&server), ["password", "refresh_token", "password"], "{bodies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_denies_nothing_and_its_pause_is_kept() {
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
async fn a_gateways_page_denies_nothing() {
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

/// What the server says to each of these, and what it is about.
async fn denials(server: &MeshyDbServer) -> Vec<(Error, &'static str, Problem)> {
    let login =
        |account: MeshyDb, name: &str, password: &str| denied(account.login_with_password(name, password).unwrap());
    let ann = "her password";
    let stranger = MeshyDb::new(server.clone(), "acme", "another key").unwrap();
    server.refresh_lifetime(Duration::ZERO);
    let expired = session(server).get().await.unwrap().refresh_token().unwrap();
    let expired = denied(account(server).login_with_refresh_token(expired).unwrap()).await;
    let unknown = denied(account(server).login_with_refresh_token("of another server").unwrap()).await;
    let mut found = vec![
        (login(stranger, "ann", ann).await, "Client id is invalid.", Problem::ClientId),
        (login(account(server).scope("openid"), "ann", ann).await, "Invalid Scope.", Problem::Scope),
        (login(account(server), "bob", ann).await, "Username is invalid.", Problem::Username),
        (login(account(server).tenant("west").unwrap(), "ann", ann).await, "Username is invalid.", Problem::Username),
        (login(account(server), "ann", "guessed").await, "Password is invalid.", Problem::Password),
        (expired, "Refresh token is expired.", Problem::RefreshTokenExpired),
        (unknown, "Token is invalid.", Problem::Token),
    ];
    server.deactivate("ann");
    found.push((login(account(server), "ann", ann).await, "User is no longer active.", Problem::UserInactive));
    found
}

#[tokio::test(start_paused = true)]
async fn every_documented_400_is_denied_and_a_problem_of_its_own() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        for (error, words, problem) in denials(&server).await {
            assert!(error.is_denied() && !error.is_transient(), "{bodies:?} {words}: {error}");
            assert_eq!(error.status().unwrap().as_u16(), 400);
            let told = bodies != ErrorBodies::Empty;
            assert_eq!(error.description(), told.then_some(words), "{bodies:?}");
            assert_eq!(Problem::of(&error), told.then_some(problem), "{bodies:?} {words}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_429_is_a_problem_of_its_own_in_every_body() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        server.limit(true);
        let error = session(&server).get().await.unwrap_err();
        assert_eq!(Problem::of(&error), Some(Problem::Limit), "{bodies:?}");
        assert!(!error.is_denied() && error.is_transient(), "{error}");
    }
}

/// What a login answered so is about.
async fn problem(answer: Answer) -> (bool, Option<Problem>) {
    let server = server();
    server.fail(Some(answer));
    let error = session(&server).get().await.unwrap_err();
    (error.is_denied(), Problem::of(&error))
}

#[tokio::test(start_paused = true)]
async fn the_documents_words_are_understood_wherever_they_stand() {
    let sentences = [
        ("Token is invalid.", Problem::Token),
        ("Client id is invalid.", Problem::ClientId),
        ("Grant type is invalid.", Problem::GrantType),
        ("User is no longer active.", Problem::UserInactive),
        ("Invalid Scope.", Problem::Scope),
        ("Username is invalid.", Problem::Username),
        ("Password is invalid.", Problem::Password),
        ("Refresh token is expired.", Problem::RefreshTokenExpired),
        // IdentityServer's own.
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
async fn a_code_alone_is_as_much_as_it_says() {
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
async fn what_is_no_answer_of_meshydb_is_no_problem_of_its_own() {
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
async fn a_name_that_is_taken_and_a_registration_that_is_off_are_denied() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        let account = account(&server);
        account.register_anonymous("device-7").await.unwrap();
        let taken = account.register_anonymous("device-7").await.unwrap_err();
        // The same name in another tenant is another user.
        account.clone().tenant("east").unwrap().register_anonymous("device-7").await.unwrap();
        server.anonymous(false);
        let off = account.register_anonymous("device-8").await.unwrap_err();
        for error in [taken, off] {
            assert!(error.is_denied() && error.to_string().contains("users/register/anonymous"), "{bodies:?}: {error}");
            assert_eq!(Problem::of(&error), (bodies != ErrorBodies::Empty).then_some(Problem::Username), "{bodies:?}");
        }
        assert_eq!(server.registrations(), 2);
    }
}

/// A server that answers every call so, or never.
fn answers(answer: Option<(u16, &'static str)>) -> MeshyDb {
    let http = tower::service_fn(move |_: http::Request<http_body_util::Full<bytes::Bytes>>| async move {
        let Some((status, body)) = answer else { return std::future::pending().await };
        let body = http_body_util::Full::<bytes::Bytes>::from(body);
        Ok::<_, tower::BoxError>(http::Response::builder().status(status).body(body).unwrap())
    });
    MeshyDb::new(http, "acme", "public-key").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_fails_otherwise_denies_nothing() {
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
fn outside_any_runtime_a_registration_is_an_error_and_no_panic() {
    let account = account(&server());
    let error = tokio_test::assert_ready!(tokio_test::task::spawn(account.register_anonymous("x")).poll()).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}
