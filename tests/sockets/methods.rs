//! Requests with special rules: `Expect: 100-continue` and `CONNECT`.

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
fn a_request_that_expects_100_continue_is_retried() {
    run(async || {
        for protocol in Protocol::BOTH {
            // A server that reads the body sends 100 Continue before it rejects. One that does not read it never does.
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
fn a_connect_request_carries_no_token_and_its_rejection_goes_to_the_caller() {
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
