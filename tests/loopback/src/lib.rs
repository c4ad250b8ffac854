//! Servers on loopback sockets, for the tests and the examples of the client stacks.
#![expect(clippy::disallowed_methods, reason = "servers are tasks")]

use std::future::ready;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt, service_fn};
use tower_bearer::testing::{Api, TokenServer};

#[cfg(feature = "tls")]
pub mod tls;

/// A server for HTTP/1.1 and HTTP/2, which runs as long as its runtime.
#[derive(Clone, Debug)]
pub struct Server {
    origin: String,
    seen: Arc<Mutex<Vec<Parts>>>,
}

// === impl Server ===

impl Server {
    /// Serves `service`, which reads request bodies as they arrive.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn start<S, B>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
        S: Clone + Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Self::accept("http", service, |socket| ready(Ok(socket))).await
    }

    /// Serves a fake, whose bodies are in memory.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn fake<S>(fake: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>,
        S: Clone + Send + 'static,
    {
        Self::start(whole(fake)).await
    }

    async fn accept<S, B, F, T, I>(scheme: &str, service: S, handshake: F) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
        S: Clone + Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
        F: Fn(TcpStream) -> T + Send + 'static,
        T: Future<Output = std::io::Result<I>> + Send + 'static,
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Self { origin: format!("{scheme}://127.0.0.1:{port}"), seen: Arc::default() };
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, seen, handshake) = (service.clone(), Arc::clone(&seen), handshake(socket));
                let noted = service_fn(move |request: Request<Incoming>| {
                    let (head, body) = request.into_parts();
                    seen.lock().expect("no panic").push(head.clone());
                    service.clone().oneshot(Request::from_parts(head, body))
                });
                tokio::spawn(async move {
                    let Ok(socket) = handshake.await else { return };
                    let connection = auto::Builder::new(TokioExecutor::new());
                    // A client that closes the connection is not a failure of the server.
                    let _ = connection.serve_connection(TokioIo::new(socket), TowerToHyperService::new(noted)).await;
                });
            }
        });
        server
    }

    /// `http://127.0.0.1:port`
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The origin, and a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// The heads of all requests so far.
    pub fn seen(&self) -> Vec<Parts> {
        self.seen.lock().expect("no panic").clone()
    }

    /// The `Authorization` headers of all requests so far; empty for a request without one.
    pub fn tokens(&self) -> Vec<String> {
        let text = |head: Parts| {
            let values = head.headers.get_all(AUTHORIZATION).iter();
            values.map(|value| value.to_str().expect("text").to_owned()).collect::<Vec<_>>().join(" and ")
        };
        self.seen().into_iter().map(text).collect()
    }
}

/// A token endpoint at `/token`, and an API everywhere else.
pub fn site(
    issuer: &TokenServer,
    api: &Api,
) -> BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError> {
    let (issuer, api) = (issuer.clone(), api.clone());
    BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| -> Answer {
        match request.uri().path() {
            "/token" => Box::pin(issuer.clone().oneshot(request)),
            _ => Box::pin(api.clone().oneshot(request)),
        }
    }))
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send>>;

/// A service that reads the whole body before `fake` gets the request.
fn whole<S>(
    fake: S,
) -> impl Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send> + Clone
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>,
    S: Clone + Send + 'static,
{
    service_fn(move |request: Request<Incoming>| -> Answer {
        let fake = fake.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            fake.oneshot(Request::from_parts(head, Full::new(body))).await
        })
    })
}
