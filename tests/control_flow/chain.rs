//! Token sources that are tried in turn: which is asked, what it is told, and what the error says.

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

/// How often each of two sources was asked since the last look.
fn asked(sources: [&Script; 2], seen: &mut [usize; 2]) -> [usize; 2] {
    let calls = sources.map(Script::calls);
    let since = [calls[0] - seen[0], calls[1] - seen[1]];
    *seen = calls;
    since
}

/// A session whose token the second source brought.
async fn with_the_second() -> (Script, Script, TokenCache) {
    let (first, second, chain) = two();
    first.deny(1);
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token of the second source");
    (first, second, cache)
}

fn refresh_token_of(context: &FetchContext) -> Option<String> {
    context.refresh_token().map(|secret| secret.expose().to_owned())
}

// === which source is asked ===

#[tokio::test(start_paused = true)]
async fn the_first_source_that_brings_a_token_is_the_one() {
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
async fn later_fetches_ask_the_source_of_the_last_token() {
    let (first, second, cache) = with_the_second().await;
    let mut seen = [first.calls(), second.calls()];
    for _ in 0..3 {
        cache.refresh().await.expect("a token");
        assert_eq!(asked([&first, &second], &mut seen), [0, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_that_source_does_not_change_whose_token_is_sent() {
    let (first, second, cache) = with_the_second().await;
    let mut seen = [first.calls(), second.calls()];
    second.fail(3);
    for _ in 0..3 {
        let error = cache.refresh().await.unwrap_err();
        assert!(error.is_transient() && error.failures().next().is_none(), "{error}");
        assert_eq!(asked([&first, &second], &mut seen), [0, 1]);
    }
    // After three failed fetches it was waited for long enough.
    second.fail(1);
    cache.refresh().await.expect("a token of the first source");
    assert_eq!(asked([&first, &second], &mut seen), [1, 1]);
    cache.refresh().await.expect("another");
    assert_eq!(asked([&first, &second], &mut seen), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_denial_leads_to_the_others_in_the_same_fetch() {
    let (first, second, cache) = with_the_second().await;
    second.deny(1);
    assert_eq!(text(cache.refresh().await), "t2");
    assert_eq!((first.calls(), second.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_token_again_that_an_api_rejected_leads_to_the_others() {
    let static_token = async |_| Token::new("static");
    let login = Script::new();
    let chain = TokenSourceChain::first_try("environment", static_token).or_else("login", login.clone());
    let cache = TokenCache::new(chain);
    let first = cache.get().await.expect("a token");
    tokio::time::advance(MINUTE).await;
    assert_eq!(text(cache.report_rejected(&first).await), "t1");
    // Without another source the cache says what is wrong, as for a source that is alone.
    let cache = TokenCache::new(TokenSourceChain::first_try("environment", static_token));
    let first = cache.get().await.expect("a token");
    tokio::time::advance(MINUTE).await;
    let error = cache.report_rejected(&first).await.unwrap_err();
    assert!(
        error.to_string().contains("environment: unusable token: the source handed out the token again"),
        "{error}"
    );
    assert!(error.is_transient());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_denied_is_not_asked_again_with_the_others() {
    let (first, second, chain) = two();
    first.fail(1000);
    second.deny(1000);
    let cache = TokenCache::new(chain);
    for _ in 0..15 * 60 {
        cache.get().await.unwrap_err();
        tokio::time::advance(SECOND).await;
    }
    // 0, 30, 90, 210, 450 s; the next would be at 930 s.
    assert_eq!(second.calls(), 5);
    assert!(first.calls() > 20, "{}", first.calls());
    // A person asks: at once.
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
async fn the_error_is_denied_if_all_failures_are_and_waits_as_long_as_one_of_them_asks() {
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
async fn a_rotated_refresh_token_goes_to_the_source_that_it_came_from() {
    let (first, second, chain) = two();
    let second_rotates = second.clone().rotating();
    first.deny(1);
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token");
    cache.refresh().await.expect("a token");
    assert_eq!(refresh_token_of(&second_rotates.last_context()).as_deref(), Some("r1"));
    // The first source takes over. It has no part in the session of the second.
    second.deny(1);
    cache.refresh().await.expect("a token of the first source");
    assert_eq!(refresh_token_of(&first.last_context()), None);
    assert!(first.last_context().replaced().is_none());
    // And back: the second goes on where it was, with its own.
    first.deny(1);
    tokio::time::advance(MINUTE).await;
    cache.refresh().await.expect("a token of the second source");
    let context = second.last_context();
    assert_eq!(refresh_token_of(&context).as_deref(), Some("r2"));
    assert_eq!(context.replaced().expect("its own token").access_token(), "t2");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_a_failing_source_reported_is_sent_next() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let login = {
        let told = Arc::clone(&told);
        move |context: FetchContext| {
            let mut told = told.lock().unwrap();
            told.push(refresh_token_of(&context));
            context.rotated(format!("rotated-{}", told.len()));
            ready(Err::<Token, _>("cut off"))
        }
    };
    let environment = async |_| Err::<Token, _>(Error::denied("not set"));
    let chain = TokenSourceChain::first_try("environment", environment).or_else("login", login);
    let cache = TokenCache::new(chain);
    cache.get().await.unwrap_err();
    tokio::time::advance(MINUTE).await;
    cache.get().await.unwrap_err();
    assert_eq!(*told.lock().unwrap(), [None, Some("rotated-1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn two_grants_never_get_the_refresh_token_of_each_other() {
    let (blue, red) = (TokenServer::new(), TokenServer::new());
    for (issuer, refresh_token) in [(&blue, "blue-1"), (&red, "red-1")] {
        let body = json!({ "access_token": refresh_token, "expires_in": 3600, "refresh_token": refresh_token });
        issuer.queue(Answer::json(200, body));
    }
    let chain = TokenSourceChain::first_try("blue", password(&blue).build().unwrap())
        .or_else("red", password(&red).build().unwrap());
    let cache = TokenCache::new(chain);
    cache.get().await.expect("a token of blue");
    // Blue's refresh token and password are denied.
    (0..2).for_each(|_| blue.queue(Answer::oauth_error(400, "invalid_grant")));
    cache.refresh().await.expect("a token of red");
    assert_eq!(each(&red.requests(), "grant_type"), ["password"]);
    cache.refresh().await.expect("a token of red");
    assert_eq!(each(&red.requests(), "refresh_token"), ["-", "red-1"]);
    assert_eq!(each(&blue.requests(), "refresh_token"), ["-", "blue-1", "-"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_with_the_only_source_that_can_have_begun_it() {
    // A restored session: the cache knows its refresh token, and the chain has brought nothing yet.
    let session = FetchContext::new(Reason::Expired);
    let session = session.with_replaced(Token::new("t").unwrap().with_refresh_token("restored"));
    let environment = || async |_: FetchContext| Err::<Token, _>(Error::denied("not set"));
    let issuer = TokenServer::new();
    let grant = || refresh_token(&issuer).build().unwrap();
    let chain = TokenSourceChain::first_try("environment", environment()).or_else("login", grant());
    chain.fetch(session.clone()).await.expect("a token");
    assert_eq!(each(&issuer.requests(), "refresh_token"), ["restored"]);
    // Of two, nobody knows whose it is: the grant begins with what it has.
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
async fn a_new_session_begins_with_the_first_source_again() {
    let (first, second, chain) = two();
    let second = second.rotating();
    first.deny(1);
    let context = FetchContext::new(Reason::First);
    chain.fetch(context.clone()).await.expect("a token of the second source");
    // As after a sign-out: neither token nor refresh token.
    tokio::time::advance(MINUTE).await;
    first.fail(1);
    chain.fetch(context).await.expect("a token of the second source");
    assert_eq!((first.calls(), second.calls()), (2, 2));
    assert_eq!(refresh_token_of(&second.last_context()), None);
    assert!(second.last_context().replaced().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_revokes_what_the_session_began_with() {
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
fn a_chain_is_what_its_sources_are() {
    let issuer = TokenServer::new();
    let grant = || client_credentials(&issuer).build().unwrap();
    let other = || client_credentials(&issuer).scope("more").build().unwrap();
    let environment = || async |_: FetchContext| Token::new("t");
    let identity = |chain: TokenSourceChain| chain.identity();
    let chain = || TokenSourceChain::first_try("environment", environment());
    assert_eq!(identity(chain()), Vec::<String>::new());
    let one = identity(chain().or_else("login", grant()));
    assert_eq!(one, identity(chain().or_else("another name", grant())));
    // Whoever has the grant alone does not take tokens that may be those of the environment.
    assert_ne!(one, TokenSource::identity(&grant()));
    assert_ne!(one, identity(TokenSourceChain::first_try("login", grant())));
    assert_ne!(one, identity(chain().or_else("login", other())));
    assert_eq!(format!("{:?}", chain().or_else("login", grant())), r#"["environment", "login"]"#);
}
