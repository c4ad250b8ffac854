//! An issuer that rotates refresh tokens and ends the session at the second use of a refresh token.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_bearer::store::SharedSession;
use tower_bearer::{Error, FetchContext, Secret, Token, TokenCache, TokenSource};
use tower_bearer_redis::RedisStore;

/// The source of each process, which begins with the refresh token `r0`.
#[derive(Clone)]
pub(crate) struct Issuer(Arc<Mutex<State>>);

struct State {
    lifetime: Duration,
    /// The refresh tokens that were sent.
    used: Vec<String>,
    at_once: usize,
    most_at_once: usize,
    revoked: Vec<String>,
}

// === impl Issuer ===

impl Issuer {
    pub(crate) fn new(lifetime: Duration) -> Self {
        let (used, revoked) = (Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(State { lifetime, used, at_once: 0, most_at_once: 0, revoked })))
    }

    /// The cache of another process, which has its own connection.
    pub(crate) fn process(&self, store: RedisStore, poll_interval: Duration) -> TokenCache {
        let session = SharedSession::new(store, "key").poll_interval(poll_interval);
        TokenCache::builder(self.clone()).shared_session(session).build().unwrap()
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().used.len()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.0.lock().unwrap().most_at_once
    }

    /// How many calls sent a refresh token that was sent before.
    pub(crate) fn reused(&self) -> usize {
        let state = self.0.lock().unwrap();
        state.used.len() - state.used.iter().collect::<HashSet<_>>().len()
    }

    pub(crate) async fn revoke(&self, refresh_token: Secret) -> Result<(), Error> {
        self.0.lock().unwrap().revoked.push(refresh_token.expose().to_owned());
        Ok(())
    }

    pub(crate) fn revoked(&self) -> Vec<String> {
        self.0.lock().unwrap().revoked.clone()
    }
}

impl TokenSource for Issuer {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let refresh_token =
            context.refresh_token().map_or_else(|| "r0".to_owned(), |newest| newest.expose().to_owned());
        let (number, lifetime) = {
            let mut state = self.0.lock().unwrap();
            state.at_once += 1;
            state.most_at_once = state.most_at_once.max(state.at_once);
            state.used.push(refresh_token);
            (state.used.len(), state.lifetime)
        };
        // Lets concurrent calls overlap.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.0.lock().unwrap().at_once -= 1;
        if self.reused() > 0 {
            return Err(Error::denied("invalid_grant"));
        }
        let token = Token::new(format!("t{number}"))?.with_lifetime(lifetime);
        Ok(token.with_refresh_token(format!("r{number}")))
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        Ok(Some(Secret::from("r0")))
    }

    fn identity(&self) -> Vec<String> {
        vec!["issuer.test".to_owned(), "key".to_owned()]
    }
}
