//! The crate's calls never wait for themselves: they carry `NoToken`, and a source that calls its own cache gets an
//! error.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{
    ClientCredentialsGrant, DeviceCodeLogin, ExtensionGrant, Issuer as Metadata, JwtBearerGrant, PasswordGrant,
    ProtectedResource, RefreshTokenGrant, Revocation, TokenExchangeGrant,
};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{
    BearerLayer, Error, FetchContext, NoToken, Secret, Token, TokenCache, TokenCacheBuilder, TokenSource,
};

use crate::common::{HOUR, SECOND, Script, text};
use crate::sources::TOKEN_URL;

type Http = BoxCloneSyncService<Request<Full<Bytes>>, http::Response<Full<Bytes>>, BoxError>;

/// A client with the layer of a cache whose source uses the same client.
struct OneClient {
    issuer: TokenServer,
    cache: TokenCache,
    http: Http,
}

impl OneClient {
    /// Uses the default settings of the cache.
    fn new() -> Self {
        Self::with(|builder, _| builder)
    }

    /// Changes the settings of the cache, which may hold the client.
    fn with(set: impl FnOnce(TokenCacheBuilder, Arc<OnceLock<Http>>) -> TokenCacheBuilder) -> Self {
        let client = Arc::new(OnceLock::new());
        let issuer = TokenServer::new();
        let network = service_fn({
            let issuer = issuer.clone();
            move |request: Request<Full<Bytes>>| {
                let issuer = issuer.clone();
                async move {
                    if request.method() == Method::GET {
                        let metadata = json!({
                            "issuer": "https://auth.example.com",
                            "token_endpoint": TOKEN_URL,
                            "revocation_endpoint": TOKEN_URL,
                            "device_authorization_endpoint": TOKEN_URL,
                        });
                        let no_token = !request.headers().contains_key("authorization");
                        let status = if no_token { 200 } else { 400 };
                        return Ok(http::Response::builder().status(status).body(metadata.to_string().into())?);
                    }
                    issuer.oneshot(request).await
                }
            }
        });
        let builder = TokenCache::builder(async |_: FetchContext| Token::new("the-first"));
        let cache = set(builder, Arc::clone(&client)).build().expect("settings");
        let layer = BearerLayer::new(cache.clone(), ["https://auth.example.com"]).expect("an origin");
        let http = BoxCloneSyncService::new(layer.layer(network));
        client.set(http.clone()).expect("set once");
        Self { issuer, cache, http }
    }

    /// Fetches twice, without a token and with one. Checks that no call waits or carries the token.
    async fn check(&self, what: &str, source: impl TokenSource) {
        self.cache.set_source(source);
        let began = Instant::now();
        for _ in 0..2 {
            assert!(self.cache.refresh().await.is_ok(), "{what}");
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "{what}: it waited");
        self.no_bearer(what);
    }

