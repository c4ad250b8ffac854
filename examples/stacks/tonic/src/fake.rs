//! A gRPC server that answers UNAUTHENTICATED to calls without a live token.

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt, service_fn};
use tower_bearer::testing::{Ledger, TokenState};

/// gRPC's own health service, guarded.
pub(crate) async fn health<B>(
    ledger: Ledger,
) -> impl Service<Request<B>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone
where
    B: tonic::codegen::Body<Data: Send, Error: Into<BoxError> + Send> + Send + 'static,
{
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    service_fn(move |request: Request<B>| {
        let (ledger, health) = (ledger.clone(), health.clone());
        async move {
            let token =
                request.headers().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
            if token.is_none_or(|token| ledger.state_of(token) != TokenState::Live) {
                return Ok(Status::unauthenticated("no live token").into_http());
            }
            health.oneshot(request).await.map_err(BoxError::from)
        }
    })
}
