//! An issuer that rotates refresh tokens and detects their reuse, and processes that share a session.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tower_bearer::store::{Lease, Saved, SharedSession, StoreError, Stored, TokenStore};
use tower_bearer::{Error, FetchContext, Secret, Token, TokenCache, TokenSource};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const KEY: &str = "ada";

/// The issuer of all processes. Each refresh token works once, and its second use ends the session.
#[derive(Clone)]
pub(crate) struct Issuer(Arc<Mutex<State>>);

struct State {
    lifetime: Duration,
    delay: Duration,
    issued: usize,
    /// The valid refresh tokens.
    live: HashSet<String>,
    used: HashSet<String>,
    calls: Vec<Option<String>>,
    at_once: usize,
    most_at_once: usize,
    reused: usize,
    revoked: Vec<String>,
    /// Whether a used refresh token works again.
    forgiving: bool,
    /// The errors of the next calls.
    failures: Vec<Error>,
    /// The refresh token with which a login began, by the number of each of its tokens.
    logins: HashMap<String, String>,
}

/// The configuration of one process.
#[derive(Clone)]
pub(crate) struct Login {
    issuer: Issuer,
    /// The refresh token that it begins with, or `None` to log in with a password.
    seed: Option<String>,
    user: &'static str,
    /// How long the process is stopped before it sends its call.
    stopped: Duration,
    steps: Steps,
}

/// The number of steps until the process dies. A step is a call of the store or of the issuer, or its answer.
#[derive(Clone, Default)]
pub(crate) struct Steps(Option<Arc<AtomicI64>>);

/// The store of a process that dies after a number of steps.
#[derive(Clone)]
pub(crate) struct Mortal<S> {
    store: S,
    steps: Steps,
}

struct Call<'a>(&'a Issuer);

// === impl Issuer ===

impl Issuer {
    /// Tokens live for 100 s. The refresh token `seed` is valid.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            lifetime: 100 * SECOND,
            delay: SECOND / 10,
            issued: 0,
            live: HashSet::from(["seed".to_owned()]),
            used: HashSet::new(),
            calls: Vec::new(),
            at_once: 0,
            most_at_once: 0,
            reused: 0,
            revoked: Vec::new(),
            forgiving: false,
            failures: Vec::new(),
            logins: HashMap::new(),
        })))
    }

    /// A source that begins with the refresh token `seed`.
    pub(crate) fn login(&self) -> Login {
        self.login_with("seed")
    }

    pub(crate) fn login_with(&self, seed: &str) -> Login {
        self.lock().live.insert(seed.to_owned());
        Login {
            issuer: self.clone(),
            seed: Some(seed.to_owned()),
            user: KEY,
            stopped: Duration::ZERO,
            steps: Steps::default(),
        }
    }

    /// A source that logs in with a password.
    pub(crate) fn password(&self) -> Login {
        Login { issuer: self.clone(), seed: None, user: KEY, stopped: Duration::ZERO, steps: Steps::default() }
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    pub(crate) fn lifetime(&self, lifetime: Duration) {
        self.lock().lifetime = lifetime;
    }

    /// Accepts a used refresh token once more, as many servers do for a while.
    pub(crate) fn forgive(&self) {
        self.lock().forgiving = true;
    }

    /// Ends all refresh tokens.
    pub(crate) fn end_session(&self) {
        self.lock().live.clear();
    }

    pub(crate) fn fail(&self, error: Error) {
        self.lock().failures.push(error);
    }

    pub(crate) fn calls(&self) -> usize {
        self.lock().calls.len()
    }

    /// The refresh tokens of its calls.
    pub(crate) fn asked_with(&self) -> Vec<Option<String>> {
        self.lock().calls.clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.lock().most_at_once
    }

    /// How many refresh tokens were sent a second time.
    pub(crate) fn reused(&self) -> usize {
        self.lock().reused
    }

    pub(crate) fn revoked(&self) -> Vec<String> {
        self.lock().revoked.clone()
    }

    /// The refresh token with which the login of this token began.
    pub(crate) fn login_of(&self, token: &Token) -> String {
        self.lock().logins[token.access_token().trim_start_matches('t')].clone()
    }

    /// The refresh token with which the login of this refresh token began.
    pub(crate) fn login_of_refresh_token(&self, refresh_token: &str) -> String {
        let state = self.lock();
        state.logins.get(refresh_token.trim_start_matches('r')).map_or_else(|| refresh_token.to_owned(), String::clone)
    }

    /// Revokes a refresh token, as a sign-out does.
    pub(crate) async fn revoke(&self, refresh_token: Secret) -> Result<(), Error> {
        let mut state = self.lock();
        state.live.remove(refresh_token.expose());
        state.revoked.push(refresh_token.expose().to_owned());
        Ok(())
    }

    /// Signs out of this process, and revokes its refresh token here.
    pub(crate) async fn sign_out(&self, process: &TokenCache) -> Result<(), Error> {
        process.sign_out(async |refresh_token| self.revoke(refresh_token).await).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) async fn answer(&self, refresh_token: Option<&str>) -> Result<Token, Error> {
        let _call = Call(self);
        let delay = {
            let mut state = self.lock();
            state.calls.push(refresh_token.map(str::to_owned));
            state.at_once += 1;
            state.most_at_once = state.most_at_once.max(state.at_once);
            state.delay
        };
        let answer = self.evaluate(refresh_token);
        tokio::time::sleep(delay).await;
        answer
    }

    /// Rotates when the call arrives. The answer may be lost afterwards.
    fn evaluate(&self, refresh_token: Option<&str>) -> Result<Token, Error> {
        let mut state = self.lock();
        if let Some(error) = state.failures.pop() {
            return Err(error);
        }
        if let Some(refresh_token) = refresh_token.filter(|_| !state.forgiving) {
            if state.used.contains(refresh_token) {
                state.reused += 1;
                state.live.clear();
            }
            if !state.live.remove(refresh_token) {
                return Err(Error::denied("invalid_grant"));
            }
            state.used.insert(refresh_token.to_owned());
        }
        state.issued += 1;
        let number = state.issued;
        state.live.insert(format!("r{number}"));
        let first = refresh_token.unwrap_or("password").to_owned();
        let login = refresh_token.and_then(|token| state.logins.get(token.trim_start_matches('r')).cloned());
        state.logins.insert(number.to_string(), login.unwrap_or(first));
        let token = Token::new(format!("t{number}"))?.with_lifetime(state.lifetime);
        Ok(token.with_refresh_token(format!("r{number}")))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.lock().at_once -= 1;
    }
}

