//! MeshyDB: its requests as its documents have them, and its sessions.

mod sources;

use std::time::Duration;

use tower_bearer::TokenCache;
use tower_bearer::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, ErrorBodies, MeshyDbServer, Verdict};

use crate::sources::{HOUR, call_api, each, form, headers, hyper_client, map, next_attempt, pass, says, serve};

const ALL_BODIES: [ErrorBodies; 4] =
    [ErrorBodies::OAuth, ErrorBodies::OtherJson, ErrorBodies::Text, ErrorBodies::Empty];

fn server() -> MeshyDbServer {
    MeshyDbServer::new("acme", "public-key").user("ann", "her password").tenant_user("east", "ann", "her password")
}

fn account(server: &MeshyDbServer) -> MeshyDb {
    MeshyDb::new(server.clone(), "acme", "public-key").unwrap()
}

fn session(server: &MeshyDbServer) -> TokenCache {
    TokenCache::new(account(server).login_with_password("ann", "her password").unwrap())
}

/// A cache whose session began with a login and whose token has ended.
async fn ended_session(server: &MeshyDbServer) -> TokenCache {
    let cache = session(server);
    cache.get().await.unwrap();
    pass(HOUR).await;
    cache
}

fn grants(server: &MeshyDbServer) -> Vec<String> {
    each(&server.requests(), "grant_type")
}

