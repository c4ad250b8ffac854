//! The service: decides whether each request gets the token, and adds it.
//!
//! # How it works
//! This file contains the whole path of a request that finds a usable token. It costs little more than a static header:
//! it matches the origin, checks the snapshot and one clock, and searches the headers. It does not lock or await, and
//! reads nothing that other threads often write. Any other request takes the slow path, [`Bearer::classify`]. Waiting
//! and retrying are in [`future`](crate::future).

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Method, Request, Response};
use tower::{BoxError, Service};

use crate::cache::{Freshness, Reader, Usable};
use crate::cache_choice::PerRequest;
use crate::error::Error;
use crate::future::{Attempt, InnerService, LayerConfig, ResponseFuture, RetryState, Stage};
use crate::no_token::NoToken;
use crate::origin::OriginMatch;
use crate::replay::{CloneBody, Replay};

/// A service that adds a bearer token to requests.
///
/// [`BearerLayer`](crate::BearerLayer) returns it. It is ready when the inner service is. A request without a usable
/// token waits in its future, and does not hold the inner service's readiness meanwhile. Dropping the future of a
/// request never stops a fetch.
///
/// # Errors
/// The future returns the boxed error of the inner service, or an [`Error`] if
/// - there is no usable token, and none can be fetched;
/// - the session of the request has ended;
/// - the request's URI names no host (see [`allow_relative_uris`](crate::BearerLayer::allow_relative_uris));
/// - the request's URI contains a user and password;
/// - the `Host` header names a site that is neither the URI's nor another of the layer's origins;
/// - no cache belongs to the request (see [`CacheChoice`](crate::CacheChoice)).
pub struct Bearer<S, R = CloneBody> {
    inner: S,
    /// Each request holds a reference to its owner. If each request has its own cache, this reader never finds a token.
    reader: Reader<LayerConfig<S>>,
    replay: R,
}

/// How a request without a usable token is handled.
enum Disposition {
    /// It is sent unchanged, and its response is not evaluated.
    PassThrough,
    /// It waits for a token.
    Wait,
    /// It fails.
    Reject(Error),
}

// === impl Bearer ===

impl<S, R> Bearer<S, R> {
    pub(crate) fn new(inner: S, config: LayerConfig<S>, replay: R) -> Self {
        Self { inner, reader: Reader::new(Arc::new(config)), replay }
    }

    /// Returns the inner service.
    ///
    /// There is no `get_mut`. A request that waits for a token or is retried uses a clone of the service that the layer
    /// wrapped, so it would not see the changes. Change the service before it is wrapped.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, and drops the rest.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Classifies a request that finds no usable token, or that goes to another origin.
    #[cold]
    fn classify<B>(&self, request: &Request<B>, origin_match: OriginMatch) -> Disposition {
        let telemetry = self.reader.owner().cache.telemetry();
        // A request to another origin passes through, with or without an event.
        if origin_match == OriginMatch::Other && !telemetry.reports_unmatched_origins() {
            return Disposition::PassThrough;
        }
        // A request with its own credentials gets no token, so what is wrong with its URI or `Host` header is no concern
        // of this layer.
        if request.headers().contains_key(AUTHORIZATION) {
            return Disposition::PassThrough;
        }
        match origin_match {
            OriginMatch::Matched => Disposition::Wait,
            OriginMatch::Other => {
                telemetry.unmatched_origin(request.uri());
                Disposition::PassThrough
            }
            OriginMatch::NoHost => Disposition::Reject(Error::request(
                "the request's URI names no host, so it is unknown whether the token belongs there; \
                 give the whole URL, or say with `allow_relative_uris` that such requests go to the origins of this layer",
            )),
            OriginMatch::Host => Disposition::Reject(Error::request(
                "the request's `Host` header names another site than its URI, so the token could reach a \
                 site that it is not for; leave the header out, name that origin too, or mark the request with `NoToken`",
            )),
            OriginMatch::Userinfo => Disposition::Reject(Error::request(
                "the request's URI carries a user and password before its host, in addition to the token; \
                 leave them out, or mark the request with `NoToken`",
            )),
        }
    }
}

impl<S: Clone, R> Bearer<S, R> {
    /// Releases what `poll_ready` reserved, such as a permit, because the token call or another request may need it.
    fn release_readiness(&mut self) {
        self.inner = self.reader.owner().template.service();
    }
}

