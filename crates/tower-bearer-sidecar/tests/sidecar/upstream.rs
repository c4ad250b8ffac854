//! An API that streams, supports WebSockets, and records its requests.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A recorded request.
#[derive(Clone, Default)]
pub(crate) struct Upstream {
    heads: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

type Body = BoxBody<Bytes, hyper::Error>;

// === impl Upstream ===

impl Upstream {
    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let upstream = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(upstream.clone().connection(stream));
            }
        });
        base
    }

    pub(crate) async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let service = service_fn(move |request| self.clone().answer(request));
        let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.heads.lock().unwrap().clone()
    }

    /// The only recorded request.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{:?}", seen.iter().map(|seen| &seen.target).collect::<Vec<_>>());
        seen[0].clone()
    }

    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        self.heads.lock().unwrap().push(Seen {
            target: request.uri().to_string(),
            version: request.version(),
            headers: request.headers().clone(),
        });
        let mut response = Response::new(Body::default());
        match request.uri().path() {
            // Sends each frame back when it arrives.
            "/echo" => return Ok(Response::new(request.into_body().boxed())),
            "/redirect" => {
                *response.status_mut() = StatusCode::FOUND;
                response.headers_mut().insert("location", "https://elsewhere.example/next?a=b".parse().unwrap());
            }
            "/hop" => {
                for (name, value) in [("keep-alive", "timeout=5"), ("connection", "x-private"), ("x-private", "1")] {
                    response.headers_mut().insert(name, value.parse().unwrap());
                }
                response.headers_mut().insert("x-public", "2".parse().unwrap());
            }
            // A mapped body has no known length.
            "/unsized" => {
                let body = Full::from("unsized").map_err(|never| match never {});
                return Ok(Response::new(body.map_frame(|frame| frame).boxed()));
            }
            "/never" => std::future::pending().await,
            "/socket-after-a-401" if self.seen().len() == 1 => *response.status_mut() = StatusCode::UNAUTHORIZED,
            "/socket" | "/socket-after-a-401" => {
                let key = derive_accept_key(request.headers()[SEC_WEBSOCKET_KEY].as_bytes());
                let upgraded = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let stream = TokioIo::new(upgraded.await.unwrap());
                    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_text() || message.is_binary() {
                            socket.send(message).await.unwrap();
                        }
                    }
                });
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(CONNECTION, "Upgrade".parse().unwrap());
                headers.insert(UPGRADE, "websocket".parse().unwrap());
                headers.insert(SEC_WEBSOCKET_ACCEPT, key.parse().unwrap());
            }
            _ => {
                let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap());
                let body = json!({ "method": request.method().as_str(), "authorization": authorization }).to_string();
                let body = Full::from(body).map_err(|never| match never {});
                return Ok(Response::new(body.boxed()));
            }
        }
        Ok(response)
    }
}
