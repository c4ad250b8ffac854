//! Counts the instructions of one request on the cached path with callgrind. A noisy machine does not change them.
//!
//! `cargo bench -p benches --bench instructions` needs valgrind, and `gungraun-runner` in the version of the lock file.
#![expect(missing_docs, reason = "the macros of the benchmarks make public items")]

use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use benches::fixtures::{
    Body, Client, ClientSized, Inner, ORIGIN, Rejecting, call, call_cloned, request, request_to, token,
};
use benches::layers::{added, anywhere, by_hand, fetch, named, never, never_at, retried, twice, twice_at};
use benches::loopback::Loopback;
use benches::stampede::{BareNotify, Locked, Moka, NotifyWithDeadline, Ours, Outcome, Watch, run};
use gungraun::prelude::*;
use gungraun::{Callgrind, CallgrindMetrics, EventKind};
use http::{Request, Response};
use hyper::body::Incoming;
use tower::{BoxError, Layer, Service};
use tower_bearer::{Bearer, Token, TokenCache};

const SMALL: Inner<1> = Inner { leaks: true };
const LARGE: Inner<17> = Inner { leaks: true };

/// A service that was called before, and its next request.
fn warm<S: Client>(mut service: S, headers: usize) -> (S, Request<Body>) {
    for _ in 0..3 {
        call(&mut service, request(headers));
        call_cloned(&service, request(headers));
    }
    (service, request(headers))
}

/// A service that is only cloned, and never called itself. It has seen the cache only before the first token.
fn template<S: Client>(service: S, headers: usize) -> (S, Request<Body>) {
    for _ in 0..3 {
        call_cloned(&service, request(headers));
    }
    (service, request(headers))
}

#[library_benchmark]
#[bench::none(warm(SMALL, 4))]
#[bench::added(warm(added(SMALL), 4))]
#[bench::never(warm(never(SMALL), 4))]
#[bench::anywhere(warm(anywhere(SMALL), 4))]
#[bench::twice(warm(twice(SMALL), 4))]
#[bench::by_hand(warm(by_hand(SMALL), 4))]
fn small<S: Client>((mut service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call(&mut service, request));
    (service, response)
}

#[library_benchmark]
#[bench::none(warm(LARGE, 4))]
#[bench::added(warm(added(LARGE), 4))]
#[bench::never(warm(never(LARGE), 4))]
#[bench::anywhere(warm(anywhere(LARGE), 4))]
fn large<S: Client>((mut service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call(&mut service, request));
    (service, response)
}

/// The client of the definitions, with the size and the clone cost of hyper-util's.
fn client() -> ClientSized {
    ClientSized::new(true)
}

#[library_benchmark]
#[bench::none(warm(client(), 4))]
#[bench::added(warm(added(client()), 4))]
#[bench::never(warm(never(client()), 4))]
#[bench::anywhere(warm(anywhere(client()), 4))]
#[bench::retried(warm(retried(client()), 4))]
#[bench::twice(warm(twice(client()), 4))]
fn over_client<S: Client>((mut service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call(&mut service, request));
    (service, response)
}

#[library_benchmark]
#[bench::none(warm(client(), 4))]
#[bench::added(warm(added(client()), 4))]
#[bench::never(warm(never(client()), 4))]
fn client_cloned<S: Client>((service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call_cloned(&service, request));
    (service, response)
}

/// A service that was called before, and an unusual request.
fn odd<S: Client>(service: S, request: fn() -> Request<Body>) -> (S, Request<Body>) {
    let (mut service, _) = warm(service, 4);
    call(&mut service, request());
    (service, request())
}

fn with_port() -> Request<Body> {
    request_to("https://api.example.com:443", 4)
}

fn in_capitals() -> Request<Body> {
    request_to("https://API.example.com", 4)
}

fn to_another() -> Request<Body> {
    request_to("https://elsewhere.example.net", 4)
}

fn with_its_own() -> Request<Body> {
    let mut request = request(4);
    request.headers_mut().insert("authorization", http::HeaderValue::from_static("Basic YTpi"));
    request
}

fn without_token() -> Request<Body> {
    let mut request = request(4);
    request.extensions_mut().insert(tower_bearer::NoToken);
    request
}

#[library_benchmark]
#[bench::port_none(odd(client(), with_port))]
#[bench::port(odd(never(client()), with_port))]
#[bench::capitals_none(odd(client(), in_capitals))]
#[bench::capitals(odd(never(client()), in_capitals))]
#[bench::another_none(odd(client(), to_another))]
#[bench::another(odd(never(client()), to_another))]
#[bench::own_none(odd(client(), with_its_own))]
#[bench::own(odd(never(client()), with_its_own))]
#[bench::exempt_none(odd(client(), without_token))]
#[bench::exempt(odd(never(client()), without_token))]
fn odd_request<S: Client>((mut service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call(&mut service, request));
    (service, response)
}

#[library_benchmark]
#[bench::none(warm(SMALL, 4))]
#[bench::added(warm(added(SMALL), 4))]
#[bench::never(warm(never(SMALL), 4))]
#[bench::never_template(template(never(SMALL), 4))]
#[bench::twice(warm(twice(SMALL), 4))]
fn cloned<S: Client>((service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call_cloned(&service, request));
    (service, response)
}

