//! Rejected responses leave room on their HTTP/2 connection for the token call and for other requests.

use http::StatusCode;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tower_bearer::Error;
use tower_bearer::testing::Answer;

use crate::common::SECOND;
use crate::connection::{Connection, statuses};
use crate::requests::{get, read};

/// 80 of them fill the 5 MiB that hyper's client lets a connection send.
const LARGE: usize = 64 * 1024;

#[tokio::test(start_paused = true)]
async fn eighty_large_rejected_responses_leave_room_for_the_token_call() {
    let connection = Connection::rejecting_with(LARGE).await;
    let began = Instant::now();
    let calls = connection.reject(80).await;
    connection.open();
    assert_eq!(statuses(calls.join_all().await), [StatusCode::OK; 80]);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(connection.issuer.calls().total(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_rejected_passes_eighty_large_rejected_responses() {
    let connection = Connection::rejecting_with(LARGE).await;
    let calls = connection.reject(80).await;
    let public =
        async { read(connection.client.clone().oneshot(get("/public")).await.expect("a response").into_body()).await };
    assert_eq!(timeout(SECOND, public).await.expect("a response while the issuer is silent"), "welcome");
    connection.open();
    assert_eq!(statuses(calls.join_all().await), [StatusCode::OK; 80]);
}

#[tokio::test(start_paused = true)]
async fn a_few_small_rejected_responses_are_returned_when_the_refresh_fails() {
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
