//! Retries of rejected requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode, Version};
use http_body::SizeHint;
use http_body_util::BodyExt;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::replay::{IfEmpty, Never};
use tower_bearer::testing::Answer;

use crate::stack::{Body, Harness, get};

fn post() -> Request<Body> {
    Request::post("https://api.example.com/upload?x=%2F")
        .version(Version::HTTP_11)
        .header("x-twice", "1")
        .header("content-type", "text/plain")
        .header("x-twice", "2")
        .extension("kept")
        .body(Body::from("the whole body"))
        .expect("a request")
}

#[tokio::test]
async fn the_second_send_equals_the_first_but_for_the_token() {
    let harness = Harness::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inner = service_fn({
        let (seen, network) = (Arc::clone(&seen), harness.network.clone());
        move |request: Request<Body>| {
            seen.lock().expect("no panic").push(request.clone());
            network.clone().oneshot(request)
        }
    });
    harness.with_old_token().await;
    harness.api.queue(Answer::raw(401, ""));
    let answer = harness.layer().layer(inner).oneshot(post()).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let mut seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    let tokens: Vec<_> =
        seen.iter_mut().map(|request| request.headers_mut().remove(AUTHORIZATION).expect("a token")).collect();
    assert_eq!(tokens, ["Bearer token-1", "Bearer token-2"]);
    assert!(tokens.iter().all(http::HeaderValue::is_sensitive));
    for sent in seen {
        let (sent, body) = sent.into_parts();
        let (original, original_body) = post().into_parts();
        assert_eq!((sent.method, sent.uri, sent.version), (original.method, original.uri, original.version));
        assert!(sent.headers.iter().eq(original.headers.iter()));
        assert_eq!(sent.extensions.get(), Some(&"kept"));
        assert_eq!(
            body.collect().await.expect("a body").to_bytes(),
            original_body.collect().await.expect("a body").to_bytes()
        );
    }
}

#[tokio::test]
async fn the_first_future_is_dropped_before_the_second_starts() {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let harness = Harness::new();
    let (alive, overlapped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let inner = service_fn({
        let (alive, overlapped, network) = (Arc::clone(&alive), Arc::clone(&overlapped), harness.network.clone());
        move |request: Request<Body>| {
            if alive.fetch_add(1, Ordering::SeqCst) > 0 {
                overlapped.store(true, Ordering::SeqCst);
            }
            let (guard, answer) = (Alive(Arc::clone(&alive)), network.clone().oneshot(request));
            // The guard lives as long as the future, even after the future has completed.
            let mut answer = Box::pin(answer);
            std::future::poll_fn(move |cx| {
                let _guard = &guard;
                answer.as_mut().poll(cx)
            })
        }
    });
    harness.with_old_token().await;
    harness.api.queue(Answer::raw(401, ""));
    assert_eq!(harness.layer().layer(inner).oneshot(get("/")).await.expect("an answer").status(), StatusCode::OK);
    assert!(!overlapped.load(Ordering::SeqCst));
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

/// A body that records when it is read.
struct Noted {
    body: Body,
    size: SizeHint,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl http_body::Body for Noted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.order.lock().expect("no panic").push("read");
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The order of reads and fetches for a rejected response of this size.
async fn order_of(size: SizeHint) -> Vec<&'static str> {
    let harness = Harness::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&order);
    let inner = service_fn(move |_: Request<Body>| {
        let body = Noted { body: Body::from("no"), size, order: Arc::clone(&noted) };
        std::future::ready(Ok::<_, BoxError>(Response::builder().status(401).body(body).expect("a response")))
    });
    let fetched = Arc::clone(&order);
    let source = move |_| {
        let mut order = fetched.lock().expect("no panic");
        order.push("fetched");
        std::future::ready(tower_bearer::Token::new(format!("token-{}", order.len())))
    };
    harness.cache.set_source(source);
    harness.with_old_token().await;
    let answer = harness.layer().layer(inner).oneshot(get("/")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "the second rejection goes to the caller, unread");
    order.lock().expect("no panic").clone()
}

#[tokio::test]
async fn a_small_rejected_response_is_read_after_the_new_token_is_fetched() {
    assert_eq!(order_of(SizeHint::with_exact(2)).await, ["fetched", "fetched", "read", "read"]);
}

#[tokio::test]
async fn a_large_rejected_response_is_read_while_its_request_waits() {
    for size in [SizeHint::new(), SizeHint::with_exact(64 * 1024)] {
        assert_eq!(order_of(size).await, ["fetched", "read", "read", "fetched"]);
    }
}

#[tokio::test]
async fn only_requests_whose_body_can_be_sent_twice_are_retried() {
    let sends = async |harness: &Harness, request: Request<Body>, choice: &str| {
        let token = harness.with_old_token().await;
        // After this time a replacement counts as one that helped.
        harness.clock.advance(std::time::Duration::from_secs(30));
        harness.issuer.ledger().revoke(token.access_token());
        let (network, before) = (harness.network.clone(), harness.api.calls().total());
        let answer = match choice {
            "never" => harness.layer().replay(Never).layer(network).oneshot(request).await,
            "if empty" => harness.layer().replay(IfEmpty).layer(network).oneshot(request).await,
            "closure returns none" => harness.layer().replay(|_: &Body| None).layer(network).oneshot(request).await,
            _ => harness.layer().replay(|body: &Body| Some(body.clone())).layer(network).oneshot(request).await,
        };
        let sends = harness.api.calls().total() - before;
        // The token is replaced even if the request is not retried.
        while harness.cache.status().generation == token.generation() {
            tokio::task::yield_now().await;
        }
        (answer.expect("an answer").status().as_u16(), sends)
    };
    let harness = Harness::new();
    assert_eq!(sends(&harness, get("/"), "never").await, (401, 1));
    assert_eq!(sends(&harness, get("/"), "if empty").await, (200, 2));
    assert_eq!(sends(&harness, post(), "if empty").await, (401, 1));
    assert_eq!(sends(&harness, post(), "closure returns none").await, (401, 1));
    assert_eq!(sends(&harness, post(), "closure returns a copy").await, (200, 2));
}

#[tokio::test]
async fn a_403_refreshes_nothing() {
    let harness = Harness::new();
    harness.api.queue(Answer::raw(403, ""));
    assert_eq!(harness.client().oneshot(get("/")).await.expect("an answer").status(), StatusCode::FORBIDDEN);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (1, 1));
}

