//! Layers that may be on either side: [`works`] succeeds with each of them.

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::limit::{ConcurrencyLimit, RateLimit, rate::Rate};
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::load_shed::LoadShed;
use tower::retry::{Policy, Retry};
use tower::timeout::Timeout;
use tower::util::{BoxCloneService, BoxService, Either, option_layer};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_bearer::BearerLayer;
use tower_http::decompression::Decompression;
use tower_http::follow_redirect::FollowRedirect;
use tower_http::request_id::{MakeRequestUuid, SetRequestIdLayer};
use tower_http::set_header::{SetRequestHeaderLayer, SetResponseHeaderLayer};
use tower_http::trace::TraceLayer;

use crate::harness::{Body, Harness, Network, SECOND, get, works};

macro_rules! works {
    ($($name:ident, outer: $outer:expr, inner: $inner:expr;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn outside() {
                let harness = Harness::new();
                let outer = $outer;
                works(&harness, outer(harness.client())).await;
            }

            #[tokio::test(start_paused = true)]
            async fn inside() {
                let harness = Harness::over($inner);
                works(&harness, harness.client()).await;
            }
        }
    )*};
}

works! {
    a_buffer, outer: |api| Buffer::new(api, 1), inner: |network| Buffer::new(network, 1);
    a_concurrency_limit_of_one,
        outer: |api| ConcurrencyLimit::new(api, 1), inner: |network| ConcurrencyLimit::new(network, 1);
    load_shed, outer: LoadShed::new, inner: LoadShed::new;
    a_timeout, outer: |api| Timeout::new(api, SECOND), inner: |network| Timeout::new(network, SECOND);
    retry, outer: |api| Retry::new(Never, api), inner: |network| Retry::new(Never, network);
    // It is not `Clone`, so inside the layer it needs a buffer.
    a_rate_limit,
        outer: |api| RateLimit::new(api, Rate::new(1, SECOND / 4)),
        inner: |network| Buffer::new(RateLimit::new(network, Rate::new(1, SECOND / 4)), 1);
    balance,
        outer: |api: tower_bearer::Bearer<_>| balanced(api.clone(), api),
        inner: |network: Network| Buffer::new(balanced(network.clone(), network), 1);
    a_box, outer: BoxCloneService::new, inner: BoxCloneService::<Request<Body>, _, _>::new;
    a_box_that_is_not_clone,
        outer: BoxService::new, inner: |network| Buffer::new(BoxService::<Request<Body>, _, _>::new(network), 1);
    either, outer: left, inner: left;
    an_optional_layer,
        outer: |api| option_layer(Some(tower::buffer::BufferLayer::new(1))).layer(api),
        inner: |network| option_layer(Some(tower::buffer::BufferLayer::new(1))).layer(network);
    follow_redirect, outer: FollowRedirect::new, inner: FollowRedirect::new;
    decompression, outer: Decompression::new, inner: Decompression::new;
    trace,
        outer: |api| TraceLayer::new_for_http().layer(api), inner: |network| TraceLayer::new_for_http().layer(network);
    a_request_id,
        outer: |api| SetRequestIdLayer::x_request_id(MakeRequestUuid).layer(api),
        inner: |network| SetRequestIdLayer::x_request_id(MakeRequestUuid).layer(network);
    a_request_header,
        outer: |api| SetRequestHeaderLayer::overriding(X_HEADER, VALUE).layer(api),
        inner: |network| SetRequestHeaderLayer::overriding(X_HEADER, VALUE).layer(network);
    a_response_header,
        outer: |api| SetResponseHeaderLayer::overriding(X_HEADER, VALUE).layer(api),
        inner: |network| SetResponseHeaderLayer::overriding(X_HEADER, VALUE).layer(network);
}

const X_HEADER: HeaderName = HeaderName::from_static("x-header");
const VALUE: HeaderValue = HeaderValue::from_static("value");

/// One of two services of the same type.
fn left<S>(service: S) -> Either<S, S> {
    Either::Left(service)
}

/// A balancer over two endpoints.
pub(crate) fn balanced<S>(one: S, two: S) -> Balance<ServiceList<Vec<PendingRequests<S>>>, Request<Body>>
where
    S: Service<Request<Body>, Error: Into<BoxError>>,
{
    let endpoints = [one, two].map(|service| PendingRequests::new(service, CompleteOnResponse::default()));
    Balance::new(ServiceList::new(Vec::from(endpoints)))
}

/// Retries nothing.
#[derive(Clone)]
struct Never;

impl<A> Policy<Request<Body>, Response<A>, BoxError> for Never {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, _: &mut Result<Response<A>, BoxError>) -> Option<Self::Future> {
        None
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

/// The layer is optional, and the client's error type is not `BoxError`.
#[tokio::test(start_paused = true)]
async fn the_layer_is_optional_over_a_client_whose_error_is_boxed() {
    let harness = Harness::new();
    let stack = |layer: Option<BearerLayer>| {
        let client = ServiceExt::<Request<Body>>::map_err(harness.inner(), std::io::Error::other);
        ServiceBuilder::new().option_layer(layer).map_err(BoxError::from).service(client)
    };
    let without = stack(None).oneshot(get()).await.expect("an answer");
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    works(&harness, stack(Some(harness.layer()))).await;
}