#[tokio::test]
async fn a_login_is_the_documented_request_with_and_without_a_tenant() {
    // The tenant, and the header it becomes: trimmed, none for an empty one.
    for (tenant, sent) in
        [(None, None), (Some("east"), Some("east")), (Some(" east "), Some("east")), (Some(" "), None)]
    {
        let server = server();
        let mut account = MeshyDb::new(server.clone(), " acme ", " public-key ").unwrap();
        if let Some(tenant) = tenant {
            account = account.tenant(tenant).unwrap();
        }
        TokenCache::new(account.login_with_password("ann", "her password").unwrap()).get().await.unwrap();

        let [request] = server.requests().try_into().unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(request.uri, "https://auth.meshydb.com/acme/connect/token");
        let mut expected = map([("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")]);
        expected.extend(sent.map(|tenant| ("tenant", tenant.to_owned())));
        assert_eq!(headers(&request), expected);
        let expected = [
            ("client_id", "public-key"),
            ("grant_type", "password"),
            ("username", "ann"),
            ("password", "her password"),
            ("scope", "meshy.api offline_access"),
        ];
        assert_eq!(request.form(), form(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_the_documented_request_with_and_without_a_tenant() {
    for tenant in ["", "east"] {
        let server = server();
        let account = account(&server).tenant(tenant).unwrap();
        let cache = TokenCache::new(account.login_with_password("ann", "her password").unwrap());
        let saved = cache.get().await.unwrap().refresh_token().unwrap();
        pass(HOUR).await;
        cache.get().await.unwrap();

        let [login, refresh] = server.requests().try_into().unwrap();
        assert_eq!((&refresh.method, &refresh.uri), (&login.method, &login.uri));
        assert_eq!(headers(&refresh), headers(&login));
        assert_eq!(refresh.headers.get("tenant").is_some(), !tenant.is_empty());
        let mut expected = form([("client_id", "public-key"), ("grant_type", "refresh_token")]);
        expected.insert("refresh_token".into(), saved.expose().into());
        assert_eq!(refresh.form(), expected);
    }
}

#[tokio::test]
async fn an_empty_tenant_takes_an_earlier_one_back() {
    let server = server();
    let account = account(&server).tenant("west").unwrap().tenant("").unwrap();
    TokenCache::new(account.login_with_password("ann", "her password").unwrap()).get().await.unwrap();
    assert!(!server.requests()[0].headers.contains_key("tenant"));
}

#[tokio::test]
async fn the_place_and_the_scope_are_settings_and_keep_the_tenant() {
    let server = server();
    let account = account(&server).tenant("east").unwrap().auth_base("https://id.corp.example/").unwrap();
    let account = account.scope("meshy.api offline_access openid");
    TokenCache::new(account.login_with_password("ann", "her password").unwrap()).get().await.unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.uri, "https://id.corp.example/acme/connect/token");
    assert_eq!(request.headers["tenant"], "east");
    assert_eq!(request.form()["scope"], "meshy.api offline_access openid");
}

#[tokio::test]
async fn an_account_name_is_one_step_of_the_path() {
    let server = server();
    let account = MeshyDb::new(server.clone(), "a/../b c?", "public-key").unwrap();
    TokenCache::new(account.login_with_password("ann", "x").unwrap()).get().await.unwrap_err();
    assert_eq!(server.requests()[0].uri, "https://auth.meshydb.com/a%2F..%2Fb%20c%3F/connect/token");
}

#[tokio::test]
async fn an_anonymous_user_has_the_documented_password() {
    let server = server().user("device-7", "nopassword");
    let cache = TokenCache::new(account(&server).login_anonymously("device-7").unwrap());
    cache.get().await.unwrap();
    assert_eq!(server.requests()[0].form()["password"], "nopassword");
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_from_a_saved_refresh_token() {
    let server = server();
    let saved = session(&server).get().await.unwrap().refresh_token().unwrap();
    let cache = TokenCache::new(account(&server).login_with_refresh_token(saved.clone()).unwrap());
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
    let cache = ended_session(&server).await;
    for _ in 0..3 {
        assert!(cache.get().await.unwrap().refresh_token().is_some());
        pass(HOUR).await;
    }
    assert_eq!(grants(&server), ["password", "refresh_token", "refresh_token", "refresh_token"]);
}

#[tokio::test(start_paused = true)]
async fn without_offline_access_every_fetch_logs_in() {
    let server = server();
    let source = account(&server).scope("meshy.api").login_with_password("ann", "her password").unwrap();
    let cache = TokenCache::new(source);
    cache.get().await.unwrap();
    pass(HOUR).await;
    assert!(cache.get().await.unwrap().refresh_token().is_none());
    assert_eq!(grants(&server), ["password", "password"]);
}

#[tokio::test(start_paused = true)]
async fn a_denied_refresh_token_leads_to_a_new_login_whatever_the_error_looks_like() {
    for bodies in ALL_BODIES {
        let server = server();
        server.error_bodies(bodies);
        server.refresh_lifetime(HOUR);
        let cache = ended_session(&server).await;
        let token = cache.get().await.unwrap();
        assert_eq!(server.ledger().verdict(token.access_token()), Verdict::Live, "{bodies:?}");
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

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_at_once_and_the_grace_gives_the_same_pair() {
    let server = server();
    server.reuse_grace(Duration::from_secs(10));
    let cache = ended_session(&server).await;
    server.lose_answers(1);
    let token = cache.get().await.unwrap();
    let sent = each(&server.requests(), "refresh_token");
    assert_eq!((sent.len(), &sent[1]), (3, &sent[2]));
    assert_eq!(server.ledger().verdict(token.access_token()), Verdict::Live);
    assert_eq!((server.ledger().issued(), server.reuses()), (2, 0));
    pass(HOUR).await;
    cache.get().await.unwrap();
    assert_eq!((grants(&server).len(), server.reuses()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_exactly_once() {
    let server = server();
    server.reuse_grace(Duration::from_secs(10));
    let cache = ended_session(&server).await;
    server.lose_answers(2);
    assert!(cache.get().await.unwrap_err().is_transient());
    assert_eq!(server.token_calls().total(), 3);
    // The next fetch, after the pause, still has the refresh token.
    pass(Duration::from_secs(1)).await;
    cache.get().await.unwrap();
    assert_eq!((grants(&server)[3].as_str(), server.reuses()), ("refresh_token", 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_without_a_grace_ends_the_session_and_the_login_begins_another() {
    let server = server();
    let cache = ended_session(&server).await;
    server.lose_answers(1);
    let token = cache.get().await.unwrap();
    assert_eq!(server.ledger().verdict(token.access_token()), Verdict::Live);
    assert_eq!(grants(&server), ["password", "refresh_token", "refresh_token", "password"]);
}

#[tokio::test(start_paused = true)]
async fn eight_callers_at_expiry_make_one_token_call_and_reuse_nothing() {
    let server = server();
    server.revoke_old_on_refresh(true);
    let cache = ended_session(&server).await;
    server.delay(Duration::from_secs(1));
    let get = || cache.get();
    let tokens: [_; 8] = tokio::join!(get(), get(), get(), get(), get(), get(), get(), get()).into();
    for token in tokens.map(Result::unwrap) {
        assert_eq!((token.generation(), server.ledger().verdict(token.access_token())), (2, Verdict::Live));
    }
    assert_eq!((server.token_calls().total(), server.reuses()), (2, 0));
}

#[tokio::test]
async fn a_session_works_over_a_socket() {
    let server = server();
    let base = serve(server.clone()).await;
    let account = MeshyDb::new(hyper_client(), "acme", "public-key").unwrap().auth_base(&base).unwrap();
    let cache = TokenCache::new(account.tenant("east").unwrap().login_with_password("ann", "her password").unwrap());
    for round in 1..=2 {
        assert_eq!(call_api(&cache, &base, "/acme/meshes/things").await, 200);
        assert_eq!((server.api().accepted(), server.token_calls().total()), (round, round));
        cache.refresh().await.unwrap();
    }
    assert_eq!((server.api().refused(), server.reuses()), (0, 0));
}
