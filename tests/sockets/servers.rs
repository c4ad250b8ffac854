//! Hyper's server on loopback, which records its connections and requests, and bodies to send.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::BoxError;

pub(crate) type Answer = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    accepted: AtomicUsize,
    seen: Mutex<Vec<Parts>>,
}

/// A body whose frames the test sends.
pub(crate) struct Stream {
    frames: UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    /// The remaining length, if it is known.
    remaining: Option<u64>,
}

/// The sender of the frames of a [`Stream`]. The body ends when it is dropped.
pub(crate) type Frames = UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// An upload that a server received: its bytes and trailers, or the error that ended it.
pub(crate) type Upload = Result<(Bytes, Option<HeaderMap>), hyper::Error>;

#[derive(Clone, Default)]
pub(crate) struct Uploads(Arc<Mutex<Vec<Upload>>>);

// === impl Server ===

impl Server {
    /// Starts a server that speaks HTTP/1.1 or HTTP/2, as the client does.
    pub(crate) async fn start<F, T>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> T + Clone + Send + Sync + 'static,
        T: Future<Output = Response<Answer>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let server = Self { address: listener.local_addr().expect("an address"), log: Arc::default() };
        let log = Arc::clone(&server.log);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                log.accepted.fetch_add(1, Ordering::SeqCst);
                let (log, answer) = (Arc::clone(&log), answer.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (head, body) = request.into_parts();
                    log.seen.lock().expect("no panic").push(head.clone());
                    let answer = answer(Request::from_parts(head, body));
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    // A client that closes the connection is not a failure of the server.
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(socket), service).await;
                });
            }
        });
        server
    }

    /// `http://127.0.0.1:port`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The number of connections.
    pub(crate) fn accepted(&self) -> usize {
        self.log.accepted.load(Ordering::SeqCst)
    }

    /// The heads of all requests so far.
    pub(crate) fn seen(&self) -> Vec<Parts> {
        self.log.seen.lock().expect("no panic").clone()
    }

    /// The `Authorization` header of each request so far, or an empty text.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let text = |head: Parts| {
            let values: Vec<_> =
                head.headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().expect("text")).collect();
            values.join(" and ")
        };
        self.seen().into_iter().map(text).collect()
    }
}

// === impl Uploads ===

impl Uploads {
    /// Reads an upload to its end, and records it.
    pub(crate) async fn receive(&self, body: Incoming) {
        let upload = read(body).await;
        self.0.lock().expect("no panic").push(upload);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    pub(crate) fn take(&self) -> Vec<Upload> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

// === bodies ===

/// An answer with a body of any kind.
pub(crate) fn streaming<B>(status: u16, body: B) -> Response<Answer>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Response::builder().status(status).body(UnsyncBoxBody::new(body.map_err(Into::into))).expect("an answer")
}

/// An answer with a body of known length.
pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Response<Answer> {
    streaming(status, Full::new(body.into()))
}

pub(crate) fn stream() -> (Frames, Stream) {
    let (sender, frames) = unbounded_channel();
    (sender, Stream { frames, remaining: None })
}

/// A stream of these frames, which are all available.
pub(crate) fn streamed(frames: impl IntoIterator<Item = Result<Frame<Bytes>, BoxError>>) -> Stream {
    let (sender, stream) = stream();
    frames.into_iter().for_each(|frame| sender.send(frame).expect("the stream is here"));
    stream
}

pub(crate) fn data(data: impl Into<Bytes>) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(data.into()))
}

/// Reads a body to its end.
pub(crate) async fn read<B: Body<Data = Bytes>>(body: B) -> Result<(Bytes, Option<HeaderMap>), B::Error> {
    let whole = body.collect().await?;
    let trailers = whole.trailers().cloned();
    Ok((whole.to_bytes(), trailers))
}

/// Reads a body to its end, as text.
pub(crate) async fn text<B: Body<Data = Bytes, Error: std::fmt::Debug>>(body: B) -> String {
    let (bytes, _) = read(body).await.expect("a whole body");
    String::from_utf8(bytes.into()).expect("text")
}

// === impl Stream ===

impl Stream {
    /// Makes the length known in advance.
    pub(crate) fn of_length(self, length: usize) -> Self {
        Self { remaining: Some(length as u64), ..self }
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.frames.poll_recv(cx));
        if let (Some(remaining), Some(Ok(frame))) = (&mut self.remaining, &frame) {
            *remaining -= frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
