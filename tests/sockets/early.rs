//! Servers that reject an upload before all of it is sent.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_bearer::replay::Buffered;

use crate::bodies::the_disk_is_gone;
use crate::harness::{Harness, Protocol};
use crate::servers::{Frames, Server, Stream, Upload, Uploads, answer, data, stream, text};
use crate::{chain, run, until};

const BEGINNING: [&str; 3] = ["this ", "is ", "the "];
const REST: [&str; 2] = ["whole ", "body"];
const WHOLE: &str = "this is the whole body";

/// How a server rejects an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejecting {
    /// Rejects at once, and continues to read.
    AtOnce,
    /// Reads a frame, rejects, and continues to read.
    AfterAFrame,
    /// Rejects at once and does not read.
    Unread,
}

/// An API for uploads. The rest of the body comes when the second send has arrived, and not before.
struct Api {
    server: Server,
    /// The uploads of rejected requests.
    rejected: Uploads,
    /// The uploads of accepted requests.
    accepted: Uploads,
}

impl Api {
    async fn start(harness: &Harness, rejecting: Rejecting, frames: Frames) -> Self {
        let (rejected, accepted, harness) = (Uploads::default(), Uploads::default(), harness.clone());
        let frames = Arc::new(Mutex::new(Some(frames)));
        let server = Server::start({
            let (rejected, accepted) = (rejected.clone(), accepted.clone());
            move |request| {
                let (rejected, accepted, harness) = (rejected.clone(), accepted.clone(), harness.clone());
                let frames = Arc::clone(&frames);
                async move {
                    let (head, mut body) = request.into_parts();
                    if harness.accepts(&head.headers) {
                        let frames = frames.lock().expect("no panic").take().expect("one request is accepted");
                        REST.into_iter().for_each(|text| frames.send(data(text)).expect("the body is read"));
                        drop(frames);
                        accepted.receive(body).await;
                        return answer(200, "welcome");
                    }
                    if rejecting == Rejecting::AfterAFrame {
                        body.frame().await.expect("a frame").expect("a frame");
                    }
                    if rejecting != Rejecting::Unread {
                        tokio::spawn(async move { rejected.receive(body).await });
                    }
                    answer(401, "expired")
                }
            }
        });
        Self { server: server.await, rejected, accepted }
    }
}

fn whole(upload: Upload) -> Bytes {
    upload.expect("a whole upload").0
}

/// An upload of which only the beginning is available.
fn begun() -> (Frames, Stream) {
    let (frames, stream) = stream();
    BEGINNING.into_iter().for_each(|text| frames.send(data(text)).expect("the stream is here"));
    (frames, stream)
}

#[test]
fn the_second_send_of_an_upload_that_was_rejected_early_is_complete_and_the_first_is_not() {
    run(async || {
        for protocol in Protocol::BOTH {
            for rejecting in [Rejecting::AtOnce, Rejecting::AfterAFrame] {
                for length in [None, Some(WHOLE.len())] {
                    let (frames, stream) = begun();
                    let stream = if let Some(length) = length { stream.of_length(length) } else { stream };
                    let harness = Harness::revoked().await;
                    let api = Api::start(&harness, rejecting, frames).await;
                    let client =
                        harness.layer(&api.server.origin()).replay(Buffered::new(1024)).layer(protocol.client());
                    let request = Request::post(api.server.origin()).body(stream).expect("a request");
                    let response = client.oneshot(request).await.expect("an answer");
                    assert_eq!(text(response.into_body()).await, "welcome");
                    assert_eq!(api.accepted.take().into_iter().map(whole).collect::<Vec<_>>(), [WHOLE]);

                    until(|| api.rejected.count() == 1).await;
                    let first = api.rejected.take().remove(0);
                    assert!(first.is_err(), "{protocol:?}, {rejecting:?}: the first looked complete: {first:?}");
                    let lengths = api.server.seen().into_iter().map(|head| head.headers.get(CONTENT_LENGTH).cloned());
                    assert!(lengths.eq([length.map(Into::into), length.map(Into::into)]));
                    assert!(api.server.accepted() <= 2);
                }
            }
        }
    });
}

