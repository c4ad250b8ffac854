//! The trait [`Replay`], and the choices that need no recording.

use http::{Method, Request, Uri};
use http_body::Body;
use tower::Service;

/// How a request is kept for a second send.
///
/// A closure `Fn(&B) -> Option<B>` implements it: it returns the body's copy, or `None` if it cannot be copied.
///
/// ```
/// # use tower_bearer::{BearerLayer, TokenCache};
/// # struct Body; impl Body { fn try_clone(&self) -> Option<Body> { None } }
/// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?
///     .replay(|body: &Body| body.try_clone());
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot send a request with the body `{B}` a second time",
    label = "this layer cannot keep the body `{B}` for a second send",
    note = "the default, `CloneBody`, takes bodies that are `Clone`",
    note = "choose another with `BearerLayer::replay`: `Buffered::new(limit)` records a stream, `IfEmpty` keeps requests without a body, a closure `Fn(&B) -> Option<B>` copies in its own way, `Never` hands every 401 back"
)]
pub trait Replay<B>: Clone + Send + 'static {
    /// The body that the inner service gets.
    type Body: Send;
    /// What is kept of the request until the first response arrives.
    type Saved: Send + 'static;

    /// Makes a request that is sent once, even if the response is a rejection.
    fn pass_through(&self, request: Request<B>) -> Request<Self::Body>;

    /// Makes the first send, and saves what the second needs.
    ///
    /// Returns `None` as the second value if this request cannot be sent twice.
    fn prepare(&self, request: Request<B>) -> (Request<Self::Body>, Option<Self::Saved>);

    /// Whether the second send is still possible.
    ///
    /// If not, the rejected response is returned at once.
    fn can_replay(&self, _: &Self::Saved) -> bool {
        true
    }

    /// Returns the method and the URI of the saved request.
    ///
    /// After a redirect, a response from another URI may not answer an unsafe method. Such a request is not sent again.
    fn target<'a>(&self, saved: &'a Self::Saved) -> (&'a Method, &'a Uri);

    /// Makes the second send, equal to the first.
    ///
    /// Returns `None` if it is not possible after all. The layer replaces the rejected token by the new one.
    fn replay(&self, saved: Self::Saved) -> Option<Request<Self::Body>>;
}

/// Clones the body. The default, for bodies in memory (`Full<Bytes>`, `String`).
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneBody;

/// Sends requests without a body again, and returns the 401 of every other.
///
/// A body is empty if it says so before it is read ([`Body::is_end_stream`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct IfEmpty;

/// Never sends again, which costs no copy: the caller gets every 401.
///
/// The token is refreshed for the next request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

/// Makes the compiler say why a layered service does not take the body `B`.
///
/// At `ready` or `call` the compiler says only that some bounds are not satisfied. Here it names the bound and the
/// remedy. The function does nothing.
///
/// ```
/// # use tower::{BoxError, Layer, service_fn};
/// # use tower_bearer::{BearerLayer, TokenCache, replay};
/// # let http = service_fn(|_: http::Request<String>| std::future::ready(Ok::<_, BoxError>(http::Response::new(String::new()))));
/// let api = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.layer(http);
/// replay::check::<String, _>(&api);
/// # Ok::<_, tower_bearer::Error>(())
/// ```
pub fn check<B, S: Service<Request<B>>>(_: &S) {}

// === the choices ===

// With this attribute the compiler's error names the choice, and not the missing `Clone`.
#[diagnostic::do_not_recommend]
impl<B: Clone + Send + 'static> Replay<B> for CloneBody {
    type Body = B;
    type Saved = Request<B>;

    fn pass_through(&self, request: Request<B>) -> Request<B> {
        request
    }

    #[inline]
    fn prepare(&self, request: Request<B>) -> (Request<B>, Option<Request<B>>) {
        let saved = request.clone();
        (request, Some(saved))
    }

    fn target<'a>(&self, saved: &'a Request<B>) -> (&'a Method, &'a Uri) {
        (saved.method(), saved.uri())
    }

    fn replay(&self, saved: Request<B>) -> Option<Request<B>> {
        Some(saved)
    }
}

impl<B: Body + Default + Send> Replay<B> for IfEmpty {
    type Body = B;
    type Saved = Request<()>;

    fn pass_through(&self, request: Request<B>) -> Request<B> {
        request
    }

    fn prepare(&self, request: Request<B>) -> (Request<B>, Option<Request<()>>) {
        let saved = request.body().is_end_stream().then(|| with_body(&request, ()));
        (request, saved)
    }

    fn target<'a>(&self, saved: &'a Request<()>) -> (&'a Method, &'a Uri) {
        (saved.method(), saved.uri())
    }

    fn replay(&self, saved: Request<()>) -> Option<Request<B>> {
        Some(saved.map(|()| B::default()))
    }
}

// The request is neither taken apart nor saved, so that this choice costs no moves.
impl<B: Send> Replay<B> for Never {
    type Body = B;
    type Saved = std::convert::Infallible;

    #[inline]
    fn pass_through(&self, request: Request<B>) -> Request<B> {
        request
    }

    #[inline]
    fn prepare(&self, request: Request<B>) -> (Request<B>, Option<Self::Saved>) {
        (request, None)
    }

    fn target<'a>(&self, saved: &'a Self::Saved) -> (&'a Method, &'a Uri) {
        match *saved {}
    }

    fn replay(&self, saved: Self::Saved) -> Option<Request<B>> {
        match saved {}
    }
}

impl<B: Send + 'static, F: Fn(&B) -> Option<B> + Clone + Send + 'static> Replay<B> for F {
    type Body = B;
    type Saved = Request<B>;

    fn pass_through(&self, request: Request<B>) -> Request<B> {
        request
    }

    fn prepare(&self, request: Request<B>) -> (Request<B>, Option<Request<B>>) {
        let saved = self(request.body()).map(|body| with_body(&request, body));
        (request, saved)
    }

    fn target<'a>(&self, saved: &'a Request<B>) -> (&'a Method, &'a Uri) {
        (saved.method(), saved.uri())
    }

    fn replay(&self, saved: Request<B>) -> Option<Request<B>> {
        Some(saved)
    }
}

/// Copies a request, with this body.
pub(crate) fn with_body<B, T>(request: &Request<B>, body: T) -> Request<T> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

#[cfg(test)]
mod tests;
