//! WebSockets pass through.

use futures_util::{SinkExt, StreamExt};
use http::header::AUTHORIZATION;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Sidecar, issuer, patiently};
use crate::upstream::Upstream;

#[tokio::test]
async fn a_websocket_is_opened_with_the_token_and_echoes_both_ways() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let url = format!("ws://{}/socket", sidecar.host());
    let (mut socket, _) = patiently(connect_async(&url)).await.unwrap();
    let long = "x".repeat(300_000);
    for text in ["one", "two", &long] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(patiently(socket.next()).await.unwrap().unwrap(), Message::text(text));
    }
    assert_eq!(upstream.only().headers[AUTHORIZATION], "Bearer token-1");
    let (_, metrics) = sidecar.status("/metrics").await;
    assert!(metrics.contains("sidecar_websockets 1"), "{metrics}");
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_websocket_that_is_rejected_is_asked_for_once_more() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let url = format!("ws://{}/socket-after-a-401", sidecar.host());
    let (mut socket, _) = patiently(connect_async(&url)).await.unwrap();
    socket.send(Message::text("one")).await.unwrap();
    assert_eq!(patiently(socket.next()).await.unwrap().unwrap(), Message::text("one"));
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_websocket_of_a_web_page_is_rejected() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let mut request = format!("ws://{}/socket", sidecar.host()).into_client_request().unwrap();
    request.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    match patiently(connect_async(request)).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 403),
        other => panic!("{other:?}"),
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn an_open_websocket_does_not_delay_the_end() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let mut sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--grace", "3600"]).await;
    let (mut socket, _) = patiently(connect_async(format!("ws://{}/socket", sidecar.host()))).await.unwrap();
    socket.send(Message::text("one")).await.unwrap();
    patiently(socket.next()).await.unwrap().unwrap();
    sidecar.signal("TERM").await;
    assert!(sidecar.ended().await.success());
    assert!(!matches!(patiently(socket.next()).await, Some(Ok(_))), "its caller sees it end");
}
