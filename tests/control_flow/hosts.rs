//! A request whose `Host` header contradicts the URI never carries a token.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::{BearerLayer, Error, NoToken, Origin, TokenCache};

type Body = Full<Bytes>;

/// Sends a request with these `Host` headers. Returns the token that it was sent with, or the layer's error.
async fn sent(
    layer: BearerLayer,
    mut request: http::request::Builder,
    hosts: &[&str],
) -> Result<Option<String>, Error> {
    for host in hosts {
        request = request.header("host", *host);
    }
    let seen = Arc::new(Mutex::new(None));
    let log = Arc::clone(&seen);
    let api = layer.layer(service_fn(move |request: Request<Body>| {
        let token = request.headers().get("authorization").map(|value| value.to_str().expect("text").to_owned());
        *log.lock().expect("no panic") = token;
        std::future::ready(Ok::<_, BoxError>(http::Response::new(Body::default())))
    }));
    match api.oneshot(request.body(Body::default()).expect("a request")).await {
        Ok(_) => Ok(seen.lock().expect("no panic").clone()),
        Err(error) => Err(Error::find(&*error).expect("the layer's error").clone()),
    }
}

fn layer() -> BearerLayer {
    let origins = ["https://api.example.com", "https://files.example.com:8443", "http://127.0.0.1:3000"];
    BearerLayer::new(TokenCache::fixed("t").expect("a token"), origins).expect("origins")
}

#[tokio::test]
async fn a_host_header_of_another_site_is_an_error() {
    for (uri, hosts) in [
        ("https://api.example.com/", &["evil.test"][..]),
        ("https://api.example.com/", &["api.example.com.evil.test"]),
        ("https://api.example.com/", &["api.example.com:8443"]),
        ("https://api.example.com/", &["user@api.example.com"]),
        ("https://api.example.com/", &[""]),
        ("https://api.example.com/", &["api.example.com", "evil.test"]),
        ("https://files.example.com:8443/", &["files.example.com:443"]),
        ("http://127.0.0.1:3000/", &["localhost:3000"]),
        // The origin with this host is https, and the connection is not.
        ("http://127.0.0.1:3000/", &["files.example.com:8443"]),
    ] {
        // Headers are looked through in another way if they are many.
        for others in [0, 20] {
            let request =
                (0..others).fold(Request::get(uri), |request, number| request.header(format!("x-{number}"), "1"));
            let error = sent(layer(), request, hosts).await.expect_err(uri);
            assert!(error.is_invalid() && error.to_string().contains("`Host`"), "{uri} {hosts:?}: {error}");
            assert!(!error.to_string().contains("evil"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_host_header_of_the_same_or_another_named_origin_is_accepted() {
    for (uri, host) in [
        ("https://api.example.com/", "api.example.com"),
        ("https://api.example.com/", "API.example.com:443"),
        ("https://api.example.com/", "api.example.com."),
        ("https://files.example.com:8443/", "files.example.com:8443"),
        // Some clients omit the port.
        ("https://files.example.com:8443/", "files.example.com"),
        // The host is that of another named origin.
        ("https://files.example.com:8443/", "api.example.com"),
    ] {
        let token = sent(layer(), Request::get(uri), &[host]).await.expect(uri);
        assert_eq!(token.as_deref(), Some("Bearer t"), "{uri} {host}");
    }
}

#[tokio::test]
async fn a_request_without_the_layers_token_may_have_any_host_header() {
    let own = || Request::get("https://api.example.com/").header("authorization", "Basic eDp5");
    assert_eq!(sent(layer(), own(), &["evil.test"]).await.expect("it passes").as_deref(), Some("Basic eDp5"));
    let exempt = Request::get("https://api.example.com/").extension(NoToken);
    assert_eq!(sent(layer(), exempt, &["evil.test"]).await.expect("it passes"), None);
    let foreign = Request::get("https://elsewhere.test/");
    assert_eq!(sent(layer(), foreign, &["evil.test"]).await.expect("it passes"), None);
}

#[tokio::test]
async fn relative_uris_and_layers_for_any_origin_are_checked_too() {
    let relative = || layer().allow_relative_uris();
    sent(relative(), Request::get("/"), &["evil.test"]).await.expect_err("another site");
    for host in ["api.example.com", "127.0.0.1:3000"] {
        let token = sent(relative(), Request::get("/"), &[host]).await.expect(host);
        assert_eq!(token.as_deref(), Some("Bearer t"));
    }
    let any = || BearerLayer::any_https_origin(TokenCache::fixed("t").expect("a token"));
    let loopback = || Request::get("http://127.0.0.1:80/");
    sent(any(), loopback(), &["intranet.test"]).await.expect_err("plain http beyond loopback");
    assert!(sent(any(), loopback(), &["localhost"]).await.expect("loopback").is_some());
    let plain = Origin::allow_insecure("http://intranet.test").expect("an origin");
    let named = BearerLayer::new(TokenCache::fixed("t").expect("a token"), [plain]).expect("origins");
    sent(named, Request::get("http://intranet.test/"), &["evil.test"]).await.expect_err("another site");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_would_wait_for_a_token_is_checked_too() {
    let cache = TokenCache::new(async |_: tower_bearer::FetchContext| tower_bearer::Token::new("t"));
    let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).expect("an origin");
    sent(layer, Request::get("https://api.example.com/"), &["evil.test"]).await.expect_err("another site");
    assert!(cache.peek().is_none(), "no token was fetched");
}
