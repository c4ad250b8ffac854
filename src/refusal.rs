//! What a response says of the token that was sent.

use http::{Response, StatusCode};

/// Whether the token was refused (RFC 6750 section 3.1, RFC 9110 section 15.5.2).
pub(crate) fn is_refused<A>(response: &Response<A>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
}
