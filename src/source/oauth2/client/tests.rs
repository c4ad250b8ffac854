use crate::source::oauth2::auth::basic;
use crate::source::oauth2::client::{known, plain_text};

#[test]
fn id_and_secret_are_form_encoded_before_base64() {
    // we%20ird%3Aid%2B%25:p%26ss%20w%C3%B6rd
    let value = basic("we ird:id+%", &"p&ss wörd".into());
    assert_eq!(value, "Basic d2UlMjBpcmQlM0FpZCUyQiUyNTpwJTI2c3MlMjB3JUMzJUI2cmQ=");
}

#[test]
fn only_codes_of_the_rfc_are_final() {
    for code in ["invalid_grant", "invalid_client", "invalid_scope", "access_denied", "unauthorized_client"] {
        assert_eq!(known(code), Some(code));
    }
    for code in ["", "INVALID_GRANT", "invalid_grant ", "temporarily_unavailable", "server_error", "slow_down"] {
        assert_eq!(known(code), None, "{code}");
    }
}

#[test]
fn a_sentence_is_plain_text_and_json_and_pages_are_not() {
    assert_eq!(plain_text("\r\nÜberlastet.".as_bytes()), Some("\r\nÜberlastet."));
    for body in [&b""[..], b"{\"error\":", b"[]", b"\"x\"", b" <html>", b"caf\xe9", b"\0\0"] {
        assert_eq!(plain_text(body), None, "{body:?}");
    }
}
