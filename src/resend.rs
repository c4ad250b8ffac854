//! Again: how a request that was refused can be sent a second time.
//!
//! A request that goes out may have to go again, and its body can be given away only once. The choice is visible on
//! the layer, because it costs: [`CloneBody`] (the default) keeps a copy of the request, [`Never`] costs nothing and
//! hands every 401 back, [`IfEmpty`] keeps requests without a body, [`Buffered`] records a stream while it goes out, and a
//! closure says itself how a body is copied.

use http::{Request, request};
use http_body::Body;
use tower::Service;

pub use crate::resend::buffered::{Buffered, Recorded, Unwrapped, Wrap};

mod buffered;

/// How the body of a request is kept for a second send.
///
/// A closure `Fn(&B) -> Option<B>` is one: it returns the body's copy, or `None` where it cannot be copied.
///
/// ```
/// # use tower_bearer::{BearerLayer, TokenCache};
/// # struct Body; impl Body { fn try_clone(&self) -> Option<Body> { None } }
/// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?
///     .resend(|body: &Body| body.try_clone());
/// # Ok::<_, tower_bearer::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot send a request with the body `{B}` a second time",
    label = "this layer cannot keep the body `{B}` for a second send",
    note = "the default, `CloneBody`, takes bodies that are `Clone`",
    note = "choose another with `BearerLayer::resend`: `Buffered::new(limit)` records a stream, `IfEmpty` keeps requests without a body, a closure `Fn(&B) -> Option<B>` copies in its own way, `Never` hands every 401 back"
)]
pub trait Resend<B> {
    /// The body the wrapped service gets.
    type Body;
    /// What is kept of the body while the first answer is awaited.
    type Spare;

    /// Makes the body of a request that is sent once whatever is answered.
    fn once(&self, body: B) -> Self::Body;

    /// Makes the body of the first send, and what the second needs; `None` where this body cannot be sent twice.
    fn first(&self, body: B) -> (Self::Body, Option<Self::Spare>);

    /// Makes the body of the second send; `None` where it cannot be sent after all.
    fn second(&self, spare: Self::Spare) -> Option<Self::Body>;
}

/// Clones the body: right for bodies in memory (`Full<Bytes>`, `String`), the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneBody;

/// Sends requests without a body again, and hands the 401 of every other back.
///
/// A body is empty when it says so before it is read ([`Body::is_end_stream`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct IfEmpty;

/// Sends nothing again: every 401 is handed back, and the token is refreshed for the next request. Costs no copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

/// Makes the compiler say why a layered service takes no requests with the body `B`.
///
/// At `ready` or `call` it says only that some bounds are not satisfied; here it names the bound and what to do. Does
/// nothing else.
///
/// ```
/// # use tower::{BoxError, Layer, service_fn};
/// # use tower_bearer::{BearerLayer, TokenCache, resend};
/// # let http = service_fn(|_: http::Request<String>| std::future::ready(Ok::<_, BoxError>(http::Response::new(String::new()))));
/// let api = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.layer(http);
/// resend::check::<String, _>(&api);
/// # Ok::<_, tower_bearer::Error>(())
/// ```
pub fn check<B, S: Service<Request<B>>>(_: &S) {}

/// The request as it was before the token was put on it, for the second send.
#[derive(Debug)]
pub(crate) struct Spare<K> {
    head: request::Parts,
    body: K,
}

// === the choices ===

// So that the error names the choice, and not the `Clone` it stumbled over.
#[diagnostic::do_not_recommend]
impl<B: Clone> Resend<B> for CloneBody {
    type Body = B;
    type Spare = B;

    fn once(&self, body: B) -> B {
        body
    }

    fn first(&self, body: B) -> (B, Option<B>) {
        (body.clone(), Some(body))
    }

    fn second(&self, spare: B) -> Option<B> {
        Some(spare)
    }
}

impl<B: Body + Default> Resend<B> for IfEmpty {
    type Body = B;
    type Spare = ();

    fn once(&self, body: B) -> B {
        body
    }

    fn first(&self, body: B) -> (B, Option<()>) {
        let empty = body.is_end_stream().then_some(());
        (body, empty)
    }

    fn second(&self, (): ()) -> Option<B> {
        Some(B::default())
    }
}

impl<B> Resend<B> for Never {
    type Body = B;
    type Spare = std::convert::Infallible;

    fn once(&self, body: B) -> B {
        body
    }

    fn first(&self, body: B) -> (B, Option<Self::Spare>) {
        (body, None)
    }

    fn second(&self, spare: Self::Spare) -> Option<B> {
        match spare {}
    }
}

impl<B, F: Fn(&B) -> Option<B>> Resend<B> for F {
    type Body = B;
    type Spare = B;

    fn once(&self, body: B) -> B {
        body
    }

    fn first(&self, body: B) -> (B, Option<B>) {
        let spare = self(&body);
        (body, spare)
    }

    fn second(&self, spare: B) -> Option<B> {
        Some(spare)
    }
}

// === impl Spare ===

/// Splits a request, still without a token, into the first send and what the second needs.
pub(crate) fn first<B, R: Resend<B>>(resend: &R, request: Request<B>) -> (Request<R::Body>, Option<Spare<R::Spare>>) {
    let (head, body) = request.into_parts();
    let (body, kept) = resend.first(body);
    let spare = kept.map(|body| Spare { head: head.clone(), body });
    (Request::from_parts(head, body), spare)
}

impl<K> Spare<K> {
    /// Equal to the first send in all but the token.
    pub(crate) fn second<B, R: Resend<B, Spare = K>>(self, resend: &R) -> Option<Request<R::Body>> {
        let body = resend.second(self.body)?;
        Some(Request::from_parts(self.head, body))
    }
}

#[cfg(test)]
mod tests;
