//! The status address.

use tower_bearer::testing::{Answer, Api};

use crate::harness::{Sidecar, issuer, json, raw, serve, status_of, until};

#[tokio::test]
async fn health_follows_the_token() {
    let (issuer, tokens) = issuer().await;
    issuer.fail(Some(Answer::raw(500, "down").header("retry-after", "1")));
    let upstream = serve(Api::new(issuer.ledger())).await;
    let sidecar = Sidecar::of(&tokens, &upstream, &[]).await;
    until(async || sidecar.status("/health").await.0 == 503).await;
    let health = json(&sidecar.status("/health").await.1);
    assert!(health["last_failure"].as_str().unwrap().contains("answered 500"), "{health}");
    assert_eq!((&health["phase"], &health["usable_for_seconds"]), (&json("null"), &json("null")));
    assert_eq!(sidecar.status("/ready").await.0, 503);
    issuer.fail(None);
    // The token is refreshed without a call.
    until(async || sidecar.status("/ready").await.0 == 200).await;
    let (status, health) = sidecar.status("/health").await;
    let health = json(&health);
    assert_eq!((status.as_u16(), &health["phase"], &health["last_failure"]), (200, &"fresh".into(), &json("null")));
    assert!(health["usable_for_seconds"].as_f64().unwrap() > 3000.0, "{health}");
}

#[tokio::test]
async fn metrics_of_the_sidecar_and_of_tower_bearer_are_there() {
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &[]).await;
    for _ in 0..3 {
        assert_eq!(sidecar.get("/me").await.0, 200);
    }
    raw(sidecar.host(), "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!((sidecar.answered("upstream").await, sidecar.answered("host-rejected").await), (3, 1));
    let (_, metrics) = sidecar.status("/metrics").await;
    for line in [
        "# HELP sidecar_requests_total",
        "sidecar_token_generation 1",
        "tower_bearer_fetches_total{cache=\"sidecar\",outcome=\"fetched\",reason=\"first\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn every_metric_that_the_dashboard_and_the_alerts_ask_for_is_there_after_the_first_call() {
    let (issuer, tokens) = issuer().await;
    let sidecar = Sidecar::of(&tokens, &serve(Api::new(issuer.ledger())).await, &[]).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    let (_, metrics) = sidecar.status("/metrics").await;
    let there: Vec<_> = metrics.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let docs = [
        include_str!("../../../../docs/grafana-dashboard.json"),
        include_str!("../../../../docs/prometheus-rules.yml"),
    ];
    let mut asked: Vec<_> =
        docs.iter().flat_map(|text| text.match_indices("tower_bearer_").map(|(at, _)| &text[at..])).collect();
    for name in &mut asked {
        *name = &name[..name.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(name.len())];
    }
    assert!(asked.len() > 20, "{asked:?}");
    for name in asked {
        assert!(there.contains(&name), "{name} in {metrics}");
    }
}

#[tokio::test]
async fn the_status_address_has_its_own_names_and_adds_no_token() {
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &[]).await;
    let status = sidecar.status.clone().unwrap();
    let host = status.strip_prefix("http://").unwrap();
    for (head, expected) in [
        (format!("GET /health HTTP/1.1\r\nHost: {host}"), "200"),
        ("GET /health HTTP/1.1\r\nHost: evil.example".to_owned(), "403"),
        (format!("GET /health HTTP/1.1\r\nHost: {host}\r\nOrigin: https://evil.example"), "403"),
        (format!("POST /health HTTP/1.1\r\nHost: {host}"), "405"),
        (format!("GET /me HTTP/1.1\r\nHost: {host}"), "404"),
    ] {
        let answer = raw(host, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status_of(&answer), expected, "{head}");
    }
    assert_eq!(api.calls().total(), 0);
}

#[tokio::test]
async fn every_path_of_the_calls_address_goes_to_the_upstream() {
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &[]).await;
    for path in ["/health", "/ready", "/metrics", "/-/health", "/"] {
        assert!(sidecar.get(path).await.1.contains("accepted"), "{path}");
    }
}
