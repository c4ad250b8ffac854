use proptest::prelude::*;

use self::table::{API, PLAIN, TABLE, V6};
use super::OriginMatch::{Matched, NoHost, Other, Userinfo};
use super::*;

mod table;

fn uri(text: &str) -> Uri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn origins(named: &[&str]) -> Origins {
    Origins::named(named.iter().map(|origin| Origin::allow_insecure(origin).unwrap()).collect()).unwrap()
}

// === matching requests ===

#[test]
fn a_token_goes_only_to_the_named_origins() {
    for (origin, request, expected) in TABLE {
        assert_eq!(origins(&[origin]).classify(&uri(request)), *expected, "{request} with {origin}");
    }
}

#[test]
fn no_invalid_uri_matches() {
    for text in [
        "https://evil.test\\@api.example.com/",
        "https://api.example.com\\.evil.test/",
        "https://api.example.com%2eevil.test/",
        "https://api.example.com%00.evil.test/",
        "https://api.example.com:443:443/",
        "https://api.example.com .evil.test/",
        "https://api.example.com\t/",
        "https:///api.example.com/",
        "https:/api.example.com/",
        "https:api.example.com/",
        "https://api\u{3002}example\u{3002}com/",
        "https://api.example.com@/",
    ] {
        assert!(text.parse::<Uri>().is_err() || origins(&[API]).classify(&uri(text)) == Other, "{text}");
    }
}

#[test]
fn a_path_cannot_extend_the_host() {
    for path in [".evil.test/", "@evil.test/", ":8443/", "evil"] {
        let built = Uri::builder().scheme("https").authority("api.example.com").path_and_query(path).build();
        assert!(built.is_err(), "{built:?}: a client that prints a URI and parses it again connects to another host");
    }
}

#[test]
fn every_named_origin_matches_and_no_mixture_of_two() {
    let origins = origins(&[API, "http://localhost:3000"]);
    for (request, expected) in [
        ("https://api.example.com/", Matched),
        ("http://localhost:3000/", Matched),
        ("http://LOCALHOST:3000/", Matched),
        ("https://api.example.com:3000/", Other),
        ("https://localhost:3000/", Other),
        ("http://localhost/", Other),
        ("http://api.example.com:3000/", Other),
    ] {
        assert_eq!(origins.classify(&uri(request)), expected, "{request}");
    }
}

#[test]
fn any_secure_means_https_or_loopback_without_a_user() {
    for (request, expected) in [
        ("https://api.example.com/", Matched),
        ("https://evil.test:8443/", Matched),
        ("http://localhost:3000/", Matched),
        ("http://[::1]/", Matched),
        ("http://api.example.com/", Other),
        ("http://localhost.evil.test/", Other),
        ("http://[::1]evil.test/", Other),
        ("ftp://localhost/", Other),
        ("api.example.com:443", Other),
        ("https://user@api.example.com/", Userinfo),
        ("http://user@localhost/", Userinfo),
        ("/v1", NoHost),
    ] {
        assert_eq!(Origins::any_secure().classify(&uri(request)), expected, "{request}");
    }
}

#[test]
fn a_path_matches_if_relative_uris_are_allowed() {
    for origins in [origins(&[V6, API]), Origins::any_secure()] {
        assert_eq!(origins.classify(&uri("/v1")), NoHost);
        let with_relative = origins.with_relative_uris();
        assert_eq!(with_relative.classify(&uri("/v1")), Matched);
        assert_eq!(with_relative.classify(&uri("*")), Matched);
        assert_eq!(with_relative.classify(&uri("http://evil.test/v1")), Other);
        assert_eq!(with_relative.classify(&uri("api.example.com:443")), Other);
        // An inner client that joins these to its base URL would connect to evil.test.
        assert_eq!(with_relative.classify(&uri("//evil.test/v1")), NoHost);
        assert_eq!(with_relative.classify(&uri("/\\evil.test/v1")), NoHost);
    }
}

#[test]
fn a_layer_without_an_origin_is_an_error() {
    assert!(Origins::named(Vec::new()).unwrap_err().to_string().contains("origins"));
}

