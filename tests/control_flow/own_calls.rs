//! The crate's own calls never wait for themselves: they carry `NoToken`, and whoever asks its own cache is told so.

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

/// One client for everything, with the layer of a cache whose source uses this client.
struct OneClient {
    issuer: TokenServer,
    cache: TokenCache,
    http: Http,
}

impl OneClient {
    /// The cache has no source yet, and a token that is due if `token` says so.
    fn new() -> Self {
        Self::with(|builder, _| builder)
    }

    /// The same with settings of the cache, which may hold the client.
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

    /// Asks for a token without and with one that is being sent; no call may wait or carry the token.
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
    let world = OneClient::new();
    let http = || world.http.clone();
    world.issuer.rotate_refresh_tokens(true);
    let grant = ClientCredentialsGrant::builder(&crate::sources::at(http()), "app", "secret").build().expect("a grant");
    world.check("client credentials", grant).await;
    let grant =
        PasswordGrant::builder(&crate::sources::at(http()), "app", "ann", "her password").build().expect("a grant");
    world.check("password", grant).await;
    let grant = RefreshTokenGrant::builder(&crate::sources::at(http()), "app", "saved").build().expect("a grant");
    world.check("refresh token", grant).await;
    let grant = TokenExchangeGrant::builder(&crate::sources::at(http()), "subject").build().expect("a grant");
    world.check("token exchange", grant).await;
    let grant = JwtBearerGrant::builder(&crate::sources::at(http()), "assertion").build().expect("a grant");
    world.check("JWT bearer", grant).await;
    let grant = ExtensionGrant::builder(&crate::sources::at(http()), "account_credentials").build().expect("a grant");
    world.check("extension", grant).await;
    let login = JsonLogin::new(http(), TOKEN_URL, json!({ "key": "k" })).expect("a login");
    world.check("JSON login", login).await;
    let metadata = Metadata::discover(http(), "https://auth.example.com");
    let grant = ClientCredentialsGrant::builder(&metadata, "app", "secret").build().expect("a grant");
    world.check("metadata", grant).await;
    let device = DeviceCodeLogin::builder(&metadata, "app").build().expect("a login");
    let code = json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://x.test", "interval": 1 });
    world.issuer.queue(Answer::json(200, code));
    device.begin().await.expect("a code").finish().await.expect("a token");
    world.no_bearer("device login");
    // The document that is there is an issuer's; a call with a token would be answered 400.
    let resource = ProtectedResource::discover(http(), "https://auth.example.com").metadata().await;
    let error = resource.expect_err("the document of an issuer").to_string();
    assert!(error.contains("it names no resource"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_carries_no_token_and_waits_for_none() {
    let world = OneClient::new();
    let grant =
        RefreshTokenGrant::builder(&crate::sources::at(world.http.clone()), "app", "saved").build().expect("a grant");
    world.cache.set_source(grant);
    world.cache.get().await.expect("a token");
    let revocation = Revocation::builder(&crate::sources::at(world.http.clone()).revocation_endpoint(TOKEN_URL), "app")
        .build()
        .expect("an endpoint");
    let began = Instant::now();
    let revoke = async |refresh_token: Secret| revocation.revoke_refresh_token(&refresh_token).await;
    world.cache.sign_out(revoke).await.expect("signed out");
    assert_eq!(began.elapsed(), Duration::ZERO);
    world.no_bearer("revocation");
    assert_eq!(world.issuer.requests()[1].form()["token"], "saved");
}

#[tokio::test(start_paused = true)]
async fn a_due_refresh_does_not_carry_the_token_that_is_still_sent() {
    let world = OneClient::new();
    world.issuer.lifetime(100 * SECOND);
    let grant = ClientCredentialsGrant::builder(&crate::sources::at(world.http.clone()), "app", "secret")
        .build()
        .expect("a grant");
    world.cache.set_source(grant);
    world.cache.get().await.expect("a token");
    tokio::time::advance(90 * SECOND).await;
    world.cache.get().await.expect("a token");
    crate::common::settle().await;
    assert_eq!((world.issuer.calls().total(), world.cache.status().generation), (2, 2));
    world.no_bearer("a due refresh");
}

// === whoever asks its own cache ===

/// A cache that its own source and `on_rotation` can reach.
#[derive(Clone, Default)]
struct Own(Arc<OnceLock<TokenCache>>);

impl Own {
    fn cache(&self) -> TokenCache {
        self.0.get().expect("it was set").clone()
    }

    fn set(&self, cache: TokenCache) -> TokenCache {
        self.0.get_or_init(|| cache).clone()
    }

    /// A request through the layer of this cache.
    fn send(&self) -> Pin<Box<dyn Future<Output = Result<u16, Error>> + Send>> {
        let layer = BearerLayer::new(self.cache(), ["https://api.example.com"]).expect("an origin");
        let api = layer.layer(service_fn(|request: Request<Full<Bytes>>| {
            let status = if request.headers().contains_key("authorization") { 200 } else { 401 };
            let response = http::Response::builder().status(status).body(Full::<Bytes>::default());
            std::future::ready(Ok::<_, BoxError>(response.expect("a response")))
        }));
        let request = Request::get("https://api.example.com/").body(Full::default()).expect("a request");
        let ours = |error: BoxError| Error::find(&*error).expect("ours").clone();
        Box::pin(api.map_response(|response| response.status().as_u16()).map_err(ours).oneshot(request))
    }
}

fn says_so(error: &(dyn std::error::Error + 'static)) -> bool {
    Error::find(error).is_some_and(|error| error.to_string().contains("would wait for itself"))
        || error.source().is_some_and(says_so)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_asks_its_own_cache_gets_an_error_at_once() {
    for way in ["get", "refresh", "request", "sign out"] {
        let own = Own::default();
        let asks = own.clone();
        let cache = own.set(TokenCache::new(move |_: FetchContext| {
            let own = asks.clone();
            async move {
                match way {
                    "get" => drop(own.cache().get().await?),
                    "refresh" => drop(own.cache().refresh().await?),
                    "request" => drop(own.send().await?),
                    _ => own.cache().sign_out(|_| std::future::ready(Ok::<_, Error>(()))).await?,
                }
                Token::new("t")
            }
        }));
        let began = Instant::now();
        let error = cache.get().await.expect_err(way);
        assert!(says_so(&error) && !error.is_transient(), "{way}: {error:?}");
        assert_eq!(began.elapsed(), Duration::ZERO, "{way}");
        assert!(!cache.status().signed_out);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_may_use_the_token_that_is_still_sent() {
    let own = Own::default();
    let asks = own.clone();
    let cache = own.set(TokenCache::new(move |context: FetchContext| {
        let own = asks.clone();
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
async fn two_caches_whose_sources_ask_each_other_do_not_wait_for_each_other() {
    let (a, b) = (Own::default(), Own::default());
    let source = |other: &Own| {
        let other = other.clone();
        move |_: FetchContext| {
            let other = other.clone();
            async move { other.cache().get().await }
        }
    };
    let first = a.set(TokenCache::new(source(&b)));
    b.set(TokenCache::new(source(&a)));
    let began = Instant::now();
    assert!(says_so(&first.get().await.expect_err("no token")));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_source_may_ask_another_cache() {
    let inner = TokenCache::new(Script::new());
    let asks = inner.clone();
    let cache = TokenCache::new(move |_: FetchContext| {
        let inner = asks.clone();
        async move { inner.refresh().await }
    });
    for number in 1..4 {
        assert_eq!(text(cache.refresh().await), format!("t{number}"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_on_rotation_that_sends_through_the_layer_does_not_stall() {
    for ask in ["get", "request"] {
        let own = Own::default();
        let (asks, errors) = (own.clone(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&errors);
        let script = Script::new().rotating();
        let cache = own.set(
            TokenCache::builder(script.clone())
                .on_rotation(move |_| {
                    let (own, seen) = (asks.clone(), Arc::clone(&seen));
                    async move {
                        let result = match ask {
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
        // The first time there is no token yet: it fails at once. Then there is one, which is sent.
        assert_eq!(text(cache.get().await), "t1");
        let not_saved = cache.status().not_saved.expect("not saved");
        assert!(says_so(&not_saved), "{not_saved:?}");
        assert_eq!(text(cache.refresh().await), "t2");
        assert!(cache.status().not_saved.is_none());
        assert_eq!(*errors.lock().expect("no panic"), [false, true]);
        assert_eq!(began.elapsed(), Duration::ZERO, "{ask}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_on_rotation_that_marks_its_requests_is_saved_the_first_time() {
    let world = OneClient::with(|builder, client| {
        builder.on_rotation(move |_| {
            let http: Http = client.get().expect("the client is there").clone();
            async move {
                let request =
                    Request::post("https://auth.example.com/store").extension(NoToken).body(Full::default())?;
                http.oneshot(request).await.map(drop)
            }
        })
    });
    let cache = world.cache.clone();
    world.issuer.rotate_refresh_tokens(true);
    cache.set_source(
        RefreshTokenGrant::builder(&crate::sources::at(world.http.clone()), "app", "saved").build().expect("a grant"),
    );
    let began = Instant::now();
    cache.get().await.expect("a token");
    assert!(cache.status().not_saved.is_none());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_shuts_its_cache_down_does_not_wait() {
    let own = Own::default();
    let asks = own.clone();
    let cache = own.set(TokenCache::new(move |_: FetchContext| {
        let own = asks.clone();
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
