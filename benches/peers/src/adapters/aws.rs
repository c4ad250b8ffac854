//! aws-smithy-runtime: the lazy identity cache and the bearer scheme's signer, as the orchestrator calls them.
//!
//! It runs without the orchestrator, whose retries and interceptors do not concern the token. It matches no origin, and
//! does nothing about a 401. From 10 s before the end (less a jitter) requests wait for the fetch.

use std::fmt;
use std::sync::Arc;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime::client::auth::http::BearerAuthScheme;
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime_api::client::auth::{AuthScheme, AuthSchemeEndpointConfig};
use aws_smithy_runtime_api::client::identity::http::Token;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityFuture, ResolveCachedIdentity, ResolveIdentity, SharedIdentityCache, SharedIdentityResolver,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use http::header::AUTHORIZATION;
use tower::BoxError;

use crate::issuer::Issuer;
use crate::peer::{self, Peer};

#[derive(Clone)]
pub struct Aws(Arc<Inner>);

struct Inner {
    cache: SharedIdentityCache,
    resolver: SharedIdentityResolver,
    components: RuntimeComponents,
    config: ConfigBag,
    scheme: BearerAuthScheme,
    issuer: Issuer,
}

struct Resolver(Issuer);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolveIdentity for Resolver {
    fn resolve_identity<'a>(&'a self, _: &'a RuntimeComponents, _: &'a ConfigBag) -> IdentityFuture<'a> {
        IdentityFuture::new(async {
            let grant = self.0.answer().await;
            let ends = crate::wall_clock() + grant.lifetime;
            Ok(Identity::new(Token::new(grant.access_token, Some(ends)), Some(ends)))
        })
    }
}

impl Peer for Aws {
    const NAME: &'static str = "aws-smithy-runtime, lazy identity cache and bearer signer";
    const CRATE: &'static str = "aws-smithy-runtime";
    const NOTE: &'static str = "no origin check, nothing about a 401; margin fixed at 10 s, all wait while it fetches. Fed by its `ResolveIdentity` trait";
    type Request = HttpRequest;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let cache = IdentityCache::lazy().build();
        // The builder for tests adds required components that are never called here, such as a retry strategy.
        let components = RuntimeComponentsBuilder::for_tests()
            .with_identity_cache(Some(cache.clone()))
            .with_sleep_impl(Some(TokioSleep::new()))
            .with_time_source(Some(SystemTimeSource::new()))
            .build()?;
        let resolver = SharedIdentityResolver::new(Resolver(issuer));
        let (config, scheme) = (ConfigBag::base(), BearerAuthScheme::new());
        Ok(Self(Arc::new(Inner { cache, resolver, components, config, scheme, issuer })))
    }

    fn request() -> HttpRequest {
        peer::request().map(|_| SdkBody::from(r#"{"name":"thing"}"#)).try_into().expect("a request")
    }

    async fn send(&mut self, mut request: HttpRequest) -> Result<(), BoxError> {
        let Inner { cache, resolver, components, config, scheme, issuer } = &*self.0;
        let identity = cache.resolve_cached_identity(resolver.clone(), components, config).await?;
        let endpoint = AuthSchemeEndpointConfig::empty();
        scheme.signer().sign_http_request(&mut request, &identity, endpoint, components, config)?;
        issuer.evaluate(|| request.headers().get(AUTHORIZATION).map(str::as_bytes));
        issuer.finish(request);
        Ok(())
    }
}
