use std::cell::Cell;

use crate::secret::Secret;
use crate::source::redact::{MAX_TEXT, clean, clean_code};

use proptest::prelude::*;

thread_local! {
    pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the steps of the search for these secrets.
fn steps(text: &str, secrets: &[Secret]) -> usize {
    let before = STEPS.get();
    clean(text, secrets);
    STEPS.get() - before
}

fn secrets(texts: &[&str]) -> Vec<Secret> {
    texts.iter().map(|text| Secret::from(*text)).collect()
}

fn cleaned(text: &str, secret: &str) -> String {
    clean(text, &secrets(&[secret]))
}

#[test]
fn a_text_without_secrets_is_unchanged() {
    assert_eq!(clean("Benutzer »ann« gesperrt", &[]), "Benutzer »ann« gesperrt");
    assert_eq!(clean("plain", &secrets(&["", "other"])), "plain");
}

#[test]
fn control_and_invisible_characters_become_spaces() {
    assert_eq!(clean("\r\na\nb\u{1b}[31mc\0d\u{9b}e\u{202e}f\u{200b}g\u{feff}\t", &[]), "a b [31mc d e f g");
}

#[test]
fn a_long_text_is_truncated() {
    assert_eq!(clean(&"ü".repeat(10_000), &[]), "ü".repeat(MAX_TEXT));
}

#[test]
fn a_secret_is_redacted_in_every_escaping() {
    let secret = "p ss\"w\\rd/+%&ü";
    let encodings = [
        secret,
        // A form has digits in either case. A URL escapes the space in another way. JavaScript leaves some characters.
        "p+ss%22w%5Crd%2F%2B%25%26%C3%BC",
        "p+ss%22w%5crd%2f%2b%25%26%c3%bc",
        "p%20ss%22w%5Crd%2F%2B%25%26%C3%BC",
        "p%20ss%22w%5Crd/%2B%25%26%C3%BC",
        // Here every byte is escaped.
        "%70%20%73%73%22%77%5C%72%64%2F%2B%25%26%C3%BC",
        // JSON is next, plain and as PHP writes it, and then HTML.
        r#"p ss\"w\\rd/+%&ü"#,
        r#"p ss\"w\\rd\/+%&\u00FC"#,
        "p ss&quot;w\\rd/+%&amp;ü",
    ];
    for encoding in encodings {
        assert_eq!(cleaned(&format!("<{encoding}>"), secret), "<[redacted]>", "{encoding}");
    }
}

#[test]
fn the_longer_of_two_secrets_with_the_same_beginning_is_redacted_whole() {
    assert_eq!(clean("abc abcdef", &secrets(&["abc", "abcdef"])), "[redacted] [redacted]");
    assert_eq!(clean("xabcy", &secrets(&["abc", "xabcy"])), "[redacted]");
}

#[test]
fn no_bound_leaves_half_a_secret() {
    let secret = "s3cr3t-".repeat(40);
    for before in 0..=MAX_TEXT {
        let cleaned = cleaned(&format!("{}{secret}{secret}", "x".repeat(before)), &secret);
        assert!(!cleaned.contains("s3"), "{before}: {cleaned}");
    }
}

#[test]
fn the_beginning_of_a_truncated_secret_is_redacted() {
    assert_eq!(cleaned("bad token ab23cd3343e", "ab23cd3343e9328g"), "bad token [redacted]");
    assert_eq!(cleaned("bad secret p%20ss%2", "p ss+word"), "bad secret [redacted]");
    assert_eq!(cleaned("not a cab", "ab23cd3343e9328g"), "not a cab");
}

#[test]
fn a_secret_is_recognised_in_other_encodings_and_in_upper_case() {
    let secret = "Hunter22!?";
    for encoding in ["HUNTER22!?", "SHVudGVyMjIhPw==", "SHVudGVyMjIhPw", "48756e7465723232213f", "48756E7465723232213F"]
    {
        assert_eq!(cleaned(&format!("<{encoding}>"), secret).replace("==", ""), "<[redacted]>", "{encoding}");
    }
    assert_eq!(cleaned("&#72;&#x75;nter22!?", secret), "[redacted]");
    assert_eq!(cleaned(r"Hunter%32\u0032!?", secret), "[redacted]");
    // A short secret would match by chance.
    assert_eq!(cleaned("YWJj 616263", "abc"), "YWJj 616263");
}

#[test]
fn a_code_is_not_the_beginning_of_a_secret() {
    assert_eq!(clean_code("invalid_token", &secrets(&["token-1"])), "invalid_token");
    assert_eq!(clean_code("bad token-1", &secrets(&["token-1"])), "bad [redacted]");
    assert_eq!(clean_code(&"xtoken-".repeat(100), &secrets(&["xtoken-xtoken-1"])).len(), MAX_TEXT);
}

#[test]
fn the_work_is_linear_in_the_secret_and_bounded_in_the_text() {
    let backslashes = |n: usize| "\\".repeat(n);
    for secret in [backslashes(1 << 17), "a".repeat(1 << 18), "%".repeat(1 << 18)] {
        let secret = secrets(&[&secret]);
        let bounded = steps(&backslashes(1 << 12), &secret);
        // Each step compares two bytes. The search reads 4 KiB of text, in at most seven views.
        assert!((1..1_000_000).contains(&bounded), "{bounded}");
        for text in [backslashes(1 << 17), "a".repeat(1 << 18), "a%5c\\&amp;+".repeat(1 << 14)] {
            assert!(steps(&text, &secret) < 1_000_000, "{}", steps(&text, &secret));
        }
    }
    // Twice the secrets cost at most twice the work.
    let (few, many) = (secrets(&["\\\\b"; 10]), secrets(&["\\\\b"; 20]));
    assert!(steps(&backslashes(4000), &many) <= 2 * steps(&backslashes(4000), &few));
}

#[test]
fn with_too_many_secrets_the_whole_text_is_redacted() {
    assert_eq!(clean("anything", &secrets(&["x"; 300])), "[redacted]");
}

#[test]
fn repeated_beginnings_of_a_secret_cost_no_extra_work() {
    let backslashes = "\\".repeat(2000);
    assert_eq!(cleaned(&backslashes, &"\\".repeat(900)), "[redacted]".repeat(2));
    assert_eq!(cleaned(&"a".repeat(1 << 20), &format!("{}b", "a".repeat(2000))).len(), MAX_TEXT);
}

proptest! {
    #[test]
    fn no_secret_is_left_in_a_text(
        before in "[ab%&+5c\\\\;]{0,12}",
        after in "[ab%&+5c\\\\;]{0,12}",
        secret in "[ab%&+5c\\\\;é]{1,9}",
        other in "[ab%5c\\\\]{1,5}",
    ) {
        let escaped: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let json = serde_json::Value::from(&*secret).to_string();
        for written in [secret.clone(), secret.to_uppercase(), escaped, json[1..json.len() - 1].to_owned()] {
            let cleaned = clean(&format!("{before}{written}{after}"), &secrets(&[&secret, &other]));
            // A secret of one letter may be part of the word `[redacted]`.
            let rest = cleaned.replace("[redacted]", "\n");
            prop_assert!(!rest.contains(&secret), "{} in {}", secret, cleaned);
        }
    }

    #[test]
    fn any_text_is_cleaned_and_bounded(text in any::<String>(), secret in any::<String>(), tail in "[%&\\\\u;0-9a-f]{0,9}") {
        let cleaned = clean(&format!("{text}{tail}"), &secrets(&[&secret]));
        prop_assert!(cleaned.chars().count() < MAX_TEXT + "[redacted]".len());
        prop_assert!(!cleaned.contains(char::is_control));
    }
}