impl<S, R> Bearer<S, R> {
    /// Handles a request that has its own cache. A retry uses the same cache.
    fn call_with_own_cache<B>(&mut self, per_request: &PerRequest, request: Request<B>) -> ResponseFuture<S, B, R>
    where
        S: InnerService<R::Body>,
        R: Replay<B>,
        B: Send + 'static,
    {
        let (head, body) = request.into_parts();
        let cache = match per_request.choose(&head) {
            Ok(cache) => cache,
            Err(error) => {
                self.release_readiness();
                return ResponseFuture::failed(error);
            }
        };
        let mut request = Request::from_parts(head, body);
        let config = Arc::new(self.reader.owner().with_cache(cache));
        let mut reader = Reader::new(Arc::clone(&config));
        let Some(Usable { value, token, freshness }) = reader.usable() else {
            self.release_readiness();
            return ResponseFuture::waiting(config, reader.session(), self.replay.clone(), request);
        };
        request.headers_mut().insert(AUTHORIZATION, value);
        if freshness == Freshness::Due {
            config.cache.refresh_in_background();
        }
        let (request, saved) = self.replay.prepare(request);
        let retry = saved.map(|saved| RetryState { replay: self.replay.clone(), saved });
        let attempt = Attempt { config, token, stage: Stage::First { retry } };
        ResponseFuture::sent(self.inner.call(request), Some(attempt))
    }
}

/// Whether the request never gets the layer's token.
fn is_exempt<B>(request: &Request<B>) -> bool {
    // RFC 9110 section 9.3.6: a tunnel's credentials are the proxy's (Proxy-Authorization), not the origin's.
    request.method() == Method::CONNECT || request.extensions().get::<NoToken>().is_some()
}

/// Whether the request has a `Host` or an `Authorization` header, which decide whether it gets a token.
///
/// Most requests have few headers and neither of these. To iterate over few headers costs less than a hash lookup.
#[inline]
fn has_host_or_authorization(headers: &HeaderMap) -> bool {
    const FEW: usize = 12;
    match headers.len() {
        ..=FEW => headers.keys().any(|name| name == HOST || name == AUTHORIZATION),
        _ => headers.contains_key(HOST) || headers.contains_key(AUTHORIZATION),
    }
}

impl<S, B, R> Service<Request<B>> for Bearer<S, R>
where
    S: InnerService<R::Body>,
    R: Replay<B>,
    B: Send + 'static,
{
    type Response = Response<S::ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if is_exempt(&request) {
            return ResponseFuture::passed_through(&mut self.inner, &self.replay, request);
        }
        let origins = &self.reader.owner().origins;
        let mut origin_match = origins.classify(request.uri());
        if origin_match == OriginMatch::Matched && has_host_or_authorization(request.headers()) {
            if request.headers().contains_key(AUTHORIZATION) {
                return ResponseFuture::passed_through(&mut self.inner, &self.replay, request);
            }
            // Servers route by this header, some of them also in HTTP/2.
            let mut hosts = request.headers().get_all(HOST).iter();
            if !hosts.all(|host| origins.allow_host(request.uri(), host)) {
                origin_match = OriginMatch::Host;
            }
        }
        let usable = if origin_match == OriginMatch::Matched { self.reader.usable() } else { None };
        let Some(Usable { value, token, freshness }) = usable else {
            return match self.classify(&request, origin_match) {
                Disposition::Wait => match self.reader.owner().per_request.clone() {
                    None => {
                        let session = self.reader.session();
                        self.release_readiness();
                        ResponseFuture::waiting(Arc::clone(self.reader.owner()), session, self.replay.clone(), request)
                    }
                    Some(per_request) => self.call_with_own_cache(&per_request, request),
                },
                Disposition::PassThrough => ResponseFuture::passed_through(&mut self.inner, &self.replay, request),
                Disposition::Reject(error) => {
                    self.release_readiness();
                    ResponseFuture::failed(error)
                }
            };
        };
        // There is no such header yet, and `append` is cheaper than `insert`, which returns the old values.
        request.headers_mut().append(AUTHORIZATION, value);
        match freshness {
            Freshness::Fresh { checked_again: false } => {}
            Freshness::Fresh { checked_again: true } => self.reader.copy_owner(),
            Freshness::Due => self.reader.owner().cache.refresh_in_background(),
        }
        let (request, saved) = self.replay.prepare(request);
        let retry = saved.map(|saved| RetryState { replay: self.replay.clone(), saved });
        let attempt = Attempt { config: Arc::clone(self.reader.owner()), token, stage: Stage::First { retry } };
        ResponseFuture::sent(self.inner.call(request), Some(attempt))
    }
}

impl<S: Clone, R: Clone> Clone for Bearer<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), reader: self.reader.clone(), replay: self.replay.clone() }
    }
}

impl<S: fmt::Debug, R> fmt::Debug for Bearer<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer")
            .field("inner", &self.inner)
            .field("config", self.reader.owner())
            .finish_non_exhaustive()
    }
}
