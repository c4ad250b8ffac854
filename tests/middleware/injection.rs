//! Which requests get a token, and that the layer changes nothing else.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bearer::replay::{IfEmpty, Never};
use tower_bearer::testing::Answer;
use tower_bearer::{BearerLayer, Error, NoToken, Token, TokenCache};

use crate::stack::{API, Body, Harness, get};

/// The request as the layer sends it. It is answered with 200.
fn sent_by(layer: &BearerLayer, request: Request<Body>) -> Result<Request<Body>, BoxError> {
    let (send, receive) = std::sync::mpsc::channel();
    let inner = service_fn(move |request| {
        send.send(request).expect("the test listens");
        std::future::ready(Ok::<_, BoxError>(http::Response::new(Body::default())))
    });
    // No tokio runtime is needed while there is a token.
    tokio_test::block_on(layer.layer(inner).oneshot(request))?;
    Ok(receive.recv().expect("a request"))
}

fn fixed() -> TokenCache {
    TokenCache::fixed("mF_9.B5f-4.1JqM").expect("a token")
}

fn layer() -> BearerLayer {
    BearerLayer::new(fixed(), [API]).expect("an origin")
}

fn to(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::default()).expect("a request")
}

#[test]
fn a_request_to_a_named_origin_carries_the_token_marked_sensitive() {
    let sent = sent_by(&layer(), get("/v1?q=1")).expect("sent");
    let value = &sent.headers()[AUTHORIZATION];
    assert_eq!(value, "Bearer mF_9.B5f-4.1JqM");
    assert!(value.is_sensitive());
    assert_eq!(sent.headers().get_all(AUTHORIZATION).iter().count(), 1);
}

#[test]
fn the_layer_changes_nothing_else_in_the_request() {
    let mut request = Request::post("https://api.example.com/v1?q=%20")
        .version(Version::HTTP_11)
        .header("x-twice", "1")
        .header("accept", "*/*")
        .header("x-twice", "2")
        .extension(7_u8)
        .body(Body::from("body"))
        .expect("a request");
    let before = request.headers().clone();
    let mut sent = sent_by(&layer(), request.clone()).expect("sent");
    sent.headers_mut().remove(AUTHORIZATION);
    assert_eq!(sent.headers(), &before);
    assert!(sent.headers().iter().eq(request.headers().iter()), "in the same order");
    assert_eq!((sent.method(), sent.uri(), sent.version()), (request.method(), request.uri(), request.version()));
    assert_eq!(sent.extensions().get(), Some(&7_u8));
    let body = |request: &mut Request<Body>| tokio_test::block_on(http_body_util::BodyExt::collect(request.body_mut()));
    assert_eq!(body(&mut sent).expect("a body").to_bytes(), body(&mut request).expect("a body").to_bytes());
}

#[test]
fn other_origins_get_no_token() {
    for uri in [
        "https://evil.test/",
        "http://api.example.com/",
        "https://api.example.com:8443/",
        "https://api.example.com.evil.test/",
    ] {
        assert!(!sent_by(&layer(), to(uri)).expect("sent").headers().contains_key(AUTHORIZATION), "{uri}");
    }
}

#[test]
fn any_https_origin_includes_loopback_and_no_other_plain_http() {
    let layer = BearerLayer::any_https_origin(fixed());
    for (uri, token) in [
        ("https://anything.test/", true),
        ("http://localhost:1/", true),
        ("http://[::1]:1/", true),
        ("http://anything.test/", false),
        ("ftp://anything.test/", false),
    ] {
        assert_eq!(sent_by(&layer, to(uri)).expect("sent").headers().contains_key(AUTHORIZATION), token, "{uri}");
    }
}

#[test]
fn a_request_with_its_own_authorization_passes_and_gets_its_401() {
    let harness = Harness::new();
    harness.api.queue(Answer::raw(401, "not you"));
    let mut request = get("/");
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Basic bWU6"));
    let answer = tokio_test::block_on(harness.client().oneshot(request)).expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (1, 0));
    assert_eq!(harness.api.requests()[0].headers[AUTHORIZATION], "Basic bWU6");
    assert_eq!(harness.cache.status().generation, 0);
}

#[test]
fn the_callers_credentials_and_their_order_are_unchanged() {
    for own in [&["Basic bWU6"][..], &["Basic bWU6", "Digest me"], &["", "Basic bWU6", "Bearer theirs"]] {
        let mut request = get("/");
        request.headers_mut().insert("x-first", HeaderValue::from_static("1"));
        own.iter().for_each(|value| _ = request.headers_mut().append(AUTHORIZATION, HeaderValue::from_static(value)));
        request.headers_mut().insert("x-last", HeaderValue::from_static("2"));
        // Headers are looked through in another way if they are many.
        for others in [0, 20] {
            for number in 0..others {
                let name: http::HeaderName = format!("x-{number}").parse().expect("a name");
                request.headers_mut().insert(name, HeaderValue::from_static("3"));
            }
            let sent = sent_by(&layer(), request.clone()).expect("sent");
            assert!(sent.headers().iter().eq(request.headers().iter()), "{:?}", sent.headers());
        }
    }
}

#[test]
fn a_request_with_no_token_passes_and_gets_its_401() {
    let harness = Harness::new();
    let mut request = get("/");
    request.extensions_mut().insert(NoToken);
    let answer = tokio_test::block_on(harness.client().oneshot(request)).expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!((harness.api.without_token(), harness.issuer.calls().total()), (1, 0));
}

#[test]
fn a_connect_request_gets_no_token() {
    let mut request = to("api.example.com:443");
    *request.method_mut() = Method::CONNECT;
    assert!(!sent_by(&layer(), request).expect("sent").headers().contains_key(AUTHORIZATION));
}

