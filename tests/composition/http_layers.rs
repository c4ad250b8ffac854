//! Layers of tower-http whose side decides what they see.

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
async fn a_request_id_from_above_is_that_of_both_sends_and_from_beneath_each_has_its_own() {
    let ids = |harness: &Harness| harness.sent("x-request-id").into_iter().collect::<BTreeSet<_>>().len();
    let layer = || SetRequestIdLayer::x_request_id(MakeRequestUuid);
    let harness = Harness::new();
    harness.revoked().await;
    layer().layer(harness.client()).oneshot(get()).await.expect("an answer");
    assert_eq!((harness.api.calls().total(), ids(&harness)), (2, 1));

    let harness = Harness::over_requests(|network| layer().layer(network));
    harness.revoked().await;
    harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!((harness.api.calls().total(), ids(&harness)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_trace_above_sees_requests_without_the_token_and_one_beneath_sees_sends_with_a_hidden_one() {
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

    let (harness, above) = (Harness::new(), Seen::default());
    harness.revoked().await;
    TraceLayer::new_for_http()
        .on_request(above.clone())
        .layer(harness.client())
        .oneshot(get())
        .await
        .expect("an answer");
    assert_eq!(above.counts(), (1, 0));

    let beneath = Seen::default();
    let harness =
        Harness::over_requests(|network| TraceLayer::new_for_http().on_request(beneath.clone()).layer(network));
    harness.revoked().await;
    harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!(beneath.counts(), (2, 2));
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
async fn compressed_answers_are_read_on_both_sides_the_rejected_ones_too() {
    let above = Harness::new();
    let beneath = Harness::over_requests(Decompression::new);
    for harness in [&above, &beneath] {
        harness.settled().await;
        harness.api.queue(zipped(401, "no"));
        harness.api.queue(zipped(200, "yes"));
    }
    let answer = Decompression::new(above.client()).oneshot(get()).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "yes");
    let answer = beneath.client().oneshot(get()).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "yes");
    assert_eq!((above.api.calls().total(), beneath.api.calls().total()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_request_bodies_beneath_answers_413_which_is_no_rejection() {
    let harness = Harness::over_requests(|network| RequestBodyLimitLayer::new(4).layer(network));
    harness.settled().await;
    let post = |text: &'static str| {
        let request = Request::post(API).header("content-length", text.len());
        request.body(Body::from(text)).expect("a request")
    };
    let status = async |text| harness.client().oneshot(post(text)).await.expect("an answer").status();
    assert_eq!(status("long enough").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (0, 1));
    assert_eq!(status("fits").await, StatusCode::OK);
}

/// Above, no token is asked for either. It makes a body that is not `Clone`.
#[tokio::test(start_paused = true)]
async fn a_limit_of_request_bodies_above_answers_413_before_us() {
    let harness = Harness::new();
    let client = RequestBodyLimitLayer::new(4).layer(harness.layer().replay(Buffered::new(4)).layer(harness.network()));
    let status = async |text: &'static str| {
        let request = Request::post(API).header("content-length", text.len()).body(Body::from(text));
        client.clone().oneshot(request.expect("a request")).await.expect("an answer").status()
    };
    assert_eq!(status("long enough").await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (0, 0));
    harness.revoked().await;
    assert_eq!(status("fits").await, StatusCode::OK);
    assert_eq!(harness.api.requests().iter().map(|request| &*request.body).collect::<Vec<_>>(), [b"fits"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_answers_holds_on_both_sides() {
    let above = Harness::new();
    let limited = |response: Response<_>| response.map(|body| Limited::new(body, 4));
    let client = above.client().map_response(limited);
    let answer = client.oneshot(get()).await.expect("an answer");
    answer.into_body().collect().await.expect_err("longer than four bytes");

    // The drained answer of a rejected request may be as long as it likes.
    let beneath = Harness::over_requests(|network: crate::harness::Network| {
        ServiceExt::<Request<Body>>::map_response(network, |response: Response<Body>| {
            response.map(|body| Limited::new(body, 4))
        })
    });
    beneath.revoked().await;
    let answer = beneath.client().oneshot(get()).await.expect("an answer");
    assert_eq!((answer.status(), beneath.api.calls().total()), (StatusCode::OK, 2));
    answer.into_body().collect().await.expect_err("longer than four bytes");
}

#[tokio::test(start_paused = true)]
async fn a_header_from_above_is_made_for_the_call_and_one_from_beneath_for_each_send() {
    let layer = || {
        let made = Arc::new(AtomicUsize::new(0));
        let number = move |_: &Request<Body>| Some(HeaderValue::from(made.fetch_add(1, Ordering::SeqCst)));
        SetRequestHeaderLayer::overriding(HeaderName::from_static("x-number"), number)
    };
    let harness = Harness::new();
    harness.revoked().await;
    layer().layer(harness.client()).oneshot(get()).await.expect("an answer");
    assert_eq!(harness.sent("x-number"), ["0", "0"]);

    let harness = Harness::over_requests(|network| layer().layer(network));
    harness.revoked().await;
    harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!(harness.sent("x-number"), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_is_set_beneath_is_the_one_that_we_judge_by() {
    let layer = || {
        let challenge = HeaderValue::from_static(r#"Bearer error="insufficient_scope""#);
        SetResponseHeaderLayer::overriding(WWW_AUTHENTICATE, challenge)
    };
    let harness = Harness::over_requests(|network| layer().layer(network));
    harness.revoked().await;
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.api.calls().total(), 1, "as it says, a new token would not help");

    let harness = Harness::new();
    harness.revoked().await;
    assert_eq!(layer().layer(harness.client()).oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(harness.api.calls().total(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_base_url_is_set_above_or_beneath_a_layer_that_is_told_of_it() {
    let at_the_api = |mut request: Request<Body>| {
        *request.uri_mut() = format!("{API}{}", request.uri()).parse().expect("a URI");
        request
    };
    let path = || Request::get("/me").body(Body::default()).expect("a request");
    let above = Harness::new();
    let client = above.client().map_request(at_the_api);
    assert_eq!(client.oneshot(path()).await.expect("an answer").status(), StatusCode::OK);

    let beneath = Harness::over_requests(|network| ServiceExt::<Request<Body>>::map_request(network, at_the_api));
    let error = beneath.client().oneshot(path()).await.expect_err("nobody knows where it goes");
    assert!(Error::find(&*error).expect("our error").is_invalid());
    assert_eq!(beneath.api.calls().total(), 0);
    let told = beneath.layer().allow_relative_uris().layer(beneath.beneath());
    assert_eq!(told.oneshot(path()).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(beneath.sent("authorization"), ["Bearer token-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_layer_adds_wins_over_ours_on_both_sides() {
    let theirs = || AddAuthorizationLayer::bearer("theirs");
    let harness = Harness::new();
    harness.settled().await;
    let answer = theirs().layer(harness.client()).oneshot(get()).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.sent("authorization"), ["Bearer theirs"]);
    assert_eq!(harness.issuer.calls().total(), 1, "a caller's own token, and its 401 is none of ours");

    let harness = Harness::over_requests(|network| theirs().layer(network));
    harness.settled().await;
    let answer = harness.client().oneshot(get()).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.sent("authorization"), ["Bearer theirs"; 2]);
    assert_eq!(harness.issuer.calls().total(), 2, "its 401 is taken for one of ours");
}
