use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::WWW_AUTHENTICATE;
use http::{Uri, Version};
use tower_http::follow_redirect::RequestUri;

use super::*;
use table::{GRAMMAR, SERVERS};

mod table;

/// An extension of an inner service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace(u32);

fn ours() -> Origins {
    Origins::named(vec!["https://api.example.com".parse().expect("an origin")]).expect("one origin")
}

fn answer(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).expect("a response")
}

/// A response with these headers, all of one name.
fn answer_with(status: u16, name: &'static str, values: &[&str]) -> Response<()> {
    let mut response = answer(status);
    for value in values {
        response.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
    }
    response
}

fn challenged(status: u16, challenges: &[&str]) -> Response<()> {
    answer_with(status, WWW_AUTHENTICATE.as_str(), challenges)
}

fn is_rejected(rejection: &RejectionPolicy, response: Response<()>) -> bool {
    rejection.classify(response, &ours()).1.is_some()
}

fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).expect("a status")
}

// === challenges ===

#[test]
fn the_challenges_of_a_401_say_whether_the_token_was_rejected() {
    let mut wrong = Vec::new();
    for (headers, rejected) in GRAMMAR {
        if is_rejected(&RejectionPolicy::new(), challenged(401, headers)) != *rejected {
            wrong.push((headers, rejected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_challenges_of_known_servers_are_understood() {
    let mut servers: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for line in SERVERS.trim().lines() {
        match line.strip_prefix("    ") {
            Some(header) => servers.last_mut().expect("a server comes first").2.push(header),
            None => {
                let (outcome, name) = line.split_once(' ').expect("an outcome and a name");
                servers.push((name, outcome, Vec::new()));
            }
        }
    }
    assert!(servers.len() > 40);
    for (name, outcome, headers) in servers {
        let rejected = is_rejected(&RejectionPolicy::new(), challenged(401, &headers));
        assert_eq!(if rejected { "rejected" } else { "good" }, outcome, "{name}: {headers:?}");
    }
}

#[test]
fn a_challenge_that_is_not_text_still_counts() {
    let mut response = answer(401);
    let latin1 = HeaderValue::from_bytes(b"Bearer realm=\"caf\xe9\", error=\"insufficient_scope\"").expect("a value");
    response.headers_mut().append(WWW_AUTHENTICATE, latin1);
    assert!(!is_rejected(&RejectionPolicy::new(), response));
}

#[test]
fn no_other_status_rejects_the_token() {
    for number in (100..1000).filter(|number| *number != 401) {
        for headers in [&[][..], &["Bearer"], &["Bearer error=\"invalid_token\""]] {
            assert!(!is_rejected(&RejectionPolicy::new(), challenged(number, headers)), "{number} {headers:?}");
            assert!(!is_rejected(&RejectionPolicy::new().grpc(), challenged(number, headers)), "{number} {headers:?}");
        }
    }
}

#[test]
fn no_challenge_makes_a_403_a_rejection() {
    for (headers, _) in GRAMMAR {
        assert!(!is_rejected(&RejectionPolicy::new().status(status(419)), challenged(403, headers)), "{headers:?}");
    }
}

// === settings ===

#[test]
fn an_added_status_always_means_rejected() {
    let rejection = RejectionPolicy::new().status(status(419)).status(status(440));
    for headers in [&[][..], &["Bearer error=\"insufficient_scope\""], &["Basic realm=\"x\""]] {
        assert!(is_rejected(&rejection, challenged(419, headers)), "{headers:?}");
        assert!(is_rejected(&rejection, challenged(440, headers)), "{headers:?}");
        assert!(!is_rejected(&rejection, challenged(418, headers)), "{headers:?}");
        assert!(!is_rejected(&rejection, challenged(403, headers)), "{headers:?}");
    }
    // A 401 is evaluated by its challenges, unless the setting names it.
    assert!(is_rejected(&rejection, answer(401)));
    assert!(!is_rejected(&rejection, challenged(401, &["Basic"])));
    assert!(is_rejected(&rejection.status(status(401)), challenged(401, &["Basic"])));
}

#[test]
fn a_setting_ignores_challenges_of_other_schemes() {
    let other_schemes = [
        &["BASIC realm=\"the app\""][..],
        &["Negotiate"],
        &["Negotiate, NTLM, Basic realm=\"x\""],
        &["Digest realm=\"x\", nonce=\"y\", error=\"insufficient_scope\""],
        &["OAuth realm=\"Service\""],
    ];
    for headers in other_schemes {
        assert!(!is_rejected(&RejectionPolicy::new(), challenged(401, headers)), "by default: {headers:?}");
        assert!(is_rejected(&RejectionPolicy::new().any_scheme(), challenged(401, headers)), "{headers:?}");
        assert!(!is_rejected(&RejectionPolicy::new().any_scheme(), challenged(403, headers)), "{headers:?}");
    }
    // A Bearer challenge still counts.
    for headers in [
        &["Bearer error=\"insufficient_scope\""][..],
        &["BASIC realm=\"the app\"", "Bearer error=\"insufficient_scope\", scope=\"write\""],
        &["Bearer error=\"insufficient_user_authentication\", acr_values=\"high\", Basic"],
    ] {
        assert!(!is_rejected(&RejectionPolicy::new().any_scheme(), challenged(401, headers)), "{headers:?}");
    }
}

#[test]
fn the_predicate_is_called_only_if_nothing_else_rejects() {
    let asked = Arc::new(AtomicUsize::new(0));
    let rejection = RejectionPolicy::new().grpc().status(status(419)).when({
        let asked = Arc::clone(&asked);
        move |_| {
            asked.fetch_add(1, Ordering::Relaxed);
            true
        }
    });
    for known in [answer(401), challenged(401, &["Bearer"]), answer(419), answer_with(200, "grpc-status", &["16"])] {
        assert!(is_rejected(&rejection, known));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    for unknown in [answer(200), answer(403), challenged(401, &["Bearer error=insufficient_scope"])] {
        assert!(is_rejected(&rejection, unknown));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn the_predicate_gets_status_headers_and_extensions() {
    let rejection = RejectionPolicy::new().when(|response| {
        response.status == StatusCode::OK
            && response.headers.get("x-session").is_some_and(|value| value == "expired")
            && response.extensions.get() == Some(&Trace(7))
    });
    let expired = || {
        let mut response = answer_with(200, "x-session", &["expired"]);
        response.extensions_mut().insert(Trace(7));
        response
    };
    assert!(is_rejected(&rejection, expired()));
    let mut other = expired();
    *other.status_mut() = StatusCode::CREATED;
    assert!(!is_rejected(&rejection, other));
    let mut other = expired();
    other.headers_mut().clear();
    assert!(!is_rejected(&rejection, other));
    let mut other = expired();
    other.extensions_mut().insert(Trace(8));
    assert!(!is_rejected(&rejection, other));
}

#[test]
fn the_second_predicate_replaces_the_first() {
    let rejection = RejectionPolicy::new()
        .when(|response| response.status == StatusCode::CONFLICT)
        .when(|response| response.status == StatusCode::GONE);
    assert!(!is_rejected(&rejection, answer(409)));
    assert!(is_rejected(&rejection, answer(410)));
}

#[test]
fn classify_returns_the_response_unchanged() {
    for rejection in [
        RejectionPolicy::new(),
        RejectionPolicy::new().grpc().status(status(419)),
        RejectionPolicy::new().when(|_| false),
    ] {
        for number in [200, 401, 403, 419] {
            let response = Response::builder()
                .status(number)
                .version(Version::HTTP_2)
                .header("x-twice", "1")
                .header("www-authenticate", "Bearer")
                .header("x-twice", "2")
                .extension(Trace(7))
                .body("unread")
                .expect("a response");
            let before = format!("{response:?}");
            let (response, _) = rejection.classify(response, &ours());
            assert_eq!(format!("{response:?}"), before);
            assert_eq!((response.extensions().get(), *response.body()), (Some(&Trace(7)), "unread"));
        }
    }
}

#[test]
fn debug_prints_the_settings() {
    let rejection = RejectionPolicy::new().grpc().status(status(419)).when(|_| true);
    assert_eq!(
        format!("{rejection:?}"),
        "RejectionPolicy { statuses: [419], grpc: true, any_scheme: false, when: true }"
    );
    let nothing_set = "RejectionPolicy { statuses: [], grpc: false, any_scheme: false, when: false }";
    assert_eq!(format!("{:?}", RejectionPolicy::new()), nothing_set);
}

// === gRPC ===

#[test]
fn grpc_unauthenticated_in_the_headers_is_a_rejection_by_a_setting() {
    let (rejected, good) = (true, false);
    for (http, grpc, by_default, with_grpc) in [
        // Trailers-only: the status comes with the headers.
        (200, &["16"][..], good, rejected),
        // The status of a call that has begun is in its trailers, which are still unread.
        (200, &[], good, good),
        (200, &["0"], good, good),
        // These do not reject the token: PERMISSION_DENIED, UNAVAILABLE, UNKNOWN.
        (200, &["7"], good, good),
        (200, &["14"], good, good),
        (200, &["2"], good, good),
        // Texts that are not exactly 16.
        (200, &["1"], good, good),
        (200, &["6"], good, good),
        (200, &["160"], good, good),
        (200, &["016"], good, good),
        (200, &["UNAUTHENTICATED"], good, good),
        (200, &[""], good, good),
        // Some proxies map one to the other.
        (401, &["16"], rejected, rejected),
        (401, &[], rejected, rejected),
        (401, &["7"], rejected, rejected),
        (403, &["16"], good, rejected),
        (403, &["7"], good, good),
    ] {
        let response = || answer_with(http, "grpc-status", grpc);
        assert_eq!(is_rejected(&RejectionPolicy::new(), response()), by_default, "by default: {http} {grpc:?}");
        assert_eq!(is_rejected(&RejectionPolicy::new().grpc(), response()), with_grpc, "with grpc: {http} {grpc:?}");
    }
}

#[test]
fn grpc_unauthenticated_rejects_in_spite_of_another_challenge() {
    let mut response = challenged(401, &["Basic realm=\"x\""]);
    response.headers_mut().insert("grpc-status", UNAUTHENTICATED);
    assert!(is_rejected(&RejectionPolicy::new().grpc(), response));
}

// === redirects by an inner service ===

#[test]
fn a_response_from_another_origin_does_not_reject_the_token() {
    for (uri, rejected) in [
        ("https://api.example.com/v1", true),
        ("https://API.example.com:443/v1", true),
        ("/v1", true),
        ("https://login.example.com/", false),
        ("https://api.example.com:8443/v1", false),
        ("http://api.example.com/v1", false),
        ("https://api.example.com.evil.test/", false),
        // The layer would not have put its token on such a request.
        ("https://user@api.example.com/", false),
    ] {
        let uri: Uri = uri.parse().expect("a URI");
        let rejection =
            RejectionPolicy::new().grpc().status(status(419)).when(|response| response.status == StatusCode::GONE);
        for mut response in [
            answer(401),
            challenged(401, &["Bearer"]),
            answer(419),
            answer_with(200, "grpc-status", &["16"]),
            answer(410),
        ] {
            response.extensions_mut().insert(RequestUri(uri.clone()));
            assert_eq!(is_rejected(&rejection, response.clone()), rejected, "{uri} {response:?}");
        }
    }
}

#[test]
fn any_https_origin_means_any_secure_origin() {
    for (uri, rejected) in
        [("https://other.test/", true), ("http://127.0.0.1:80/", true), ("http://other.test/", false)]
    {
        let mut response = answer(401);
        response.extensions_mut().insert(RequestUri(uri.parse().expect("a URI")));
        assert_eq!(RejectionPolicy::new().classify(response, &Origins::any_secure()).1.is_some(), rejected, "{uri}");
    }
}
