//! The event of this crate.

/// The target of the library's events.
const TARGET: &str = "tower_bearer";

/// A response came from another origin than the one that the request was sent to.
pub(crate) fn cross_origin_response(request_origin: &str, response_origin: &str) {
    tracing::error!(
        name: "cross_origin_response",
        target: TARGET,
        request_origin,
        response_origin,
        "the client followed a redirect to another origin, which may have received the token; \
         build the client with `Reqwest::build` or with the policy `same_origin_redirects`"
    );
}