// === parsing ===

#[test]
fn the_error_of_an_invalid_origin_says_how_to_write_it() {
    for (text, hint) in [
        ("", "not a URL"),
        (" ", "not a URL"),
        ("not a url", "not a URL"),
        (" https://api.example.com", "not a URL"),
        ("https://", "not a URL"),
        ("https:///v1", "not a URL"),
        ("https://api.example.com:443:443", "not a URL"),
        ("api.example.com", "scheme"),
        ("localhost:3000", "scheme"),
        ("/v1", "scheme"),
        ("*", "scheme"),
        ("ftp://api.example.com", "scheme"),
        ("https://:443", "host"),
        ("https://.", "host"),
        ("https://api.example.com..", "host"),
        ("https://[api.example.com]", "host"),
        ("https://[::1]evil.test", "port"),
        ("https://api.example.com:99999", "port"),
        ("https://api.example.com:https", "port"),
        ("https://api.example.com/v1", "path"),
        ("https://api.example.com//", "path"),
        ("https://api.example.com/?", "query"),
        ("https://api.example.com?a=b", "query"),
        ("https://api.example.com/#", "fragment"),
        ("https://api.example.com#top", "fragment"),
        ("https://user@api.example.com", "user"),
        ("https://@api.example.com", "user"),
        ("https://b\u{fc}cher.example", "xn--"),
        ("https://api\u{3002}example.com", "xn--"),
    ] {
        for error in [text.parse::<Origin>().unwrap_err(), Origin::allow_insecure(text).unwrap_err()] {
            assert!(error.is_invalid());
            assert!(error.to_string().starts_with("invalid origin: "), "{text}: {error}");
            assert!(error.to_string().contains(hint), "{text}: {error}");
        }
    }
}

#[test]
fn plain_http_other_than_loopback_needs_allow_insecure() {
    for text in [
        "http://api.example.com",
        "http://api.example.com:443",
        "http://localhost.evil.test",
        "http://notlocalhost",
        // Resolvers ask the network for these.
        "http://sub.localhost:3000",
        "http://a.b.localhost",
        "http://127.0.0.1.evil.test",
        "http://0127.0.0.1",
        "http://127.1",
        "http://128.0.0.1",
        "http://0.0.0.0",
        "http://[::]",
        "http://[::2]",
    ] {
        let error = text.parse::<Origin>().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("Origin::allow_insecure"), "{text}: {error}");
        assert_eq!(Origin::allow_insecure(text).unwrap().to_string(), text);
    }
}

