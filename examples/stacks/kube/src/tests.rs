//! The client over a real server: streamed answers, and a missing file.

use std::convert::Infallible;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use kube::api::{WatchEvent, WatchParams};
use loopback::Server;
use tower::service_fn;
use tower_bearer::Error;

use super::*;

fn pods(server: &Server, token: TokenCache) -> Api<Pod> {
    let config = Config::new(server.origin().parse().expect("a URI"));
    Api::default_namespaced(client(&config, server.origin(), token).expect("a client"))
}

#[tokio::test]
async fn a_watch_streams() {
    let (events, body) = tokio::sync::mpsc::unbounded_channel();
    let body = std::sync::Mutex::new(Some(body));
    let body = std::sync::Arc::new(body);
    let server = Server::start(service_fn(move |request: http::Request<_>| {
        assert_eq!(request.headers()["authorization"], "Bearer t");
        let body = body.lock().expect("no panic").take().expect("one request");
        let body = StreamBody::new(tokio_stream::wrappers::UnboundedReceiverStream::new(body));
        async move { Ok::<_, Infallible>(http::Response::new(body)) }
    }))
    .await;
    let pods = pods(&server, TokenCache::fixed("t").expect("a token"));
    let mut watched = std::pin::pin!(pods.watch(&WatchParams::default(), "0").await.expect("a watch"));
    for name in ["web-0", "web-1"] {
        // The next event is sent when the previous one has arrived.
        let event = format!(r#"{{"type":"ADDED","object":{{"metadata":{{"name":"{name}"}}}}}}"#) + "\n";
        events.send(Ok::<_, Infallible>(Frame::data(Bytes::from(event)))).expect("the server is running");
        let event = tokio_stream::StreamExt::next(&mut watched).await.expect("an event").expect("no error");
        assert!(matches!(event, WatchEvent::Added(pod) if pod.metadata.name.as_deref() == Some(name)));
    }
}

#[tokio::test]
async fn the_error_of_a_missing_file_reaches_the_caller() {
    let server = fake::api_server("/nowhere".into()).await;
    let token = TokenCache::new(TokenFile::new("/nowhere"));
    let error = pods(&server, token).list(&Default::default()).await.expect_err("no token");
    let kube::Error::Service(error) = error else { panic!("another error: {error}") };
    assert!(Error::find(&*error).expect("our error").is_transient());
    assert_eq!(server.seen().len(), 0);
}
