//! Layers that may lie on either side: with each of them [`works`] holds.

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
    ($($name:ident, above: $above:expr, beneath: $beneath:expr;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn above_us() {
                let harness = Harness::new();
                let above = $above;
                works(&harness, above(harness.client())).await;
            }

            #[tokio::test(start_paused = true)]
            async fn beneath_us() {
                let harness = Harness::over($beneath);
                works(&harness, harness.client()).await;
            }
        }
    )*};
}

works! {
    a_buffer, above: |api| Buffer::new(api, 1), beneath: |network| Buffer::new(network, 1);
    a_concurrency_limit_of_one,
        above: |api| ConcurrencyLimit::new(api, 1), beneath: |network| ConcurrencyLimit::new(network, 1);
    load_shed, above: LoadShed::new, beneath: LoadShed::new;
    a_timeout, above: |api| Timeout::new(api, SECOND), beneath: |network| Timeout::new(network, SECOND);
    retry, above: |api| Retry::new(Never, api), beneath: |network| Retry::new(Never, network);
    // Not `Clone`: beneath us it goes through a buffer.
    a_rate_limit,
        above: |api| RateLimit::new(api, Rate::new(1, SECOND / 4)),
        beneath: |network| Buffer::new(RateLimit::new(network, Rate::new(1, SECOND / 4)), 1);
    balance,
        above: |api: tower_bearer::Bearer<_>| balanced(api.clone(), api),
        beneath: |network: Network| Buffer::new(balanced(network.clone(), network), 1);
    a_box, above: BoxCloneService::new, beneath: BoxCloneService::<Request<Body>, _, _>::new;
    a_box_that_is_not_clone,
        above: BoxService::new, beneath: |network| Buffer::new(BoxService::<Request<Body>, _, _>::new(network), 1);
    either, above: left, beneath: left;
    an_optional_layer,
        above: |api| option_layer(Some(tower::buffer::BufferLayer::new(1))).layer(api),
        beneath: |network| option_layer(Some(tower::buffer::BufferLayer::new(1))).layer(network);
    follow_redirect, above: FollowRedirect::new, beneath: FollowRedirect::new;
    decompression, above: Decompression::new, beneath: Decompression::new;
    trace,
        above: |api| TraceLayer::new_for_http().layer(api), beneath: |network| TraceLayer::new_for_http().layer(network);
    a_request_id,
        above: |api| SetRequestIdLayer::x_request_id(MakeRequestUuid).layer(api),
        beneath: |network| SetRequestIdLayer::x_request_id(MakeRequestUuid).layer(network);
    a_request_header,
        above: |api| SetRequestHeaderLayer::overriding(X_HEADER, VALUE).layer(api),
        beneath: |network| SetRequestHeaderLayer::overriding(X_HEADER, VALUE).layer(network);
    a_response_header,
        above: |api| SetResponseHeaderLayer::overriding(X_HEADER, VALUE).layer(api),
        beneath: |network| SetResponseHeaderLayer::overriding(X_HEADER, VALUE).layer(network);
}

const X_HEADER: HeaderName = HeaderName::from_static("x-header");
const VALUE: HeaderValue = HeaderValue::from_static("value");

/// One of two services that are alike.
fn left<S>(service: S) -> Either<S, S> {
    Either::Left(service)
}

/// Two endpoints under one balancer.
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

/// The layer itself as an option, over a client with an error of its own.
#[tokio::test(start_paused = true)]
async fn the_layer_is_optional_over_a_client_whose_error_is_boxed() {
    let harness = Harness::new();
    let stack = |layer: Option<BearerLayer>| {
        let client = ServiceExt::<Request<Body>>::map_err(harness.beneath(), std::io::Error::other);
        ServiceBuilder::new().option_layer(layer).map_err(BoxError::from).service(client)
    };
    let without = stack(None).oneshot(get()).await.expect("an answer");
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    works(&harness, stack(Some(harness.layer()))).await;
}
