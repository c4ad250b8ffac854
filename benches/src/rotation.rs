//! Load at a fixed rate during the rotation of tokens. The load is open: a request's time counts from its scheduled
//! arrival. So a stall counts for all requests that arrive during it, and not only for the first (coordinated
//! omission).
//!
//! The contenders take turns, request by request, in one stream, so that other work on the machine affects all equally.

use std::array;
use std::future::{Ready, poll_fn, ready};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::replay::Never;
use tower_bearer::{Token, TokenCache};

use crate::fixtures::{Body, ORIGIN, request};
use crate::layers::named;

/// The parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub life: Duration,
    /// How long a token call takes.
    pub fetch: Duration,
    pub lasts: Duration,
    /// Requests a second, for each contender.
    pub rate: u32,
    /// Whether the issuer fails in the middle third.
    pub fails: bool,
}

/// The results of the requests.
pub struct Report {
    /// The latencies of answered requests, in nanoseconds.
    pub latency: Histogram<u64>,
    /// The scheduled arrival of each request, and its latency.
    pub course: Vec<(Duration, Duration)>,
    /// Requests that were pending at their first poll. Other work on the machine does not affect this number.
    pub waited: u64,
    pub failed: u64,
    pub expired_sent: u64,
    pub fetches: u64,
}

/// An issuer whose tokens contain their end, and the API that reads it.
#[derive(Clone)]
pub struct Servers(Arc<State>);

struct State {
    plan: Plan,
    begin: Instant,
    fetches: AtomicU64,
    expired_sent: AtomicU64,
    failing: AtomicBool,
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

impl Servers {
    fn new(plan: Plan) -> Self {
        let (fetches, expired_sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(State { plan, begin: now(), fetches, expired_sent, failing: AtomicBool::new(false) }))
    }

    /// Returns a token's text and its lifetime, which begins when the call arrives.
    pub async fn fetch(&self) -> Result<(String, Duration), BoxError> {
        let Self(state) = self;
        state.fetches.fetch_add(1, Ordering::Relaxed);
        let end = state.begin.elapsed() + state.plan.life;
        tokio::time::sleep(state.plan.fetch).await;
        if state.failing.load(Ordering::Relaxed) {
            return Err("the issuer is away".into());
        }
        Ok((end.as_nanos().to_string(), state.plan.life))
    }
}

impl Service<Request<Body>> for Servers {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let end = token.and_then(|token| token.parse().ok()).map(Duration::from_nanos);
        if end.is_some_and(|end| self.0.begin.elapsed() > end) {
            self.0.expired_sent.fetch_add(1, Ordering::Relaxed);
        }
        ready(Ok(Response::new(Body::default())))
    }
}

/// A contender over its servers.
pub type Client = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// The results of one contender.
#[derive(Default)]
struct Lane {
    course: Mutex<Vec<(Duration, Duration)>>,
    waited: AtomicU64,
    failed: AtomicU64,
}

impl Lane {
    async fn send(&self, client: Client, begin: Instant, meant: Duration) {
        let mut answer = pin!(client.oneshot(request(4)));
        let answer = match poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                self.waited.fetch_add(1, Ordering::Relaxed);
                answer.await
            }
        };
        match answer {
            Ok(_) => {
                let latency = begin.elapsed().saturating_sub(meant);
                self.course.lock().expect("no panic").push((meant, latency));
            }
            Err(_) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn done(&self) -> u64 {
        self.course.lock().expect("no panic").len() as u64 + self.failed.load(Ordering::Relaxed)
    }

    fn report(&self, Servers(state): &Servers) -> Report {
        let course = mem::take(&mut *self.course.lock().expect("no panic"));
        let mut latency = Histogram::new(3).expect("three digits");
        course.iter().for_each(|(_, taken)| latency.record(taken.as_nanos() as u64).expect("it grows"));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (waited, failed) = (count(&self.waited), count(&self.failed));
        let (expired_sent, fetches) = (count(&state.expired_sent), count(&state.fetches));
        Report { latency, course, waited, failed, expired_sent, fetches }
    }
}

/// Runs the plan on the current runtime.
#[expect(clippy::disallowed_methods, reason = "a benchmark spawns its requests")]
pub async fn run<const N: usize>(plan: Plan, contenders: [fn(Servers) -> Client; N]) -> [Report; N] {
    let turns = (plan.lasts.as_secs_f64() * f64::from(plan.rate)) as u32;
    let servers: [Servers; N] = array::from_fn(|_| Servers::new(plan));
    let clients: [Client; N] = array::from_fn(|number| contenders[number](servers[number].clone()));
    let lanes: [Arc<Lane>; N] = array::from_fn(|_| Arc::default());
    for (client, lane) in clients.iter().zip(&lanes) {
        lane.course.lock().expect("no panic").reserve(turns as usize);
        // The first token is not a rotation.
        let _ = client.clone().oneshot(request(4)).await;
    }
    let (begin, requests) = (now(), turns * N as u32);
    for number in 0..requests {
        let meant = plan.lasts * number / requests;
        // It spins, because waking a sleeping thread takes longer than the measured time.
        while begin.elapsed() < meant {
            tokio::task::yield_now().await;
        }
        let third = number / N as u32 * 3 / turns;
        let lane = number as usize % N;
        servers[lane].0.failing.store(plan.fails && third == 1, Ordering::Relaxed);
        let (client, lane) = (clients[lane].clone(), Arc::clone(&lanes[lane]));
        tokio::spawn(async move { lane.send(client, begin, meant).await });
    }
    while lanes.iter().any(|lane| lane.done() < u64::from(turns)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    array::from_fn(|number| lanes[number].report(&servers[number]))
}

// === the contenders ===

/// No token at all.
pub fn without(servers: Servers) -> Client {
    Client::new(servers)
}

/// The README's configuration without a second send.
pub fn ours(servers: Servers) -> Client {
    let issuer = servers.clone();
    let fetch = move |_| {
        let issuer = issuer.clone();
        async move {
            let (text, life) = issuer.fetch().await?;
            Ok::<_, BoxError>(Token::new(text)?.with_lifetime(life))
        }
    };
    Client::new(named(&TokenCache::new(fetch), ORIGIN).replay(Never).layer(servers))
}

/// A typical hand-written client: it fetches when the token has expired, under a lock that all requests take.
#[derive(Clone)]
struct OnExpiry {
    servers: Servers,
    held: Arc<tokio::sync::Mutex<Option<(HeaderValue, Instant)>>>,
}

pub fn on_expiry(servers: Servers) -> Client {
    Client::new(OnExpiry { servers, held: Arc::default() })
}

impl Service<Request<Body>> for OnExpiry {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Self { mut servers, held } = self.clone();
        Box::pin(async move {
            let mut held = held.lock().await;
            let value = match &*held {
                Some((value, end)) if now() < *end => value.clone(),
                _ => {
                    let asked = now();
                    let (text, life) = servers.fetch().await?;
                    let value = HeaderValue::from_str(&format!("Bearer {text}"))?;
                    *held = Some((value.clone(), asked + life));
                    value
                }
            };
            drop(held);
            request.headers_mut().insert(AUTHORIZATION, value);
            servers.call(request).await
        })
    }
}
