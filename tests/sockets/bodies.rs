//! A request's body is sent twice as a whole, or only once.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::Full;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::replay::{Buffered, CloneBody, IfEmpty, Replay, ReplayBody};

use crate::harness::{Harness, Protocol};
use crate::raw::Raw;
use crate::servers::{Server, Stream, Uploads, answer, data, streamed, text};
use crate::{chain, run, until};

/// 64 frames of 16 KiB, in which each word is different.
fn mebibyte() -> Vec<Bytes> {
    (0..64).map(|frame: u32| (0..4096).flat_map(|word| (frame << 12 | word).to_be_bytes()).collect()).collect()
}

fn trailers() -> HeaderMap {
    let sum = |value| HeaderValue::from_static(value);
    HeaderMap::from_iter([
        ("x-sum".parse().expect("a name"), sum("1")),
        ("x-count".parse().expect("a name"), sum("64")),
    ])
}

fn upload() -> Stream {
    streamed(mebibyte().into_iter().map(data).chain([Ok(Frame::trailers(trailers()))]))
}

/// A server that reads an upload to its end before it checks the token.
async fn reading(harness: &Harness) -> (Server, Uploads) {
    let (harness, uploads) = (harness.clone(), Uploads::default());
    let server = Server::start({
        let uploads = uploads.clone();
        move |request: Request<_>| {
            let (harness, uploads) = (harness.clone(), uploads.clone());
            async move {
                let (head, body) = request.into_parts();
                uploads.receive(body).await;
                if harness.accepts(&head.headers) { answer(200, "welcome") } else { answer(401, "expired") }
            }
        }
    });
    (server.await, uploads)
}

#[test]
fn a_streamed_mebibyte_arrives_twice_byte_for_byte_with_its_trailers() {
    run(async || {
        for protocol in Protocol::BOTH {
            let harness = Harness::revoked().await;
            let (server, uploads) = reading(&harness).await;
            let layer = harness.layer(&server.origin()).replay(Buffered::new(2 * 1024 * 1024));
            let request = Request::post(server.origin()).header("trailer", "x-sum, x-count").body(upload());
            let client = layer.layer(protocol.client::<ReplayBody<Stream>>());
            let response = client.oneshot(request.expect("a request")).await.expect("an answer");
            assert_eq!(text(response.into_body()).await, "welcome");
            let uploads = uploads.take();
            assert_eq!(uploads.len(), 2);
            for upload in uploads {
                let (bytes, seen) = upload.expect("a whole upload");
                assert!(bytes == mebibyte().concat(), "{protocol:?}: {} bytes", bytes.len());
                assert_eq!(seen, Some(trailers()), "{protocol:?}");
            }
        }
    });
}

#[test]
fn beyond_the_limit_the_rejection_is_returned_and_the_next_request_has_a_new_token() {
    run(async || {
        for protocol in Protocol::BOTH {
            let harness = Harness::revoked().await;
            let (server, uploads) = reading(&harness).await;
            let client = harness.layer(&server.origin()).replay(Buffered::new(1024 * 1024)).layer(protocol.client());
            let send = |body: Stream| {
                let request = Request::post(server.origin()).header("trailer", "x-sum, x-count").body(body);
                client.clone().oneshot(request.expect("a request"))
            };
            // Its trailers and its bookkeeping exceed the limit.
            let response = send(upload()).await.expect("an answer");
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(text(response.into_body()).await, "expired");
            let (bytes, _) = uploads.take().remove(0).expect("the first send was complete");
            assert_eq!(bytes.len(), 1024 * 1024);

            until(|| harness.cache.status().generation == 2).await;
            assert_eq!(send(upload()).await.expect("an answer").status(), StatusCode::OK);
            assert_eq!(server.tokens(), ["Bearer token-1", "Bearer token-2"]);
        }
    });
}

/// The text of a body's error. Over HTTP/2 hyper says only that the sender failed.
pub(crate) fn the_disk_is_gone(protocol: Protocol) -> &'static str {
    if protocol == Protocol::Http1 { "the disk is gone" } else { "stream error sent by user" }
}

#[test]
fn a_body_that_fails_is_not_sent_again() {
    run(async || {
        for protocol in Protocol::BOTH {
            let harness = Harness::revoked().await;
            let (server, _) = reading(&harness).await;
            let client = harness.layer(&server.origin()).replay(Buffered::new(1024)).layer(protocol.client());
            let body = streamed([data("half of it"), Err("the disk is gone".into())]);
            let request = Request::post(server.origin()).body(body).expect("a request");
            let error = client.oneshot(request).await.expect_err("the body failed");
            assert!(chain(&*error).contains(the_disk_is_gone(protocol)), "{protocol:?}: {}", chain(&*error));
            assert!(server.seen().len() <= 1, "a request whose body failed was retried");
            assert_eq!(harness.fetched(), 1);
        }
    });
}

/// The bytes of both sends.
async fn on_the_wire<B, R>(replay: R, request: impl Fn(&str) -> Request<B>) -> [String; 2]
where
    R: Replay<B, Saved: Send> + Clone + Send + 'static,
    R::Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
    B: Send + 'static,
{
    let harness = Harness::revoked().await;
    let raw = Raw::start([
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ])
    .await;
    let client = harness.layer(&raw.origin()).replay(replay).layer(Protocol::Http1.client());
    let response = client.oneshot(request(&raw.origin())).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    raw.received().try_into().expect("two requests")
}

