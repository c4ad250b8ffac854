use http::StatusCode;

use crate::source::answer::decode;
use crate::source::answer::denial::Denial;

fn read(status: u16, body: &str) -> (Denial, StatusCode) {
    let status = StatusCode::from_u16(status).unwrap();
    (Denial::read(decode::answer(body.as_bytes()).as_ref(), body.as_bytes(), status), status)
}

fn said(body: &str) -> (Option<String>, Option<String>) {
    let (denial, _) = read(400, body);
    (denial.code, denial.words)
}

#[test]
fn code_and_words_are_found_where_servers_put_them() {
    for (body, code, words) in [
        (r#"{"error":"a","error_description":"b"}"#, Some("a"), Some("b")),
        (r#"{"detail":"b"}"#, None, Some("b")),
        (r#"{"error":{"message":"b","code":190}}"#, Some("190"), Some("b")),
        (r#"{"error":{"message":"b","code":400,"status":"PERMISSION"}}"#, Some("PERMISSION"), Some("b")),
        (r#"{"errorCode":"a","errorSummary":"b"}"#, Some("a"), Some("b")),
        (
            r#"{"title":"Bad Request","detail":"b","type":"https://x.example/a","status":400}"#,
            None,
            Some("Bad Request; b"),
        ),
        (r#"{"reason":"b","error":"unsupported_grant_type"}"#, Some("unsupported_grant_type"), Some("b")),
        (r#"{"errors":[{"errorType":"a","message":"b"}],"success":false}"#, Some("a"), Some("b")),
        (r#"{"errors":["b"]}"#, None, Some("b")),
        (r#"{"errors":{"name":["b"]}}"#, None, Some("b")),
        (r#"[{"errorCode":"a","message":"b"}]"#, Some("a"), Some("b")),
        (r#"{"fault":{"faultstring":"b","detail":{"errorcode":"x"}}}"#, None, Some("b")),
        (r#"{"code":"x","error":"invalid_grant","message":"b","error_msg":"b"}"#, Some("invalid_grant"), Some("b")),
        (r#"{"type":"error","error":{"type":"a","message":"b"}}"#, Some("a"), Some("b")),
        ("error=a&error_description=b", Some("a"), Some("b")),
        ("\"b\"", None, Some("b")),
        ("b c.", None, Some("b c.")),
        ("<html>b</html>", None, None),
        ("{\"error\":", None, None),
        ("\0\0", None, None),
        ("", None, None),
        ("{}", None, None),
    ] {
        assert_eq!(said(body), (code.map(str::to_owned), words.map(str::to_owned)), "{body}");
    }
}

#[test]
fn a_refresh_is_denied_in_the_servers_own_words() {
    let denies = |status, body| {
        let (denial, status) = read(status, body);
        denial.is_final() || denial.denies_refresh(status)
    };
    for (status, body) in [
        (200, r#"{"error":"bad_refresh_token"}"#),
        (200, r#"{"ok":false,"error":"invalid_refresh_token"}"#),
        (200, "error=bad_refresh_token&error_description=It+is+incorrect"),
        (200, r#"{"success":false,"message":"The session has expired"}"#),
        (400, r#"{"errors":[{"errorType":"invalid_grant","message":"Refresh token invalid"}],"success":false}"#),
        (400, r#"{"error":"interaction_required"}"#),
        (400, r#"{"error":"user_disabled"}"#),
        (401, r#"{"error":"invalid_token"}"#),
        (400, r#"{"status":400,"message":"Invalid refresh token"}"#),
        (401, r#"{"detail":"Token is blacklisted","code":"token_not_valid"}"#),
        (403, r#"{"message":"The refresh token was revoked"}"#),
        (400, "Token is invalid."),
    ] {
        assert!(denies(status, body), "{status} {body}");
    }
    for (status, body) in [
        (200, r#"{"error":{"message":"quota exceeded"}}"#),
        (200, r#"{"message":"The token is on its way"}"#),
        (200, r#"{"ok":false,"error":"internal_error"}"#),
        (400, r#"{"error":"temporarily_unavailable"}"#),
        (400, r#"{"error":"slow_down"}"#),
        (400, r#"{"error":"authorization_pending"}"#),
        (400, r#"{"error":"token_rate_limit"}"#),
        (400, r#"{"message":"Token requests are throttled, try again later"}"#),
        (400, "<html>token</html>"),
        (400, ""),
        (401, r#"{"message":"Unauthorized"}"#),
        (403, r#"{"message":"Forbidden"}"#),
        (404, r#"{"error":"bad_refresh_token"}"#),
        (500, r#"{"error":"bad_refresh_token"}"#),
        (503, r#"{"message":"Invalid refresh token"}"#),
    ] {
        assert!(!denies(status, body), "{status} {body}");
    }
}

#[test]
fn codes_of_the_rfcs_are_known_and_only_some_are_final() {
    for (code, is_final) in
        [("invalid_grant", true), ("invalid_client", true), ("invalid_token", false), ("slow_down", false)]
    {
        let (denial, _) = read(400, &format!(r#"{{"error":"{code}"}}"#));
        assert_eq!((denial.known(), denial.is_final()), (Some(code), is_final));
    }
    for code in ["INVALID_GRANT", "invalid_grant ", "odd"] {
        assert_eq!(read(400, &format!(r#"{{"error":"{code}"}}"#)).0.known(), None, "{code}");
    }
}