#[library_benchmark]
#[bench::none(warm(SMALL, 6))]
#[bench::retried(warm(retried(SMALL), 6))]
#[bench::twice(warm(twice(SMALL), 6))]
fn six_headers<S: Client>((mut service, request): (S, Request<Body>)) -> (S, Response<Body>) {
    let response = black_box(call(&mut service, request));
    (service, response)
}

/// A service whose first answer is a 401, and the cache behind it.
fn rejected_ours() -> (TokenCache, Bearer<Rejecting>) {
    static FETCHES: AtomicUsize = AtomicUsize::new(0);
    let cache =
        TokenCache::new(async |_| Token::new(format!("{}{}", token(), FETCHES.fetch_add(1, Ordering::Relaxed))));
    let service = named(&cache, ORIGIN).layer(Rejecting::new());
    fetch(&cache);
    (cache, service)
}

/// A call that is not answered yet, and the service that it was made by.
type Called<S, F> = (S, Pin<Box<F>>);

/// The first send, until its answer is waited for.
fn send<S: Service<Request<Body>>>(service: &mut S, request: Request<Body>) -> Pin<Box<S::Future>> {
    assert!(service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready());
    let mut call = Box::pin(service.call(request));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    call
}

/// A request whose 401 is about to arrive, of a token that was replaced meanwhile.
fn late_ours() -> Called<Bearer<Rejecting>, impl Future<Output = Result<Response<Body>, BoxError>>> {
    let (cache, mut service) = rejected_ours();
    let call = send(&mut service, request(4));
    fetch(&cache);
    // Other requests carry the newer token already.
    call_cloned(&service, request(4));
    (service, call)
}

/// The same for tower's retry, which sends the same token again.
fn late_retried() -> Called<impl Sized, impl Future<Output = Result<Response<Body>, BoxError>>> {
    let mut service = retried(Rejecting::new());
    let call = send(&mut service, request(4));
    (service, call)
}

// The first send of a request whose answer will be a 401.
#[library_benchmark]
#[bench::ours((rejected_ours().1, request(4)))]
#[bench::retried((retried(Rejecting::new()), request(4)))]
fn early_401<S: Service<Request<Body>>>((mut service, request): (S, Request<Body>)) -> (S, Pin<Box<S::Future>>) {
    let call = black_box(send(&mut service, request));
    (service, call)
}

// From the arrival of a 401 to the second answer. The service lives on, as in every program.
#[library_benchmark]
#[bench::ours(late_ours())]
#[bench::retried(late_retried())]
fn late_401<S, F: Future<Output = Result<Response<Body>, BoxError>>>(
    (service, mut call): (S, Pin<Box<F>>),
) -> (S, Pin<Box<F>>) {
    match black_box(call.as_mut().poll(&mut Context::from_waker(Waker::noop()))) {
        Poll::Ready(response) => assert!(response.expect("an answer").status().is_success()),
        Poll::Pending => panic!("the second answer comes at once"),
    }
    (service, call)
}

const WAITERS: u64 = 1000;

#[library_benchmark]
fn stampede_ours() -> Outcome {
    black_box(run::<Ours>(WAITERS))
}

#[library_benchmark]
fn stampede_notify() -> Outcome {
    black_box(run::<BareNotify>(WAITERS))
}

#[library_benchmark]
fn stampede_notify_with_deadline() -> Outcome {
    black_box(run::<NotifyWithDeadline>(WAITERS))
}

#[library_benchmark]
fn stampede_watch() -> Outcome {
    black_box(run::<Watch>(WAITERS))
}

#[library_benchmark]
fn stampede_locked() -> Outcome {
    black_box(run::<Locked>(WAITERS))
}

#[library_benchmark]
fn stampede_moka() -> Outcome {
    black_box(run::<Moka>(WAITERS))
}

const REQUESTS: u64 = 50;

/// A server, and a client with an open connection.
fn over_http1<S>(layer: impl FnOnce(&Loopback) -> S) -> (Loopback, S)
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error: std::fmt::Debug>,
{
    let loopback = Loopback::new(false);
    let mut service = layer(&loopback);
    loopback.ask(&mut service, 10);
    (loopback, service)
}

#[library_benchmark]
#[bench::none(over_http1(Loopback::client))]
#[bench::added(over_http1(|loopback| added(loopback.client())))]
#[bench::never(over_http1(|loopback| never_at(&loopback.origin(), loopback.client())))]
#[bench::twice(over_http1(|loopback| twice_at(&loopback.origin(), loopback.client())))]
fn http1<S>((loopback, mut service): (Loopback, S)) -> (Loopback, S)
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error: std::fmt::Debug>,
{
    loopback.ask(&mut service, REQUESTS);
    (loopback, service)
}

library_benchmark_group!(name = loopback, benchmarks = http1);

library_benchmark_group!(
    name = stampede,
    benchmarks =
        [stampede_ours, stampede_notify, stampede_notify_with_deadline, stampede_watch, stampede_locked, stampede_moka]
);

library_benchmark_group!(
    name = cached_path,
    benchmarks = [over_client, client_cloned, odd_request, early_401, late_401, small, large, cloned, six_headers]
);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--cache-sim=no"]).format([CallgrindMetrics::SingleEvent(EventKind::Ir)])),
    library_benchmark_groups = [cached_path, stampede, loopback]
);
