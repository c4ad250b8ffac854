//! With `Never`, a request that finds a usable token allocates no more than one with tower-http's static header.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one counts and forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, service_fn};
use tower_bearer::replay::{CloneBody, Never};
use tower_bearer::{BearerLayer, TokenCache};
use tower_http::auth::AddAuthorizationLayer;

type Body = Full<Bytes>;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// The size of the largest allocation.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the contract of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts the allocations of one call, from the request to its answer.
fn once<S>(service: &mut S) -> usize
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    once_with(service, request())
}

fn once_with<S>(service: &mut S, request: Request<Body>) -> usize
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let before = ALLOCATIONS.with(Cell::get);
    let answer = futures_now_or_never(service.call(request)).expect("ready at once").expect("an answer");
    let after = ALLOCATIONS.with(Cell::get);
    drop(answer);
    after - before
}

/// Counts the allocations of the second call of a service.
fn allocations<S>(mut service: S) -> usize
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    once(&mut service);
    once(&mut service)
}

fn request() -> Request<Body> {
    Request::get("https://api.example.com/v1").header("accept", "*/*").body(Body::default()).expect("a request")
}

fn futures_now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

fn inner()
-> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static {
    service_fn(|_| std::future::ready(Ok(Response::new(Body::default()))))
}

#[test]
fn a_request_with_a_usable_token_allocates_nothing_in_the_layer() {
    let cache = TokenCache::fixed("t").expect("a token");
    let layer = BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin");
    let layered = allocations(layer.clone().replay(Never).layer(inner()));
    let floor = allocations(AddAuthorizationLayer::bearer("t").layer(inner()));
    assert_eq!(layered, floor);
    // A copy of the request allocates, which shows that the counter works.
    assert!(allocations(layer.replay(CloneBody).layer(inner())) > floor);
}

#[test]
fn a_request_that_gets_no_token_costs_no_allocation_of_ours() {
    let cache = TokenCache::fixed("t").expect("a token");
    let layer = BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin").replay(Never);
    let requests: [fn() -> Request<Body>; 2] = [
        || {
            let mut request = request();
            request.headers_mut().insert("authorization", http::HeaderValue::from_static("Basic bWU6"));
            request
        },
        || {
            let mut request = request();
            request.extensions_mut().insert(tower_bearer::NoToken);
            request
        },
    ];
    let (mut service, mut without) = (layer.layer(inner()), inner());
    for request in requests {
        assert_eq!(once_with(&mut service, request()), once_with(&mut without, request()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_for_one_request_allocates_nothing_in_the_layer() {
    let cache = TokenCache::fixed("t").expect("a token");
    let layer = BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin").replay(Never);
    let mut service = layer.layer(inner());
    let mut static_header = AddAuthorizationLayer::bearer("t").layer(inner());
    for _ in 0..3 {
        service.call(request()).await.expect("an answer");
        static_header.call(request()).await.expect("an answer");
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        // The first call reads the clocks for all.
        once(&mut service.clone());
        assert_eq!(once(&mut service.clone()), once(&mut static_header.clone()));
    }
}

#[test]
fn a_waiting_request_takes_less_than_three_times_its_own_size() {
    let cache = TokenCache::new(async |_| tower_bearer::Token::new("t"));
    let layer = BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin");
    let (mut service, request, size) = (layer.layer(inner()), request(), size_of::<Request<Body>>());
    LARGEST.with(|largest| largest.set(0));
    let waiting = service.call(request);
    let held = LARGEST.with(Cell::get);
    drop(waiting);
    assert!(held > size && held < 3 * size, "{held} bytes for a request of {size}");
}
