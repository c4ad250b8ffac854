//! Rejections in the trailers of gRPC responses.
//!
//! The layer returns the inner service's body unchanged, so it cannot read trailers. It puts the token's id and cache
//! into the response's extensions, and a body around that body reads the trailers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::cache::{Rejected, TokenCache};
use crate::rejection;
use crate::schedule::Sign;
use crate::token::TokenId;

pin_project! {
    /// A response body that reports gRPC's `UNAUTHENTICATED` in its trailers.
    ///
    /// The cache replaces the rejected token in the background, so that the next call has a new one. This call is not
    /// sent again, because it may have had an effect. The layer needs
    /// [`RejectionPolicy::grpc`](crate::RejectionPolicy::grpc). Without it, and for a request without a token of the
    /// layer, this body changes nothing.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use tower::{BoxError, ServiceBuilder, service_fn};
    /// use tower::util::MapResponseLayer;
    /// use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache, WatchTrailers};
    ///
    /// # let channel = service_fn(async |_: Request<String>| Ok::<_, BoxError>(Response::new(String::new())));
    /// let layer = BearerLayer::new(TokenCache::fixed("t")?, ["https://api.example.com"])?.rejection_policy(RejectionPolicy::new().grpc());
    /// let api = ServiceBuilder::new().layer(MapResponseLayer::new(WatchTrailers::of)).layer(layer).service(channel);
    /// // let client = EchoClient::new(api);
    /// # fn check<S: tower::Service<Request<String>>>(_: S) {}
    /// # check(api);
    /// # Ok::<_, tower_bearer::Error>(())
    /// ```
    #[derive(Debug)]
    pub struct WatchTrailers<B> {
        #[pin]
        body: B,
        sent: Option<SentToken>,
    }
}

/// A response extension: the token that its request was sent with.
#[derive(Clone, Debug)]
pub(crate) struct SentToken {
    pub(crate) cache: TokenCache,
    pub(crate) token: TokenId,
}

// === impl WatchTrailers ===

impl<B> WatchTrailers<B> {
    /// Wraps the body of the response.
    pub fn of(mut response: Response<B>) -> Response<Self> {
        let sent = response.extensions_mut().remove();
        response.map(|body| Self { body, sent })
    }
}

impl<B: Body> Body for WatchTrailers<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
        if let Some(trailers) = trailers
            && let Some(sent) = this.sent.take()
        {
            sent.check(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl SentToken ===

impl SentToken {
    fn check(self, trailers: &HeaderMap) {
        if rejection::is_unauthenticated(trailers) {
            let rejected = Rejected { sign: Some(Sign::Standard), headers: None };
            // The error is ignored, because the caller gets the API's status. Without a runtime the next call replaces
            // the token.
            let _ = self.cache.replace_in_background(self.token, rejected);
        }
    }
}
