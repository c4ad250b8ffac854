//! An issuer whose tokens name their tenant, and an API that checks that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::testing::MemoryStore;
use tower_bearer::{BearerLayer, Error, FetchContext, KeyedTokenCache, RotatedToken, Token, TokenCache, TokenSource};

pub(crate) type Key = u32;
pub(crate) type Client = BoxCloneSyncService<Request<()>, Response<String>, BoxError>;

pub(crate) const API: &str = "https://api.example.com";

/// Issues tokens `KEY.NUMBER` and refresh tokens `KEY.rNUMBER`, which work once.
#[derive(Clone, Default)]
pub(crate) struct Issuer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: BTreeMap<Key, usize>,
    /// The valid refresh token of each session.
    refresh_tokens: BTreeMap<Key, String>,
    /// The refresh token of each session that the application has saved.
    saved: BTreeMap<Key, String>,
    /// How many sessions of each key have ended.
    ended: BTreeMap<Key, usize>,
    revoked: Vec<String>,
    failing: Vec<Key>,
    in_progress: usize,
    most_in_progress: usize,
    /// How often a refresh token was used twice, which ends a session at real issuers.
    reused: usize,
    lifetime: Option<Duration>,
    delay: Duration,
    gate: Option<Arc<Semaphore>>,
    order: Vec<Key>,
}

/// The login of one key. If `session` is set, it begins with a refresh token, which each fetch rotates.
struct Login {
    issuer: Issuer,
    key: Key,
    session: bool,
}

