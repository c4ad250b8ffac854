//! Load at a fixed rate while tokens come and go. The load is open: a request's time counts from when it was meant to
//! arrive, so that a stall counts for all who arrive during it, and not only for the one that met it (coordinated
//! omission).

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tokio::sync::Mutex;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::resend::Never;
use tower_bearer::{Bearer, Token, TokenCache};

use crate::layers::named;
use crate::world::{Body, ORIGIN, request};

/// One course of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub life: Duration,
    /// How long the issuer takes.
    pub fetch: Duration,
    pub lasts: Duration,
    /// Requests a second.
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

/// Runs the plan on the current runtime.
#[expect(clippy::disallowed_methods, reason = "a benchmark spawns its requests")]
pub async fn run<S>(plan: Plan, layer: impl FnOnce(Place) -> S) -> Report
where
    S: Service<Request<Body>, Response = Response<Body>, Error: Send, Future: Send> + Clone + Send + 'static,
{
    let place = Place::new(plan);
    let service = layer(place.clone());
    // The first token is no rotation.
    let _ = service.clone().oneshot(request(4)).await;
    let requests = (plan.lasts.as_secs_f64() * f64::from(plan.rate)) as u32;
    let course = Arc::new(std::sync::Mutex::new(Vec::with_capacity(requests as usize)));
    let failed = Arc::new(AtomicU64::new(0));
    let begin = now();
    for number in 0..requests {
        let meant = plan.lasts * number / requests;
        while let Some(early) = meant.checked_sub(begin.elapsed()).filter(|early| !early.is_zero()) {
            // The thread sleeps, and not the task: tokio's timers count in milliseconds, and who never sleeps is soon
            // put to sleep by a busy machine.
            std::thread::sleep(early);
            tokio::task::yield_now().await;
        }
        let third = number * 3 / requests;
        place.0.failing.store(plan.fails && third == 1, Ordering::Relaxed);
        let (service, course, failed) = (service.clone(), Arc::clone(&course), Arc::clone(&failed));
        tokio::spawn(async move {
            if service.oneshot(request(4)).await.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let latency = begin.elapsed().saturating_sub(meant);
            course.lock().expect("no panic").push((meant, latency));
        });
    }
    while course.lock().expect("no panic").len() as u64 + failed.load(Ordering::Relaxed) < u64::from(requests) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let course = std::mem::take(&mut *course.lock().expect("no panic"));
    let mut latency = Histogram::new(3).expect("three digits");
    course.iter().for_each(|(_, taken)| latency.record(taken.as_nanos() as u64).expect("it grows"));
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (expired_sent, fetches) = (count(&place.0.expired_sent), count(&place.0.fetches));
    Report { latency, course, failed: count(&failed), expired_sent, fetches }
}

// === the contenders ===

/// No token at all.
pub fn without(place: Place) -> Place {
    place
}

/// The README's configuration, but for the second send.
pub fn ours(place: Place) -> Bearer<Place, Never> {
    let issuer = place.clone();
    let fetch = move |_| {
        let issuer = issuer.clone();
        async move {
            let (text, life) = issuer.fetch().await?;
            Ok::<_, BoxError>(Token::new(text)?.with_lifetime(life))
        }
    };
    named(&TokenCache::new(fetch), ORIGIN).resend(Never).layer(place)
}

/// What many write by hand: fetches when the token has expired, under a lock that all requests take.
#[derive(Clone)]
pub struct OnExpiry {
    place: Place,
    held: Arc<Mutex<Option<(HeaderValue, Instant)>>>,
}

pub fn on_expiry(place: Place) -> OnExpiry {
    OnExpiry { place, held: Arc::default() }
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
