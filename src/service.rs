//! The service: decides for each request whether a token goes on it, and puts it there.
//!
//! # The story
//! The path of a request that finds a usable token is all here, and is what a static header costs and a little more: one
//! match of the origin, one look at the snapshot and at one clock, one search in the headers. No lock, no await, nothing
//! that other threads write. Only when something is unusual is it found out what, with care ([`Bearer::way`]).
//! Everything slower is in [`future`](crate::future).

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, Entry};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use tower::{BoxError, Service};

use crate::cache::{Found, Reader, TokenCache, Usable};
use crate::error::Error;
use crate::future::{Again, ResponseFuture, Rules, Sent};
use crate::origin::Verdict;
use crate::resend::{CloneBody, Resend};

/// An HTTP client that puts a bearer token on its requests; made by [`BearerLayer`](crate::BearerLayer).
///
/// It is ready when the service beneath is. A request without a usable token waits in its future, having given its
/// readiness back. Dropping the future of a request never ends a fetch.
///
/// # Errors
/// The future fails with the error of the service beneath, boxed, or with [`Error`] where there is no token to send, or
/// where the request's URI names no host ([`relative_to`](crate::BearerLayer::relative_to)).
pub struct Bearer<S, R = CloneBody> {
    inner: S,
    reader: Reader,
    /// Each request takes a count of it along.
    rules: Arc<Rules>,
    /// Whether no other service has these rules.
    settled: bool,
    resend: R,
}

/// A request extension: this request passes without a token, and its 401 is its own.
///
/// ```
/// use tower_bearer::NoToken;
///
/// let request = http::Request::get("https://api.example.com/health").extension(NoToken).body(());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoToken;

/// What becomes of a request.
enum Way {
    /// As it is, whatever is answered.
    Untouched,
    WithToken,
    Nowhere(Error),
}

// === impl Bearer ===

impl<S, R> Bearer<S, R> {
    pub(crate) fn new(inner: S, rules: Rules, resend: R) -> Self {
        Self { inner, reader: Reader::default(), rules: Arc::new(rules), settled: false, resend }
    }

    /// The cache its tokens come from.
    pub fn cache(&self) -> &TokenCache {
        &self.rules.cache
    }

    /// The service beneath.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service beneath.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service beneath, without the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// A service that is kept takes rules of its own, so that it writes to no count that others write to as well.
    #[cold]
    fn settle(&mut self) {
        if !self.settled {
            self.settled = true;
            self.rules = Arc::new(Rules::clone(&self.rules));
        }
    }

    /// What becomes of a request that finds no usable token, or none of ours: told apart with care.
    #[cold]
    fn way<B>(&self, request: &Request<B>, verdict: Verdict) -> Way {
        if request.headers().contains_key(AUTHORIZATION) || is_exempt(request) {
            return Way::Untouched;
        }
        match verdict {
            Verdict::Ours => Way::WithToken,
            Verdict::Foreign => {
                self.rules.cache.telemetry().foreign_origin(request.uri());
                Way::Untouched
            }
            Verdict::Unplaced => Way::Nowhere(Error::request(
                "the request's URI names no host, so nobody knows whether the token belongs there; give the whole URL, \
                 or tell the layer with `relative_to` where such requests go",
            )),
            Verdict::Userinfo => Way::Nowhere(Error::request(
                "the request's URI carries a user and password before its host, beside the token; leave them out, or \
                 mark the request with `NoToken`",
            )),
        }
    }
}

/// Whether the request gets no token of ours wherever it goes.
fn is_exempt<B>(request: &Request<B>) -> bool {
    // RFC 9110 section 9.3.6: a tunnel's credentials are the proxy's (Proxy-Authorization), not the origin's.
    request.method() == Method::CONNECT || request.extensions().get::<NoToken>().is_some()
}

/// Takes our token off again, the last of several credentials; the caller's own stay as they were, where they were.
#[cold]
fn take_back(headers: &mut HeaderMap) {
    if let Entry::Occupied(mut entry) = headers.entry(AUTHORIZATION) {
        let mut own: Vec<_> = entry.iter().cloned().collect();
        own.pop();
        let mut own = own.into_iter();
        if let Some(first) = own.next() {
            entry.insert(first);
        }
        own.for_each(|value| entry.append(value));
    }
}

impl<S, B, R, A> Service<Request<B>> for Bearer<S, R>
where
    S: Service<Request<R::Body>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Resend<B> + Clone + Send + 'static,
    R::Body: Send,
    R::Spare: Send + 'static,
    B: Send + 'static,
    A: Body + Send + 'static,
{
    type Response = Response<A>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B, R, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let verdict = self.rules.origins.judge(request.uri());
        let usable = match verdict {
            Verdict::Ours if !is_exempt(&request) => self.reader.usable(&self.rules.cache),
            _ => None,
        };
        let Some(Usable { value, generation, found }) = usable else {
            return match self.way(&request, verdict) {
                Way::WithToken => {
                    // Our readiness goes back before the wait: the issuer's call may need it.
                    let later = self.inner.clone();
                    self.inner = later.clone();
                    ResponseFuture::waiting(Arc::clone(&self.rules), later, self.resend.clone(), request)
                }
                Way::Untouched => ResponseFuture::sent(self.inner.call(self.resend.once(request)), None),
                Way::Nowhere(error) => ResponseFuture::failed(error),
            };
        };
        // One search in the headers where looking first would be two. What was there already is the caller's own.
        if request.headers_mut().append(AUTHORIZATION, value) {
            take_back(request.headers_mut());
            return ResponseFuture::sent(self.inner.call(self.resend.once(request)), None);
        }
        match found {
            Found::Fresh => {}
            Found::FreshAgain => self.settle(),
            Found::Due => self.rules.cache.refresh_beside(),
        }
        let (request, spare) = self.resend.first(request);
        let again = spare.map(|spare| Again { service: self.inner.clone(), resend: self.resend.clone(), spare });
        let sent = Sent { rules: Arc::clone(&self.rules), generation, again };
        ResponseFuture::sent(self.inner.call(request), Some(sent))
    }
}

impl<S: Clone, R: Clone> Clone for Bearer<S, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            // What it has seen stays with it: a clone is nearly always for one request.
            reader: Reader::default(),
            rules: Arc::clone(&self.rules),
            settled: false,
            resend: self.resend.clone(),
        }
    }
}

impl<S: fmt::Debug, R> fmt::Debug for Bearer<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("inner", &self.inner).field("rules", &self.rules).finish_non_exhaustive()
    }
}
