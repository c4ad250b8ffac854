use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

use crate::challenge::{Challenge, NOT_FIXED_BY_REFRESH, asks_for_bearer};

/// Every challenge as `scheme[token68] name=value ...`, one after another.
fn read(headers: &[&[u8]]) -> Vec<String> {
    let mut map = HeaderMap::new();
    for header in headers {
        map.append(WWW_AUTHENTICATE, http::HeaderValue::from_bytes(header).expect("a header value"));
    }
    let print = |challenge: &Challenge| {
        let token68 = challenge.token68().map(|text| format!("[{text}]")).unwrap_or_default();
        let params: String = challenge.params().map(|(name, value)| format!(" {name}={value}")).collect();
        format!("{}{token68}{params}", challenge.scheme())
    };
    Challenge::all(&map).iter().map(print).collect()
}

#[test]
fn every_form_of_the_grammar_is_read() {
    for (header, challenges) in [
        ("Bearer", &["Bearer"][..]),
        ("Bearer realm=\"x\"", &["Bearer realm=x"]),
        ("Bearer realm=x", &["Bearer realm=x"]),
        ("Bearer realm = x , error = invalid_token", &["Bearer realm=x error=invalid_token"]),
        ("Bearer realm=\"a, b\", error=\"invalid_token\"", &["Bearer realm=a, b error=invalid_token"]),
        (r#"Bearer realm="say \"hi\" \\ bye""#, &[r#"Bearer realm=say "hi" \ bye"#]),
        ("Bearer realm=\"\"", &["Bearer realm="]),
        ("Basic realm=a, Bearer error=b", &["Basic realm=a", "Bearer error=b"]),
        ("Basic, Bearer", &["Basic", "Bearer"]),
        ("Negotiate, Basic realm=\"x\", NTLM", &["Negotiate", "Basic realm=x", "NTLM"]),
        ("Negotiate YWJj/+-._~==, Bearer error=b", &["Negotiate[YWJj/+-._~==]", "Bearer error=b"]),
        ("Negotiate abc", &["Negotiate[abc]"]),
        (" , ,Bearer realm=x,, ,error=y,", &["Bearer realm=x error=y"]),
        ("Bearer\trealm=x,\terror=y", &["Bearer realm=x error=y"]),
        ("Bearer   realm=x", &["Bearer realm=x"]),
        ("", &[]),
        (" ,, ", &[]),
    ] {
        assert_eq!(read(&[header.as_bytes()]), challenges, "{header}");
    }
}

#[test]
fn several_headers_are_read_in_order() {
    assert_eq!(read(&[b"Basic realm=a, Digest", b"Bearer error=b"]), ["Basic realm=a", "Digest", "Bearer error=b"]);
}

#[test]
fn invalid_challenges_are_parsed_as_far_as_possible() {
    for (header, challenges) in [
        (&b"Bearer error=\"invalid_token\" scope=\"a b\""[..], &["Bearer error=invalid_token scope=a b"][..]),
        (b"Bearer realm=\"open", &["Bearer realm=open"]),
        (b"Bearer realm=\"ends in \\", &["Bearer realm=ends in "]),
        (b"Bearer a=b, realm=, error=c", &["Bearer a=b realm= error=c"]),
        (b"Bearer realm=https://api.example.com/x, error=c", &["Bearer realm=https://api.example.com/x error=c"]),
        (b"Bearer realm=\"caf\xc3\xa9\"", &["Bearer realm=caf\u{e9}"]),
        (b"Bearer realm=\"caf\xe9\"", &["Bearer realm=caf\u{fffd}"]),
        (b"Bearer a=b Basic c=d", &["Bearer a=b", "Basic c=d"]),
        (b"\"Bearer\"", &[]),
        (b"=, Bearer", &[]),
        (b"Bearer: error=x", &[]),
        (b"Basic realm=a, \"broken", &["Basic realm=a"]),
    ] {
        assert_eq!(read(&[header]), challenges, "{}", String::from_utf8_lossy(header));
    }
    // One broken header does not hide another.
    assert_eq!(read(&[b"\"broken", b"Bearer error=b"]), ["Bearer error=b"]);
}

#[test]
fn names_are_found_in_any_case_and_the_first_of_two_counts() {
    let mut headers = HeaderMap::new();
    headers.insert(WWW_AUTHENTICATE, "bEaReR ERROR=\"first\", error=\"second\"".parse().expect("a header"));
    let challenge = &Challenge::all(&headers)[0];
    assert!(challenge.is("Bearer") && !challenge.is("Basic"));
    assert_eq!(challenge.scheme(), "bEaReR");
    assert_eq!(challenge.param("Error"), Some("first"));
    assert_eq!(challenge.param("scope"), None);
}

#[test]
fn debug_does_not_print_a_token68() {
    let mut headers = HeaderMap::new();
    headers.insert(WWW_AUTHENTICATE, "Negotiate c2VjcmV0".parse().expect("a header"));
    assert!(!format!("{:?}", Challenge::all(&headers)).contains("c2VjcmV0"));
}

/// Pieces of challenges. Many of them have a meaning only in combination.
fn pieces() -> impl proptest::strategy::Strategy<Value = String> {
    let pieces = [
        "Bearer",
        "bearer",
        "Basic",
        "Bearer ",
        " ",
        ", ",
        ",",
        "\t",
        "error=",
        "scope=",
        "realm=\"a\"",
        "\"",
        "\\",
        "_",
        "error=\"invalid_token\"",
        "error_description=\"it is not good\"",
        "=",
        "error=\"insufficient_\\scope\"",
    ];
    let errors = NOT_FIXED_BY_REFRESH.iter().flat_map(|error| [format!("error=\"{error}\""), format!("error={error}")]);
    let pieces: Vec<_> = pieces.iter().copied().map(str::to_owned).chain(errors).collect();
    proptest::sample::select(pieces)
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(5000))]

    #[test]
    fn the_quick_check_agrees_with_the_parser(
        first in proptest::collection::vec(pieces(), 0..6), second in proptest::collection::vec(pieces(), 0..6),
        any_scheme: bool,
    ) {
        let mut headers = HeaderMap::new();
        for header in [first, second] {
            headers.append(WWW_AUTHENTICATE, header.concat().parse().expect("a header"));
        }
        let all = Challenge::all(&headers);
        let mut bearer = all.iter().filter(|challenge| challenge.is("bearer")).peekable();
        let asks = all.is_empty() || any_scheme || bearer.peek().is_some();
        let excludes = |challenge: &Challenge| {
            challenge.param("error").is_some_and(|error| NOT_FIXED_BY_REFRESH.contains(&error))
        };
        proptest::prop_assert_eq!(asks_for_bearer(&headers, any_scheme), asks && !bearer.any(excludes));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, value);
            Challenge::all(&headers);
        }
    }

    #[test]
    fn what_was_written_is_read(
        challenges in proptest::collection::vec(
            ("[A-Za-z][A-Za-z0-9-]{0,8}", proptest::collection::vec(("[a-z_]{1,8}", "[ -~]{0,12}"), 0..4)),
            0..4,
        )
    ) {
        let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let written: Vec<_> = challenges.iter().map(|(scheme, params)| {
            let params: Vec<_> = params.iter().map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
            format!("{scheme} {}", params.join(", ")).trim_end().to_owned()
        }).collect();
        let read = read(&[written.join(", ").as_bytes()]);
        let expected: Vec<_> = challenges.iter().map(|(scheme, params)| {
            let params: String = params.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{scheme}{params}")
        }).collect();
        proptest::prop_assert_eq!(read, expected);
    }
}
