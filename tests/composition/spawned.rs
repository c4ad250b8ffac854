//! Spawned tasks over services whose type names a `BoxError`: rustc (rust-lang/rust#64552) takes no `oneshot` inside an
//! async block there, of ours as of tower's own `Timeout`. What it takes instead is here; what it does not, in
//! `docs/composition.md`, as a test that fails to compile.

use http::{Request, Response, StatusCode};
use tower::buffer::Buffer;
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::BearerLayer;

use crate::harness::{Body, Harness, get};

async fn ok<A>(call: tokio::task::JoinHandle<Result<Response<A>, BoxError>>) {
    assert_eq!(call.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
}

/// Over one service.
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
async fn a_task_takes_a_box_around_the_stack_or_the_call_itself() {
    let harness = Harness::new();
    compiles!(harness.layer(), harness.beneath());
    compiles!(harness.layer(), Buffer::new(harness.beneath(), 1));
    compiles!(harness.layer(), ServiceExt::<Request<Body>>::map_err(harness.beneath(), BoxError::from));
}
