//! Serving a fake over a connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Service, ServiceExt};

/// Adapts a fake to requests with any body, so that an HTTP server can serve it.
///
/// It reads the body to its end first. With hyper: `TowerToHyperService::new(Collected::new(issuer))`.
#[derive(Clone, Debug)]
pub struct Collected<S> {
    fake: S,
}

impl<S> Collected<S> {
    /// Serves `fake`.
    pub fn new(fake: S) -> Self {
        Self { fake }
    }
}

impl<S, B> Service<Request<B>> for Collected<S>
where
    S: Service<Request<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let fake = self.fake.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            fake.oneshot(Request::from_parts(parts, Full::new(body))).await
        })
    }
}
