use serde_json::{Value, json};

use crate::source::answer::decode::{self, find_member};

fn read(bytes: impl AsRef<[u8]>) -> Value {
    decode::answer(bytes.as_ref()).unwrap_or(Value::Null)
}

#[test]
fn a_byte_order_mark_is_ignored() {
    assert_eq!(read("\u{feff}{\"a\":1}"), json!({ "a": 1 }));
    let utf16: Vec<u8> = "\u{feff}{\"a\":\"é\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(read(&utf16), json!({ "a": "é" }));
    let utf16: Vec<u8> = "\u{feff}{\"a\":\"é\"}".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!(read(&utf16), json!({ "a": "é" }));
    assert_eq!(read("\u{feff}access_token=t"), json!({ "access_token": "t" }));
}

#[test]
fn bytes_that_are_not_utf_8_are_latin_1() {
    assert_eq!(read(b"{\"a\":\"no est\xe1 activo\"}"), json!({ "a": "no está activo" }));
    // UTF-8 is not taken as Latin-1.
    assert_eq!(read("{\"a\":\"está\"}"), json!({ "a": "está" }));
}

#[test]
fn control_characters_belong_to_their_string() {
    assert_eq!(read("{\"a\":\"one\r\ntwo\tthree\0\"}"), json!({ "a": "one\r\ntwo\tthree\0" }));
    assert_eq!(
        read(b"{\"a\":\"est\xe1\r\n\",\r\n \"b\":\"\\\"\x01\\\\\"}"),
        json!({ "a": "está\r\n", "b": "\"\u{1}\\" })
    );
    assert_eq!(read("{\"a\":\"b\n"), Value::Null);
}

#[test]
fn half_a_surrogate_pair_is_one_character() {
    assert_eq!(read(r#"{"a":"x\ud83d","b":"\ud83d\ude00"}"#), json!({ "a": "x\u{fffd}", "b": "😀" }));
    assert_eq!(read(r#"{"a":"\ude00\n"}"#), json!({ "a": "\u{fffd}\n" }));
}

#[test]
fn an_object_in_a_string_is_the_object() {
    assert_eq!(read(r#""{\"a\":1}""#), json!({ "a": 1 }));
    assert_eq!(read(r#""{ no""#), json!("{ no"));
    assert_eq!(read(r#""a sentence""#), json!("a sentence"));
}

#[test]
fn a_form_is_an_object_of_strings() {
    assert_eq!(read("access_token=a%2Bb&expires_in=3600\n"), json!({ "access_token": "a+b", "expires_in": "3600" }));
    for other in ["", "a = b", "<a href=x>", "a sentence with a=b", "=x", "t", "{a=b}"] {
        assert_eq!(read(other), Value::Null, "{other}");
    }
}

#[test]
fn a_refresh_token_is_found_in_an_unreadable_answer() {
    let found = |bytes: &[u8]| find_member(bytes, "refresh_token").map(|secret| secret.expose().to_owned());
    for whole in [
        &br#"{"access_token":"t","refresh_token":"r/2","expires_"#[..],
        br#"{"refresh_token" : "r\/2","x":"#,
        br#"{"old_refresh_token":7,"refresh_token":"r/2"}}"#,
        b"<p>access_token=t&refresh_token=r%2F2&x</p>",
        b"{\"x\":\"\xff\",\"refresh_token\":\"r/2\"",
    ] {
        assert_eq!(found(whole).as_deref(), Some("r/2"), "{}", String::from_utf8_lossy(whole));
    }
    for none in [&br#"{"refresh_token":"r"#[..], br#"{"refresh_token":7}"#, b"refresh_token", b"refresh_token=", b""] {
        assert_eq!(found(none), None, "{}", String::from_utf8_lossy(none));
    }
}
