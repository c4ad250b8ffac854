//! The service: decides for each request whether a token goes on it, and puts it there.
//!
//! # The story
//! The path of a request that finds a usable token is all here, and is what a static header costs and a little more: one
//! match of the origin, one look at the snapshot and at one clock, one search in the headers. No lock, no await, nothing
//! that other threads write. Only when something is unusual is it found out what, with care ([`Bearer::classify`]).
//! Everything slower is in [`future`](crate::future).

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

/// An HTTP client that puts a bearer token on its requests; made by [`BearerLayer`](crate::BearerLayer).
///
/// It is ready when the inner service is. A request without a usable token waits in its future, having given its
/// readiness back. Dropping the future of a request never ends a fetch.
///
/// # Errors
/// The future fails with the error of the inner service, boxed, or with [`Error`]: if there is no token to send, if the
/// session of the request has ended, if the request's URI names no host
/// ([`allow_relative_uris`](crate::BearerLayer::allow_relative_uris)), if its `Host` header names a site that is neither the
/// URI's nor another of the layer's origins, or if no cache belongs to the request ([`CacheChoice`](crate::CacheChoice)).
pub struct Bearer<S, R = CloneBody> {
    inner: S,
    /// Each request counts a reference to its owner. If each request has its own cache, this one never finds a token.
    reader: Reader<LayerConfig<S>>,
    replay: R,
}

/// What becomes of a request without a usable token.
enum Disposition {
    /// It is sent as it is, whatever is answered.
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

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service. A request that waits for a token, or is sent again, goes through a clone of the service that the
    /// layer was given, and does not see what is changed here.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, without the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// What becomes of a request that finds no usable token, or none of ours: with care.
    #[cold]
    fn classify<B>(&self, request: &Request<B>, verdict: OriginMatch) -> Disposition {
        let telemetry = self.reader.owner().cache.telemetry();
        // A request to another origin passes in any case; only the event asks for more.
        if verdict == OriginMatch::Other && !telemetry.reports_unmatched_origins() {
            return Disposition::PassThrough;
        }
        if request.headers().contains_key(AUTHORIZATION) {
            return Disposition::PassThrough;
        }
        match verdict {
            OriginMatch::Matched => Disposition::Wait,
            OriginMatch::Other => {
                telemetry.unmatched_origin(request.uri());
                Disposition::PassThrough
            }
            OriginMatch::NoHost => Disposition::Reject(Error::request(
                "the request's URI names no host, so it is unknown whether the token belongs there; give the whole URL, \
                 or say with `allow_relative_uris` that such requests go to the origins of this layer",
            )),
            OriginMatch::Host => Disposition::Reject(Error::request(
                "the request's `Host` header names another site than its URI, so the token could reach a site that it is \
                 not for; leave the header out, name that origin too, or mark the request with `NoToken`",
            )),
            OriginMatch::Userinfo => Disposition::Reject(Error::request(
                "the request's URI carries a user and password before its host, beside the token; leave them out, or \
                 mark the request with `NoToken`",
            )),
        }
    }
}

impl<S: Clone, R> Bearer<S, R> {
    /// Gives back the readiness that `poll_ready` took: what it stands for may be needed by others, such as the token call.
    fn give_back_readiness(&mut self) {
        self.inner = self.reader.owner().template.service();
    }
}

impl<S, R> Bearer<S, R> {
    /// Calls with the cache that belongs to this request, and with no other: also for the second send.
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
                self.give_back_readiness();
                return ResponseFuture::failed(error);
            }
        };
        let mut request = Request::from_parts(head, body);
        let config = Arc::new(self.reader.owner().with_cache(cache));
        let mut reader = Reader::new(Arc::clone(&config));
        let Some(Usable { value, token, freshness }) = reader.usable() else {
            self.give_back_readiness();
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

/// Whether the request gets no token of ours wherever it goes.
fn is_exempt<B>(request: &Request<B>) -> bool {
    // RFC 9110 section 9.3.6: a tunnel's credentials are the proxy's (Proxy-Authorization), not the origin's.
    request.method() == Method::CONNECT || request.extensions().get::<NoToken>().is_some()
}

/// Whether there are headers that decide whether the request gets a token. Most requests have a few headers and none of these:
/// looking through them once costs less than one search by a hash.
#[inline]
fn has_deciding(headers: &HeaderMap) -> bool {
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
        let mut verdict = origins.classify(request.uri());
        if verdict == OriginMatch::Matched && has_deciding(request.headers()) {
            if request.headers().contains_key(AUTHORIZATION) {
                return ResponseFuture::passed_through(&mut self.inner, &self.replay, request);
            }
            // Servers go by this header, some of them also in HTTP/2.
            let mut hosts = request.headers().get_all(HOST).iter();
            if !hosts.all(|host| origins.allow_host(request.uri(), host)) {
                verdict = OriginMatch::Host;
            }
        }
        let usable = if verdict == OriginMatch::Matched { self.reader.usable() } else { None };
        let Some(Usable { value, token, freshness }) = usable else {
            return match self.classify(&request, verdict) {
                Disposition::Wait => match self.reader.owner().per_request.clone() {
                    None => {
                        let session = self.reader.session();
                        self.give_back_readiness();
                        ResponseFuture::waiting(Arc::clone(self.reader.owner()), session, self.replay.clone(), request)
                    }
                    Some(per_request) => self.call_with_own_cache(&per_request, request),
                },
                Disposition::PassThrough => ResponseFuture::passed_through(&mut self.inner, &self.replay, request),
                Disposition::Reject(error) => {
                    self.give_back_readiness();
                    ResponseFuture::failed(error)
                }
            };
        };
        // There is none: cheaper than `insert`, which returns what was there.
        request.headers_mut().append(AUTHORIZATION, value);
        match freshness {
            Freshness::Fresh { seen_before: false } => {}
            Freshness::Fresh { seen_before: true } => self.reader.detach(),
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
