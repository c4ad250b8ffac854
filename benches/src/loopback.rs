//! A client and a server over a loopback socket, on one thread.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceExt};

use crate::fixtures::Body;

/// hyper-util's client.
pub type HyperClient = Client<HttpConnector, Body>;

/// A server and a client on one runtime.
pub struct Loopback {
    runtime: Runtime,
    address: SocketAddr,
    http2: bool,
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::from("{}")))
}

impl Loopback {
    /// Starts a server that answers every request with 200.
    #[expect(clippy::disallowed_methods, reason = "a benchmark's server spawns its connections")]
    pub fn new(http2: bool) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).expect("a socket");
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service_fn(answer)).await;
                });
            }
        });
        Self { runtime, address, http2 }
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client with its own connection pool.
    pub fn client(&self) -> HyperClient {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client::builder(TokioExecutor::new()).http2_only(self.http2).build(connector)
    }

    /// Sends this number of requests, one after the other.
    #[inline(never)]
    pub fn ask<S>(&self, service: &mut S, requests: u64)
    where
        S: Service<Request<Body>, Response = Response<Incoming>, Error: std::fmt::Debug>,
    {
        let uri = format!("{}/v1/things/42", self.origin());
        self.runtime.block_on(async {
            for _ in 0..requests {
                let request = Request::post(&uri).header("accept", "application/json").body(Body::from("{}"));
                let ready = service.ready().await.expect("ready");
                let answer = ready.call(request.expect("a request")).await.expect("an answer");
                answer.into_body().collect().await.expect("a body");
            }
        });
    }
}
