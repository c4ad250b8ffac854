//! Servers that close a connection too early: the request is retried, or its error is clear.

use std::future::ready;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tower::{BoxError, Layer, ServiceExt};

use crate::harness::{Harness, Protocol};
use crate::raw::Raw;
use crate::servers::{Server, answer, data, stream, streaming, text};
use crate::{chain, run, until};

const WELCOME: &str = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nwelcome";

/// Sends a request whose token is rejected.
async fn send(harness: &Harness, raw: &Raw) -> Result<Response<Incoming>, BoxError> {
    let client = harness.layer(&raw.origin()).layer(Protocol::Http1.client());
    client.oneshot(Request::get(raw.origin()).body(Full::<Bytes>::default()).expect("a request")).await
}

#[test]
fn a_rejection_with_a_truncated_body_is_still_a_rejection_and_the_request_is_retried() {
    run(async || {
        for rejection in [
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\nexpi",
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\n",
            "HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\n\r\n10\r\nexpi",
            "HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\n\r\nnonsense",
            "HTTP/1.1 401 Unauthorized\r\n\r\nuntil it hangs up",
            "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 7\r\n\r\nexpired",
        ] {
            let (harness, raw) = (Harness::revoked().await, Raw::start([rejection, WELCOME]).await);
            let response = send(&harness, &raw).await.expect("an answer");
            assert_eq!(text(response.into_body()).await, "welcome", "{rejection}");
            assert_eq!((raw.received().len(), harness.fetched()), (2, 2));
        }
    });
}

#[test]
fn a_rejection_whose_stream_fails_is_still_a_rejection_and_the_request_is_retried() {
    run(async || {
        for protocol in Protocol::BOTH {
            let harness = Harness::revoked().await;
            let server = Server::start({
                let harness = harness.clone();
                move |request| {
                    if harness.accepts(request.headers()) {
                        return ready(answer(200, "welcome"));
                    }
                    let (frames, body) = stream();
                    frames.send(data("expi")).expect("the stream is here");
                    let harness = harness.clone();
                    tokio::spawn(async move {
                        // The rejection has arrived.
                        until(|| harness.fetched() == 2).await;
                        frames.send(Err("a fault of the server".into()))
                    });
                    ready(streaming(401, body))
                }
            })
            .await;
            let client = harness.layer(&server.origin()).layer(protocol.client());
            let request = Request::get(server.origin()).body(Full::<Bytes>::default()).expect("a request");
            let response = client.oneshot(request).await.expect("an answer");
            assert_eq!(text(response.into_body()).await, "welcome", "{protocol:?}");
            assert_eq!(server.tokens(), ["Bearer token-1", "Bearer token-2"]);
        }
    });
}

#[test]
fn a_response_with_a_truncated_head_is_an_error_and_not_a_rejection() {
    run(async || {
        for head in ["", "HTTP/1.1 401 Unauthorized\r\ncontent-le"] {
            let (harness, raw) = (Harness::revoked().await, Raw::start([head, WELCOME]).await);
            let error = send(&harness, &raw).await.expect_err("there was no response");
            assert!(chain(&*error).contains("connection closed"), "{}", chain(&*error));
            assert_eq!((raw.received().len(), harness.fetched()), (1, 1));
        }
    });
}

#[test]
fn a_second_send_with_a_truncated_response_is_a_clear_error() {
    run(async || {
        let rejection = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (harness, raw) = (Harness::revoked().await, Raw::start([rejection, "HTTP/1.1 200"]).await);
        let error = send(&harness, &raw).await.expect_err("there was no second response");
        assert!(chain(&*error).contains("connection closed"), "{}", chain(&*error));
        assert_eq!((raw.received().len(), harness.fetched()), (2, 2));
    });
}

#[test]
fn a_connection_that_is_reset_or_closed_leads_to_a_retry_or_an_error() {
    run(async || {
        let rejections = [
            ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\nexpi", true),
            ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", true),
            // The response does not say that the connection will be closed.
            ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 7\r\n\r\nexpired", false),
        ];
        for (rejection, resets) in rejections {
            let (harness, raw) = (Harness::revoked().await, Raw::hanging_up([rejection, WELCOME], resets).await);
            match send(&harness, &raw).await {
                Ok(response) => assert_eq!(response.status(), StatusCode::OK, "{rejection}"),
                Err(error) => assert!(chain(&*error).contains("client error"), "{rejection}: {}", chain(&*error)),
            }
        }
    });
}
