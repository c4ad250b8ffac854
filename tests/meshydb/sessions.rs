//! Sessions: logins, refresh tokens with and without rotation, and lost answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_bearer::testing::TokenState;
use tower_bearer::{Error, TokenCache};

use crate::sources::{HOUR, each, pass};
use crate::{account, builder, expired_session, grants, server, session};

#[tokio::test(start_paused = true)]
async fn a_session_resumes_from_a_saved_refresh_token() {
    let server = server();
    let saved = session(&server).get().await.unwrap().refresh_token().unwrap();
    let cache = TokenCache::new(account(&server).login_with_refresh_token(saved.clone()).build().unwrap());
    cache.get().await.unwrap();
    pass(HOUR).await;
    cache.get().await.unwrap();
    assert_eq!(grants(&server), ["password", "refresh_token", "refresh_token"]);
    let sent = each(&server.requests(), "refresh_token");
    assert!(sent[1] == saved.expose() && sent[2] != sent[1], "the rotated one is used: {sent:?}");
    assert_eq!(each(&server.requests(), "scope")[1..], ["-", "-"]);
    assert_eq!(server.reuses(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_rotation_the_refresh_token_is_kept() {
    let server = server();
    server.rotate(false);
    let cache = expired_session(&server).await;
    for _ in 0..3 {
        assert!(cache.get().await.unwrap().refresh_token().is_some());
        pass(HOUR).await;
    }
    assert_eq!(grants(&server), ["password", "refresh_token", "refresh_token", "refresh_token"]);
}

#[tokio::test(start_paused = true)]
async fn without_offline_access_every_fetch_logs_in() {
    let server = server();
    let source = builder(&server)
        .scope("meshy.api")
        .build()
        .unwrap()
        .login_with_password("ann", "her password")
        .build()
        .unwrap();
    let cache = TokenCache::new(source);
    cache.get().await.unwrap();
    pass(HOUR).await;
    assert!(cache.get().await.unwrap().refresh_token().is_none());
    assert_eq!(grants(&server), ["password", "password"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_with_a_lost_answer_is_retried_at_once_and_gets_the_same_pair() {
    let server = server();
    server.reuse_grace(Duration::from_secs(10));
    let cache = expired_session(&server).await;
    server.lose_answers(1);
    let token = cache.get().await.unwrap();
    let sent = each(&server.requests(), "refresh_token");
    assert_eq!((sent.len(), &sent[1]), (3, &sent[2]));
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live);
    assert_eq!((server.ledger().issued(), server.reuses()), (2, 0));
    pass(HOUR).await;
    cache.get().await.unwrap();
    assert_eq!((grants(&server).len(), server.reuses()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_with_a_lost_answer_is_retried_once() {
    let server = server();
    server.reuse_grace(Duration::from_secs(10));
    let cache = expired_session(&server).await;
    server.lose_answers(2);
    assert!(cache.get().await.unwrap_err().is_transient());
    assert_eq!(server.token_calls().total(), 3);
    // The next fetch, after the pause, still has the refresh token.
    pass(Duration::from_secs(1)).await;
    cache.get().await.unwrap();
    assert_eq!((grants(&server)[3].as_str(), server.reuses()), ("refresh_token", 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_without_a_reuse_grace_ends_the_session_and_a_login_follows() {
    let server = server();
    let cache = expired_session(&server).await;
    server.lose_answers(1);
    let token = cache.get().await.unwrap();
    assert_eq!(server.ledger().state_of(token.access_token()), TokenState::Live);
    assert_eq!(grants(&server), ["password", "refresh_token", "refresh_token", "password"]);
}

#[tokio::test(start_paused = true)]
async fn eight_callers_at_expiry_cause_one_token_call_and_no_reuse() {
    let server = server();
    server.revoke_old_on_refresh(true);
    let cache = expired_session(&server).await;
    server.delay(Duration::from_secs(1));
    let get = || cache.get();
    let tokens: [_; 8] = tokio::join!(get(), get(), get(), get(), get(), get(), get(), get()).into();
    for token in tokens.map(Result::unwrap) {
        assert_eq!((token.generation(), server.ledger().state_of(token.access_token())), (2, TokenState::Live));
    }
    assert_eq!((server.token_calls().total(), server.reuses()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_saved_only_if_it_changes() {
    for (rotates, expected) in [(true, 3), (false, 1)] {
        let server = server();
        server.rotate(rotates);
        let saved = Arc::new(Mutex::new(Vec::new()));
        let saving = Arc::clone(&saved);
        let login = account(&server).login_with_password("ann", "her password").build().unwrap();
        let cache = TokenCache::builder(login)
            .on_rotation(move |rotated| {
                saving.lock().unwrap().push(rotated.refresh_token().expose().to_owned());
                async { Ok::<_, Error>(()) }
            })
            .build()
            .unwrap();
        let mut last = cache.get().await.unwrap();
        for _ in 0..2 {
            pass(HOUR).await;
            last = cache.get().await.unwrap();
        }
        let saved = saved.lock().unwrap().clone();
        assert_eq!(saved.len(), expected);
        assert_eq!(saved.last().map(String::as_str), last.refresh_token().as_ref().map(|newest| newest.expose()));
    }
}
