//! The requests that the guard allows.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::harness::{Sidecar, issuer, json, patiently, raw, status_of, text};
use crate::upstream::Upstream;

/// The status of a GET with these header lines.
async fn asked(sidecar: &Sidecar, lines: &[String]) -> String {
    let head = format!("GET /me HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
    let answer = raw(sidecar.host(), &head).await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    if status_of(&answer) == "403" {
        assert!(json(body)["detail"].as_str().unwrap().contains("--allow-") || body.contains("mode cors"), "{body}");
    }
    status_of(&answer).to_owned()
}

#[tokio::test]
async fn only_its_own_names_are_answered() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let base = upstream.serve().await;
    let sidecar = Sidecar::of(&tokens, &base, &["--allow-host", "sidecar,Gateway.internal:9000"]).await;
    let port = sidecar.port();
    let hosts = |names: &[&str]| names.iter().map(|name| name.replace('*', port)).collect::<Vec<_>>();
    let own = ["127.0.0.1:*", "localhost:*", "LocalHost:*", "[::1]:*", "sidecar", "sidecar:1", "gateway.internal:9000"];
    for host in hosts(&own) {
        assert_eq!(asked(&sidecar, &[format!("Host: {host}")]).await, "200", "{host}");
    }
    let answered = upstream.seen().len();
    assert_eq!(answered, own.len());
    // DNS rebinding uses names that resolve to loopback.
    for host in hosts(&[
        "evil.example:*",
        "evil.example",
        "127.0.0.1.nip.io:*",
        "localhost.evil.example:*",
        "localhost.:*",
        "sub.localhost:*",
        "localhost",
        "localhost:1",
        "127.0.0.1",
        "127.1:*",
        "2130706433:*",
        "0.0.0.0:*",
        "[::ffff:127.0.0.1]:*",
        "gateway.internal",
        "user@localhost:*",
        "localhost:*@evil.example",
        "localhost:*:1",
        "localhost:99999",
        "[::1]evil.example:*",
        "",
    ]) {
        assert_eq!(asked(&sidecar, &[format!("Host: {host}")]).await, "403", "{host}");
    }
    assert_eq!(asked(&sidecar, &["X-No: host".to_owned()]).await, "400");
    let twice = [format!("Host: localhost:{port}"), format!("Host: localhost:{port}")];
    assert_eq!(asked(&sidecar, &twice).await, "400");
    assert_eq!(upstream.seen().len(), answered, "nothing rejected goes out");
}

#[tokio::test]
async fn loopback_may_be_given_by_its_name() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--listen", "localhost:0"]).await;
    assert!(sidecar.base.starts_with("http://127.0.0.1:"), "{}", sidecar.base);
    assert_eq!(asked(&sidecar, &[format!("Host: localhost:{}", sidecar.port())]).await, "200");
}

#[tokio::test]
async fn at_an_address_that_other_machines_reach_they_need_a_name_for_it() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let open = ["--listen", "0.0.0.0:0", "--allow-remote-callers", "--allow-host", "sidecar.lan"];
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &open).await;
    let port = sidecar.port();
    for (host, status) in [("localhost", "200"), ("sidecar.lan", "200"), ("0.0.0.0", "403"), ("evil.example", "403")] {
        assert_eq!(asked(&sidecar, &[format!("Host: {host}:{port}")]).await, status, "{host}");
    }
}

#[tokio::test]
async fn the_host_of_an_http2_request_counts_as_well() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let stream = tokio::net::TcpStream::connect(sidecar.host()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut http2, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let own = format!("http://{}/me", sidecar.host());
    for (uri, host, status) in [
        (&*own, None, 200),
        ("http://evil.example/me", None, 403),
        (&*own, Some("evil.example"), 403),
        ("http://evil.example/me", Some(sidecar.host()), 403),
    ] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let response = patiently(http2.send_request(request.body(Full::<Bytes>::default()).unwrap())).await.unwrap();
        assert_eq!(response.status(), status, "{uri} {host:?}");
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn requests_of_web_pages_are_rejected_but_those_of_allowed_origins() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let base = upstream.serve().await;
    let sidecar = Sidecar::of(&tokens, &base, &["--allow-origin", "http://localhost:3000,https://ui.example"]).await;
    let with = |lines: &[&str]| {
        let host = format!("Host: {}", sidecar.host());
        std::iter::once(host).chain(lines.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    for lines in [
        &["Origin: http://localhost:3000"][..],
        &["Origin: https://ui.example", "Sec-Fetch-Site: cross-site"],
        &["Origin: https://UI.example:443"],
        // The user typed the URL, or the page came through the sidecar.
        &["Sec-Fetch-Site: none"],
        &["Sec-Fetch-Site: same-origin"],
    ] {
        assert_eq!(asked(&sidecar, &with(lines)).await, "200", "{lines:?}");
    }
    let answered = upstream.seen().len();
    let own = format!("Origin: {}", sidecar.base);
    for lines in [
        &["Origin: https://evil.example"][..],
        &["Origin: null"],
        &["Origin: "],
        &[&*own],
        &["Origin: http://localhost:3001"],
        &["Origin: https://localhost:3000"],
        &["Origin: http://localhost:3000.evil.example"],
        &["Origin: http://localhost:3000", "Origin: https://evil.example"],
        &["Origin: https://ui.example https://evil.example"],
        &["Sec-Fetch-Site: cross-site"],
        &["Sec-Fetch-Site: same-site"],
        &["Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"],
        &["Sec-Fetch-Site: whatever"],
        &["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"],
        &["Origin: https://evil.example", "Upgrade: websocket", "Connection: upgrade"],
    ] {
        assert_eq!(asked(&sidecar, &with(lines)).await, "403", "{lines:?}");
    }
    assert_eq!(upstream.seen().len(), answered, "nothing rejected goes out");
}

#[tokio::test]
async fn a_page_that_may_call_gets_the_headers_that_its_browser_wants() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--allow-origin", "http://localhost:3000"]).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let preflight = Request::options(format!("{}/me", sidecar.base))
        .header("origin", "http://localhost:3000")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "x-mine");
    let answer = patiently(client.request(preflight.body(Full::default()).unwrap())).await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert_eq!(answer.headers()["access-control-allow-methods"], "PUT");
    assert!(upstream.seen().is_empty(), "the question is answered here");
    let call = Request::get(format!("{}/me", sidecar.base)).header("origin", "http://localhost:3000");
    let answer = patiently(client.request(call.body(Full::default()).unwrap())).await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert_eq!(text(answer).await.0, 200);
}

#[tokio::test]
async fn an_options_request_that_is_not_a_preflight_goes_to_the_upstream() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--allow-origin", "http://localhost:3000"]).await;
    let host = sidecar.host();
    // One request is of WebDAV, and one of a page that asks for the allowed methods.
    for (seen, lines) in [(1, ""), (2, "Origin: http://localhost:3000\r\n")] {
        let head = format!("OPTIONS /dav HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n");
        let answer = raw(host, &head).await;
        assert_eq!(status_of(&answer), "200");
        assert!(answer.contains(r#""method":"OPTIONS""#), "{answer}");
        let allowed = answer.to_lowercase().contains("access-control-allow-origin: http://localhost:3000");
        assert_eq!(allowed, !lines.is_empty(), "{answer}");
        assert_eq!(upstream.seen().len(), seen);
    }
}
