//! The issuer is not called for each request.

use std::time::Duration;

use tokio::time::{Instant, advance};
use tower_bearer::oauth2::ClientCredentialsGrant;
use tower_bearer::testing::{Answer, ManualClock, TokenServer};
use tower_bearer::{Token, TokenCache};

use crate::common::{MINUTE, SECOND, Script, runtime, settle};

/// The calls of the source in a minute with ten requests a second.
async fn calls(token: impl Fn(usize) -> Token) -> usize {
    let script = Script::new();
    (0..1000).for_each(|number| script.queue(Ok(token(number))));
    let cache = TokenCache::new(script.clone());
    let end = Instant::now() + MINUTE;
    while Instant::now() < end {
        cache.get().await.expect("a token");
        settle().await;
        advance(SECOND / 10).await;
    }
    script.calls()
}

fn token(number: usize, lifetime: Duration) -> Token {
    Token::new(format!("token-{number}")).expect("a token").with_lifetime(lifetime)
}

#[tokio::test(start_paused = true)]
async fn a_tiny_refresh_in_causes_one_call_a_second() {
    for refresh_in in [Duration::ZERO, Duration::from_nanos(1), SECOND / 1000, SECOND / 10, SECOND / 2] {
        for lifetime in [10 * SECOND, 60 * MINUTE] {
            let calls = calls(|number| token(number, lifetime).with_refresh_in(refresh_in)).await;
            assert!(calls <= 70, "{refresh_in:?} of {lifetime:?}: {calls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_too_short_for_a_request_causes_one_call_a_second() {
    // Shorter lifetimes would fail, because the wall clock advances while the test runs.
    for lifetime in [SECOND / 20, SECOND / 11] {
        let calls = calls(|number| token(number, lifetime)).await;
        assert!(calls <= 70, "{lifetime:?}: {calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_lifetime_causes_at_most_one_call_per_third_of_it() {
    for lifetime in [SECOND / 2, 3 * SECOND / 4, SECOND, 3 * SECOND / 2, 2 * SECOND] {
        let calls = calls(|number| token(number, lifetime)).await;
        let most = MINUTE.as_secs_f64() / (lifetime.as_secs_f64() / 3.0);
        assert!(calls as f64 <= most + 10.0, "{lifetime:?}: {calls} of {most}");
    }
}

/// Short lifetimes must not be slower than long ones: a call that waits for its turn lets the token expire.
#[tokio::test(start_paused = true)]
async fn no_request_waits_however_short_the_lifetime() {
    let clock = ManualClock::new();
    for lifetime in [SECOND / 10, SECOND / 2, SECOND, 2 * SECOND, 5 * SECOND, 30 * SECOND] {
        let script = Script::living(lifetime);
        script.delay(lifetime / 20);
        let cache = TokenCache::builder(script.clone()).clock(clock.clone()).build().expect("a cache");
        cache.get().await.expect("a token");
        let step = lifetime / 100;
        for at in 0..1000 {
            let answer = tokio_test::task::spawn(cache.get()).poll();
            assert!(answer.is_ready(), "{lifetime:?}: a request waits at step {at}");
            settle().await;
            clock.advance(step);
            advance(step).await;
            settle().await;
        }
        assert!(script.calls() > 10, "{lifetime:?}: {} calls", script.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_never_shortens_a_pause() {
    let issuer = TokenServer::new();
    issuer.fail(Some(Answer::raw(503, "").header("retry-after", "0")));
    let grant =
        ClientCredentialsGrant::builder(&crate::sources::at(issuer.clone()), "app", "secret").build().expect("a grant");
    let cache = TokenCache::new(grant);
    let end = Instant::now() + MINUTE;
    while Instant::now() < end {
        cache.get().await.expect_err("an outage");
        advance(SECOND / 10).await;
    }
    assert!(issuer.calls().total() <= 11, "{}", issuer.calls().total());
}

/// The issuer closes a pooled connection while the token call is sent on it.
#[test]
fn a_pooled_connection_that_is_closed_during_a_call_fails_no_request() {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}/token", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        let mut calls = 0;
        // The server answers the first call of each connection, and closes the connection after reading the second.
        for _ in 0..2 {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut answered = 0;
            loop {
                let mut request = Vec::new();
                let mut part = [0; 4096];
                while !request.ends_with(b"client_credentials") {
                    match socket.read(&mut part).expect("a request") {
                        0 => return calls,
                        length => request.extend_from_slice(&part[..length]),
                    }
                }
                calls += 1;
                answered += 1;
                if answered == 2 {
                    break;
                }
                let body =
                    format!("{{\"access_token\":\"token-{calls}\",\"token_type\":\"Bearer\",\"expires_in\":60}}");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                socket.write_all(head.as_bytes()).expect("an answer");
                if calls == 3 {
                    return calls;
                }
            }
        }
        calls
    });
    let cache = runtime().block_on(async {
        let grant = ClientCredentialsGrant::builder(
            &tower_bearer::oauth2::Issuer::new(crate::sources::hyper_client()).token_endpoint(&url),
            "app",
            "secret",
        )
        .build()
        .expect("a grant");
        let cache = TokenCache::new(grant);
        assert_eq!(cache.get().await.expect("a token").access_token(), "token-1");
        assert_eq!(cache.refresh().await.expect("a token").access_token(), "token-3");
        cache
    });
    assert!(cache.status().last_failure.is_none());
    assert_eq!(server.join().expect("no panic"), 3);
}
