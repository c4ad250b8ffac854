//! The end of a session, in the cache and at the server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio_test::{assert_pending, assert_ready, task};
use tower::BoxError;
use tower_bearer::TokenCache;
use tower_bearer::providers::meshydb::{MeshyDb, Problem};
use tower_bearer::testing::TokenState;

use crate::sources::says;
use crate::{account, grants, server, session};

#[tokio::test]
async fn signing_out_ends_the_session_at_the_server() {
    let server = server();
    let (cache, other) = (session(&server), session(&server));
    let (token, others) = (cache.get().await.unwrap(), other.get().await.unwrap());
    account(&server).sign_out(&cache).await.unwrap();
    assert_eq!(server.revocations(), 1);
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Revoked);
    let again =
        TokenCache::new(account(&server).login_with_refresh_token(token.refresh_token().unwrap()).build().unwrap());
    assert!(again.get().await.unwrap_err().is_denied());
    assert_eq!(server.ledger().state_of(others.access_token()), TokenState::Live, "the other session is unchanged");
    assert!(cache.get().await.unwrap_err().is_signed_out());
    assert_eq!(grants(&server).len(), 4, "the password was not sent again");
}

#[tokio::test(start_paused = true)]
async fn signing_out_waits_for_a_refresh_in_flight_and_revokes_its_refresh_token() {
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
async fn a_saved_session_is_revoked_before_its_first_fetch() {
    for by_closure in [false, true] {
        let server = server();
        let account = account(&server);
        let saved = session(&server).get().await.unwrap().refresh_token().unwrap();
        let cache = if by_closure {
            let saved = saved.clone();
            TokenCache::new(
                account
                    .login_with_refresh_token(move || {
                        let saved = saved.clone();
                        async { Ok::<_, BoxError>(saved) }
                    })
                    .build()
                    .unwrap(),
            )
        } else {
            TokenCache::new(account.login_with_refresh_token(saved.clone()).build().unwrap())
        };
        account.sign_out(&cache).await.unwrap();
        assert_eq!(server.requests()[1].form()["token"], saved.expose());
        assert_eq!((server.revocations(), server.token_calls().total()), (1, 1));
    }
}

#[tokio::test]
async fn a_password_session_has_nothing_to_revoke_before_its_first_fetch() {
    let server = server();
    let cache = session(&server);
    account(&server).sign_out(&cache).await.unwrap();
    assert!(server.requests().is_empty() && cache.get().await.unwrap_err().is_signed_out());
}

#[tokio::test]
async fn a_denied_revocation_is_reported_and_the_session_still_ends() {
    let server = server();
    let cache = session(&server);
    let token = cache.get().await.unwrap();
    let error =
        MeshyDb::builder(server.clone(), "acme", "another key").build().unwrap().sign_out(&cache).await.unwrap_err();
    assert_eq!((error.status().unwrap().as_u16(), Problem::of(&error)), (400, Some(Problem::ClientId)));
    let said = says(&error);
    assert!(said.contains("may still work") && said.contains("acme/connect/revocation answered 400"), "{said}");
    assert!(!said.contains(token.refresh_token().unwrap().expose()), "{said}");
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live);
    assert!(cache.get().await.unwrap_err().is_signed_out() && cache.peek().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_times_out_after_30_s() {
    let server = server();
    let cache = session(&server);
    cache.get().await.unwrap();
    let silent =
        tower::service_fn(|_: Request<Full<Bytes>>| std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>());
    let start = tokio::time::Instant::now();
    let error = MeshyDb::builder(silent, "acme", "public-key").build().unwrap().sign_out(&cache).await.unwrap_err();
    assert!(says(&error).contains("timed out after 30s") && start.elapsed().as_secs() == 30, "{error:?}");
    assert!(cache.get().await.unwrap_err().is_signed_out());
}

#[tokio::test]
async fn an_explicit_login_starts_another_session() {
    let server = server();
    let (cache, account) = (session(&server), account(&server));
    cache.get().await.unwrap();
    account.sign_out(&cache).await.unwrap();
    cache.set_source(account.login_with_password("ann", "her password").build().unwrap());
    let token = cache.get().await.unwrap();
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live);
    account.sign_out(&cache).await.unwrap();
    assert_eq!(server.revocations(), 2);
}

#[test]
fn without_a_runtime_the_session_ends_and_the_error_says_why_it_was_not_revoked() {
    let server = server();
    let (cache, account) = (session(&server), account(&server));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(cache.get()).unwrap();
    let error = assert_ready!(task::spawn(account.sign_out(&cache)).poll()).unwrap_err();
    assert!(says(&error).contains("no tokio runtime"), "{error:?}");
    assert!(assert_ready!(task::spawn(cache.get()).poll()).unwrap_err().is_signed_out());
    assert_eq!(server.revocations(), 0);
}
