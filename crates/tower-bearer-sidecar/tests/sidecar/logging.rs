//! The log if there is no token.

use std::time::Duration;

use tower_bearer::testing::{Answer, Api};

use crate::harness::{SECRET, Sidecar, issuer, read, serve, until, write};

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
async fn an_outage_is_a_line_when_it_begins_and_one_when_it_ends() {
    let (issuer, tokens) = issuer().await;
    issuer.fail(Some(Answer::raw(503, "down").header("retry-after", "2")));
    let upstream = serve(Api::new(issuer.ledger())).await;
    let sidecar = Sidecar::of(&tokens, &upstream, &[]).await;
    let mut failed = 0;
    while failed < 20 {
        assert_eq!(sidecar.get("/me").await.0, 503);
        failed += 1;
    }
    issuer.fail(None);
    while sidecar.get("/me").await.0 == 503 {
        failed += 1;
    }
    says(&sidecar, &["WARN", "calls no longer fail", "token-unavailable", &format!("calls={failed} ")]).await;
    let log = sidecar.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("path=")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("calls begin to fail"), "{log}");
    assert!(lines[0].contains("token-unavailable") && lines[0].contains("503"), "{log}");
}

#[tokio::test]
async fn an_issuer_that_is_not_reached_is_logged_with_its_endpoint_and_the_cause() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::of(&format!("http://{gone}"), UPSTREAM, &[]).await;
    says(&sidecar, &["WARN", &format!("failed to get an answer from http://{gone}/token"), "Connection refused"]).await;

    // The server speaks plain HTTP, and the client expects TLS.
    let (_, tokens) = issuer().await;
    let over_tls = tokens.replace("http://", "https://");
    let sidecar = Sidecar::of(&over_tls, UPSTREAM, &[]).await;
    says(&sidecar, &["WARN", &format!("failed to get an answer from {over_tls}/token"), "InvalidContentType"]).await;
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
