//! If a refresh fails, each request whose rejected response was dropped gets an error with its status and headers.

use http::{Response, StatusCode};
use tower::BoxError;
use tower_bearer::Error;
use tower_bearer::testing::Answer;

use crate::connection::Connection;
use crate::held_responses::Rejected;

/// The head of the response that was dropped early.
fn dropped(error: &BoxError) -> &Response<()> {
    let error = Error::find(&**error).expect("an error of the layer");
    error.rejected_response().expect("the head of the rejected response")
}

#[tokio::test(start_paused = true)]
async fn a_large_rejected_response_becomes_an_error_with_its_status_and_headers() {
    let connection = Connection::rejecting_with(64 * 1024).await;
    let calls = connection.reject(80).await;
    connection.issuer.fail(Some(Answer::raw(503, "")));
    connection.open();
    let mut paths = Vec::new();
    for outcome in calls.join_all().await {
        let error = outcome.expect_err("the body was dropped");
        let response = dropped(&error);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        paths.push(response.headers()["x-path"].to_str().expect("text").to_owned());
        let error = Error::find(&*error).expect("an error of the layer");
        assert!(error.is_transient() && !error.is_invalid() && !error.is_denied(), "{error}");
        assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE), "the status of the issuer");
    }
    let mut expected: Vec<_> = (0..80).map(|number| format!("/{number}")).collect();
    paths.sort();
    expected.sort();
    assert_eq!(paths, expected, "each caller gets the head of its own response");
}

#[tokio::test(start_paused = true)]
async fn each_of_a_thousand_requests_gets_its_small_rejected_response_or_its_head() {
    for size in [30, 1000] {
        let rejected = Rejected::with_bodies_of(size).await;
        assert!(rejected.held < 65_535);
        let mut paths = Vec::new();
        for outcome in rejected.outcomes {
            let (status, path) = match &outcome {
                Ok(response) => {
                    assert!(response.extensions().get::<Error>().expect("the reason").is_transient());
                    (response.status(), &response.headers()["x-path"])
                }
                Err(error) => (dropped(error).status(), &dropped(error).headers()["x-path"]),
            };
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            paths.push(path.clone());
        }
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 1000, "each caller gets its own");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_without_a_rejected_response_has_none() {
    assert!(Error::transient("the issuer is down").rejected_response().is_none());
}
