//! Forwards requests to the upstream with a token, and returns the answers. Bodies stream both ways.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::ORIGIN;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::timeout::Timeout;
use tower::util::option_layer;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_bearer::providers::meshydb::{Tenant, TenantLayer};
use tower_bearer::replay::Buffered;
use tower_bearer::{Bearer, BearerLayer, Origin, TokenCache};

use crate::cors;
use crate::headers;
use crate::outage::{self, Outages};
use crate::problem::Problem;
use crate::upstream::{CallClient, Clients};

/// The body of an answer of the upstream, or of the sidecar.
pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A client that adds the token.
type Api = Timeout<Bearer<tower::util::Either<Tenant<CallClient>, CallClient>, Buffered>>;

/// Forwards requests to the upstream.
#[derive(Clone)]
pub(crate) struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    scheme: Scheme,
    authority: Authority,
    cache: TokenCache,
    calls: Api,
    upgrades: Api,
    tunnels: Tunnels,
    outages: Outages,
}

/// The open WebSockets. They may stay open forever, so a shutdown closes them after the requests have ended.
#[derive(Clone, Default)]
pub(crate) struct Tunnels {
    tasks: TaskTracker,
    cut: CancellationToken,
}

/// Methods that are not forwarded, in upper or lower case.
const REJECTED_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

/// The body of an answer of the sidecar.
pub(crate) fn sidecar_body(body: Full<Bytes>) -> Body {
    Body::new(body.map_err(|never| match never {}))
}

// === impl Proxy ===

impl Proxy {
    pub(crate) fn new(
        upstream: &Origin,
        clients: Clients,
        cache: TokenCache,
        layer: &BearerLayer<Buffered>,
        tenant: Option<TenantLayer>,
        timeout: Duration,
        tunnels: Tunnels,
    ) -> Self {
        let uri: Uri = upstream.to_string().parse().expect("an origin is a URI");
        let parts = uri.into_parts();
        let api = |client| {
            let tenant = option_layer(tenant.clone());
            ServiceBuilder::new().timeout(timeout).layer(layer).layer(tenant).service(client)
        };
        let inner = Inner {
            scheme: parts.scheme.expect("an origin has a scheme"),
            authority: parts.authority.expect("an origin has a host"),
            cache,
            calls: api(clients.calls),
            upgrades: api(clients.upgrades),
            tunnels,
            outages: Outages::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Answers a request that the guard has allowed.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if let Some(answer) = cors::preflight(&request) {
            return Ok(answer);
        }
        let (version, page) = (request.version(), request.headers().get(ORIGIN).cloned());
        let mut answer = self.inner.forward(request).await.unwrap_or_else(|problem| {
            tracing::debug!(code = problem.code(), "request not forwarded");
            problem.into_response().map(sidecar_body)
        });
        if let Some(page) = page {
            cors::allow(&mut answer, page);
        }
        // In HTTP/1.0, an answer without a length ends with its connection. hyper closes the connection after an answer
        // of this version, even if the caller asks to keep it.
        if version == Version::HTTP_10 && answer.body().size_hint().exact().is_none() {
            *answer.version_mut() = Version::HTTP_10;
        }
        Ok(answer)
    }
}

impl Inner {
    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let uri = self.target(&request)?;
        let caller = headers::wants_websocket(&request).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();

        let mut request = Request::new(body);
        *request.uri_mut() = uri;
        *request.method_mut() = head.method;
        *request.headers_mut() = head.headers;
        headers::prepare_request(request.headers_mut(), head.version, caller.is_some());

        let api = if caller.is_some() { &self.upgrades } else { &self.calls };
        let started = outage::now();
        let response = api.clone().oneshot(request).await.map_err(|error| {
            let next_attempt = self.cache.status().next_attempt_in;
            let problem = Problem::of(&error).with_retry_after(next_attempt);
            self.outages.failed(&problem, &error);
            problem
        })?;
        self.outages.succeeded(started);
        self.return_response(response, caller)
    }

    fn return_response(
        &self,
        mut response: Response<Incoming>,
        caller: Option<OnUpgrade>,
    ) -> Result<Response<Body>, Problem> {
        let version = std::mem::replace(response.version_mut(), Version::HTTP_11);
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        headers::prepare_response(response.headers_mut(), version, switching);
        if !switching {
            return Ok(response.map(UnsyncBoxBody::new));
        }
        let Some(caller) = caller else {
            return Err(Problem::new(
                StatusCode::BAD_GATEWAY,
                "unasked-upgrade",
                "The upstream changes the protocol, but the request did not ask for it.",
            ));
        };
        self.tunnels.open(caller, hyper::upgrade::on(&mut response));
        Ok(response.map(|_| Body::default()))
    }

    /// The URI at the upstream, with the path of the request.
    fn target(&self, request: &Request<Incoming>) -> Result<Uri, Problem> {
        // TRACE makes the upstream show the token to the caller (RFC 9110 section 9.3.8), and so does TRACK in IIS.
        // Methods are case-sensitive, but some servers ignore the case.
        if REJECTED_METHODS.iter().any(|method| request.method().as_str().eq_ignore_ascii_case(method)) {
            let detail = format!("This is no proxy for {}: it forwards requests to one upstream.", request.method());
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "method-rejected", detail));
        }
        // In HTTP/2 the target always names the host, which the guard has checked.
        if request.uri().authority().is_some() && request.version() != Version::HTTP_2 {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "absolute-target",
                "This is no proxy for any server: write the path alone, and call the sidecar as if it were the API.",
            ));
        }
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path);
        uri.build().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "no-path", "The request's target is no path."))
    }
}

// === impl Tunnels ===

impl Tunnels {
    /// Copies bytes both ways after both sides have switched protocols.
    fn open(&self, caller: OnUpgrade, upstream: OnUpgrade) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            let copied = async {
                let (caller, upstream) = tokio::try_join!(caller, upstream)?;
                Ok::<_, BoxError>(copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(upstream)).await?)
            };
            metrics::gauge!("sidecar_websockets").increment(1);
            tokio::select! {
                () = cut.cancelled() => tracing::debug!("WebSocket cut"),
                copied = copied => match copied {
                    Ok((sent, received)) => tracing::debug!(sent, received, "WebSocket closed"),
                    Err(error) => tracing::debug!(error = &*error, "WebSocket broken"),
                }
            }
            metrics::gauge!("sidecar_websockets").decrement(1);
        });
    }

    /// Closes all WebSockets.
    pub(crate) async fn close(&self) {
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
