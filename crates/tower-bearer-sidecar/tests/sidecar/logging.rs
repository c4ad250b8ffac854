//! What an operator reads when there is no token.

use std::time::Duration;

use tower_bearer::testing::Answer;

use crate::world::{SECRET, Sidecar, issuer, read, until, write};

const UPSTREAM: &str = "http://127.0.0.1:1";

/// Waits until one line of the log has all of these words.
async fn says(sidecar: &Sidecar, words: &[&str]) {
    let line = |line: &str| words.iter().all(|word| line.contains(word));
    until(async || sidecar.log().lines().any(line)).await;
    assert!(!sidecar.log().contains(SECRET), "{}", sidecar.log());
}

#[tokio::test]
async fn an_issuer_that_says_no_is_logged_with_its_code() {
    let (issuer, tokens) = issuer().await;
    issuer.fail(Some(Answer::oauth_error(401, "invalid_client")));
    let sidecar = Sidecar::of(&tokens, UPSTREAM, &[]).await;
    says(&sidecar, &["WARN", &format!("{tokens}/token answered 401"), "invalid_client"]).await;
}

#[tokio::test]
async fn an_issuer_that_is_not_reached_is_logged_with_its_endpoint_and_the_cause() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::of(&format!("http://{gone}"), UPSTREAM, &[]).await;
    says(&sidecar, &["WARN", &format!("no answer from http://{gone}/token"), "Connection refused"]).await;

    // Plain HTTP where TLS is expected.
    let (_, tokens) = issuer().await;
    let over_tls = tokens.replace("http://", "https://");
    let sidecar = Sidecar::of(&over_tls, UPSTREAM, &[]).await;
    says(&sidecar, &["WARN", &format!("no answer from {over_tls}/token"), "InvalidContentType"]).await;
}

#[tokio::test]
async fn a_secret_file_that_is_gone_is_logged_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let file = write(&path, SECRET);
    let (issuer, tokens) = issuer().await;
    issuer.lifetime(Duration::from_secs(2));
    let token_url = format!("{tokens}/token");
    let place = ["--upstream", UPSTREAM, "--token-url", &token_url, "--grant", "client-credentials"];
    let secret = ["--client-id", "my-app", "--client-secret-file", &file];
    let sidecar = Sidecar::start_with(&[&place[..], &secret].concat(), &[]).await;
    until(async || issuer.calls().total() == 1).await;
    std::fs::remove_file(&path).unwrap();
    says(&sidecar, &["WARN", "client_secret", &file, "No such file"]).await;
}

#[tokio::test]
async fn a_refresh_token_that_cannot_be_written_is_logged_with_its_file_and_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory.path().join("refresh"), "saved");
    let (issuer, tokens) = issuer().await;
    issuer.lifetime(Duration::from_secs(2));
    issuer.rotate_refresh_tokens(true);
    let token_url = format!("{tokens}/token");
    let place = ["--upstream", UPSTREAM, "--token-url", &token_url, "--grant", "refresh-token"];
    let saved = ["--client-id", "my-app", "--refresh-token-file", &file];
    let sidecar = Sidecar::start_with(&[&place[..], &saved].concat(), &[]).await;
    until(async || read(&file) == "refresh-1\n").await;
    drop(directory);
    says(&sidecar, &["ERROR", &file, "No such file"]).await;
    assert!(!sidecar.log().contains("refresh-"), "{}", sidecar.log());
}
