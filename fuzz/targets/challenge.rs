//! Parses any `WWW-Authenticate` headers. Each part of the result comes from a header.
#![no_main]

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use libfuzzer_sys::fuzz_target;
use tower_bearer::Challenge;

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let challenges = Challenge::all(&headers);
    assert!(challenges.len() <= data.len());
    for challenge in challenges {
        assert!(!challenge.scheme().is_empty() && challenge.is(&challenge.scheme().to_uppercase()));
        for (name, value) in challenge.params() {
            // A byte that is not UTF-8 becomes a character of three.
            assert!(!name.is_empty() && value.len() <= 3 * data.len());
            assert!(challenge.param(&name.to_uppercase()).is_some());
        }
        assert!(challenge.token68().is_none_or(|token| !token.is_empty()));
    }
});
