//! What a 401 says decides, over a wire as in memory.

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

/// What came back through a layer over a server that answers every request with a 401 and this challenge: how often
/// the server was asked, how many tokens were fetched.
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
    assert!(response.extensions().get::<Error>().is_none(), "nothing of ours is on it");
    assert_eq!(Challenge::all(response.headers()).len(), 1, "the challenge is still there");
    assert_eq!(text(response.into_body()).await, r#"{"why":"ask your administrator"}"#);
    // Nothing is refreshed beside it either.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    (server.seen().len(), harness.fetched())
}

#[test]
fn a_rejection_for_another_reason_is_handed_back_readable_and_refreshes_nothing() {
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
