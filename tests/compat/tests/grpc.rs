//! gRPC through the layer: a tonic `Channel` over a loopback socket, and a server that rejects the first token as
//! gRPC servers do, with `grpc-status: 16` in the headers of a 200.
#![expect(clippy::disallowed_methods, reason = "the server spawns its connections")]

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::{BoxError, Layer};
use tower_bearer::replay::Buffered;
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, RejectionPolicy, Token, TokenCache};

const REJECTED: &str = "Bearer token-1";

// === the server ===

/// The calls that the server received: the path, and the token.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(String, String)>>>);

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// Joins the messages of a call. Each has a prefix: whether it is compressed, and its length.
fn gathered(mut messages: Bytes) -> Bytes {
    let mut all = BytesMut::new();
    while messages.has_remaining() {
        messages.advance(1);
        let length = messages.get_u32() as usize;
        all.put(messages.split_to(length));
    }
    let mut one = BytesMut::from(&[0][..]);
    one.put_u32(u32::try_from(all.len()).expect("few"));
    one.put(all);
    one.freeze()
}

impl Asked {
    fn tokens(&self) -> Vec<String> {
        self.0.lock().expect("no panic").iter().map(|(_, token)| token.clone()).collect()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
        let path = request.uri().path().to_owned();
        let token = request.headers().get(AUTHORIZATION).expect("a token").to_str().expect("text").to_owned();
        self.0.lock().expect("no panic").push((path.clone(), token.clone()));
        let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
        if token == REJECTED {
            // Trailers-only: there is no body, and the status is in the headers. The call's messages are not read.
            let response = response.header("grpc-status", "16").header("grpc-message", "token%20revoked");
            return Ok(response.body(Empty::new().map_err(never).boxed_unsync()).expect("a response"));
        }
        let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from(0))]);
        let trailers = ready(Some(Ok(trailers)));
        let body = if path.ends_with("/Echo") {
            request.into_body().with_trailers(trailers).boxed_unsync()
        } else {
            let messages = request.into_body().collect().await?.to_bytes();
            let answer = match path.as_str() {
                "/test.Echo/Thrice" => Bytes::from(messages.repeat(3)),
                "/test.Echo/Gather" => gathered(messages),
                _ => messages,
            };
            Full::new(answer).map_err(never).with_trailers(trailers).boxed_unsync()
        };
        Ok(response.body(body).expect("a response"))
    }
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}

/// Serves until the test's runtime ends.
async fn serve(asked: Asked) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = asked.clone();
            let service = service_fn(move |request| asked.clone().answer(request));
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

// === the client ===

/// A codec whose messages are bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let mut item = BytesMut::new();
        item.put(from.copy_to_bytes(from.remaining()));
        Ok(Some(item.freeze()))
    }
}

/// The service that a generated client takes.
trait Service: GrpcService<Body, ResponseBody = Body, Error = BoxError> {}
impl<S: GrpcService<Body, ResponseBody = Body, Error = BoxError>> Service for S {}

/// The inner part of a generated client over the layer, with a first token that is old enough to be rejected.
async fn client(asked: &Asked, rejection: RejectionPolicy) -> (Grpc<impl Service>, TokenCache) {
    let origin = format!("http://{}", serve(asked.clone()).await);
    let source = |context: tower_bearer::FetchContext| {
        ready(Token::new(if context.replaced().is_none() { "token-1" } else { "token-2" }))
    };
    let clock = ManualClock::new();
    let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
    cache.get().await.expect("a token");
    clock.advance(Duration::from_secs(2));

    let channel = Endpoint::from_shared(origin.clone()).expect("a URL").connect().await.expect("a connection");
    let layer = BearerLayer::new(cache.clone(), [&origin]).expect("an origin").rejection_policy(rejection);
    // A Channel's requests are paths, and only the Channel knows the host.
    let layer = layer.allow_relative_uris();
    let layer = layer.replay(Buffered::new(64 * 1024).wrap(Body::new));
    (Grpc::new(layer.layer(channel)), cache)
}

