//! A layer that adds the tenant to requests to the API.

use std::task::{Context, Poll};

use http::{HeaderValue, Request};
use tower::{Layer, Service};

/// Adds the header `tenant` to every request that has none.
///
/// MeshyDB requires it for its API and for its token endpoint.
/// [`MeshyDb::tenant_layer`](crate::providers::meshydb::MeshyDb::tenant_layer) makes this layer.
///
/// Do not use this layer for other servers: the tenant's name is not a secret, but it does not concern them.
#[derive(Clone, Debug)]
pub struct TenantLayer {
    tenant: Option<HeaderValue>,
}

/// The service that [`TenantLayer`] makes.
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
