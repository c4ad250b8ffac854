//! gRPC's `UNAUTHENTICATED` in the trailers of a response rejects the token.

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http2;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tower::util::MapResponseLayer;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache, WatchTrailers};

use crate::common::{MINUTE, Script, settle};

/// The response of a call that has begun. Its status is in its trailers.
fn call(status: &'static str) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(status))]);
    let body = Full::new(Bytes::from("a message")).with_trailers(ready(Some(Ok(trailers))));
    Response::builder().header("content-type", "application/grpc").body(body.boxed_unsync()).expect("a response")
}

/// Makes a call with a token of some age, and reads the answer if `read`. Returns the number of calls, the number of
/// fetches, and the generation of the token.
async fn once(rejection: RejectionPolicy, status: &'static str, read: bool) -> (usize, usize, u64) {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    tokio::time::advance(MINUTE).await;
    let calls = Arc::new(Mutex::new(0));
    let count = Arc::clone(&calls);
    let channel = service_fn(move |_: Request<Full<Bytes>>| {
        *count.lock().expect("no panic") += 1;
        ready(Ok::<_, BoxError>(call(status)))
    });
    let layer =
        BearerLayer::new(cache.clone(), ["https://api.example.com"]).expect("an origin").rejection_policy(rejection);
    let api = ServiceBuilder::new().layer(MapResponseLayer::new(WatchTrailers::of)).layer(layer).service(channel);
    let request = Request::post("https://api.example.com/echo.Echo/Say").body(Full::default()).expect("a request");
    let response = api.oneshot(request).await.expect("a response");
    if read {
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], status);
        assert_eq!(body.to_bytes(), "a message");
    }
    settle().await;
    let calls = *calls.lock().expect("no panic");
    (calls, script.calls(), cache.status().generation)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_trailers_reject_is_replaced_and_the_call_is_not_retried() {
    assert_eq!(once(RejectionPolicy::new().grpc(), "16", true).await, (1, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn no_other_status_in_the_trailers_replaces_the_token() {
    for status in ["0", "7", "14", "2", "160"] {
        assert_eq!(once(RejectionPolicy::new().grpc(), status, true).await, (1, 1, 1), "{status}");
    }
    assert_eq!(once(RejectionPolicy::new().grpc(), "16", false).await, (1, 1, 1), "the trailers were not read");
    assert_eq!(once(RejectionPolicy::new(), "16", true).await, (1, 1, 1), "gRPC was not set");
}

#[test]
fn the_next_call_over_a_socket_has_a_new_token() {
    crate::common::runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                    let is_revoked = request.headers()["authorization"] == "Bearer t1";
                    Ok::<_, Infallible>(call(if is_revoked { "16" } else { "0" }))
                });
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service));
            }
        });
        let script = Script::new();
        let clock = tower_bearer::testing::ManualClock::new();
        let cache = TokenCache::builder(script.clone())
            .refresh_policy(tower_bearer::RefreshPolicy::new())
            .clock(clock.clone())
            .build()
            .unwrap();
        cache.get().await.expect("a token");
        clock.advance(MINUTE);
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let layer = BearerLayer::new(cache.clone(), [&*origin])
            .expect("an origin")
            .rejection_policy(RejectionPolicy::new().grpc());
        let api = ServiceBuilder::new().layer(MapResponseLayer::new(WatchTrailers::of)).layer(layer).service(client);
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let request = Request::post(format!("{origin}/echo.Echo/Say")).body(Full::default()).expect("a request");
            let response = api.clone().oneshot(request).await.expect("a response");
            let body = response.into_body().collect().await.expect("a body");
            statuses.push(body.trailers().expect("trailers")["grpc-status"].clone());
            crate::common::until(|| cache.status().generation == 2).await;
        }
        assert_eq!(statuses, ["16", "0"]);
        assert_eq!(script.calls(), 2);
    });
}