    fn no_bearer(&self, what: &str) {
        let requests = self.issuer.requests();
        assert!(!requests.is_empty(), "{what}");
        for request in requests {
            let authorization = request.headers.get("authorization");
            assert!(
                authorization.is_none_or(|value| value.as_bytes().starts_with(b"Basic ")),
                "{what}: {authorization:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_source_may_use_the_client_with_the_layer() {
    let harness = OneClient::new();
    let http = || harness.http.clone();
    harness.issuer.rotate_refresh_tokens(true);
    let grant = ClientCredentialsGrant::builder(&crate::sources::at(http()), "app", "secret").build().expect("a grant");
    harness.check("client credentials", grant).await;
    let grant =
        PasswordGrant::builder(&crate::sources::at(http()), "app", "ann", "her password").build().expect("a grant");
    harness.check("password", grant).await;
    let grant = RefreshTokenGrant::builder(&crate::sources::at(http()), "app", "saved").build().expect("a grant");
    harness.check("refresh token", grant).await;
    let grant = TokenExchangeGrant::builder(&crate::sources::at(http()), "subject").build().expect("a grant");
    harness.check("token exchange", grant).await;
    let grant = JwtBearerGrant::builder(&crate::sources::at(http()), "assertion").build().expect("a grant");
    harness.check("JWT bearer", grant).await;
    let grant = ExtensionGrant::builder(&crate::sources::at(http()), "account_credentials").build().expect("a grant");
    harness.check("extension", grant).await;
    let login = JsonLogin::builder(http(), TOKEN_URL, json!({ "key": "k" })).build().expect("a login");
    harness.check("JSON login", login).await;
    let metadata = Metadata::discover(http(), "https://auth.example.com");
    let grant = ClientCredentialsGrant::builder(&metadata, "app", "secret").build().expect("a grant");
    harness.check("metadata", grant).await;
    let device = DeviceCodeLogin::builder(&metadata, "app").build().expect("a login");
    let code = json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://x.test", "interval": 1 });
    harness.issuer.queue(Answer::json(200, code));
    device.begin().await.expect("a code").finish().await.expect("a token");
    harness.no_bearer("device login");
    // The document that is there is an issuer's; a call with a token would be answered 400.
    let resource = ProtectedResource::discover(http(), "https://auth.example.com").metadata().await;
    let error = resource.expect_err("the document of an issuer").to_string();
    assert!(error.contains("it names no resource"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_neither_carries_nor_waits_for_a_token() {
    let harness = OneClient::new();
    let grant =
        RefreshTokenGrant::builder(&crate::sources::at(harness.http.clone()), "app", "saved").build().expect("a grant");
    harness.cache.set_source(grant);
    harness.cache.get().await.expect("a token");
    let revocation =
        Revocation::builder(&crate::sources::at(harness.http.clone()).revocation_endpoint(TOKEN_URL), "app")
            .build()
            .expect("an endpoint");
    let began = Instant::now();
    let revoke = async |refresh_token: Secret| revocation.revoke_refresh_token(&refresh_token).await;
    harness.cache.sign_out(revoke).await.expect("signed out");
    assert_eq!(began.elapsed(), Duration::ZERO);
    harness.no_bearer("revocation");
    assert_eq!(harness.issuer.requests()[1].form()["token"], "saved");
}

#[tokio::test(start_paused = true)]
async fn the_refresh_of_a_due_token_does_not_carry_the_token() {
    let harness = OneClient::new();
    harness.issuer.lifetime(100 * SECOND);
    let grant = ClientCredentialsGrant::builder(&crate::sources::at(harness.http.clone()), "app", "secret")
        .build()
        .expect("a grant");
    harness.cache.set_source(grant);
    harness.cache.get().await.expect("a token");
    tokio::time::advance(90 * SECOND).await;
    harness.cache.get().await.expect("a token");
    crate::common::settle().await;
    assert_eq!((harness.issuer.calls().total(), harness.cache.status().generation), (2, 2));
    harness.no_bearer("a due refresh");
}

// === sources that call their own cache ===

/// A cache that its own source and `on_rotation` can reach.
#[derive(Clone, Default)]
struct OwnCache(Arc<OnceLock<TokenCache>>);

impl OwnCache {
    fn cache(&self) -> TokenCache {
        self.0.get().expect("it was set").clone()
    }

    fn set(&self, cache: TokenCache) -> TokenCache {
        self.0.get_or_init(|| cache).clone()
    }

    /// Sends a request through the layer of this cache.
    fn send(&self) -> Pin<Box<dyn Future<Output = Result<u16, Error>> + Send>> {
        let layer = BearerLayer::new(self.cache(), ["https://api.example.com"]).expect("an origin");
        let api = layer.layer(service_fn(|request: Request<Full<Bytes>>| {
            let status = if request.headers().contains_key("authorization") { 200 } else { 401 };
            let response = http::Response::builder().status(status).body(Full::<Bytes>::default());
            std::future::ready(Ok::<_, BoxError>(response.expect("a response")))
        }));
        let request = Request::get("https://api.example.com/").body(Full::default()).expect("a request");
        let of_layer = |error: BoxError| Error::find(&*error).expect("the layer's error").clone();
        Box::pin(api.map_response(|response| response.status().as_u16()).map_err(of_layer).oneshot(request))
    }
}

fn waits_for_itself(error: &(dyn std::error::Error + 'static)) -> bool {
    Error::find(error).is_some_and(|error| error.to_string().contains("would wait for itself"))
        || error.source().is_some_and(waits_for_itself)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_calls_its_own_cache_gets_an_error_at_once() {
    for call in ["get", "refresh", "request", "sign out"] {
        let own = OwnCache::default();
        let in_source = own.clone();
        let cache = own.set(TokenCache::new(move |_: FetchContext| {
            let own = in_source.clone();
            async move {
                match call {
                    "get" => drop(own.cache().get().await?),
                    "refresh" => drop(own.cache().refresh().await?),
                    "request" => drop(own.send().await?),
                    _ => own.cache().sign_out(|_| std::future::ready(Ok::<_, Error>(()))).await?,
                }
                Token::new("t")
            }
        }));
        let began = Instant::now();
        let error = cache.get().await.expect_err(call);
        assert!(waits_for_itself(&error) && !error.is_transient(), "{call}: {error:?}");
        assert_eq!(began.elapsed(), Duration::ZERO, "{call}");
        assert!(!cache.status().signed_out);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_may_use_the_current_token() {
    let own = OwnCache::default();
    let in_source = own.clone();
    let cache = own.set(TokenCache::new(move |context: FetchContext| {
        let own = in_source.clone();
        async move {
            let former = match context.replaced() {
                Some(_) => own.cache().get().await?.access_token().to_owned(),
                None => String::new(),
            };
            let sent = if former.is_empty() { 0 } else { own.send().await? };
            Token::new(format!("{former}t{sent}"))
        }
    }));
    assert_eq!(text(cache.get().await), "t0");
    assert_eq!(text(cache.refresh().await), "t0t200");
}

#[tokio::test(start_paused = true)]
async fn two_caches_whose_sources_call_each_other_do_not_deadlock() {
    let (a, b) = (OwnCache::default(), OwnCache::default());
    let source = |other: &OwnCache| {
        let other = other.clone();
        move |_: FetchContext| {
            let other = other.clone();
            async move { other.cache().get().await }
        }
    };
    let first = a.set(TokenCache::new(source(&b)));
    b.set(TokenCache::new(source(&a)));
    let began = Instant::now();
    assert!(waits_for_itself(&first.get().await.expect_err("no token")));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_source_may_call_another_cache() {
    let inner = TokenCache::new(Script::new());
    let in_source = inner.clone();
    let cache = TokenCache::new(move |_: FetchContext| {
        let inner = in_source.clone();
        async move { inner.refresh().await }
    });
    for number in 1..4 {
        assert_eq!(text(cache.refresh().await), format!("t{number}"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_on_rotation_that_sends_through_the_layer_does_not_stall() {
    for call in ["get", "request"] {
        let own = OwnCache::default();
        let (in_save, errors) = (own.clone(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&errors);
        let script = Script::new().rotating();
        let cache = own.set(
            TokenCache::builder(script.clone())
                .on_rotation(move |_| {
                    let (own, seen) = (in_save.clone(), Arc::clone(&seen));
                    async move {
                        let result = match call {
                            "get" => own.cache().get().await.map(drop),
                            _ => own.send().await.map(drop),
                        };
                        seen.lock().expect("no panic").push(result.is_ok());
                        result
                    }
                })
                .build()
                .unwrap(),
        );
        let began = Instant::now();
        // At the first save there is no token, so it fails at once. At the second, the request carries the first token.
        assert_eq!(text(cache.get().await), "t1");
        let not_saved = cache.status().not_saved.expect("not saved");
        assert!(waits_for_itself(&not_saved), "{not_saved:?}");
        assert_eq!(text(cache.refresh().await), "t2");
        assert!(cache.status().not_saved.is_none());
        assert_eq!(*errors.lock().expect("no panic"), [false, true]);
        assert_eq!(began.elapsed(), Duration::ZERO, "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_on_rotation_whose_requests_carry_no_token_succeeds_the_first_time() {
    let harness = OneClient::with(|builder, client| {
        builder.on_rotation(move |_| {
            let http: Http = client.get().expect("the client is there").clone();
            async move {
                let request =
                    Request::post("https://auth.example.com/store").extension(NoToken).body(Full::default())?;
                http.oneshot(request).await.map(drop)
            }
        })
    });
    let cache = harness.cache.clone();
    harness.issuer.rotate_refresh_tokens(true);
    cache.set_source(
        RefreshTokenGrant::builder(&crate::sources::at(harness.http.clone()), "app", "saved").build().expect("a grant"),
    );
    let began = Instant::now();
    cache.get().await.expect("a token");
    assert!(cache.status().not_saved.is_none());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_shuts_its_cache_down_does_not_wait() {
    let own = OwnCache::default();
    let in_source = own.clone();
    let cache = own.set(TokenCache::new(move |_: FetchContext| {
        let own = in_source.clone();
        async move {
            own.cache().shutdown().await;
            Token::new("the-last").map(|token| token.with_lifetime(HOUR))
        }
    }));
    let began = Instant::now();
    assert_eq!(text(cache.get().await), "the-last");
    assert!(cache.status().closed);
    assert_eq!(began.elapsed(), Duration::ZERO);
}
