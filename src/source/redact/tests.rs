use std::cell::Cell;

use crate::secret::Secret;
use crate::source::redact::{LONGEST_TEXT, clean, clean_code};

use proptest::prelude::*;

thread_local! {
    pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// How many steps the search for these secrets takes.
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
fn words_without_secrets_stay_as_they_are() {
    assert_eq!(clean("Benutzer »ann« gesperrt", &[]), "Benutzer »ann« gesperrt");
    assert_eq!(clean("plain", &secrets(&["", "other"])), "plain");
}

#[test]
fn control_characters_and_invisible_ones_become_spaces() {
    assert_eq!(clean("\r\na\nb\u{1b}[31mc\0d\u{9b}e\u{202e}f\u{200b}g\u{feff}\t", &[]), "a b [31mc d e f g");
}

#[test]
fn a_long_text_is_cut() {
    assert_eq!(clean(&"ü".repeat(10_000), &[]), "ü".repeat(LONGEST_TEXT));
}

#[test]
fn a_secret_is_replaced_however_it_is_written() {
    let secret = "p ss\"w\\rd/+%&ü";
    let encodings = [
        secret,
        // A form, in either case of the digits; a URL; what JavaScript leaves alone.
        "p+ss%22w%5Crd%2F%2B%25%26%C3%BC",
        "p+ss%22w%5crd%2f%2b%25%26%c3%bc",
        "p%20ss%22w%5Crd%2F%2B%25%26%C3%BC",
        "p%20ss%22w%5Crd/%2B%25%26%C3%BC",
        // Every byte.
        "%70%20%73%73%22%77%5C%72%64%2F%2B%25%26%C3%BC",
        // JSON, plain and as PHP writes it; HTML.
        r#"p ss\"w\\rd/+%&ü"#,
        r#"p ss\"w\\rd\/+%&\u00FC"#,
        "p ss&quot;w\\rd/+%&amp;ü",
    ];
    for encoding in encodings {
        assert_eq!(cleaned(&format!("<{encoding}>"), secret), "<[redacted]>", "{encoding}");
    }
}

#[test]
fn the_longer_of_two_secrets_with_one_beginning_is_replaced_whole() {
    assert_eq!(clean("abc abcdef", &secrets(&["abc", "abcdef"])), "[redacted] [redacted]");
    assert_eq!(clean("xabcy", &secrets(&["abc", "xabcy"])), "[redacted]");
}

#[test]
fn no_bound_leaves_half_a_secret() {
    let secret = "s3cr3t-".repeat(40);
    for before in 0..=LONGEST_TEXT {
        let cleaned = cleaned(&format!("{}{secret}{secret}", "x".repeat(before)), &secret);
        assert!(!cleaned.contains("s3"), "{before}: {cleaned}");
    }
}

#[test]
fn what_the_issuers_own_bound_left_of_a_secret_is_replaced() {
    assert_eq!(cleaned("bad token ab23cd3343e", "ab23cd3343e9328g"), "bad token [redacted]");
    assert_eq!(cleaned("bad secret p%20ss%2", "p ss+word"), "bad secret [redacted]");
    assert_eq!(cleaned("not a cab", "ab23cd3343e9328g"), "not a cab");
}

#[test]
fn a_secret_is_recognised_in_other_encodings_and_letters() {
    let secret = "Hunter22!?";
    for encoding in ["HUNTER22!?", "SHVudGVyMjIhPw==", "SHVudGVyMjIhPw", "48756e7465723232213f", "48756E7465723232213F"]
    {
        assert_eq!(cleaned(&format!("<{encoding}>"), secret).replace("==", ""), "<[redacted]>", "{encoding}");
    }
    assert_eq!(cleaned("&#72;&#x75;nter22!?", secret), "[redacted]");
    assert_eq!(cleaned(r"Hunter%32\u0032!?", secret), "[redacted]");
    // Short ones would be found by chance.
    assert_eq!(cleaned("YWJj 616263", "abc"), "YWJj 616263");
}

#[test]
fn a_code_is_not_the_first_part_of_a_secret() {
    assert_eq!(clean_code("invalid_token", &secrets(&["token-1"])), "invalid_token");
    assert_eq!(clean_code("bad token-1", &secrets(&["token-1"])), "bad [redacted]");
    assert_eq!(clean_code(&"xtoken-".repeat(100), &secrets(&["xtoken-xtoken-1"])).len(), LONGEST_TEXT);
}

#[test]
fn the_work_is_linear_in_the_secret_and_bounded_in_the_text() {
    let backslashes = |n: usize| "\\".repeat(n);
    for secret in [backslashes(1 << 17), "a".repeat(1 << 18), "%".repeat(1 << 18)] {
        let secret = secrets(&[&secret]);
        let bounded = steps(&backslashes(1 << 12), &secret);
        // Each step is a comparison of two bytes; 4 KiB of text are looked at, in a handful of views.
        assert!((1..1_000_000).contains(&bounded), "{bounded}");
        for text in [backslashes(1 << 17), "a".repeat(1 << 18), "a%5c\\&amp;+".repeat(1 << 14)] {
            assert!(steps(&text, &secret) < 1_000_000, "{}", steps(&text, &secret));
        }
    }
    // Twice the secrets is twice the work.
    let (few, many) = (secrets(&["\\\\b"; 10]), secrets(&["\\\\b"; 20]));
    assert!(steps(&backslashes(4000), &many) <= 2 * steps(&backslashes(4000), &few));
}

#[test]
fn with_too_many_secrets_nothing_is_repeated() {
    assert_eq!(clean("anything", &secrets(&["x"; 300])), "[redacted]");
}

#[test]
fn many_beginnings_of_a_secret_cost_no_time() {
    let backslashes = "\\".repeat(2000);
    assert_eq!(cleaned(&backslashes, &"\\".repeat(900)), "[redacted]".repeat(2));
    assert_eq!(cleaned(&"a".repeat(1 << 20), &format!("{}b", "a".repeat(2000))).len(), LONGEST_TEXT);
}

proptest! {
    #[test]
    fn no_text_keeps_a_whole_secret(
        before in "[ab%&+5c\\\\;]{0,12}",
        after in "[ab%&+5c\\\\;]{0,12}",
        secret in "[ab%&+5c\\\\;é]{1,9}",
        other in "[ab%5c\\\\]{1,5}",
    ) {
        let escaped: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let json = serde_json::Value::from(&*secret).to_string();
        for written in [secret.clone(), secret.to_uppercase(), escaped, json[1..json.len() - 1].to_owned()] {
            let cleaned = clean(&format!("{before}{written}{after}"), &secrets(&[&secret, &other]));
            // Nothing of `[redacted]` is a secret here, but for single letters.
            let rest = cleaned.replace("[redacted]", "\n");
            prop_assert!(!rest.contains(&secret), "{} in {}", secret, cleaned);
        }
    }

    #[test]
    fn any_text_is_cleaned_and_bounded(text in any::<String>(), secret in any::<String>(), tail in "[%&\\\\u;0-9a-f]{0,9}") {
        let cleaned = clean(&format!("{text}{tail}"), &secrets(&[&secret]));
        prop_assert!(cleaned.chars().count() < LONGEST_TEXT + "[redacted]".len());
        prop_assert!(!cleaned.contains(char::is_control));
    }
}
