//! Rejected responses do not block the token call and other requests on their HTTP/2 connection.

use http::StatusCode;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tower_bearer::Error;
use tower_bearer::testing::Answer;

use crate::common::SECOND;
use crate::connection::{Connection, statuses};
use crate::requests::{get, read};

/// The size of a response. 80 of them fill the 5 MiB window of a connection of hyper's client.
const LARGE: usize = 64 * 1024;

#[tokio::test(start_paused = true)]
async fn eighty_large_rejected_responses_do_not_block_the_token_call() {
    let connection = Connection::rejecting_with(LARGE).await;
    let began = Instant::now();
    let calls = connection.reject(80).await;
    connection.open();
    assert_eq!(statuses(calls.join_all().await), [StatusCode::OK; 80]);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(connection.issuer.calls().total(), 2);
}

#[tokio::test(start_paused = true)]
async fn eighty_large_rejected_responses_do_not_block_an_accepted_request() {
    let connection = Connection::rejecting_with(LARGE).await;
    let calls = connection.reject(80).await;
    let public =
        async { read(connection.client.clone().oneshot(get("/public")).await.expect("a response").into_body()).await };
    assert_eq!(timeout(SECOND, public).await.expect("a response while the issuer does not answer"), "welcome");
    connection.open();
    assert_eq!(statuses(calls.join_all().await), [StatusCode::OK; 80]);
}

#[tokio::test(start_paused = true)]
async fn a_few_small_rejected_responses_are_returned_if_the_refresh_fails() {
    let connection = Connection::rejecting_with(30).await;
    let calls = connection.reject(5).await;
    connection.issuer.fail(Some(Answer::raw(503, "")));
    connection.open();
    for outcome in calls.join_all().await {
        let response = outcome.expect("the original response");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let error = response.extensions().get::<Error>().expect("the reason");
        assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(read(response.into_body()).await, "x".repeat(30));
    }
}
