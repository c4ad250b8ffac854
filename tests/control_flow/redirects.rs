//! No unsafe method is retried after a redirect, because the request was processed (RFC 9110 section 9.2.2).

use std::future::ready;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, SentMethod, TokenCache};
use tower_http::follow_redirect::FollowRedirect;
use tower_http::follow_redirect::policy::{PolicyExt, Standard, clone_body_fn};

use crate::common::{MINUTE, Script, until};
use crate::servers::{Server, answer};
use crate::sources::hyper_client;

type Body = Full<Bytes>;

/// A server whose `/orders` processes a request and redirects with this status. The target of the redirect checks
/// tokens.
async fn shop(status: u16) -> Server {
    Server::start(move |request: Request<hyper::body::Incoming>| {
        let is_revoked = request.headers()[AUTHORIZATION] == "Bearer t1";
        ready(match request.uri().path() {
            "/orders" if status != 200 => {
                let mut response = answer(status, "");
                response.headers_mut().insert(LOCATION, "/orders/1".parse().expect("a location"));
                response
            }
            _ => answer(if is_revoked { 401 } else { 200 }, ""),
        })
    })
    .await
}

fn following<S>(
    http: S,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static,
{
    let policy = clone_body_fn(|body: &Body| Some(body.clone())).and::<_, Body, BoxError>(Standard::default());
    FollowRedirect::with_policy(http, policy)
}

fn http()
-> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static {
    service_fn(|request: Request<Body>| async move {
        let (head, body) = hyper_client().request(request).await?.into_parts();
        Ok::<_, BoxError>(Response::from_parts(head, Body::new(body.collect().await?.to_bytes())))
    })
}

/// The same, with a response extension that holds the method of each request.
fn http_with_method()
-> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static {
    service_fn(|request: Request<Body>| async move {
        let method = request.method().clone();
        let mut response = http().oneshot(request).await?;
        response.extensions_mut().insert(SentMethod(method));
        Ok::<_, BoxError>(response)
    })
}

/// Sends a request. Returns the status of its response, and the methods and paths that the server saw.
async fn send(status: u16, method: Method, with_method: bool) -> (StatusCode, Vec<String>) {
    let server = shop(status).await;
    let (script, clock) = (Script::new(), ManualClock::new());
    let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().unwrap();
    cache.get().await.expect("a token");
    clock.advance(MINUTE);
    let layer = BearerLayer::new(cache.clone(), [server.origin()]).expect("an origin");
    let request = Request::builder().method(method).uri(format!("{}/orders", server.origin()));
    let request = request.body(Body::from("an order")).expect("a request");
    let response = if with_method {
        layer.layer(following(http_with_method())).oneshot(request).await
    } else {
        layer.layer(following(http())).oneshot(request).await
    };
    // The next request has a new token in every case.
    until(|| cache.status().generation == 2).await;
    assert_eq!(script.calls(), 2);
    let seen = server.seen().into_iter().map(|head| format!("{} {}", head.method, head.uri.path())).collect();
    (response.expect("a response").status(), seen)
}

fn run(test: impl Future<Output = ()>) {
    crate::common::runtime().block_on(test);
}

#[test]
fn a_post_that_a_redirect_turned_into_a_get_is_sent_once() {
    run(async {
        for status in [301, 302, 303] {
            for with_method in [false, true] {
                let (answered, seen) = send(status, Method::POST, with_method).await;
                assert_eq!(answered, 401, "{status}: the 401 is the caller's");
                assert_eq!(seen, ["POST /orders", "GET /orders/1"], "{status}");
            }
        }
        for method in [Method::PUT, Method::DELETE, Method::PATCH] {
            let (answered, seen) = send(303, method.clone(), true).await;
            assert_eq!((answered.as_u16(), seen.len()), (401, 2), "{method}: {seen:?}");
        }
    });
}

#[test]
fn a_post_whose_method_a_redirect_kept_is_retried_if_that_is_known() {
    run(async {
        for status in [307, 308] {
            let (answered, seen) = send(status, Method::POST, true).await;
            let both = ["POST /orders", "POST /orders/1"];
            assert_eq!(
                (answered.as_u16(), seen),
                (200, [both, both].concat().into_iter().map(str::to_owned).collect())
            );
            // If the method is not known, the POST may have been processed.
            let (answered, seen) = send(status, Method::POST, false).await;
            assert_eq!((answered.as_u16(), seen), (401, both.map(str::to_owned).into()), "{status}");
        }
    });
}

#[test]
fn a_safe_method_and_a_post_without_a_redirect_are_retried() {
    run(async {
        let (answered, seen) = send(303, Method::GET, false).await;
        assert_eq!((answered.as_u16(), seen.len()), (200, 4), "{seen:?}");
        for method in [Method::POST, Method::DELETE] {
            let (answered, seen) = send(200, method.clone(), false).await;
            let expected = vec![format!("{method} /orders"); 2];
            assert_eq!((answered.as_u16(), seen), (200, expected));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_path_that_a_client_joins_to_its_base_url_is_not_a_redirect() {
    let script = Script::new();
    let cache = TokenCache::new(script.clone());
    cache.get().await.expect("a token");
    tokio::time::advance(MINUTE).await;
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let network = service_fn(move |request: Request<Body>| {
        *count.lock().expect("no panic") += 1;
        let status = if request.headers()[AUTHORIZATION] == "Bearer t1" { 401 } else { 200 };
        ready(Ok::<_, BoxError>(Response::builder().status(status).body(Body::default()).expect("a response")))
    });
    let followed = following(network);
    let with_base = service_fn(move |mut request: Request<Body>| {
        let uri = format!("https://api.example.com{}", request.uri());
        *request.uri_mut() = uri.parse().expect("a URI");
        followed.clone().oneshot(request)
    });
    let layer = BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin");
    let api = layer.allow_relative_uris().layer(with_base);
    let request = Request::post("/orders?x=1").body(Body::from("an order")).expect("a request");
    assert_eq!(api.oneshot(request).await.expect("a response").status(), 200);
    assert_eq!(*seen.lock().expect("no panic"), 2);
}