// === impl Login ===

impl Login {
    /// Stops the process for this long before each call.
    pub(crate) fn stopped(self, stopped: Duration) -> Self {
        Self { stopped, ..self }
    }

    pub(crate) fn mortal(self, steps: &Steps) -> Self {
        Self { steps: steps.clone(), ..self }
    }

    pub(crate) fn of(self, user: &'static str) -> Self {
        Self { user, ..self }
    }
}

impl TokenSource for Login {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let newest = context.refresh_token();
        let refresh_token = newest.as_ref().map(Secret::expose).or(self.seed.as_deref());
        tokio::time::sleep(self.stopped).await;
        self.steps.step().await;
        let answer = self.issuer.answer(refresh_token).await;
        self.steps.step().await;
        answer
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        Ok(self.seed.clone().map(Secret::from))
    }

    fn identity(&self) -> Vec<String> {
        vec!["issuer.test".to_owned(), self.user.to_owned()]
    }
}

// === impl Steps ===

impl Steps {
    pub(crate) fn new(steps: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(steps))))
    }

    /// Counts a step. Never completes if no steps are left.
    pub(crate) async fn step(&self) {
        let Some(left) = &self.0 else { return };
        if left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            std::future::pending().await
        }
    }

    pub(crate) fn are_over(&self) -> bool {
        self.0.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) < 0)
    }
}

// === impl Mortal ===

impl<S> Mortal<S> {
    pub(crate) fn new(store: S, steps: &Steps) -> Self {
        Self { store, steps: steps.clone() }
    }

    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.steps.step().await;
        let answer = call.await;
        self.steps.step().await;
        answer
    }
}

impl<S: TokenStore> TokenStore for Mortal<S> {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.call(self.store.load(key)).await
    }

    async fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        self.call(self.store.acquire(key, owner, ttl)).await
    }

    async fn extend(&self, key: &str, owner: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.call(self.store.extend(key, owner, ttl)).await
    }

    async fn release(&self, key: &str, owner: &str) -> Result<(), StoreError> {
        self.call(self.store.release(key, owner)).await
    }

    async fn save(&self, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> Result<Saved, StoreError> {
        self.call(self.store.save(key, owner, expected, bytes)).await
    }

    async fn set_aside(&self, key: &str, owner: &str, expected: u64) -> Result<Option<String>, StoreError> {
        self.call(self.store.set_aside(key, owner, expected)).await
    }

    async fn expire(&self, key: &str, owner: &str, expected: u64, after: Duration) -> Result<(), StoreError> {
        self.call(self.store.expire(key, owner, expected, after)).await
    }

    async fn changed(&self, key: &str) {
        self.store.changed(key).await;
    }
}

// === processes ===

pub(crate) fn session(store: &(impl TokenStore + Clone)) -> SharedSession {
    SharedSession::new(store.clone(), KEY)
}

/// A process that shares the session in this store.
pub(crate) fn process(login: Login, store: &(impl TokenStore + Clone)) -> TokenCache {
    TokenCache::builder(login).shared_session(session(store)).build().unwrap()
}

pub(crate) fn text(answer: Result<Token, Error>) -> String {
    answer.expect("a token").access_token().to_owned()
}

pub(crate) async fn sleep(seconds: u64) {
    tokio::time::sleep(seconds as u32 * SECOND).await;
}
