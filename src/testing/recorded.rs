//! A request as a fake received it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};

/// A request as a fake received it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// The URI, absolute or a path as the client sent it.
    pub uri: Uri,
    /// The headers. Values that are marked sensitive stay so.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Recorded {
    pub(crate) async fn read(request: Request<Full<Bytes>>) -> Self {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        Self { method: parts.method, uri: parts.uri, headers: parts.headers, body: body.to_bytes() }
    }

    /// The body as form parameters, with any content type.
    ///
    /// The last of a repeated parameter counts.
    pub fn form(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The body as JSON, with any content type.
    ///
    /// # Panics
    ///
    /// If the body is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the recorded body is JSON")
    }

    /// The content type in lower case, without parameters such as `charset`; empty if absent.
    pub(crate) fn media_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    }
}
