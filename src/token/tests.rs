use http::header::{AUTHORIZATION, HeaderMap};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const TEXT: &str = "mF_9.B5f-4.1JqM";

fn token() -> Token {
    Token::new(TEXT).unwrap()
}

fn members(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// A token with four planted secrets, each `length` characters long.
fn planted(length: usize) -> Token {
    let secret = |mark: &str| mark.repeat(length);
    Token::new(secret("Q"))
        .unwrap()
        .with_refresh_token(secret("W"))
        .with_id_token(secret("X"))
        .with_extra(members(json!({ "device": secret("Y") })))
        .with_scope("read")
}

// === the header ===

#[test]
fn the_header_is_bearer_and_the_text() {
    assert_eq!(token().header_value(), "Bearer mF_9.B5f-4.1JqM");
    assert_eq!(token().access_token(), TEXT);
}

#[test]
fn the_header_is_marked_sensitive_wherever_it_goes() {
    assert!(token().header_value().is_sensitive());
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, token().clone().header_value().clone());
    assert!(headers[AUTHORIZATION].is_sensitive());
    assert!(!format!("{headers:?}").contains("mF_9"));
}

fn generation(generation: u64) -> TokenId {
    TokenId { generation, ..TokenId::default() }
}

#[test]
fn a_private_header_is_the_same_in_memory_of_its_own() {
    let token = planted(10).published(generation(7), SystemTime::UNIX_EPOCH);
    let private = token.with_private_header();
    assert_eq!(private.header_value(), token.header_value());
    assert_ne!(private.header_value().as_bytes().as_ptr(), token.header_value().as_bytes().as_ptr());
    assert!(private.header_value().is_sensitive());
    assert_eq!((private.generation(), private.expires_at()), (7, token.expires_at()));
    assert_eq!(private.refresh_token(), token.refresh_token());
}

