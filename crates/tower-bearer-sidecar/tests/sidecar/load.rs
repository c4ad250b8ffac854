//! Many concurrent calls while tokens rotate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower_bearer::testing::Api;

use crate::harness::{Sidecar, client, get, issuer, serve};

const REQUESTS: usize = 10_000;
const CONCURRENCY: usize = 64;
/// The issuer announces 2 whole seconds. The API accepts a token for almost one second more, as APIs are lenient with
/// clocks, so that a busy machine does not fail the test. A sidecar that waits for the API's 401 still gets one.
const LIFETIME: Duration = Duration::from_millis(2_999);

/// Each token is replaced before it expires, and none is sent until an API rejects it.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_at_concurrency_64_while_2_second_tokens_rotate_and_none_fails() {
    let (issuer, tokens) = issuer().await;
    issuer.lifetime(LIFETIME);
    let api = Api::new(issuer.ledger());
    // With 157 rounds of 40 ms, the test takes 6 s on a fast machine, so tokens rotate.
    api.delay(Duration::from_millis(40));
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &[]).await;
    let (url, client) = (format!("{}/me", sidecar.base), client());
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (url, client, next) = (url.clone(), client.clone(), Arc::clone(&next));
        callers.spawn(async move {
            let mut failed = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                match client.request(get(&url)).await {
                    Ok(response) if response.status() == StatusCode::OK => {
                        response.into_body().collect().await.unwrap();
                    }
                    Ok(response) => failed.push(response.status().to_string()),
                    Err(error) => failed.push(format!("{error:?}")),
                }
            }
            failed
        });
    }
    let failed = callers.join_all().await.concat();
    let ahead = sidecar.counted("tower_bearer_fetches_total", "due").await.unwrap();
    println!(
        "{REQUESTS} requests, {} failed; {} tokens, {ahead} of them ahead of the end, at most {} fetched at once; \
         {} expired tokens seen, {} requests rejected",
        failed.len(),
        issuer.calls().total(),
        issuer.calls().most_at_once(),
        api.expired_seen(),
        api.rejected(),
    );
    assert_eq!(failed, Vec::<String>::new(), "{}", sidecar.log());
    assert_eq!((api.accepted(), api.calls().total()), (REQUESTS, REQUESTS), "each goes out once");
    assert_eq!((api.rejected(), api.expired_seen(), api.without_token()), (0, 0, 0));
    for counter in ["rejections", "retries", "returned_unauthorized"] {
        let count = sidecar.counted(&format!("tower_bearer_{counter}_total"), "sidecar").await;
        assert_eq!(count, Some(0), "{counter}");
    }
    assert!(issuer.calls().total() >= 3, "tokens rotated meanwhile");
    assert!(ahead >= 1, "and not only when they had ended");
    assert_eq!(issuer.calls().most_at_once(), 1);
}