#[test]
fn an_upload_that_is_rejected_unread_is_retried_completely() {
    run(async || {
        for protocol in Protocol::BOTH {
            let (frames, stream) = begun();
            let harness = Harness::revoked().await;
            let api = Api::start(&harness, Rejecting::Unread, frames).await;
            let client = harness.layer(&api.server.origin()).replay(Buffered::new(1024)).layer(protocol.client());
            let request = Request::post(api.server.origin()).body(stream).expect("a request");
            let response = client.oneshot(request).await.expect("an answer");
            assert_eq!(text(response.into_body()).await, "welcome", "{protocol:?}");
            assert_eq!(api.accepted.take().into_iter().map(whole).collect::<Vec<_>>(), [WHOLE]);
        }
    });
}

#[test]
fn beyond_the_limit_an_early_rejection_is_returned_at_once() {
    run(async || {
        for protocol in Protocol::BOTH {
            let (frames, stream) = begun();
            let harness = Harness::revoked().await;
            let api = Api::start(&harness, Rejecting::AfterAFrame, frames.clone()).await;
            let client = harness.layer(&api.server.origin()).replay(Buffered::new(4)).layer(protocol.client());
            let request = Request::post(api.server.origin()).body(stream).expect("a request");
            let response = client.oneshot(request).await.expect("an answer");
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(text(response.into_body()).await, "expired");
            until(|| harness.cache.status().generation == 2).await;
            assert_eq!(api.server.tokens(), ["Bearer token-1"]);
        }
    });
}

#[test]
fn a_body_that_fails_after_its_rejection_is_not_sent_again() {
    run(async || {
        for protocol in Protocol::BOTH {
            let (frames, stream) = begun();
            let harness = Harness::revoked().await;
            let api = Api::start(&harness, Rejecting::AfterAFrame, frames.clone()).await;
            let client = harness.layer(&api.server.origin()).replay(Buffered::new(1024)).layer(protocol.client());
            let request = Request::post(api.server.origin()).body(stream).expect("a request");
            let held = harness.hold_the_issuer().await;
            let call = tokio::spawn(client.oneshot(request));
            until(|| harness.cache.status().fetching).await;
            frames.send(Err("the disk is gone".into())).expect("the body is read");
            until(|| api.rejected.count() == 1).await;
            drop(held);
            let response = call.await.expect("no panic").expect("an answer");
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!((api.server.tokens().len(), harness.fetched()), (1, 2));
            assert!(api.rejected.take().remove(0).is_err(), "half a body looked complete");
        }
    });
}

#[test]
fn a_body_that_fails_in_its_second_send_fails_the_request() {
    run(async || {
        for protocol in Protocol::BOTH {
            let (frames, stream) = begun();
            let harness = Harness::revoked().await;
            let server = Server::start({
                let harness = harness.clone();
                move |request| {
                    let (harness, frames) = (harness.clone(), frames.clone());
                    async move {
                        if harness.accepts(request.headers()) {
                            frames.send(Err("the disk is gone".into())).expect("the body is read");
                        }
                        let accepted = harness.accepts(request.headers());
                        // The rejected upload is read in the background. The accepted one ends with an error.
                        let reading = tokio::spawn(request.into_body().collect());
                        if accepted {
                            assert!(reading.await.expect("no panic").is_err(), "half a body looked complete");
                        }
                        answer(401, "expired")
                    }
                }
            })
            .await;
            let client = harness.layer(&server.origin()).replay(Buffered::new(1024)).layer(protocol.client());
            let request = Request::post(server.origin()).body(stream).expect("a request");
            let error = client.oneshot(request).await.expect_err("the body failed");
            assert!(chain(&*error).contains(the_disk_is_gone(protocol)), "{protocol:?}: {}", chain(&*error));
            assert_eq!(server.tokens(), ["Bearer token-1", "Bearer token-2"]);
        }
    });
}
