//! Calls of `sign_out`: repeated, at the same time, after a shutdown, and without a runtime.

use tokio_test::{assert_pending, assert_ready, task};
use tower_bearer::{Error, TokenCache};

use crate::common::{SECOND, Script, paused_runtime, text, until};
use crate::{Revoked, sign_out};

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_is_dropped_can_be_called_again() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    let gate = script.hold();
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let revoked = Revoked::default();
    assert_pending!(task::spawn(revoked.sign_out(&cache)).poll(), "dropped while it waits for the fetch");
    assert!(cache.get().await.unwrap_err().is_signed_out());
    gate.open();
    assert!(refresh.await.unwrap_err().is_signed_out());
    let mut revoking = task::spawn(cache.sign_out(|_| std::future::pending::<Result<(), Error>>()));
    assert_pending!(revoking.poll());
    drop(revoking);
    assert!(cache.get().await.unwrap_err().is_signed_out(), "dropped while it revokes");
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r2"]);
    sign_out(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn two_sign_outs_at_the_same_time_succeed() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    script.delay(SECOND);
    let mut refresh = task::spawn(cache.refresh());
    assert_pending!(refresh.poll());
    let revoked = Revoked::default();
    let (one, other) = tokio::join!(revoked.sign_out(&cache), revoked.sign_out(&cache));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert!(revoked.all().iter().all(|refresh_token| refresh_token == "r2"), "{:?}", revoked.all());
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_was_shut_down_can_be_signed_out() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    cache.get().await.unwrap();
    cache.shutdown().await;
    assert_eq!(text(cache.get().await), "t1");
    let revoked = Revoked::default();
    revoked.sign_out(&cache).await.unwrap();
    assert_eq!(revoked.all(), ["r1"]);
    assert!(cache.get().await.unwrap_err().is_signed_out());
    cache.set_source(script);
    assert!(cache.get().await.unwrap_err().is_closed());
}

#[test]
fn a_session_ends_without_a_runtime() {
    let script = Script::new().rotating();
    let cache = TokenCache::new(script.clone());
    let runtime = paused_runtime();
    runtime.block_on(cache.get()).unwrap();
    let gate = script.hold();
    let mut refresh = task::spawn(cache.refresh());
    runtime.block_on(async {
        assert_pending!(refresh.poll());
        script.called(2).await;
    });
    let revoked = Revoked::default();
    let mut signing_out = task::spawn(revoked.sign_out(&cache));
    assert_pending!(signing_out.poll());
    gate.open();
    runtime.block_on(until(|| signing_out.is_woken()));
    assert_ready!(signing_out.poll()).unwrap();
    assert_eq!(revoked.all(), ["r2"]);
    assert!(assert_ready!(task::spawn(cache.get()).poll()).unwrap_err().is_signed_out());
}
