//! An API server with one pod, which accepts the token in a file.

use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use loopback::Server;
use tower::{BoxError, service_fn};

const PODS: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"web-0"}}]}"#;
const UNAUTHORIZED: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;

pub(crate) async fn api_server(file: PathBuf) -> Server {
    Server::start(service_fn(move |request: Request<_>| {
        let file = file.clone();
        async move {
            let accepted = format!("Bearer {}", tokio::fs::read_to_string(file).await?.trim_end());
            let known = request.headers().get("authorization").is_some_and(|sent| sent == accepted.as_str());
            let here = request.uri().path() == "/api/v1/namespaces/default/pods";
            let (status, body) = match (known, here) {
                (true, true) => (200, PODS),
                (true, false) => (404, "{}"),
                (false, _) => (401, UNAUTHORIZED),
            };
            let response = Response::builder().status(status).header("content-type", "application/json");
            Ok::<_, BoxError>(response.body(Full::new(Bytes::from(body)))?)
        }
    }))
    .await
}
