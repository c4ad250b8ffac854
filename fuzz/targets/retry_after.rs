//! Reads any `Retry-After` with any `Date`. The pause is at most five minutes, and never zero.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use fuzz::{SECRET, check_error, client, run};
use http::{HeaderValue, Response};
use libfuzzer_sys::fuzz_target;
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};

const LONGEST: Duration = Duration::from_secs(5 * 60);

fuzz_target!(|data: &[u8]| {
    let mut answer = Response::builder().status(429).body(Bytes::new()).expect("a status");
    // The first line is `Retry-After`, and the second is `Date`.
    for (name, line) in ["retry-after", "date"].into_iter().zip(data.split(|byte| *byte == b'\n')) {
        match HeaderValue::from_bytes(line) {
            Ok(value) => answer.headers_mut().append(name, value),
            Err(_) => return,
        };
    }
    let source = ClientCredentialsGrant::builder(
        &Issuer::new(client(answer)).token_endpoint("https://auth.example.com/token"),
        "my-app",
        SECRET,
    )
    .build();
    let cache = TokenCache::new(source.expect("valid"));
    let error = run(cache.get()).expect_err("a 429 grants nothing");
    check_error(&error);
    let pause = cache.status().next_attempt_in.unwrap_or_default();
    assert!(error.is_transient() && pause <= LONGEST, "{pause:?}");
});
