//! The challenge of a 401 decides whether it is a rejection, over sockets, too.

use std::future::ready;

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_bearer::{Challenge, Error};

use crate::harness::{Harness, Protocol};
use crate::run;
use crate::servers::{Server, answer, text};

/// Sends a request to a server that always answers with a 401 and this challenge. Returns the numbers of sends and of
/// fetches.
async fn rejected(protocol: Protocol, challenge: &'static str) -> (usize, usize) {
    let harness = Harness::revoked().await;
    let server = Server::start(move |_| {
        let mut rejection = answer(401, r#"{"why":"ask your administrator"}"#);
        rejection.headers_mut().append(WWW_AUTHENTICATE, challenge.parse().expect("a header"));
        ready(rejection)
    })
    .await;
    let client = harness.layer(&server.origin()).layer(protocol.client());
    let request = Request::get(server.origin()).body(Full::<Bytes>::default()).expect("a request");
    let response = client.oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.extensions().get::<Error>().is_none(), "the layer adds no error");
    assert_eq!(Challenge::all(response.headers()).len(), 1, "the challenge is still there");
    assert_eq!(text(response.into_body()).await, r#"{"why":"ask your administrator"}"#);
    // There is no refresh in the background either.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    (server.seen().len(), harness.fetched())
}

#[test]
fn a_rejection_for_another_reason_is_returned_unread_and_causes_no_refresh() {
    run(async || {
        for protocol in Protocol::BOTH {
            for challenge in [
                r#"Bearer realm="api", error="insufficient_scope", scope="admin""#,
                r#"Basic realm="old""#,
                r#"Bearer error="insufficient_user_authentication", acr_values="mfa""#,
            ] {
                assert_eq!(rejected(protocol, challenge).await, (1, 1), "{protocol:?}, {challenge}");
            }
            assert_eq!(rejected(protocol, r#"Bearer error="invalid_token""#).await, (2, 2));
        }
    });
}
