//! Token sources that are tried in order: which one is called, with which context, and what the error says.

use std::error::Error as _;
use std::future::ready;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tower_bearer::chain::TokenSourceChain;
use tower_bearer::file::TokenFile;
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, FetchContext, Reason, RefreshPolicy, Secret, Token, TokenCache, TokenSource};

use crate::common::{HOUR, MINUTE, SECOND, Script, text};
use crate::sources::{client_credentials, each, password, refresh_token, says};

/// Two sources, called `first` and `second`.
fn two() -> (Script, Script, TokenSourceChain) {
    let (first, second) = (Script::new(), Script::new());
    let chain = TokenSourceChain::first_try("first", first.clone()).or_else("second", second.clone());
    (first, second, chain)
}

/// How often each of two sources was called since the last check.
fn new_calls(sources: [&Script; 2], seen: &mut [usize; 2]) -> [usize; 2] {
    let calls = sources.map(Script::calls);
    let since = [calls[0] - seen[0], calls[1] - seen[1]];
    *seen = calls;
    since
}

/// A session whose token is from the second source.
async fn with_second_source() -> (Script, Script, TokenCache) {
    let (first, second, chain) = two();
    first.deny(1);
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token of the second source");
    (first, second, cache)
}

fn refresh_token_of(context: &FetchContext) -> Option<String> {
    context.refresh_token().map(|secret| secret.expose().to_owned())
}

// === which source is called ===