/// Makes one call and returns all of its answers.
async fn ask(mut grpc: Grpc<impl Service>, path: &'static str, message: &'static str) -> Result<Vec<Bytes>, Status> {
    grpc.ready().await.expect("the channel is ready");
    let path = PathAndQuery::from_static(path);
    let request = tonic::Request::new(Bytes::from_static(message.as_bytes()));
    if path.path().ends_with("/Thrice") {
        let mut answers = grpc.server_streaming(request, path, Raw).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.push(answer);
        }
        Ok(all)
    } else {
        Ok(vec![grpc.unary(request, path, Raw).await?.into_inner()])
    }
}

// === the tests ===

#[tokio::test]
async fn a_unary_call_that_was_rejected_succeeds_with_a_new_token() {
    let asked = Asked::default();
    let (grpc, cache) = client(&asked, RejectionPolicy::new().grpc()).await;
    assert_eq!(ask(grpc, "/test.Echo/Once", "hello").await.expect("an answer"), ["hello"]);
    assert_eq!(asked.tokens(), [REJECTED, "Bearer token-2"]);
    assert_eq!(cache.status().generation, 2);
}

#[tokio::test]
async fn a_streaming_call_that_was_rejected_succeeds_with_a_new_token() {
    let asked = Asked::default();
    let (grpc, cache) = client(&asked, RejectionPolicy::new().grpc()).await;
    assert_eq!(ask(grpc, "/test.Echo/Thrice", "hello").await.expect("answers"), ["hello"; 3]);
    assert_eq!(asked.tokens(), [REJECTED, "Bearer token-2"]);
    assert_eq!(cache.status().generation, 2);
}

#[tokio::test]
async fn the_caller_gets_unauthenticated_without_the_grpc_setting() {
    for path in ["/test.Echo/Once", "/test.Echo/Thrice"] {
        let asked = Asked::default();
        let (grpc, cache) = client(&asked, RejectionPolicy::new()).await;
        let status = ask(grpc, path, "hello").await.expect_err("a rejection");
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "token revoked"));
        assert_eq!(asked.tokens(), [REJECTED]);
        assert_eq!(cache.status().generation, 1);
    }
}

/// The three messages of a stream.
fn three() -> tonic::Request<impl futures_core::Stream<Item = Bytes> + Send + 'static> {
    tonic::Request::new(tokio_stream::iter(["one", "two", "three"].map(Bytes::from)))
}

#[tokio::test]
async fn a_rejected_stream_of_messages_is_sent_again_from_its_beginning() {
    let asked = Asked::default();
    let (mut grpc, cache) = client(&asked, RejectionPolicy::new().grpc()).await;
    grpc.ready().await.expect("the channel is ready");
    let path = PathAndQuery::from_static("/test.Echo/Gather");
    let answer = grpc.client_streaming(three(), path, Raw).await.expect("an answer");
    assert_eq!(answer.into_inner(), "onetwothree");
    assert_eq!(asked.tokens(), [REJECTED, "Bearer token-2"]);
    assert_eq!(cache.status().generation, 2);
}

#[tokio::test]
async fn a_rejected_bidirectional_stream_continues_with_a_new_token() {
    let asked = Asked::default();
    let (mut grpc, cache) = client(&asked, RejectionPolicy::new().grpc()).await;
    grpc.ready().await.expect("the channel is ready");
    let (say, messages) = tokio::sync::mpsc::unbounded_channel();
    // This message is sent before the rejection, and therefore twice.
    say.send(Bytes::from("one")).expect("the call is not over");
    let messages = tonic::Request::new(tokio_stream::wrappers::UnboundedReceiverStream::new(messages));
    let call = grpc.streaming(messages, PathAndQuery::from_static("/test.Echo/Echo"), Raw);
    let mut answers = within_a_minute(call).await.expect("an answer").into_inner();
    assert_eq!(within_a_minute(answers.message()).await.expect("no error").expect("a message"), "one");
    for message in ["two", "three"] {
        // Each message is sent when the previous one has come back.
        say.send(Bytes::from(message)).expect("the call is not over");
        assert_eq!(within_a_minute(answers.message()).await.expect("no error").expect("a message"), message);
    }
    drop(say);
    assert!(within_a_minute(answers.message()).await.expect("no error").is_none());
    assert_eq!(asked.tokens(), [REJECTED, "Bearer token-2"]);
    assert_eq!(cache.status().generation, 2);
}

/// Turns a hang into a failure with a message.
async fn within_a_minute<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("no side waits for a message that is not sent yet")
}