#[test]
fn the_second_send_equals_the_first_on_the_wire_but_for_the_token() {
    let request = |method: &'static str| {
        move |origin: &str| {
            Request::builder()
                .method(method)
                .uri(format!("{origin}/a/b?x=%2F&y=1&x=2"))
                .header("x-twice", "1")
                .header("accept", "*/*")
                .header("x-twice", "2")
        }
    };
    let (get, post) = (request("GET"), request("POST"));
    run(async move || {
        let full = |origin: &str| post(origin).body(Full::from("the whole body")).expect("a request");
        let chunks = |origin: &str| {
            let trailers = Ok(Frame::trailers(trailers()));
            let body = streamed([data("the whole "), data("body"), trailers]);
            post(origin).header("trailer", "x-sum").header("trailer", "x-count").body(body).expect("a request")
        };
        // The body is read to its end before the rejection, so the second send could know the length. The first did
        // not.
        let unsized_body = |origin: &str| post(origin).body(streamed([data("the whole body")])).expect("a request");
        let sized = |origin: &str| {
            let body = streamed([data("the whole "), data("body")]).of_length(14);
            post(origin).body(body).expect("a request")
        };
        let nothing = |origin: &str| get(origin).body(Full::default()).expect("a request");
        let known = ["content-length: 14\r\n", "\r\n\r\nthe whole body"];
        for (sends, holds) in [
            (on_the_wire(CloneBody, full).await, known),
            (on_the_wire(Buffered::new(1024), full).await, known),
            (on_the_wire(Buffered::new(1024), sized).await, known),
            (
                on_the_wire(Buffered::new(1024), unsized_body).await,
                ["transfer-encoding: chunked\r\n", "body\r\n0\r\n\r\n"],
            ),
            (on_the_wire(|body: &Full<Bytes>| Some(body.clone()), full).await, known),
            (
                on_the_wire(Buffered::new(1024), chunks).await,
                ["transfer-encoding: chunked\r\n", "0\r\nx-sum: 1\r\nx-count: 64\r\n"],
            ),
            (on_the_wire(IfEmpty, nothing).await, ["GET /a/b?x=%2F&y=1&x=2 ", "x-twice: 1\r\nx-twice: 2\r\n"]),
            (on_the_wire(Buffered::new(0), nothing).await, ["GET /a/b?x=%2F&y=1&x=2 ", "x-twice: 1\r\nx-twice: 2\r\n"]),
        ] {
            let [first, second] = sends;
            assert_eq!(first.matches("authorization: Bearer token-1\r\n").count(), 1, "{first}");
            // A recording joins small frames, so they become one chunk.
            let joined = first.replace("A\r\nthe whole \r\n4\r\nbody\r\n", "E\r\nthe whole body\r\n");
            assert_eq!(joined.replace("token-1", "token-2"), second);
            assert!(holds.iter().all(|part| second.contains(part)), "{second}");
            assert!(!second.starts_with("GET") || !second.contains("content-length") && !second.contains("chunked"));
        }
    });
}

#[test]
fn clone_body_retries_a_body_in_memory_and_if_empty_returns_its_rejection() {
    run(async || {
        for protocol in Protocol::BOTH {
            for clones in [true, false] {
                let harness = Harness::revoked().await;
                let (server, uploads) = reading(&harness).await;
                let (layer, http) = (harness.layer(&server.origin()), protocol.client());
                let body = Full::<Bytes>::new(mebibyte().concat().into());
                let request = Request::post(server.origin()).body(body).expect("a request");
                let response = match clones {
                    true => layer.layer(http).oneshot(request).await,
                    false => layer.replay(IfEmpty).layer(http).oneshot(request).await,
                };
                let expected = if clones { "welcome" } else { "expired" };
                assert_eq!(text(response.expect("an answer").into_body()).await, expected);
                // The token is replaced even if the request is not retried.
                until(|| harness.cache.status().generation == 2).await;
                let uploads = uploads.take();
                assert_eq!(uploads.len(), if clones { 2 } else { 1 });
                for upload in uploads {
                    assert!(upload.expect("a whole upload").0 == mebibyte().concat(), "{protocol:?}");
                }
            }
        }
    });
}

#[test]
fn version_uri_and_extensions_are_the_same_both_times() {
    run(async || {
        for (protocol, version) in [(Protocol::Http1, Version::HTTP_11), (Protocol::Http2, Version::HTTP_2)] {
            let harness = Harness::revoked().await;
            let (server, _) = reading(&harness).await;
            let heads = Arc::new(Mutex::new(Vec::new()));
            let inner = {
                let (heads, http) = (Arc::clone(&heads), protocol.client::<ReplayBody<Stream>>());
                service_fn(move |request: Request<ReplayBody<Stream>>| {
                    let extension = request.extensions().get::<&str>().copied();
                    let head = (request.method().clone(), request.uri().clone(), request.version(), extension);
                    heads.lock().expect("no panic").push(head);
                    http.clone().oneshot(request)
                })
            };
            let request = Request::put(format!("{}/a%2Fb?q", server.origin()))
                .version(version)
                .extension("kept")
                .body(streamed([data("body")]));
            let client = harness.layer(&server.origin()).replay(Buffered::new(1024)).layer(inner);
            client.oneshot(request.expect("a request")).await.expect("an answer");
            let heads = heads.lock().expect("no panic");
            assert_eq!((heads.len(), heads[0].2, heads[0].3), (2, version, Some("kept")));
            assert_eq!(heads[0], heads[1]);
            assert!(server.seen().iter().all(|head| head.version == version));
        }
    });
}
