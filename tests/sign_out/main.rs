//! The end of a session: its refresh token is revoked, and nothing revives the session.
#![allow(clippy::disallowed_methods, reason = "tests spawn, and read clocks to give up")]

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex};

use tower_bearer::{Error, FetchContext, Secret, Token, TokenCache, TokenSource};

use crate::common::{Script, settle};

#[path = "../common/mod.rs"]
mod common;

mod callers;
mod fetches;
mod sessions;

/// An issuer, and the refresh tokens that it has revoked.
#[derive(Clone, Default)]
struct Revoked(Arc<Mutex<Vec<String>>>);

impl Revoked {
    async fn sign_out(&self, cache: &TokenCache) -> Result<(), Error> {
        cache.sign_out(async |refresh_token| self.revoke(refresh_token)).await
    }

    fn revoke(&self, refresh_token: Secret) -> Result<(), Error> {
        self.0.lock().unwrap().push(refresh_token.expose().to_owned());
        Ok(())
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Signs out of a session that has nothing to revoke.
async fn sign_out(cache: &TokenCache) {
    cache.sign_out(async |_| -> Result<(), Error> { panic!("there is nothing to revoke") }).await.unwrap();
}

/// A source that starts with a refresh token, or fails to read it.
struct Saved(Script, Option<&'static str>);

impl TokenSource for Saved {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.0.fetch(context).await
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        self.1.map(|saved| Some(saved.into())).ok_or_else(|| Error::transient("the vault is closed"))
    }
}

// === the end of a session ===

#[tokio::test(start_paused = true)]
async fn the_newest_refresh_token_is_revoked_and_nothing_of_the_session_is_left() {
    let alive = Arc::new(());
    let (script, held) = (Script::new().rotating(), Arc::clone(&alive));
    let fetches = script.clone();
    let cache = TokenCache::new(move |context| {
        let (_password, script) = (Arc::clone(&held), fetches.clone());
        async move { script.fetch(context).await }
    });
    cache.get().await.unwrap();
    let token = cache.refresh().await.unwrap();
    settle().await;
    let revoked = Revoked::default();
    assert!(!cache.status().signed_out);
    revoked.sign_out(&cache).await.unwrap();

    assert_eq!(revoked.all(), ["r2"]);
    assert!(cache.peek().is_none());
    let status = cache.status();
    assert!(status.signed_out && !status.closed && !status.fetching && status.phase.is_none());
    for error in [cache.get().await, cache.refresh().await, cache.report_rejected(&token).await].map(Result::unwrap_err)
    {
        assert!(error.is_signed_out() && !error.is_transient() && !error.is_closed(), "{error}");
        assert!(error.to_string().contains("sign_in"), "the next step: {error}");
    }
    assert_eq!(script.calls(), 2);
    assert_eq!(Arc::strong_count(&alive), 1, "the source and its password are dropped");

    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r2"], "a second sign-out has nothing to revoke");
}

#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_there_is_nothing_to_revoke() {
    for cache in [TokenCache::new(Script::new()), TokenCache::fixed("abc").unwrap()] {
        cache.get().await.unwrap();
        sign_out(&cache).await;
        assert!(cache.get().await.unwrap_err().is_signed_out());
    }
    let cache = TokenCache::new(Script::new().rotating());
    sign_out(&cache).await;
    assert!(cache.get().await.unwrap_err().is_signed_out(), "before the first fetch");
}

#[tokio::test(start_paused = true)]
async fn a_saved_refresh_token_is_revoked_before_the_first_fetch_and_then_the_newer_one() {
    let revoked = Revoked::default();
    revoked.sign_out(&TokenCache::new(Saved(Script::new(), Some("saved")))).await.unwrap();
    let cache = TokenCache::new(Saved(Script::new().rotating(), Some("saved")));
    cache.get().await.unwrap();
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["saved", "r1"]);
}

#[tokio::test]
async fn a_saved_refresh_token_that_cannot_be_read_is_an_error_and_the_session_still_ends() {
    let cache = TokenCache::new(Saved(Script::new(), None));
    let error = cache.sign_out(async |_| Ok::<_, Error>(())).await.unwrap_err();
    assert!(format!("{error:?}").contains("the vault is closed"), "{error:?}");
    assert!(cache.get().await.unwrap_err().is_signed_out());
}

#[tokio::test(start_paused = true)]
async fn a_failed_revocation_is_reported_and_the_session_still_ends() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let cache = TokenCache::new(move |_| {
        let _password = Arc::clone(&held);
        async { Token::new("t").map(|token| token.with_refresh_token("r")) }
    });
    cache.get().await.unwrap();
    settle().await;
    let error = cache.sign_out(async |_| Err(io::Error::other("no route"))).await.unwrap_err();
    assert!(error.to_string().contains("may still work") && !error.is_transient() && !error.is_signed_out(), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "no route");

    assert!(cache.get().await.unwrap_err().is_signed_out() && cache.status().signed_out);
    assert_eq!(Arc::strong_count(&alive), 1);
    sign_out(&cache).await;
}