#[tokio::test(start_paused = true)]
async fn the_first_source_that_returns_a_token_ends_the_search() {
    for failure in [Error::transient("down"), Error::denied("not configured"), Token::new("").unwrap_err()] {
        let (first, second, chain) = two();
        first.queue(Err(failure));
        assert_eq!(text(TokenCache::new(chain).get().await), "t1");
        assert_eq!((first.calls(), second.calls()), (1, 1));
    }
    let (_, second, chain) = two();
    TokenCache::new(chain).get().await.expect("a token");
    assert_eq!(second.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn later_fetches_call_the_source_of_the_last_token() {
    let (first, second, cache) = with_second_source().await;
    let mut seen = [first.calls(), second.calls()];
    for _ in 0..3 {
        cache.refresh().await.expect("a token");
        assert_eq!(new_calls([&first, &second], &mut seen), [0, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_of_the_current_source_does_not_change_the_source() {
    let (first, second, cache) = with_second_source().await;
    let mut seen = [first.calls(), second.calls()];
    second.fail(3);
    for _ in 0..3 {
        let error = cache.refresh().await.unwrap_err();
        assert!(error.is_transient() && error.failures().next().is_none(), "{error}");
        assert_eq!(new_calls([&first, &second], &mut seen), [0, 1]);
    }
    // After three failed fetches, the others are tried.
    second.fail(1);
    cache.refresh().await.expect("a token of the first source");
    assert_eq!(new_calls([&first, &second], &mut seen), [1, 1]);
    cache.refresh().await.expect("another");
    assert_eq!(new_calls([&first, &second], &mut seen), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn after_a_denial_the_same_fetch_tries_the_other_sources() {
    let (first, second, cache) = with_second_source().await;
    second.deny(1);
    assert_eq!(text(cache.refresh().await), "t2");
    assert_eq!((first.calls(), second.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_returns_the_rejected_token_makes_the_chain_try_the_others() {
    let static_token = async |_| Token::new("static");
    let login = Script::new();
    let chain = TokenSourceChain::first_try("environment", static_token).or_else("login", login.clone());
    let cache = TokenCache::new(chain);
    let first = cache.get().await.expect("a token");
    tokio::time::advance(MINUTE).await;
    assert_eq!(text(cache.report_rejected(&first).await), "t1");
    // If there is no other source, the error is that of a source without a chain.
    let cache = TokenCache::new(TokenSourceChain::first_try("environment", static_token));
    let first = cache.get().await.expect("a token");
    tokio::time::advance(MINUTE).await;
    let error = cache.report_rejected(&first).await.unwrap_err();
    assert!(error.to_string().contains("environment: unusable token: the source returned the token again"), "{error}");
    assert!(error.is_transient());
}

#[tokio::test(start_paused = true)]
async fn a_denied_source_is_not_called_each_time_that_the_others_are() {
    let (first, second, chain) = two();
    first.fail(1000);
    second.deny(1000);
    let cache = TokenCache::new(chain);
    for _ in 0..15 * 60 {
        cache.get().await.unwrap_err();
        tokio::time::advance(SECOND).await;
    }
    // The calls are at 0, 30, 90, 210 and 450 s. The next would be at 930 s.
    assert_eq!(second.calls(), 5);
    assert!(first.calls() > 20, "{}", first.calls());
    // An explicit refresh calls it at once.
    cache.refresh().await.unwrap_err();
    assert_eq!(second.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_leaves_time_for_the_others() {
    let (first, second, chain) = two();
    first.delay(HOUR);
    let cache = TokenCache::builder(chain).refresh_policy(RefreshPolicy::new().deadline(10 * SECOND)).build().unwrap();
    let began = crate::sources::now();
    cache.get().await.expect("a token of the second source");
    let took = began.elapsed();
    assert!(took > 4 * SECOND && took < 5 * SECOND, "{took:?}");
    assert!(second.last_context().deadline() < 5 * SECOND);
}

// === what the error says ===

#[tokio::test(start_paused = true)]
async fn the_error_names_each_source_with_its_failure_and_no_secret() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(
        400,
        json!({ "error": "invalid_grant", "error_description": "bob may not use: her password" }),
    ));
    let environment = async |_| Err::<Token, _>(Error::denied("the variable is not set"));
    let chain = TokenSourceChain::first_try("environment", environment)
        .or_else("file", TokenFile::new("/nowhere/token"))
        .or_else("login", password(&issuer).build().unwrap());
    let error = TokenCache::new(chain).get().await.unwrap_err();
    let text = error.to_string();
    let rest = text.strip_prefix("no source of the chain brought a token:").expect("what happened comes first");
    for part in [" environment: ", "; file: ", "/nowhere/token", "; login: ", "invalid_grant", "bob may not use"] {
        assert!(rest.contains(part), "{part}: {rest}");
    }
    assert!(!says(&error).contains("her password"), "{error:?}");
    let names: Vec<_> = error.failures().map(|(name, failure)| (name, failure.is_denied())).collect();
    assert_eq!(names, [("environment", true), ("file", false), ("login", true)]);
    assert_eq!((error.code(), error.is_transient(), error.is_denied()), (Some("invalid_grant"), true, false));
    assert!(error.source().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_error_is_denied_if_all_failures_are_and_has_the_longest_retry_after() {
    let (first, second, chain) = two();
    first.deny(1);
    second.deny(1);
    let error = TokenCache::new(chain).get().await.unwrap_err();
    assert!(error.is_denied() && !error.is_transient());

    let (first, second, chain) = two();
    first.queue(Err(Error::transient("busy").with_retry_after(MINUTE)));
    second.queue(Err(Error::transient("busy").with_retry_after(SECOND)));
    let error = TokenCache::new(chain).get().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(MINUTE));
}

// === refresh tokens ===

#[tokio::test(start_paused = true)]
async fn only_the_source_that_returned_a_refresh_token_gets_it() {
    let (first, second, chain) = two();
    let second_rotates = second.clone().rotating();
    first.deny(1);
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token");
    cache.refresh().await.expect("a token");
    assert_eq!(refresh_token_of(&second_rotates.last_context()).as_deref(), Some("r1"));
    // The first source takes over. It gets nothing of the second source's session.
    second.deny(1);
    cache.refresh().await.expect("a token of the first source");
    assert_eq!(refresh_token_of(&first.last_context()), None);
    assert!(first.last_context().replaced().is_none());
    // The second source takes over again, and gets its own tokens.
    first.deny(1);
    tokio::time::advance(MINUTE).await;
    cache.refresh().await.expect("a token of the second source");
    let context = second.last_context();
    assert_eq!(refresh_token_of(&context).as_deref(), Some("r2"));
    assert_eq!(context.replaced().expect("its own token").access_token(), "t2");
}

#[tokio::test(start_paused = true)]
async fn the_next_fetch_gets_a_refresh_token_that_a_failing_source_reported() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let login = {
        let seen = Arc::clone(&seen);
        move |context: FetchContext| {
            let mut seen = seen.lock().unwrap();
            seen.push(refresh_token_of(&context));
            context.rotated(format!("rotated-{}", seen.len()));
            ready(Err::<Token, _>("cut off"))
        }
    };
    let environment = async |_| Err::<Token, _>(Error::denied("not set"));
    let chain = TokenSourceChain::first_try("environment", environment).or_else("login", login);
    let cache = TokenCache::new(chain);
    cache.get().await.unwrap_err();
    tokio::time::advance(MINUTE).await;
    cache.get().await.unwrap_err();
    assert_eq!(*seen.lock().unwrap(), [None, Some("rotated-1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn two_grants_never_get_each_others_refresh_tokens() {
    let (blue, red) = (TokenServer::new(), TokenServer::new());
    for (issuer, refresh_token) in [(&blue, "blue-1"), (&red, "red-1")] {
        let body = json!({ "access_token": refresh_token, "expires_in": 3600, "refresh_token": refresh_token });
        issuer.queue(Answer::json(200, body));
    }
    let chain = TokenSourceChain::first_try("blue", password(&blue).build().unwrap())
        .or_else("red", password(&red).build().unwrap());
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token of blue");
    // Blue denies its refresh token and its password.
    (0..2).for_each(|_| blue.queue(Answer::oauth_error(400, "invalid_grant")));
    cache.refresh().await.expect("a token of red");
    assert_eq!(each(&red.requests(), "grant_type"), ["password"]);
    cache.refresh().await.expect("a token of red");
    assert_eq!(each(&red.requests(), "refresh_token"), ["-", "red-1"]);
    assert_eq!(each(&blue.requests(), "refresh_token"), ["-", "blue-1", "-"]);
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_continues_with_the_only_source_that_can_have_begun_it() {
    // The cache knows the refresh token of a restored session, and the chain has not returned a token yet.
    let session = FetchContext::new(Reason::Expired);
    let session = session.with_replaced(Token::new("t").unwrap().with_refresh_token("restored"));
    let environment = || async |_: FetchContext| Err::<Token, _>(Error::denied("not set"));
    let issuer = TokenServer::new();
    let grant = || refresh_token(&issuer).build().unwrap();
    let chain = TokenSourceChain::first_try("environment", environment()).or_else("login", grant());
    chain.fetch(session.clone()).await.expect("a token");
    assert_eq!(each(&issuer.requests(), "refresh_token"), ["restored"]);
    // With two such sources, the owner is unknown. The grant begins with its own refresh token.
    let other = client_credentials(&TokenServer::new());
    let chain = TokenSourceChain::first_try("login", grant()).or_else("service", other.build().unwrap());
    chain.fetch(session).await.expect("a token");
    assert_eq!(each(&issuer.requests(), "refresh_token"), ["restored", "saved"]);
}

#[tokio::test(start_paused = true)]
async fn each_source_is_told_of_its_own_token_and_its_own_refresh_token() {
    let (first, second, chain) = two();
    let second = second.rotating();
    first.deny(1);
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token of the second source");
    second.deny(1);
    cache.refresh().await.expect("a token of the first source, without a refresh token");
    // The session's refresh token is still that of the second source, and its newest token that of the first.
    first.queue(Err(Error::denied("revoked")));
    tokio::time::advance(MINUTE).await;
    cache.refresh().await.expect("a token of the second source");
    assert_eq!(first.last_context().replaced().expect("its own").access_token(), "t2");
    let context = second.last_context();
    assert_eq!(context.replaced().expect("its own").access_token(), "t1");
    assert_eq!(refresh_token_of(&context).as_deref(), Some("r1"));
}

#[tokio::test(start_paused = true)]
async fn a_new_session_begins_with_the_first_source() {
    let (first, second, chain) = two();
    let second = second.rotating();
    first.deny(1);
    let context = FetchContext::new(Reason::First);
    chain.fetch(context.clone()).await.expect("a token of the second source");
    // After a sign-out there is neither token nor refresh token.
    tokio::time::advance(MINUTE).await;
    first.fail(1);
    chain.fetch(context).await.expect("a token of the second source");
    assert_eq!((first.calls(), second.calls()), (2, 2));
    assert_eq!(refresh_token_of(&second.last_context()), None);
    assert!(second.last_context().replaced().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_revokes_the_refresh_token_that_the_session_began_with() {
    let issuer = TokenServer::new();
    let environment = async |_| Token::new("static");
    let chain = TokenSourceChain::first_try("environment", environment)
        .or_else("login", refresh_token(&issuer).build().unwrap());
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token");
    let revoked = Mutex::new(Vec::new());
    cache
        .sign_out(async |refresh_token: Secret| {
            revoked.lock().unwrap().push(refresh_token.expose().to_owned());
            Ok::<_, Error>(())
        })
        .await
        .expect("it is revoked");
    assert_eq!(*revoked.lock().unwrap(), ["saved"]);
}

// === identity ===

#[test]
fn the_identity_of_a_chain_consists_of_those_of_its_sources() {
    let issuer = TokenServer::new();
    let grant = || client_credentials(&issuer).build().unwrap();
    let other = || client_credentials(&issuer).scope("more").build().unwrap();
    let environment = || async |_: FetchContext| Token::new("t");
    let identity = |chain: TokenSourceChain| chain.identity();
    let chain = || TokenSourceChain::first_try("environment", environment());
    assert_eq!(identity(chain()), Vec::<String>::new());
    let one = identity(chain().or_else("login", grant()));
    assert_eq!(one, identity(chain().or_else("another name", grant())));
    // A process with only the grant does not use tokens that may be from the environment.
    assert_ne!(one, TokenSource::identity(&grant()));
    assert_ne!(one, identity(TokenSourceChain::first_try("login", grant())));
    assert_ne!(one, identity(chain().or_else("login", other())));
    assert_eq!(format!("{:?}", chain().or_else("login", grant())), r#"["environment", "login"]"#);
}
