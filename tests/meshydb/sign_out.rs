//! The end of a session, here and at the server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio_test::{assert_pending, assert_ready, task};
use tower::BoxError;
use tower_bearer::TokenCache;
use tower_bearer::meshydb::{MeshyDb, Problem};
use tower_bearer::testing::TokenState;

use crate::sources::says;
use crate::{account, grants, server, session};

#[tokio::test]
async fn it_ends_the_session_at_the_server() {
    let server = server();
    let (cache, other) = (session(&server), session(&server));
    let (token, others) = (cache.get().await.unwrap(), other.get().await.unwrap());
    account(&server).sign_out(&cache).await.unwrap();
    assert_eq!(server.revocations(), 1);
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Revoked);
    let again = TokenCache::new(account(&server).login_with_refresh_token(token.refresh_token().unwrap()).unwrap());
    assert!(again.get().await.unwrap_err().is_denied());
    assert_eq!(server.ledger().state_of(others.access_token()), TokenState::Live, "the other session goes on");
    assert!(cache.get().await.unwrap_err().is_signed_out());
    assert_eq!(grants(&server).len(), 4, "the password was not sent again");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_is_waited_for_and_what_it_brings_is_revoked() {
    let server = server();
    let (cache, account) = (session(&server), account(&server));
    let first = cache.get().await.unwrap().refresh_token().unwrap();
    server.delay(Duration::from_secs(5));
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let (ending, signing_out) = (cache.clone(), account.clone());
    tokio::spawn(async move { signing_out.sign_out(&ending).await }).await.unwrap().unwrap();
    let revoked = server.requests().pop().unwrap().form().remove("token").unwrap();
    assert!(revoked != first.expose() && server.revocations() == 1 && server.reuses() == 0);
    assert!(assert_ready!(refresh.poll()).unwrap_err().is_signed_out());
}

#[tokio::test]
async fn a_saved_session_is_revoked_though_nothing_was_fetched() {
    for asked_for in [false, true] {
        let server = server();
        let account = account(&server);
        let saved = session(&server).get().await.unwrap().refresh_token().unwrap();
        let cache = if asked_for {
            let saved = saved.clone();
            TokenCache::new(
                account
                    .login_with_refresh_token(move || {
                        let saved = saved.clone();
                        async { Ok::<_, BoxError>(saved) }
                    })
                    .unwrap(),
            )
        } else {
            TokenCache::new(account.login_with_refresh_token(saved.clone()).unwrap())
        };
        account.sign_out(&cache).await.unwrap();
        assert_eq!(server.requests()[1].form()["token"], saved.expose());
        assert_eq!((server.revocations(), server.token_calls().total()), (1, 1));
    }
}

#[tokio::test]
async fn a_password_session_that_fetched_nothing_has_nothing_to_revoke() {
    let server = server();
    let cache = session(&server);
    account(&server).sign_out(&cache).await.unwrap();
    assert!(server.requests().is_empty() && cache.get().await.unwrap_err().is_signed_out());
}

#[tokio::test]
async fn a_revocation_that_is_denied_is_reported_and_the_session_is_over_here() {
    let server = server();
    let cache = session(&server);
    let token = cache.get().await.unwrap();
    let error = MeshyDb::new(server.clone(), "acme", "another key").unwrap().sign_out(&cache).await.unwrap_err();
    assert_eq!((error.status().unwrap().as_u16(), Problem::of(&error)), (400, Some(Problem::ClientId)));
    let said = says(&error);
    assert!(said.contains("may still work") && said.contains("acme/connect/revocation answered 400"), "{said}");
    assert!(!said.contains(token.refresh_token().unwrap().expose()), "{said}");
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live);
    assert!(cache.get().await.unwrap_err().is_signed_out() && cache.peek().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_not_answered_is_given_up_after_30_seconds() {
    let server = server();
    let cache = session(&server);
    cache.get().await.unwrap();
    let silent =
        tower::service_fn(|_: Request<Full<Bytes>>| std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>());
    let start = tokio::time::Instant::now();
    let error = MeshyDb::new(silent, "acme", "public-key").unwrap().sign_out(&cache).await.unwrap_err();
    assert!(says(&error).contains("within 30s") && start.elapsed().as_secs() == 30, "{error:?}");
    assert!(cache.get().await.unwrap_err().is_signed_out());
}

#[tokio::test]
async fn an_explicit_login_begins_another_session() {
    let server = server();
    let (cache, account) = (session(&server), account(&server));
    cache.get().await.unwrap();
    account.sign_out(&cache).await.unwrap();
    cache.set_source(account.login_with_password("ann", "her password").unwrap());
    let token = cache.get().await.unwrap();
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live);
    account.sign_out(&cache).await.unwrap();
    assert_eq!(server.revocations(), 2);
}

#[test]
fn outside_any_runtime_the_session_ends_here_and_the_error_says_why_not_there() {
    let server = server();
    let (cache, account) = (session(&server), account(&server));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(cache.get()).unwrap();
    let error = assert_ready!(task::spawn(account.sign_out(&cache)).poll()).unwrap_err();
    assert!(says(&error).contains("no tokio runtime"), "{error:?}");
    assert!(assert_ready!(task::spawn(cache.get()).poll()).unwrap_err().is_signed_out());
    assert_eq!(server.revocations(), 0);
}
