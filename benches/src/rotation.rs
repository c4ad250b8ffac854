//! Load at a fixed rate while tokens come and go. The load is open: a request's time counts from when it was meant to
//! arrive, so that a stall counts for all who arrive during it, and not only for the one that met it (coordinated
//! omission).
//!
//! The contenders take turns, request by request, in one stream: what the machine does besides is done to all.

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

use crate::layers::named;
use crate::world::{Body, ORIGIN, request};

/// One course of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub life: Duration,
    /// How long the issuer takes.
    pub fetch: Duration,
    pub lasts: Duration,
    /// Requests a second, for each contender.
    pub rate: u32,
    /// The issuer fails in the middle third.
    pub fails: bool,
}

/// What the requests saw.
pub struct Report {
    /// In nanoseconds, of those that were answered.
    pub latency: Histogram<u64>,
    /// When a request was meant to arrive, and its latency.
    pub course: Vec<(Duration, Duration)>,
    /// That were not answered when they were first asked: free of what else the machine did meanwhile.
    pub waited: u64,
    pub failed: u64,
    pub expired_sent: u64,
    pub fetches: u64,
}

/// An issuer whose tokens say when they end, and the API that reads it.
#[derive(Clone)]
pub struct Place(Arc<Grounds>);

struct Grounds {
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

impl Place {
    fn new(plan: Plan) -> Self {
        let (fetches, expired_sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Grounds { plan, begin: now(), fetches, expired_sent, failing: AtomicBool::new(false) }))
    }

    /// A token's text, and how long it lives. Its life begins when it is asked for.
    pub async fn fetch(&self) -> Result<(String, Duration), BoxError> {
        let Self(grounds) = self;
        grounds.fetches.fetch_add(1, Ordering::Relaxed);
        let end = grounds.begin.elapsed() + grounds.plan.life;
        tokio::time::sleep(grounds.plan.fetch).await;
        if grounds.failing.load(Ordering::Relaxed) {
            return Err("the issuer is away".into());
        }
        Ok((end.as_nanos().to_string(), grounds.plan.life))
    }
}

impl Service<Request<Body>> for Place {
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

/// A contender over its place.
pub type Client = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// One contender's share of a run.
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

    fn report(&self, Place(grounds): &Place) -> Report {
        let course = mem::take(&mut *self.course.lock().expect("no panic"));
        let mut latency = Histogram::new(3).expect("three digits");
        course.iter().for_each(|(_, taken)| latency.record(taken.as_nanos() as u64).expect("it grows"));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (waited, failed) = (count(&self.waited), count(&self.failed));
        let (expired_sent, fetches) = (count(&grounds.expired_sent), count(&grounds.fetches));
        Report { latency, course, waited, failed, expired_sent, fetches }
    }
}

/// Runs the plan on the current runtime.
#[expect(clippy::disallowed_methods, reason = "a benchmark spawns its requests")]
pub async fn run<const N: usize>(plan: Plan, contenders: [fn(Place) -> Client; N]) -> [Report; N] {
    let turns = (plan.lasts.as_secs_f64() * f64::from(plan.rate)) as u32;
    let places: [Place; N] = array::from_fn(|_| Place::new(plan));
    let clients: [Client; N] = array::from_fn(|number| contenders[number](places[number].clone()));
    let lanes: [Arc<Lane>; N] = array::from_fn(|_| Arc::default());
    for (client, lane) in clients.iter().zip(&lanes) {
        lane.course.lock().expect("no panic").reserve(turns as usize);
        // The first token is no rotation.
        let _ = client.clone().oneshot(request(4)).await;
    }
    let (begin, requests) = (now(), turns * N as u32);
    for number in 0..requests {
        let meant = plan.lasts * number / requests;
        // Waking a thread that sleeps takes longer than what is measured.
        while begin.elapsed() < meant {
            tokio::task::yield_now().await;
        }
        let third = number / N as u32 * 3 / turns;
        let lane = number as usize % N;
        places[lane].0.failing.store(plan.fails && third == 1, Ordering::Relaxed);
        let (client, lane) = (clients[lane].clone(), Arc::clone(&lanes[lane]));
        tokio::spawn(async move { lane.send(client, begin, meant).await });
    }
    while lanes.iter().any(|lane| lane.done() < u64::from(turns)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    array::from_fn(|number| lanes[number].report(&places[number]))
}

// === the contenders ===

/// No token at all.
pub fn without(place: Place) -> Client {
    Client::new(place)
}

/// The README's configuration, but for the second send.
pub fn ours(place: Place) -> Client {
    let issuer = place.clone();
    let fetch = move |_| {
        let issuer = issuer.clone();
        async move {
            let (text, life) = issuer.fetch().await?;
            Ok::<_, BoxError>(Token::new(text)?.with_lifetime(life))
        }
    };
    Client::new(named(&TokenCache::new(fetch), ORIGIN).replay(Never).layer(place))
}

/// What many write by hand: fetches when the token has expired, under a lock that all requests take.
#[derive(Clone)]
struct OnExpiry {
    place: Place,
    held: Arc<tokio::sync::Mutex<Option<(HeaderValue, Instant)>>>,
}

pub fn on_expiry(place: Place) -> Client {
    Client::new(OnExpiry { place, held: Arc::default() })
}

impl Service<Request<Body>> for OnExpiry {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Self { mut place, held } = self.clone();
        Box::pin(async move {
            let mut held = held.lock().await;
            let value = match &*held {
                Some((value, end)) if now() < *end => value.clone(),
                _ => {
                    let asked = now();
                    let (text, life) = place.fetch().await?;
                    let value = HeaderValue::from_str(&format!("Bearer {text}"))?;
                    *held = Some((value.clone(), asked + life));
                    value
                }
            };
            drop(held);
            request.headers_mut().insert(AUTHORIZATION, value);
            place.call(request).await
        })
    }
}