#[test]
fn a_relative_uri_is_an_error_unless_the_layer_allows_it() {
    let error = sent_by(&layer(), to("/v1")).expect_err("the URI names no origin");
    assert!(Error::find(&*error).expect("the layer's error").to_string().contains("allow_relative_uris"));
    let relative = layer().allow_relative_uris();
    assert!(sent_by(&relative, to("/v1")).expect("sent").headers().contains_key(AUTHORIZATION));
}

#[test]
fn userinfo_before_a_named_host_is_an_error_that_redacts_it() {
    let error = sent_by(&layer(), to("https://me:hunter2@api.example.com/")).expect_err("two credentials");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn an_origin_with_a_path_is_rejected_when_the_layer_is_built() {
    for origin in [
        "https://api.example.com/v1",
        "api.example.com",
        "http://api.example.com",
        "",
        "https://me:hunter2@api.example.com",
    ] {
        let error = BearerLayer::new(fixed(), [origin]).expect_err(origin);
        assert!(error.is_invalid() && error.to_string().contains("origin"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert!(BearerLayer::new(fixed(), Vec::<String>::new()).expect_err("no origin").is_invalid());
}

#[test]
fn a_request_needs_no_runtime_while_there_is_a_token() {
    let poll = |cache: TokenCache| {
        let inner = service_fn(|_| std::future::ready(Ok::<_, BoxError>(http::Response::new(Body::default()))));
        let mut client = BearerLayer::new(cache, [API]).expect("an origin").layer(inner);
        tokio_test::task::spawn(client.call(get("/"))).poll()
    };
    assert!(matches!(poll(fixed()), std::task::Poll::Ready(Ok(_))));
    let std::task::Poll::Ready(Err(error)) = poll(Harness::new().cache) else { panic!("nothing to wait for") };
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[tokio::test]
async fn the_error_of_the_inner_service_can_be_downcast() {
    let inner =
        service_fn(|_: Request<Body>| std::future::ready(Err::<http::Response<Body>, _>(std::io::Error::other("cut"))));
    let error = layer().layer(inner).oneshot(get("/")).await.expect_err("the inner error");
    assert!(error.is::<std::io::Error>());
}

#[tokio::test]
async fn a_service_that_is_not_ready_makes_the_layer_not_ready() {
    let harness = Harness::new();
    let limited = ConcurrencyLimit::new(harness.network.clone(), 1);
    let mut first = harness.layer().layer(limited);
    let mut second = tokio_test::task::spawn(first.clone());
    first.ready().await.expect("ready");
    second.enter(|cx, mut service| assert!(service.poll_ready(cx).is_pending()));
    drop(first);
    second.enter(|cx, mut service| assert!(service.poll_ready(cx).is_ready()));
}

#[tokio::test]
async fn option_layer_needs_an_inner_service_with_a_boxed_error() {
    let harness = Harness::new();
    let client = ServiceBuilder::new()
        .option_layer(Some(harness.layer()))
        .map_err(BoxError::from)
        .service(harness.network.clone());
    assert_eq!(client.oneshot(get("/")).await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_service_that_is_not_clone_goes_through_buffer() {
    struct Single(BoxCloneService<Request<Body>, http::Response<Body>, BoxError>);
    impl Service<Request<Body>> for Single {
        type Response = http::Response<Body>;
        type Error = BoxError;
        type Future =
            <BoxCloneService<Request<Body>, http::Response<Body>, BoxError> as Service<Request<Body>>>::Future;
        fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
            self.0.poll_ready(cx)
        }
        fn call(&mut self, request: Request<Body>) -> Self::Future {
            self.0.call(request)
        }
    }
    let harness = Harness::new();
    let client = ServiceBuilder::new().layer(harness.layer()).buffer(1).service(Single(harness.network.clone()));
    assert_eq!(client.oneshot(get("/")).await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn every_replay_choice_adds_the_token() {
    let harness = Harness::new();
    let uri: Uri = format!("{API}/").parse().expect("a URI");
    let request = || Request::get(uri.clone()).body(Body::default()).expect("a request");
    let statuses = [
        harness.layer().layer(harness.network.clone()).oneshot(request()).await,
        harness.layer().replay(IfEmpty).layer(harness.network.clone()).oneshot(request()).await,
        harness.layer().replay(Never).layer(harness.network.clone()).oneshot(request()).await,
        harness
            .layer()
            .replay(|body: &Body| Some(body.clone()))
            .layer(harness.network.clone())
            .oneshot(request())
            .await,
    ]
    .map(|answer| answer.expect("an answer").status());
    assert_eq!(statuses, [StatusCode::OK; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_kept_service_always_sends_the_newest_token() {
    let issued = std::sync::atomic::AtomicU64::new(0);
    let cache = TokenCache::new(move |_| {
        let number = issued.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let token = Token::new(format!("t{number}")).map(|token| token.with_lifetime(Duration::from_secs(5)));
        async { token }
    });
    let inner = service_fn(|request: Request<Body>| {
        let sent = request.headers()[AUTHORIZATION].clone();
        let answer = http::Response::builder().header("sent", sent).body(Body::default());
        std::future::ready(answer.map_err(BoxError::from))
    });
    let mut kept = BearerLayer::new(cache.clone(), [API]).expect("an origin").layer(inner);
    for _ in 0..1000 {
        tokio::time::advance(Duration::from_millis(30)).await;
        let current = cache.peek();
        let answer = kept.call(get("/")).await.expect("an answer");
        if let Some(current) = current {
            assert_eq!(answer.headers()["sent"], current.header_value());
        }
    }
    assert!(cache.status().generation > 5, "{:?}", cache.status());
}
