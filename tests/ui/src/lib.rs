//! The common parts of these programs: a body that is not `Clone`, and a client that takes any body.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::Service;
use tower_bearer::{BearerLayer, TokenCache};

/// An empty body that is not `Clone`.
#[derive(Default)]
pub struct Upload;

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

/// A client that takes any body.
#[derive(Clone)]
pub struct Http;

impl<B> Service<Request<B>> for Http {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// A layer with a fixed token.
pub fn layer() -> BearerLayer {
    let cache = TokenCache::fixed("t").expect("a token");
    BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin")
}
