//! The headers that a proxy removes and adds (RFC 9110 section 7.6).

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Request, Version};

/// The headers of one connection. They are removed even if `Connection` does not name them.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether this request asks for a WebSocket (RFC 6455 section 4.1). No other upgrade is forwarded, because HTTP in a
/// tunnel (h2c) would bypass the guard.
pub(crate) fn wants_websocket<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && words(request.headers(), &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
        && words(request.headers(), &UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket"))
}

/// Changes a request's headers for the upstream. The token is added later.
pub(crate) fn prepare_request(headers: &mut HeaderMap, version: Version, websocket: bool) {
    // gRPC needs `TE: trailers`, which a proxy that forwards trailers may forward (RFC 9110 section 10.1.4).
    let trailers = words(headers, &TE).any(|word| word.eq_ignore_ascii_case("trailers"));
    strip(headers);
    headers.remove(TE);
    // The client adds the upstream's host.
    headers.remove(HOST);
    // The caller's credentials must not replace the token. The README says why.
    if headers.remove(AUTHORIZATION).is_some() {
        tracing::debug!("the caller's own Authorization is replaced by the token");
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.append(VIA, via(version));
    if websocket {
        set_upgrade(headers);
    }
}

/// Changes a response's headers for the caller.
pub(crate) fn prepare_response(headers: &mut HeaderMap, version: Version, websocket: bool) {
    strip(headers);
    headers.append(VIA, via(version));
    if websocket {
        set_upgrade(headers);
    }
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn strip(headers: &mut HeaderMap) {
    // With Transfer-Encoding, a length must be ignored (RFC 9112 section 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = words(headers, &CONNECTION).filter_map(|word| word.parse().ok()).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The comma-separated words of a header, without their parameters.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|word| word.split(';').next()).map(str::trim)
}

/// The protocol of the received message, and a pseudonym (RFC 9110 section 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 sidecar",
        Version::HTTP_10 => "1.0 sidecar",
        _ => "1.1 sidecar",
    })
}