struct InProgress(Issuer);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A cache for each key, without refresh tokens.
    pub(crate) fn clients(&self) -> KeyedTokenCache<Key> {
        self.keyed(false)
    }

    /// A cache for each key, with a session that begins with a saved refresh token.
    pub(crate) fn sessions(&self) -> KeyedTokenCache<Key> {
        self.keyed(true)
    }

    fn keyed(&self, session: bool) -> KeyedTokenCache<Key> {
        let issuer = self.clone();
        KeyedTokenCache::new(move |key| Ok::<_, Error>(issuer.cache(*key, session)))
    }

    pub(crate) fn cache(&self, key: Key, session: bool) -> TokenCache {
        TokenCache::new(Login { issuer: self.clone(), key, session })
    }

    /// A session whose refresh tokens are saved.
    pub(crate) fn saved_session(&self, key: Key) -> TokenCache {
        let issuer = self.clone();
        TokenCache::builder(Login { issuer: self.clone(), key, session: true })
            .on_rotation(move |rotated: RotatedToken| {
                let refresh_token = rotated.refresh_token().expose().to_owned();
                issuer.state().saved.insert(key, refresh_token);
                ready(Ok::<_, Error>(()))
            })
            .build()
            .unwrap()
    }

    /// A session that processes share in this store, under its key.
    pub(crate) fn shared_session(&self, key: Key, store: &MemoryStore) -> TokenCache {
        let login = Login { issuer: self.clone(), key, session: true };
        TokenCache::builder(login).store(store.clone(), key.to_string()).build().unwrap()
    }

    /// Sets how long the next tokens live. Default: an hour.
    pub(crate) fn lifetime(&self, lifetime: Duration) {
        self.state().lifetime = Some(lifetime);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Makes the next calls wait until permits are added.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.state().gate = Some(Arc::clone(&gate));
        gate
    }

    pub(crate) fn hold_no_more(&self) {
        self.state().gate = None;
    }

    pub(crate) fn fail(&self, key: Key) {
        self.state().failing.push(key);
    }

    pub(crate) fn calls_of(&self, key: Key) -> usize {
        self.state().calls.get(&key).copied().unwrap_or_default()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state().calls.values().sum()
    }

    pub(crate) fn in_progress(&self) -> usize {
        self.state().in_progress
    }

    pub(crate) fn most_in_progress(&self) -> usize {
        self.state().most_in_progress
    }

    pub(crate) fn reused(&self) -> usize {
        self.state().reused
    }

    /// The keys in the order of their calls.
    pub(crate) fn order(&self) -> Vec<Key> {
        self.state().order.clone()
    }

    pub(crate) fn revoked(&self) -> Vec<String> {
        self.state().revoked.clone()
    }

    pub(crate) fn revoke(&self, refresh_token: &str) -> Result<(), Error> {
        let mut state = self.state();
        let (key, _) = refresh_token.split_once('.').unwrap();
        let key = key.parse().unwrap();
        state.refresh_tokens.remove(&key);
        state.saved.remove(&key);
        *state.ended.entry(key).or_default() += 1;
        state.revoked.push(refresh_token.to_owned());
        Ok(())
    }

    /// The refresh token that a new cache of this key begins with: the saved one, or else that of the login.
    fn saved(&self, key: Key) -> String {
        let state = self.state();
        let ended = state.ended.get(&key).copied().unwrap_or_default();
        state.saved.get(&key).cloned().unwrap_or_else(|| format!("{key}.s{ended}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl TokenSource for Login {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let Self { issuer, key, session } = self;
        let used = match context.refresh_token() {
            Some(refresh_token) => refresh_token.expose().to_owned(),
            None => issuer.saved(*key),
        };
        let (number, lifetime, delay, gate, fails) = {
            let mut state = issuer.state();
            let calls = state.calls.entry(*key).or_default();
            *calls += 1;
            let number = *calls;
            state.order.push(*key);
            state.in_progress += 1;
            state.most_in_progress = state.most_in_progress.max(state.in_progress);
            let fails = state.failing.contains(key);
            let lifetime = state.lifetime.unwrap_or(Duration::from_secs(3600));
            (number, lifetime, state.delay, state.gate.clone(), fails)
        };
        let _in_progress = InProgress(issuer.clone());
        if let Some(gate) = gate
            && let Ok(permit) = gate.acquire().await
        {
            permit.forget();
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fails {
            return Err(Error::transient(format!("no token for {key}")));
        }
        if *session {
            let mut state = issuer.state();
            let expected = state.refresh_tokens.insert(*key, format!("{key}.r{number}"));
            state.reused += usize::from(expected.is_some_and(|expected| expected != used));
        }
        let token = Token::new(format!("{key}.{number}"))?.with_lifetime(lifetime);
        Ok(if *session { token.with_refresh_token(format!("{key}.r{number}")) } else { token })
    }

    async fn refresh_token(&self) -> Result<Option<tower_bearer::Secret>, Error> {
        Ok(self.session.then(|| self.issuer.saved(self.key).into()))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.state().in_progress -= 1;
    }
}

/// An API that tells tenants apart by the header `tenant`.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Tenant and token of each request.
    requests: Vec<(Key, String)>,
    wrong_token: usize,
    without_token: usize,
    rejected: Vec<String>,
}

impl Api {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A client whose requests name their tenant in a header.
    pub(crate) fn client(&self, tenants: &KeyedTokenCache<Key>) -> Client {
        let choice = tenants.by_key(|head| head.headers.get("tenant")?.to_str().ok()?.parse().ok());
        self.behind(BearerLayer::new(choice, [API]).unwrap())
    }

    pub(crate) fn behind(&self, layer: BearerLayer) -> Client {
        let api = self.clone();
        let service = service_fn(move |request: Request<()>| {
            let response = api.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        BoxCloneSyncService::new(layer.layer(service))
    }

    fn answer(&self, request: &Request<()>) -> Response<String> {
        let mut seen = self.seen();
        let tenant: Key = request.headers()["tenant"].to_str().unwrap().parse().unwrap();
        let Some(token) = request.headers().get(AUTHORIZATION) else {
            seen.without_token += 1;
            return unauthorized();
        };
        let token = token.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        if token.split('.').next() != Some(&*tenant.to_string()) {
            seen.wrong_token += 1;
        }
        let rejected = seen.rejected.contains(&token);
        seen.requests.push((tenant, token.clone()));
        if rejected { unauthorized() } else { Response::new(token) }
    }

    /// Answers requests with this token with 401 from now on.
    pub(crate) fn reject(&self, token: &str) {
        self.seen().rejected.push(token.to_owned());
    }

    pub(crate) fn requests(&self) -> Vec<(Key, String)> {
        self.seen().requests.clone()
    }

    /// Requests with another tenant's token.
    pub(crate) fn wrong_token(&self) -> usize {
        self.seen().wrong_token
    }

    pub(crate) fn without_token(&self) -> usize {
        self.seen().without_token
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

fn unauthorized() -> Response<String> {
    let challenge = (WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#);
    Response::builder().status(StatusCode::UNAUTHORIZED).header(challenge.0, challenge.1).body(String::new()).unwrap()
}

/// A request of this tenant, without its key.
pub(crate) fn request(tenant: Key) -> Request<()> {
    Request::get(format!("{API}/things")).header("tenant", tenant).body(()).unwrap()
}

/// Sends a request of this tenant, and returns the token that it carried.
pub(crate) async fn ask(client: &Client, tenant: Key) -> Result<String, BoxError> {
    Ok(client.clone().oneshot(request(tenant)).await?.into_body())
}
