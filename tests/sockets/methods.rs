//! Requests with rules of their own.

use std::future::ready;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_bearer::replay::Buffered;

use crate::harness::{Harness, Protocol};
use crate::run;
use crate::servers::{Server, Uploads, answer, data, streamed, text};

#[test]
fn a_request_that_expects_100_continue_goes_twice_and_waits_for_nothing() {
    run(async || {
        for protocol in Protocol::BOTH {
            // A server that reads says 100 Continue before it rejects; one that does not read never says it.
            for reads in [true, false] {
                let (harness, uploads) = (Harness::revoked().await, Uploads::default());
                let server = Server::start({
                    let (harness, uploads) = (harness.clone(), uploads.clone());
                    move |request: Request<_>| {
                        let (harness, uploads) = (harness.clone(), uploads.clone());
                        async move {
                            let (head, body) = request.into_parts();
                            let accepted = harness.accepts(&head.headers);
                            if accepted || reads {
                                uploads.receive(body).await;
                            }
                            if accepted { answer(200, "welcome") } else { answer(401, "expired") }
                        }
                    }
                })
                .await;
                let client = harness.layer(&server.origin()).replay(Buffered::new(1024)).layer(protocol.client());
                let body = streamed([data("the whole "), data("body")]);
                let request = Request::put(server.origin()).header(EXPECT, "100-continue").body(body);
                let response = client.oneshot(request.expect("a request")).await.expect("an answer");
                assert_eq!(text(response.into_body()).await, "welcome", "{protocol:?}, reads: {reads}");
                let uploads = uploads.take();
                assert_eq!(uploads.len(), if reads { 2 } else { 1 });
                assert!(uploads.into_iter().all(|upload| upload.expect("a whole upload").0 == "the whole body"));
                assert!(server.seen().iter().all(|head| head.headers[EXPECT] == "100-continue"));
            }
        }
    });
}

#[test]
fn a_tunnel_is_asked_for_without_a_token_and_its_rejection_is_its_own() {
    run(async || {
        for status in [200, 401] {
            let harness = Harness::revoked().await;
            let server = Server::start(move |_| ready(answer(status, ""))).await;
            let client = harness.layer(&server.origin()).layer(Protocol::Http1.client());
            for uri in [server.address.to_string(), server.origin()] {
                let request = Request::builder().method(Method::CONNECT).uri(uri).body(Full::<Bytes>::default());
                let response = client.clone().oneshot(request.expect("a request")).await.expect("an answer");
                assert_eq!(response.status(), StatusCode::from_u16(status).expect("a status"));
            }
            assert_eq!(server.tokens(), ["", ""]);
            assert!(server.seen().iter().all(|head| head.method == Method::CONNECT));
            assert_eq!(harness.fetched(), 1);
        }
    });
}
