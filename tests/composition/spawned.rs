//! Spawned tasks with services whose type names a `BoxError`. rustc (rust-lang/rust#64552) does not compile `oneshot`
//! inside an async block with them, and tower's `Timeout` has the same problem. These tests have the forms that
//! compile. `docs/composition.md` has the one that does not, as a test that fails to compile.

use http::{Request, Response, StatusCode};
use tower::buffer::Buffer;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::BearerLayer;

use crate::harness::{Body, Harness, get};

async fn ok<A>(call: tokio::task::JoinHandle<Result<Response<A>, BoxError>>) {
    assert_eq!(call.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
}

/// Checks both forms with one inner service.
macro_rules! compiles {
    ($layer:expr, $service:expr) => {{
        let (layer, service): (BearerLayer, _) = ($layer, $service);

        let api = layer.layer(service.clone());
        ok(tokio::spawn(api.oneshot(get()))).await;

        let api: BoxCloneService<Request<Body>, Response<_>, BoxError> = BoxCloneService::new(layer.layer(service));
        ok(tokio::spawn(async move { api.oneshot(get()).await })).await;
    }};
}

#[tokio::test(start_paused = true)]
async fn a_task_may_take_a_boxed_stack_or_the_future_of_the_call() {
    let harness = Harness::new();
    compiles!(harness.layer(), harness.inner());
    compiles!(harness.layer(), Buffer::new(harness.inner(), 1));
    compiles!(harness.layer(), ServiceExt::<Request<Body>>::map_err(harness.inner(), BoxError::from));
}
