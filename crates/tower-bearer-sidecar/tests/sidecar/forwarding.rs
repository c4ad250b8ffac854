//! Forwarding of requests and answers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, VIA};
use http::{Request, Version};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower_bearer::testing::{Answer, Api};

use crate::harness::{Sidecar, client, get, issuer, json, patiently, raw, send, serve, status_of, text};
use crate::upstream::Upstream;

async fn sidecar(more: &[&str]) -> (Sidecar, Upstream) {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, more).await;
    (sidecar, upstream)
}

#[tokio::test]
async fn a_call_arrives_with_the_token_and_as_if_it_were_made_to_the_upstream() {
    let (sidecar, upstream) = sidecar(&[]).await;
    let request = Request::get(format!("{}/a/../b?q=%20&r", sidecar.base)).header("x-mine", "1").body(Full::default());
    let (status, body) = text(send(request.unwrap()).await).await;
    assert_eq!((status.as_u16(), json(&body)["authorization"].as_str()), (200, Some("Bearer token-1")));
    let seen = upstream.only();
    assert_eq!(seen.target, "/a/../b?q=%20&r");
    assert_ne!(seen.headers[HOST], sidecar.host());
    assert_eq!((&seen.headers["x-mine"], &seen.headers[VIA]), (&"1".parse().unwrap(), &"1.1 sidecar".parse().unwrap()));
    for name in ["forwarded", "x-forwarded-for", "x-forwarded-host"] {
        assert!(!seen.headers.contains_key(name), "{name} would tell the upstream of this machine");
    }
}