#[test]
fn a_text_that_no_header_may_carry_is_an_error_that_does_not_repeat_it() {
    let hidden = |problem: char| format!("hunter2{problem}hunter2");
    let rejected = [' ', '\t', '\r', '\n', '\0', '\u{1b}', '\u{7f}', '\u{80}', '\u{a0}', 'ü', '\u{2028}', '🔑'];
    let texts = rejected
        .into_iter()
        .flat_map(|problem| [hidden(problem), format!("{problem}hunter2"), format!("hunter2{problem}")]);
    for text in texts.chain([String::new(), "hunter2\r\nX-Admin: yes".into(), "Basic hunter2".into()]) {
        let error = Token::new(&text).unwrap_err();
        assert!(error.is_transient() && !error.is_denied(), "{text:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    assert!(Token::new("").unwrap_err().to_string().contains("empty"));
}

#[test]
fn the_word_bearer_before_a_token_is_no_part_of_it() {
    for text in ["t", "Bearer t", "bearer t", "BEARER   t"] {
        assert_eq!(Token::new(text).unwrap().access_token(), "t", "{text}");
    }
    for odd in ["Bearer ", "Bearer", "Bearer t t", "Bearer t ", "Bearer\tt", " Bearer t"] {
        assert_eq!(Token::new(odd).is_ok(), odd == "Bearer", "{odd}");
    }
}

#[test]
fn a_token_has_64_kib_at_most() {
    assert!(Token::new("t".repeat(64 * 1024)).is_ok());
    let error = Token::new("t".repeat(64 * 1024 + 1)).unwrap_err();
    assert!(error.to_string().contains("64 KiB"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_gives_an_error_or_a_header_that_holds_it(
        text in prop_oneof![any::<String>(), "[ -~]{0,64}", "[!-~]{1,32}[\\x00-\\xff]", "[!-~]{1,4096}"],
    ) {
        let allowed = !text.is_empty() && text.chars().all(|letter| ('!'..='~').contains(&letter));
        match Token::new(&text) {
            Ok(token) => {
                prop_assert!(allowed);
                prop_assert_eq!(token.access_token(), &text);
                prop_assert_eq!(token.header_value(), &HeaderValue::from_str(&format!("Bearer {text}")).unwrap());
            }
            Err(_) => prop_assert!(!allowed),
        }
    }
}

#[test]
fn every_visible_ascii_character_is_accepted() {
    let text: String = ('!'..='~').collect();
    assert_eq!(Token::new(&text).unwrap().access_token(), text);
}

// === secrets ===

#[test]
fn debug_shows_no_part_of_a_secret_nor_its_length() {
    let printed = |token: &Token| [format!("{token:?}"), format!("{token:#?}")];
    let texts = printed(&planted(4));
    assert_eq!(texts, printed(&planted(4000)), "the length shows");
    for text in texts {
        assert!(!text.contains(['Q', 'W', 'X', 'Y']), "{text}");
        assert!(text.contains("generation") && text.contains("read"), "what is no secret is shown: {text}");
    }
    let header = planted(4).header_value().clone();
    assert!(!format!("{header:?}").contains('Q'));
}

#[test]
fn debug_of_a_secret_shows_nothing() {
    for text in ["", "hunter2", "a much longer secret"] {
        let secret = Secret::from(text);
        assert_eq!(format!("{secret:?} {secret:#?} {:?}", Some(&secret)), "[redacted] [redacted] Some([redacted])");
        assert_eq!(secret.expose(), text);
    }
}

#[test]
fn a_secret_is_equal_by_its_text_and_its_clones_share_it() {
    let secret = Secret::from("hunter2");
    assert_eq!(secret, Secret::from(String::from("hunter2")));
    assert_ne!(secret, Secret::from("hunter3"));
    assert_eq!(secret.clone().expose().as_ptr(), secret.expose().as_ptr());
}

// === what came with it ===

#[test]
fn a_token_alone_lives_an_hour_and_has_nothing_else() {
    let token = token();
    assert_eq!(token.lifetime(), Duration::from_secs(3600));
    assert_eq!((token.generation(), token.expires_at()), (0, None));
    assert_eq!((token.refresh_token(), token.scope(), token.id_token()), (None, None, None));
    assert_eq!(token.extra("anything"), None);
}

#[test]
fn a_lifetime_is_kept_and_cut_at_100_years() {
    let nano = Duration::from_nanos(1);
    for (said, kept) in [
        (Duration::ZERO, Duration::ZERO),
        (nano, nano),
        (MAX_LIFETIME - nano, MAX_LIFETIME - nano),
        (MAX_LIFETIME, MAX_LIFETIME),
        (MAX_LIFETIME + nano, MAX_LIFETIME),
        (Duration::MAX, MAX_LIFETIME),
    ] {
        assert_eq!(token().with_lifetime(said).lifetime(), kept);
    }
    assert_eq!(MAX_LIFETIME, Duration::from_secs(3_153_600_000));
}

#[test]
fn each_setting_keeps_the_others() {
    let settings: [fn(Token) -> Token; 6] = [
        |token| token.with_lifetime(Duration::from_secs(60)),
        |token| token.with_refresh_token("refresh"),
        |token| token.with_scope("read write"),
        |token| token.with_id_token("id"),
        |token| token.with_extra(members(json!({ "tenant": 7 }))),
        |token| token.published(generation(3), SystemTime::UNIX_EPOCH),
    ];
    // Each setter is once the last call, so that none can undo another.
    for first in 0..settings.len() {
        let token = settings.iter().cycle().skip(first).take(settings.len()).fold(token(), |token, set| set(token));
        assert_eq!(token.access_token(), TEXT);
        assert_eq!(token.lifetime(), Duration::from_secs(60));
        assert_eq!(token.refresh_token(), Some(Secret::from("refresh")));
        assert_eq!(token.scope(), Some("read write"));
        assert_eq!(token.id_token(), Some(&Secret::from("id")));
        assert_eq!((token.extra("tenant"), token.extra("other")), (Some(&json!(7)), None));
        assert_eq!((token.generation(), token.expires_at()), (3, Some(SystemTime::UNIX_EPOCH)));
        assert!(token.header_value().is_sensitive());
    }
}

#[test]
fn a_clone_shares_what_it_holds() {
    let token = planted(100);
    let clone = token.clone();
    assert!(Arc::ptr_eq(&token.0, &clone.0));
    assert_eq!(token.access_token().as_ptr(), clone.access_token().as_ptr());
    let published = token.clone().published(generation(1), SystemTime::UNIX_EPOCH);
    assert!(Arc::ptr_eq(&token.0.details, &published.0.details));
    assert_eq!(token.generation(), 0, "the original is not stamped");
}

#[test]
fn a_changed_clone_leaves_the_original_alone() {
    let token = token().with_scope("read");
    let changed = token.clone().with_scope("write").with_lifetime(Duration::ZERO);
    assert_eq!((token.scope(), token.lifetime()), (Some("read"), DEFAULT_LIFETIME));
    assert_eq!((changed.scope(), changed.lifetime()), (Some("write"), Duration::ZERO));
}