#[test]
fn plain_http_is_accepted_on_loopback() {
    for (text, printed) in [
        ("http://localhost", "http://localhost"),
        ("http://LOCALHOST.:80/", "http://localhost"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.255.0.9", "http://127.255.0.9"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
    ] {
        assert_eq!(text.parse::<Origin>().unwrap().to_string(), printed);
    }
}

#[test]
fn every_conversion_is_equally_strict() {
    let origin: Origin = API.parse().unwrap();
    assert_eq!(Origin::try_from(API).unwrap(), origin);
    assert_eq!(Origin::try_from(&String::from(API)).unwrap(), origin);
    assert_eq!(Origin::try_from(String::from(API)).unwrap(), origin);
    assert!(Origin::try_from(PLAIN).is_err());
    assert!(Origin::try_from(&String::from(PLAIN)).is_err());
    assert!(Origin::try_from(String::from(PLAIN)).is_err());
}

#[test]
fn an_endpoint_keeps_its_path_and_query() {
    for url in ["https://auth.example.com/token?tenant=7", "http://localhost:8080/token", "http://[::1]/"] {
        assert_eq!(endpoint("token_url", url).unwrap().to_string(), url);
    }
}

#[test]
fn the_error_of_an_invalid_endpoint_names_the_field_and_prints_no_secret() {
    for (url, hint) in [
        ("", "not a URL"),
        ("https://user:hunter2@", "not a URL"),
        ("https://auth.example.com/token hunter2", "not a URL"),
        ("/token?secret=hunter2", "scheme"),
        ("ftp://auth.example.com/hunter2", "scheme"),
        ("https://auth.example.com:hunter2/", "port"),
        ("https://user:hunter2@auth.example.com/token", "user"),
        ("https://auth.example.com/hunter2/\u{fc}", "ASCII"),
    ] {
        let error = endpoint("token_url", url).unwrap_err();
        assert!(error.is_invalid());
        let text = format!("{error} {error:?}");
        assert!(text.starts_with("invalid token_url: ") && text.contains(hint), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

// === any origin ===

/// Scheme, host and port, each in its shortest form.
fn origin_parts() -> impl Strategy<Value = (bool, String, u16)> {
    let host = prop_oneof![
        4 => "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]([a-z0-9-]{0,8}[a-z0-9])?){0,3}",
        1 => any::<[u8; 4]>().prop_map(|ip| Ipv4Addr::from(ip).to_string()),
        1 => any::<[u16; 8]>().prop_map(|ip| format!("[{}]", Ipv6Addr::from(ip))),
    ];
    (any::<bool>(), host, prop_oneof![Just(443), Just(80), any::<u16>()])
}

fn as_text((secure, host, port): &(bool, String, u16)) -> String {
    format!("{}://{host}:{port}", if *secure { "https" } else { "http" })
}

#[test]
fn the_origin_of_a_uri_has_no_path_and_equals_the_named_one() {
    let named: Origin = "https://api.example.com".parse().unwrap();
    let of = |text: &str| Origin::try_from(&text.parse::<Uri>().unwrap());
    assert_eq!(of("https://API.example.com:443/v1?q=1").unwrap(), named);
    assert_ne!(of("https://api.example.com:8443/v1").unwrap(), named);
    for none in ["/v1", "api.example.com:443", "http://api.example.com/v1", "https://me:secret@api.example.com/"] {
        let error = of(none).unwrap_err();
        assert_eq!((error.field(), error.to_string().contains("secret")), (Some("origin"), false), "{none}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_printed_origin_parses_to_the_same_origin(parts in origin_parts()) {
        let origin = Origin::allow_insecure(&as_text(&parts)).unwrap();
        prop_assert_eq!(&origin, &Origin::allow_insecure(&origin.to_string()).unwrap());
        prop_assert_eq!(&origin, &Origin::allow_insecure(&as_text(&parts).to_uppercase()).unwrap());
    }

    #[test]
    fn any_path_and_query_on_an_origin_matches(
        parts in origin_parts(), path in "(/[!$&-;=@-Z_a-z~%]{0,8}){0,4}", query in "(\\?[!$&-;=?-Z_a-z~%]{0,16})?",
    ) {
        let origin = Origin::allow_insecure(&as_text(&parts)).unwrap();
        let ours = Origins::named(vec![origin.clone()]).unwrap();
        for base in [origin.to_string(), as_text(&parts), as_text(&parts).to_uppercase()] {
            prop_assert_eq!(ours.classify(&uri(&format!("{base}{path}{query}"))), Matched);
        }
    }

    #[test]
    fn another_scheme_host_or_port_does_not_match(parts in origin_parts(), other in origin_parts(), port in any::<u16>()) {
        let (secure, host, own) = parts.clone();
        let ours = origins(&[&as_text(&parts)]);
        let evaluate = |parts| ours.classify(&uri(&format!("{}/v1", as_text(&parts))));
        prop_assert_eq!(evaluate((!secure, host.clone(), own)), Other);
        prop_assert_eq!(evaluate((secure, format!("{host}.evil.test"), own)), Other);
        prop_assert_eq!(evaluate((secure, format!("evil.test@{host}"), own)), Userinfo);
        if other.1 != host {
            prop_assert_eq!(evaluate((secure, other.1, own)), Other);
        }
        if port != own {
            prop_assert_eq!(evaluate((secure, host, port)), Other);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>(), ascii in "https?://[ -~]{0,32}") {
        for text in [text, ascii] {
            let _ = (text.parse::<Origin>(), endpoint("token_url", &text), text.parse().map(|uri| origins(&[API]).classify(&uri)));
        }
    }
}