#[tokio::test]
async fn the_error_of_the_second_send_goes_to_the_caller() {
    let harness = Harness::new();
    harness.with_old_token().await;
    harness.api.queue(Answer::raw(401, ""));
    harness.api.queue(Answer::fails("cut off"));
    let error = harness.client().oneshot(get("/")).await.expect_err("the second send failed");
    assert!(error.to_string().contains("cut off"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_request_rejected_with_a_young_token_is_retried_with_it_after_a_moment() {
    let harness = Harness::new();
    // The first server that answers does not know the token yet.
    harness.api.queue(Answer::raw(401, ""));
    let begun = tokio::time::Instant::now();
    assert_eq!(harness.client().oneshot(get("/")).await.expect("an answer").status(), StatusCode::OK);
    assert_eq!(begun.elapsed(), std::time::Duration::from_secs(1));
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (2, 1));
    assert!(!harness.cache.status().suspect, "the token is not suspect");
    // A second rejection goes to the caller, and the token is still not suspect.
    harness.api.reject_all(true);
    assert_eq!(harness.client().oneshot(get("/")).await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert_eq!((harness.api.calls().total(), harness.issuer.calls().total()), (4, 1));
    assert!(!harness.cache.status().suspect);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_returned_if_its_young_token_expires_and_there_is_no_other() {
    let harness = Harness::new();
    harness.cache.get().await.expect("a token");
    harness.api.queue(Answer::raw(401, "the API's own words"));
    let mut waiting = tokio_test::task::spawn(harness.client().oneshot(get("/")));
    while harness.api.calls().total() == 0 {
        tokio_test::assert_pending!(waiting.poll());
        tokio::task::yield_now().await;
    }
    harness.clock.advance(std::time::Duration::from_secs(3600));
    harness.issuer.fail(Some(Answer::raw(503, "")));
    let answer = waiting.await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let error = answer.extensions().get::<tower_bearer::Error>().expect("the layer's error in the API's answer");
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, "the API's own words");
    assert_eq!(harness.api.calls().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_rejects_everything_causes_no_more_refreshes_than_the_budget() {
    let harness = Harness::new();
    harness.api.reject_all(true);
    let mut returned = 0;
    // The cache's clock passes a minute, with a request every 10 ms.
    for _ in 0..6000 {
        let answer = harness.client().oneshot(get("/")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        returned += 1;
        harness.clock.advance(std::time::Duration::from_millis(10));
    }
    // The refreshes are after 2 s, 12 s and 32 s: if a new token is rejected, too, the next refresh waits.
    assert_eq!(harness.issuer.calls().total(), 1 + 3, "the first token, and three refreshes that did not help");
    assert_eq!(returned, 6000);
    harness.clock.advance(std::time::Duration::from_secs(60));
    // The first of two requests may end the time in which the previous token is used.
    for _ in 0..2 {
        harness.client().oneshot(get("/")).await.expect("an answer");
    }
    assert_eq!(harness.issuer.calls().total(), 1 + 3 + 1, "the pause is over");
}

#[tokio::test]
async fn ten_thousand_rejected_requests_cause_one_token_call_and_all_succeed() {
    let harness = Harness::new();
    let token = harness.with_old_token().await;
    harness.issuer.ledger().revoke(token.access_token());
    let calls: Vec<_> = (0..10_000).map(|n| tokio::spawn(harness.client().oneshot(get(&format!("/{n}"))))).collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
    }
    assert_eq!((harness.issuer.calls().total(), harness.issuer.calls().most_at_once()), (2, 1));
}
