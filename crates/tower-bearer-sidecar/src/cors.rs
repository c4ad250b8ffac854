//! The CORS headers for pages of an allowed origin.
//!
//! The guard rejects pages of any other origin, so a request with an `Origin` may call if it gets here.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Request, Response};

use crate::forward::Body;
use crate::problem::AnsweredBy;

/// Answers a CORS preflight request of a browser (Fetch standard). Any other `OPTIONS` goes to the upstream.
pub(crate) fn preflight<B>(request: &Request<B>) -> Option<Response<Body>> {
    let headers = request.headers();
    let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    let origin = headers.get(ORIGIN).filter(|_| request.method() == Method::OPTIONS)?;
    let mut response = Response::new(Body::default());
    allow(&mut response, origin.clone());
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    response.extensions_mut().insert(AnsweredBy("preflight"));
    Some(response)
}

/// Lets the page read the answer, whatever the upstream allows.
pub(crate) fn allow<B>(response: &mut Response<B>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("origin"));
}
