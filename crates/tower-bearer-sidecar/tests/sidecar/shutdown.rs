//! The end of the sidecar.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpStream;

use crate::harness::{Sidecar, client, get, issuer, patiently, read, until, write};
use crate::upstream::Upstream;

#[tokio::test]
async fn after_sigterm_requests_in_flight_end_well_and_new_ones_are_rejected() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let mut sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let (mut upload, body) = Channel::<Bytes>::new(1);
    let client: Client<_, Channel<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = tokio::spawn(client.request(Request::post(format!("{}/echo", sidecar.base)).body(body).unwrap()));
    upload.send_data(Bytes::from_static(b"one ")).await.unwrap();
    let answer = patiently(asked).await.unwrap().unwrap();
    sidecar.signal("TERM").await;
    until(async || TcpStream::connect(sidecar.host()).await.is_err()).await;
    let (ready, _) = sidecar.status("/ready").await;
    assert_eq!(ready, 503, "and it says so");
    upload.send_data(Bytes::from_static(b"two")).await.unwrap();
    drop(upload);
    assert_eq!(patiently(answer.into_body().collect()).await.unwrap().to_bytes(), "one two");
    assert!(sidecar.ended().await.success());
}

#[tokio::test]
async fn a_refresh_token_in_flight_is_saved_before_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("refresh");
    let file = write(&path, "saved");
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    issuer.delay(Duration::from_secs(1));
    let token_url = format!("{tokens}/token");
    let place = ["--upstream", "http://127.0.0.1:1", "--token-url", &token_url, "--grant", "refresh-token"];
    let saved = ["--client-id", "my-app", "--refresh-token-file", &file];
    let mut sidecar = Sidecar::start_with(&[&place[..], &saved].concat(), &[]).await;
    // From here on, the issuer treats the saved refresh token as used.
    until(async || issuer.calls().total() == 1).await;
    sidecar.signal("TERM").await;
    assert!(sidecar.ended().await.success());
    assert_eq!(read(&path), "refresh-1\n");
}

#[tokio::test]
async fn requests_that_do_not_end_are_dropped_after_the_grace() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let mut sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--grace", "1"]).await;
    let stuck = tokio::spawn(client().request(get(&format!("{}/never", sidecar.base))));
    until(async || !upstream.seen().is_empty()).await;
    sidecar.signal("INT").await;
    assert!(sidecar.ended().await.success());
    assert!(sidecar.log().contains("ended with requests in flight"), "{}", sidecar.log());
    gave_up(patiently(stuck).await.unwrap());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let mut sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--grace", "3600"]).await;
    let stuck = tokio::spawn(client().request(get(&format!("{}/never", sidecar.base))));
    until(async || !upstream.seen().is_empty()).await;
    sidecar.signal("INT").await;
    until(async || sidecar.log().contains("ending")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    sidecar.signal("INT").await;
    assert!(sidecar.ended().await.success());
    gave_up(patiently(stuck).await.unwrap());
}

/// At the end, the connection to the upstream may close before that to the caller. The caller then gets a 502.
fn gave_up<E>(answer: Result<Response<Incoming>, E>) {
    assert!(answer.map_or(true, |answer| answer.status() == 502));
}
