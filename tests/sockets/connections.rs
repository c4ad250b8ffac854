//! A short rejected response is drained, so that its connection serves the second send. Any other one is dropped.

use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::{BoxError, Layer, ServiceExt};

use crate::harness::{Harness, Protocol};
use crate::run;
use crate::servers::{Answer, Server, answer, data, streamed, streaming, text};

type RejectionPolicy = fn() -> Response<Answer>;

/// A body that never ends: after its first frame it stays pending, or repeats the frame for ever.
struct Endless {
    silent: bool,
    begun: bool,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.begun && self.silent {
            return Poll::Pending;
        }
        self.begun = true;
        Poll::Ready(Some(data(vec![b'x'; 4096])))
    }
}

/// An API that rejects tokens with this response.
async fn api(harness: &Harness, rejection: RejectionPolicy) -> Server {
    let harness = harness.clone();
    Server::start(move |request: Request<_>| {
        ready(if harness.accepts(request.headers()) { answer(200, "welcome") } else { rejection() })
    })
    .await
}

fn get(server: &Server) -> Request<Full<Bytes>> {
    Request::get(server.origin()).body(Full::default()).expect("a request")
}

fn trailers() -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::trailers(HeaderMap::from_iter([("x-sum".parse()?, HeaderValue::from_static("1"))])))
}

#[test]
fn a_rejected_request_is_retried_over_the_same_connection() {
    const REJECTIONS: [(&str, RejectionPolicy); 4] = [
        ("empty", || answer(401, "")),
        ("with a length", || answer(401, r#"{"error":"expired"}"#)),
        ("chunked", || streaming(401, streamed([data("exp"), data("ired")]))),
        ("with trailers", || streaming(401, streamed([data("expired"), trailers()]))),
    ];
    run(async || {
        for protocol in Protocol::BOTH {
            for (kind, rejection) in REJECTIONS {
                let harness = Harness::new().await;
                let server = api(&harness, rejection).await;
                let client = harness.layer(&server.origin()).layer(protocol.client());
                for _ in 0..25 {
                    harness.revoke();
                    let call = tokio::spawn(client.clone().oneshot(get(&server)));
                    let response = call.await.expect("no panic").expect("an answer");
                    assert_eq!(text(response.into_body()).await, "welcome");
                    // A task of hyper returns the connection to the pool.
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                }
                assert_eq!((server.seen().len(), harness.fetched()), (50, 26));
                assert_eq!(server.accepted(), 1, "{protocol:?}, {kind}");
            }
        }
    });
}

#[test]
fn a_long_or_endless_rejection_is_dropped_and_the_request_retried() {
    const REJECTIONS: [(&str, RejectionPolicy); 4] = [
        ("long", || answer(401, vec![b'x'; 1024 * 1024])),
        ("long and chunked", || streaming(401, streamed((0..64).map(|_| data(vec![b'x'; 16 * 1024]))))),
        ("endless", || streaming(401, Endless { silent: false, begun: false })),
        ("silent", || streaming(401, Endless { silent: true, begun: false })),
    ];
    run(async || {
        for protocol in Protocol::BOTH {
            for (kind, rejection) in REJECTIONS {
                let harness = Harness::revoked().await;
                let server = api(&harness, rejection).await;
                let client = harness.layer(&server.origin()).layer(protocol.client());
                let response = client.oneshot(get(&server)).await.expect("an answer");
                assert_eq!(text(response.into_body()).await, "welcome");
                assert_eq!(server.tokens(), ["Bearer token-1", "Bearer token-2"]);
                // With HTTP/1.1 only closing the connection stops a response.
                let connections = if protocol == Protocol::Http1 { 2 } else { 1 };
                assert_eq!(server.accepted(), connections, "{protocol:?}, {kind}");
            }
        }
    });
}

#[test]
fn requests_rejected_over_many_connections_cause_one_refresh_and_are_retried() {
    run(async || {
        for protocol in Protocol::BOTH {
            let harness = Harness::revoked().await;
            let server = api(&harness, || answer(401, "expired")).await;
            let client = harness.layer(&server.origin()).layer(protocol.client());
            let calls: Vec<_> = (0..50).map(|_| tokio::spawn(client.clone().oneshot(get(&server)))).collect();
            for call in calls {
                let response = call.await.expect("no panic").expect("an answer");
                assert_eq!(response.status(), StatusCode::OK);
            }
            assert_eq!(harness.fetched(), 2);
        }
    });
}
