//! The token endpoint of all peers. It is in this process, or behind a loopback socket for peers with their own HTTP
//! client. It counts calls, and knows when each token ends.

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use benches::fixtures;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::Semaphore;
use tower::BoxError;

use crate::now;

/// The issuer. It can be copied and is never dropped, because a process measures only a few times and then ends.
#[derive(Clone, Copy)]
pub struct Issuer(&'static State);

struct State {
    terms: Terms,
    gate: Semaphore,
    calls: AtomicU64,
    sent: AtomicU64,
    expired: AtomicU64,
}

/// The settings of the issuer and the API.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub lifetime: Duration,
    /// The lifetime of the first token, if it differs. The first call is answered at once.
    pub first: Option<Duration>,
    /// How long an answer takes.
    pub takes: Duration,
    /// Whether answers wait until [`Issuer::open`].
    pub held: bool,
    /// Whether the API evaluates the token of each request.
    pub evaluates: bool,
    /// Whether the API leaks requests instead of dropping them, so that dropping them does not count.
    pub leaks: bool,
}

/// Tokens that live for an hour, answered at once.
pub const AN_HOUR: Terms = Terms {
    lifetime: Duration::from_secs(3600),
    first: None,
    takes: Duration::ZERO,
    held: false,
    evaluates: false,
    leaks: false,
};

/// An answer.
pub struct Grant {
    pub access_token: String,
    pub lifetime: Duration,
}

// === impl Issuer ===

impl Issuer {
    pub fn new(terms: Terms) -> Self {
        let [calls, sent, expired] = [const { AtomicU64::new(0) }; 3];
        Self(Box::leak(Box::new(State { terms, gate: Semaphore::new(0), calls, sent, expired })))
    }

    /// Answers one call.
    pub async fn answer(self) -> Grant {
        let Terms { lifetime, first, takes, held, .. } = self.0.terms;
        if self.0.calls.fetch_add(1, Relaxed) == 0
            && let Some(lifetime) = first
        {
            return Grant { access_token: token(lifetime), lifetime };
        }
        if held {
            // Closing the semaphore opens the gate, because it wakes all callers that wait.
            let _ = self.0.gate.acquire().await;
        }
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Grant { access_token: token(lifetime), lifetime }
    }

    /// The same as JSON (RFC 6749 section 5.1).
    pub async fn answer_json(self) -> Value {
        let Grant { access_token, lifetime } = self.answer().await;
        json!({ "access_token": access_token, "token_type": "Bearer", "expires_in": lifetime.as_secs() })
    }

    /// Sends the answers that were held.
    pub fn open(self) {
        self.0.gate.close();
    }

    /// The number of calls so far.
    pub fn calls(self) -> u64 {
        self.0.calls.load(Relaxed)
    }

    /// The number of requests that reached the API with a token.
    pub fn sent(self) -> u64 {
        self.0.sent.load(Relaxed)
    }

    /// The number of requests whose token had expired.
    pub fn expired(self) -> u64 {
        self.0.expired.load(Relaxed)
    }

    /// A request reaches the API, which may evaluate its token.
    pub fn evaluate<'a>(self, authorization: impl FnOnce() -> Option<&'a [u8]>) {
        if self.0.terms.evaluates {
            let token = authorization().and_then(|value| value.strip_prefix(b"Bearer ")).expect("a bearer token");
            let ends = token[..DIGITS].iter().fold(0, |ends, digit| ends * 10 + u128::from(digit - b'0'));
            self.0.sent.fetch_add(1, Relaxed);
            self.0.expired.fetch_add(u64::from(age() > ends), Relaxed);
        }
    }

    /// Whether the API leaks its requests.
    pub fn leaks(self) -> bool {
        self.0.terms.leaks
    }

    /// Drops a request at the API, or leaks it.
    #[inline(never)]
    pub fn finish<T>(self, request: T) {
        if self.leaks() {
            std::mem::forget(request);
        }
    }

    /// Serves the endpoint on its own thread.
    pub fn serve(self) -> Result<SocketAddr, BoxError> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || runtime.block_on(self.accept(listener)));
        Ok(address)
    }

    async fn accept(self, listener: std::net::TcpListener) -> Result<(), BoxError> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = service_fn(move |request: Request<Incoming>| async move {
                let text = match *request.method() {
                    Method::POST => self.answer_json().await.to_string(),
                    // The subject token that yup-oauth2 exchanges.
                    _ => "subject".to_owned(),
                };
                let response = Response::builder().header("content-type", "application/json");
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).expect("a response"))
            });
            crate::spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

/// A token begins with its end, in microseconds of this process, with this number of digits.
const DIGITS: usize = 20;

fn token(lifetime: Duration) -> String {
    let ends = age() + lifetime.as_micros();
    format!("{ends:0DIGITS$}{}", &fixtures::token()[DIGITS..])
}

fn age() -> u128 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(now);
    let began = *BEGAN;
    now().duration_since(began).as_micros()
}