#[tokio::test]
async fn a_callers_own_authorization_is_replaced_by_the_token() {
    let (sidecar, upstream) = sidecar(&[]).await;
    let request = Request::get(format!("{}/me", sidecar.base))
        .header(AUTHORIZATION, "Bearer dummy")
        .header(AUTHORIZATION, "Basic bmV0cmM6cHc=")
        .header("proxy-authorization", "Basic cHJveHk6cHc=");
    assert_eq!(send(request.body(Full::default()).unwrap()).await.status(), 200);
    let headers = upstream.only().headers;
    assert_eq!(headers.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer token-1"]);
    assert!(!headers.contains_key("proxy-authorization"));
}

#[tokio::test]
async fn headers_of_one_connection_go_no_further() {
    let (sidecar, upstream) = sidecar(&[]).await;
    let request = format!(
        "GET /hop HTTP/1.1\r\nHost: {}\r\nConnection: close, x-private\r\nX-Private: 1\r\nX-Public: 2\r\n\
         Keep-Alive: timeout=5\r\nTE: trailers, gzip\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\n",
        sidecar.host()
    );
    let answer = raw(sidecar.host(), &request).await.to_lowercase();
    let headers = upstream.only().headers;
    for name in ["connection", "x-private", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}: {headers:?}");
    }
    assert_eq!((&headers["x-public"], &headers["te"]), (&"2".parse().unwrap(), &"trailers".parse().unwrap()));
    assert!(answer.contains("x-public: 2") && answer.contains("via: 1.1 sidecar"), "{answer}");
    assert!(!answer.contains("x-private") && !answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn it_is_not_an_open_proxy() {
    let (sidecar, upstream) = sidecar(&["--allow-host", "elsewhere.example"]).await;
    let own = sidecar.host();
    for (head, status) in [
        (format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}"), "400"),
        (format!("GET http://elsewhere.example/ HTTP/1.1\r\nHost: {own}"), "400"),
        (format!("GET http://other.example/ HTTP/1.1\r\nHost: {own}"), "403"),
        ("CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example".to_owned(), "501"),
        ("CONNECT other.example:443 HTTP/1.1\r\nHost: other.example".to_owned(), "403"),
        (format!("TRACE / HTTP/1.1\r\nHost: {own}"), "501"),
        (format!("trace / HTTP/1.1\r\nHost: {own}"), "501"),
        (format!("Track / HTTP/1.1\r\nHost: {own}"), "501"),
        (format!("connect / HTTP/1.1\r\nHost: {own}"), "501"),
    ] {
        let answer = raw(own, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status_of(&answer), status, "{head}: {answer}");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn odd_targets_go_to_the_upstream_as_they_are() {
    let (sidecar, upstream) = sidecar(&[]).await;
    let targets = ["//elsewhere.example/x", "/a?b=http://elsewhere.example", "/@elsewhere.example", "/%2e%2e/", "*"];
    for target in targets {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", sidecar.host());
        assert_eq!(status_of(&raw(sidecar.host(), &head).await), "200", "{target}");
    }
    assert_eq!(upstream.seen().into_iter().map(|seen| seen.target).collect::<Vec<_>>(), targets);
}

#[tokio::test]
async fn the_caller_gets_a_redirect_unchanged() {
    let (sidecar, upstream) = sidecar(&[]).await;
    let response = send(get(&format!("{}/redirect", sidecar.base))).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()[LOCATION]),
        (302, &"https://elsewhere.example/next?a=b".parse().unwrap())
    );
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn bodies_stream_both_ways_frame_by_frame() {
    for http2 in [false, true] {
        let (sidecar, _) = sidecar(&[]).await;
        let (mut upload, body) = Channel::<Bytes>::new(1);
        let client: Client<_, Channel<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let asked = tokio::spawn(client.request(Request::post(format!("{}/echo", sidecar.base)).body(body).unwrap()));
        upload.send_data(Bytes::from_static(b"one")).await.unwrap();
        // The answer begins before the upload has ended, and each frame comes back before the next is sent.
        let mut answer = patiently(asked).await.unwrap().unwrap().into_body();
        for word in ["one", "two", "three"] {
            let frame = patiently(answer.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), word);
            match word {
                "one" => upload.send_data(Bytes::from_static(b"two")).await.unwrap(),
                "two" => upload.send_data(Bytes::from_static(b"three")).await.unwrap(),
                _ => {}
            }
        }
        // HTTP/1.1 forwards trailers only if they are announced, so this only checks that the body ends.
        drop(upload);
        while let Some(frame) = patiently(answer.frame()).await {
            assert!(frame.unwrap().into_data().is_ok_and(|data| data.is_empty()));
        }
    }
}

#[tokio::test]
async fn a_rejected_upload_is_sent_again_with_its_whole_body() {
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &["--replay-limit", "100000"]).await;
    // The limit counts memory, and each frame of a body takes more than its bytes.
    for (length, status, sends) in [(90_000, 200, 2), (100_001, 401, 1)] {
        let before = api.calls().total();
        api.queue(Answer::raw(401, "no"));
        let body = Bytes::from(vec![b'x'; length]);
        let request = Request::post(format!("{}/upload", sidecar.base)).body(Full::from(body.clone())).unwrap();
        assert_eq!(text(send(request).await).await.0, status);
        assert_eq!(api.calls().total() - before, sends);
        assert!(api.requests().iter().rev().take(sends).all(|request| request.body == body));
    }
}

#[tokio::test]
async fn a_challenge_of_the_upstream_reaches_the_caller() {
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &[]).await;
    api.queue(Answer::raw(401, "more").header("www-authenticate", r#"Bearer error="insufficient_scope""#));
    let response = send(get(&format!("{}/me", sidecar.base))).await;
    assert_eq!(response.headers()["www-authenticate"], r#"Bearer error="insufficient_scope""#);
    assert_eq!(text(response).await, (http::StatusCode::UNAUTHORIZED, "more".to_owned()));
}

#[tokio::test]
async fn without_a_token_the_caller_reads_why() {
    let (issuer, tokens) = issuer().await;
    let upstream = Upstream::default();
    let base = upstream.serve().await;
    for (answer, status, code) in [
        (Answer::oauth_error(401, "invalid_client"), 502, "token-denied"),
        (Answer::raw(503, "down").header("retry-after", "60"), 503, "token-unavailable"),
    ] {
        issuer.fail(Some(answer));
        let sidecar = Sidecar::of(&tokens, &base, &[]).await;
        let response = send(get(&format!("{}/me", sidecar.base))).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let retry_after = response.headers().get("retry-after").cloned();
        let (answered, body) = text(response).await;
        let problem = json(&body);
        assert_eq!((answered.as_u16(), problem["code"].as_str()), (status, Some(code)), "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(&format!("{tokens}/token answered")), "{body}");
        // The issuer asked for 60 s, of which some have passed.
        let seconds = retry_after.map(|seconds| seconds.to_str().unwrap().parse::<u64>().unwrap());
        assert!(if status == 503 { (1..=61).contains(&seconds.unwrap()) } else { seconds.is_none() }, "{seconds:?}");
    }
    assert!(upstream.seen().is_empty(), "nothing goes out without a token");
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_502_and_a_silent_one_a_504() {
    let (_, tokens) = issuer().await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let absent = Sidecar::of(&tokens, &format!("http://{gone}"), &[]).await;
    let (status, body) = absent.get("/me").await;
    assert_eq!((status.as_u16(), json(&body)["code"].as_str()), (502, Some("unreachable")), "{body}");
    let (silent, _) = sidecar(&["--timeout", "1"]).await;
    let (status, body) = silent.get("/never").await;
    assert_eq!((status.as_u16(), json(&body)["code"].as_str()), (504, Some("timed-out")), "{body}");
}

#[tokio::test]
async fn callers_may_speak_http2_and_http1() {
    let (sidecar, upstream) = sidecar(&[]).await;
    let http2: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let response = patiently(http2.request(get(&format!("{}/me", sidecar.base)))).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    assert_eq!(upstream.only().headers[VIA], "2 sidecar");
    let old = format!("GET /me HTTP/1.0\r\nHost: {}\r\n\r\n", sidecar.host());
    assert_eq!(status_of(&raw(sidecar.host(), &old).await), "200");
}

#[tokio::test]
async fn an_http10_caller_knows_where_each_answer_ends() {
    let (sidecar, _) = sidecar(&[]).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", sidecar.host());
    // The first answer has a length, so the connection stays open. The second ends with the connection.
    let both = raw(sidecar.host(), &(ask("/me") + &ask("/unsized"))).await.to_lowercase();
    let (first, second) = both.rsplit_once("http/1.0 200 ok\r\n").expect("HTTP/1.0");
    assert!(first.starts_with("http/1.0 200 ok\r\n"), "{both}");
    assert!(first.contains("content-length: ") && first.contains("connection: keep-alive"), "{both}");
    assert!(!second.contains("keep-alive") && !second.contains("chunked"), "{both}");
    assert!(second.ends_with("\r\n\r\nunsized"), "{both}");
    let without = raw(sidecar.host(), &format!("GET /unsized HTTP/1.0\r\nHost: {}\r\n\r\n", sidecar.host())).await;
    assert!(without.starts_with("HTTP/1.0 200 OK\r\n") && without.ends_with("\r\n\r\nunsized"), "{without}");
}

/// The log holds no secret of the caller, and none of the sidecar.
#[tokio::test]
async fn nothing_secret_is_logged_at_the_finest_level() {
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &["--log", "trace"]).await;
    let http2: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for (client, version) in [(client(), "1"), (http2, "2")] {
        let request = Request::post(format!("{}/seen-path?api_key=key-in-query-{version}", sidecar.base))
            .header(AUTHORIZATION, "Bearer callers-own-token")
            .header("cookie", "session=in-a-cookie")
            .body(Full::from("in-the-body"));
        assert_eq!(patiently(client.request(request.unwrap())).await.unwrap().status(), 200);
    }
    issuer.fail(Some(Answer::raw(400, format!("echo {}", crate::harness::SECRET))));
    sidecar.get("/rejected-host").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let log = sidecar.log();
    assert!(log.contains("/seen-path") && log.contains("token fetched"), "it logs: {log}");
    let secrets =
        [crate::harness::SECRET, "token-1", "refresh-1", "key-in-query", "callers-own", "in-a-cookie", "in-the-body"];
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
