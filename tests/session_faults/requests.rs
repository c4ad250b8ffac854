//! Requests to one API, and the layer for them.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tower_bearer::{BearerLayer, TokenCache};

pub(crate) type Body = Full<Bytes>;

pub(crate) const API: &str = "https://api.example.com";

pub(crate) fn layer(cache: &TokenCache) -> BearerLayer {
    BearerLayer::new(cache.clone(), [API]).expect("an origin")
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("{API}{path}")).body(Body::default()).expect("a request")
}

/// The text of the token that a request carries.
pub(crate) fn token(headers: &HeaderMap) -> String {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    value.unwrap_or_default().to_owned()
}

/// A response with this body.
pub(crate) fn respond<B>(status: u16, body: B) -> Response<B> {
    Response::builder().status(status).body(body).expect("a response")
}

/// Reads a body to its end, as text.
pub(crate) async fn read<B>(body: B) -> String
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.into()).expect("text")
}
