//! A rejection that comes in the trailers of a gRPC response, when its body is read.
//!
//! The layer's response body is the inner service's, so the layer cannot look at trailers. It leaves a note in the
//! response's extensions with which token the request was sent; a body around that body reads the trailers.

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
    /// A response body that reports a rejection in its trailers: gRPC's `UNAUTHENTICATED` after a call that began.
    ///
    /// The token is marked as rejected and replaced in the background, so the next call has a new one. This call is not sent
    /// again, because it may have had an effect. It needs [`RejectionPolicy::grpc`](crate::RejectionPolicy::grpc) on the layer; without it,
    /// and for a request without a token of the layer, it changes nothing.
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

/// A response extension: with which token its request was sent.
#[derive(Clone, Debug)]
pub(crate) struct SentToken {
    pub(crate) cache: TokenCache,
    pub(crate) token: TokenId,
}

// === impl WatchTrailers ===

impl<B> WatchTrailers<B> {
    /// The response with its body watched.
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
            sent.look(trailers);
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
    fn look(self, trailers: &HeaderMap) {
        if rejection::is_unauthenticated(trailers) {
            let rejected = Rejected { sign: Some(Sign::Standard), headers: None };
            // The error is dropped: the caller has the API's status. Without a runtime the next call replaces the token.
            let _ = self.cache.replace_in_background(self.token, rejected);
        }
    }
}
