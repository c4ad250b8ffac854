//! Layers of tower-http whose effect depends on their side.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tower::{Layer, ServiceExt};
use tower_bearer::Error;
use tower_bearer::replay::Buffered;
use tower_bearer::testing::Answer;
use tower_http::auth::AddAuthorizationLayer;
use tower_http::decompression::Decompression;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, SetRequestIdLayer};
use tower_http::set_header::{SetRequestHeaderLayer, SetResponseHeaderLayer};
use tower_http::trace::TraceLayer;

use crate::harness::{API, Body, Harness, get};

#[tokio::test(start_paused = true)]
async fn an_outer_request_id_is_the_same_for_both_sends_and_an_inner_one_is_not() {
    let ids = |harness: &Harness| harness.sent("x-request-id").into_iter().collect::<BTreeSet<_>>().len();
    let layer = || SetRequestIdLayer::x_request_id(MakeRequestUuid);
    let harness = Harness::new();
    harness.with_revoked_token().await;
    layer().layer(harness.client()).oneshot(get()).await.expect("an answer");
    assert_eq!((harness.api.calls().total(), ids(&harness)), (2, 1));

    let harness = Harness::over_requests(|network| layer().layer(network));
    harness.with_revoked_token().await;
    harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!((harness.api.calls().total(), ids(&harness)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_outer_trace_sees_no_token_and_an_inner_one_sees_a_sensitive_token() {
    #[derive(Clone, Default)]
    struct Seen {
        requests: Arc<AtomicUsize>,
        with_token: Arc<AtomicUsize>,
    }
    impl<B> tower_http::trace::OnRequest<B> for Seen {
        fn on_request(&mut self, request: &Request<B>, _: &tracing::Span) {
            let token = request.headers().get("authorization");
            assert!(token.is_none_or(|token| token.is_sensitive()));
            self.requests.fetch_add(1, Ordering::SeqCst);
            self.with_token.fetch_add(usize::from(token.is_some()), Ordering::SeqCst);
        }
    }
    impl Seen {
        fn counts(&self) -> (usize, usize) {
            (self.requests.load(Ordering::SeqCst), self.with_token.load(Ordering::SeqCst))
        }
    }

    let (harness, outer) = (Harness::new(), Seen::default());
    harness.with_revoked_token().await;
    TraceLayer::new_for_http()
        .on_request(outer.clone())
        .layer(harness.client())
        .oneshot(get())
        .await
        .expect("an answer");
    assert_eq!(outer.counts(), (1, 0));

    let inner = Seen::default();
    let harness = Harness::over_requests(|network| TraceLayer::new_for_http().on_request(inner.clone()).layer(network));
    harness.with_revoked_token().await;
    harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!(inner.counts(), (2, 2));
}

fn zipped(status: u16, text: &str) -> Answer {
    let mut zip = GzEncoder::new(Vec::new(), Compression::default());
    zip.write_all(text.as_bytes()).expect("memory");
    let body = Bytes::from(zip.finish().expect("memory"));
    Answer::response(
        Response::builder().status(status).header("content-encoding", "gzip").body(body).expect("an answer"),
    )
}

#[tokio::test(start_paused = true)]
async fn compressed_answers_are_read_on_both_sides_even_rejected_ones() {
    let outer = Harness::new();
    let inner = Harness::over_requests(Decompression::new);
    for harness in [&outer, &inner] {
        harness.with_old_token().await;
        harness.api.queue(zipped(401, "no"));
        harness.api.queue(zipped(200, "yes"));
    }
    let answer = Decompression::new(outer.client()).oneshot(get()).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "yes");
    let answer = inner.client().oneshot(get()).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "yes");
    assert_eq!((outer.api.calls().total(), inner.api.calls().total()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_inner_limit_of_request_bodies_answers_413_which_is_not_a_rejection() {
    let harness = Harness::over_requests(|network| RequestBodyLimitLayer::new(4).layer(network));
    harness.with_old_token().await;
    let post = |text: &'static str| {
        let request = Request::post(API).header("content-length", text.len());
        request.body(Body::from(text)).expect("a request")
    };
    let status = async |text| harness.client().oneshot(post(text)).await.expect("an answer").status();
    assert_eq!(status("long enough").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (0, 1));
    assert_eq!(status("fits").await, StatusCode::OK);
}

/// The outer limit answers before the layer fetches a token. Its body is not `Clone`.
#[tokio::test(start_paused = true)]
async fn an_outer_limit_of_request_bodies_answers_413_before_the_layer() {
    let harness = Harness::new();
    let client = RequestBodyLimitLayer::new(4).layer(harness.layer().replay(Buffered::new(4)).layer(harness.network()));
    let status = async |text: &'static str| {
        let request = Request::post(API).header("content-length", text.len()).body(Body::from(text));
        client.clone().oneshot(request.expect("a request")).await.expect("an answer").status()
    };
    assert_eq!(status("long enough").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (0, 0));
    harness.with_revoked_token().await;
    assert_eq!(status("fits").await, StatusCode::OK);
    assert_eq!(harness.api.requests().iter().map(|request| &*request.body).collect::<Vec<_>>(), [b"fits"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_response_bodies_works_on_both_sides() {
    let outer = Harness::new();
    let limited = |response: Response<_>| response.map(|body| Limited::new(body, 4));
    let client = outer.client().map_response(limited);
    let answer = client.oneshot(get()).await.expect("an answer");
    answer.into_body().collect().await.expect_err("longer than four bytes");

    // The drained response of a rejected request may exceed the limit.
    let inner = Harness::over_requests(|network: crate::harness::Network| {
        ServiceExt::<Request<Body>>::map_response(network, |response: Response<Body>| {
            response.map(|body| Limited::new(body, 4))
        })
    });
    inner.with_revoked_token().await;
    let answer = inner.client().oneshot(get()).await.expect("an answer");
    assert_eq!((answer.status(), inner.api.calls().total()), (StatusCode::OK, 2));
    answer.into_body().collect().await.expect_err("longer than four bytes");
}

#[tokio::test(start_paused = true)]
async fn an_outer_header_is_made_once_and_an_inner_one_for_each_send() {
    let layer = || {
        let made = Arc::new(AtomicUsize::new(0));
        let number = move |_: &Request<Body>| Some(HeaderValue::from(made.fetch_add(1, Ordering::SeqCst)));
        SetRequestHeaderLayer::overriding(HeaderName::from_static("x-number"), number)
    };
    let harness = Harness::new();
    harness.with_revoked_token().await;
    layer().layer(harness.client()).oneshot(get()).await.expect("an answer");
    assert_eq!(harness.sent("x-number"), ["0", "0"]);

    let harness = Harness::over_requests(|network| layer().layer(network));
    harness.with_revoked_token().await;
    harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!(harness.sent("x-number"), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_an_inner_layer_sets_decides_the_rejection() {
    let layer = || {
        let challenge = HeaderValue::from_static(r#"Bearer error="insufficient_scope""#);
        SetResponseHeaderLayer::overriding(WWW_AUTHENTICATE, challenge)
    };
    let harness = Harness::over_requests(|network| layer().layer(network));
    harness.with_revoked_token().await;
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.api.calls().total(), 1, "the challenge says that a new token would not help");

    let harness = Harness::new();
    harness.with_revoked_token().await;
    assert_eq!(layer().layer(harness.client()).oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.api.calls().total(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_base_url_is_set_outside_or_inside_a_layer_that_allows_relative_uris() {
    let at_the_api = |mut request: Request<Body>| {
        *request.uri_mut() = format!("{API}{}", request.uri()).parse().expect("a URI");
        request
    };
    let path = || Request::get("/me").body(Body::default()).expect("a request");
    let outer = Harness::new();
    let client = outer.client().map_request(at_the_api);
    assert_eq!(client.oneshot(path()).await.expect("an answer").status(), StatusCode::OK);

    let inner = Harness::over_requests(|network| ServiceExt::<Request<Body>>::map_request(network, at_the_api));
    let error = inner.client().oneshot(path()).await.expect_err("the URI names no origin");
    assert!(Error::find(&*error).expect("the layer's error").is_invalid());
    assert_eq!(inner.api.calls().total(), 0);
    let api = inner.layer().allow_relative_uris().layer(inner.inner());
    assert_eq!(api.oneshot(path()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(inner.sent("authorization"), ["Bearer token-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_layer_adds_overrides_the_layers_on_both_sides() {
    let other = || AddAuthorizationLayer::bearer("other");
    let harness = Harness::new();
    harness.with_old_token().await;
    let answer = other().layer(harness.client()).oneshot(get()).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.sent("authorization"), ["Bearer other"]);
    assert_eq!(harness.issuer.calls().total(), 1, "it is the caller's token, so its 401 causes no refresh");

    let harness = Harness::over_requests(|network| other().layer(network));
    harness.with_old_token().await;
    let answer = harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.sent("authorization"), ["Bearer other"; 2]);
    assert_eq!(harness.issuer.calls().total(), 2, "its 401 counts as a rejection of the layer's token");
}
