//! The tenant on requests to the API.

use std::task::{Context, Poll};

use http::{HeaderValue, Request};
use tower::{Layer, Service};

/// Puts the header `tenant` on every request that has none: MeshyDB wants it on calls of its API as on those for tokens.
/// Made by [`MeshyDb::tenant_layer`](crate::providers::meshydb::MeshyDb::tenant_layer).
///
/// A client that calls other servers too keeps this layer on the way to MeshyDB alone: a tenant's name is no secret, and
/// nobody else's business.
#[derive(Clone, Debug)]
pub struct TenantLayer {
    tenant: Option<HeaderValue>,
}

/// What [`TenantLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Tenant<S> {
    inner: S,
    tenant: Option<HeaderValue>,
}

pub(super) const NAME: &str = "tenant";

// === impl TenantLayer ===

impl TenantLayer {
    pub(super) fn new(tenant: Option<HeaderValue>) -> Self {
        Self { tenant }
    }
}

impl<S> Layer<S> for TenantLayer {
    type Service = Tenant<S>;

    fn layer(&self, inner: S) -> Tenant<S> {
        Tenant { inner, tenant: self.tenant.clone() }
    }
}

// === impl Tenant ===

impl<S, B> Service<Request<B>> for Tenant<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(tenant) = &self.tenant {
            request.headers_mut().entry(NAME).or_insert_with(|| tenant.clone());
        }
        self.inner.call(request)
    }
}
