//! Behaviour of every OAuth 2 server, tested with oidc-provider, Authlib and the fakes.
//!
//! Tests with a fake are worthless if no server behaves like it. So each behaviour is one function, which runs against
//! all of them. If the RFC allows several behaviours, the function says so.

use http::Request;
use issuers::{encoded, form_to, send};

use crate::subject::{Subject, held};

// Authlib accepts a parameter twice, calls a missing grant type unsupported, and has no third kind of token.
held! {
    conformance
    authlib:
        a_token_answer_has_the_shape_of_the_rfc,
        a_refresh_brings_another_pair,
        only_a_post_is_a_token_call,
        an_unknown_client_is_denied,
        an_unknown_parameter_is_ignored,
        a_refresh_cannot_widen_the_scope;
    issuer:
        a_token_answer_has_the_shape_of_the_rfc,
        a_refresh_brings_another_pair,
        only_a_post_is_a_token_call,
        an_api_takes_a_live_token_and_challenges_without_one;
    meshydb:
        a_token_answer_has_the_shape_of_the_rfc,
        a_refresh_brings_another_pair,
        only_a_post_is_a_token_call,
        an_api_takes_a_live_token_and_challenges_without_one,
        a_spent_refresh_token_ends_its_session,
        of_eight_refreshes_at_once_one_wins_at_most_and_the_session_ends,
        what_is_wrong_with_a_call_is_told_by_a_code,
        an_unknown_client_is_denied,
        a_parameter_may_not_come_twice,
        a_parameter_without_a_value_counts_as_absent,
        an_unknown_parameter_is_ignored,
        a_form_is_read_from_the_body_alone,
        a_refresh_cannot_widen_the_scope,
        a_revoked_refresh_token_ends_its_session,
        revoking_an_unknown_token_succeeds,
        what_is_wrong_with_a_revocation_is_told_by_a_code;
    oidc_provider:
        a_token_answer_has_the_shape_of_the_rfc,
        a_refresh_brings_another_pair,
        only_a_post_is_a_token_call,
        an_api_takes_a_live_token_and_challenges_without_one,
        a_spent_refresh_token_ends_its_session,
        of_eight_refreshes_at_once_one_wins_at_most_and_the_session_ends,
        what_is_wrong_with_a_call_is_told_by_a_code,
        an_unknown_client_is_denied,
        a_parameter_may_not_come_twice,
        a_parameter_without_a_value_counts_as_absent,
        an_unknown_parameter_is_ignored,
        a_form_is_read_from_the_body_alone,
        a_refresh_cannot_widen_the_scope,
        a_revoked_refresh_token_ends_its_session,
        revoking_an_unknown_token_succeeds,
        what_is_wrong_with_a_revocation_is_told_by_a_code;
}

fn denied(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// The form without a parameter, or with another value for it.
fn with<'a>(mut form: Vec<(&'a str, &'a str)>, name: &str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let place = form.iter().position(|(known, _)| *known == name).expect("a parameter of the form");
    match value {
        Some(value) => form[place].1 = value,
        None => drop(form.remove(place)),
    }
    form
}

/// RFC 6749 section 5.1.
async fn a_token_answer_has_the_shape_of_the_rfc(server: &Subject) {
    let login = server.login().await;
    let refreshed = server.refresh(&login.text("refresh_token")).await;
    for got in [login, refreshed] {
        assert_eq!(got.status, 200);
        assert!(got.header("content-type").starts_with("application/json"), "{got:?}");
        assert!(got.text("token_type").eq_ignore_ascii_case("bearer"));
        assert!(got.json()["expires_in"].as_u64().is_some_and(|seconds| seconds > 0), "{got:?}");
        assert!(!got.text("access_token").is_empty() && !got.text("refresh_token").is_empty());
        // "The authorization server MUST include the HTTP "Cache-Control" response header field [RFC2616] with a value
        // of "no-store" in any response containing tokens". It asks for `Pragma: no-cache` too; few servers send it.
        assert_eq!(got.header("cache-control"), "no-store");
    }
}

/// RFC 6749 section 6: "The authorization server MAY issue a new refresh token".
async fn a_refresh_brings_another_pair(server: &Subject) {
    let first = server.login().await;
    let second = server.refresh(&first.text("refresh_token")).await;
    let third = server.refresh(&second.text("refresh_token")).await;
    for member in ["access_token", "refresh_token"] {
        let texts = [&first, &second, &third].map(|got| got.text(member));
        assert!(texts[0] != texts[1] && texts[1] != texts[2], "{member}: {texts:?}");
    }
    for got in [first, second, third] {
        assert_eq!(server.call(&got.text("access_token")).await.status, 200, "an old access token lives on");
    }
}

/// RFC 6749 section 3.2: "The client MUST use the HTTP "POST" method when making access token requests."
async fn only_a_post_is_a_token_call(server: &Subject) {
    for method in ["GET", "PUT", "DELETE"] {
        let request = Request::builder().method(method).uri(&server.token_url);
        let got = send(&server.http, request, "").await;
        assert!(got.status.is_client_error() && !got.body.starts_with(b"{"), "{method}: {got:?}");
    }
}

/// RFC 6750 section 3.
async fn an_api_takes_a_live_token_and_challenges_without_one(server: &Subject) {
    let token = server.login().await.text("access_token");
    assert_eq!(server.call(&token).await.status, 200);
    let unknown = server.call("unknown").await;
    assert_eq!((unknown.status.as_u16(), unknown.header("www-authenticate")), (401, r#"Bearer error="invalid_token""#));
    let bare = server.call_without_token().await;
    // "the resource server SHOULD NOT include an error code" if the request lacks any authentication information.
    assert_eq!((bare.status.as_u16(), bare.header("www-authenticate")), (401, "Bearer"));
}

/// RFC 9700 section 4.14.2: the server "cannot determine which party submitted the invalid refresh token, but it will
/// revoke the active refresh token".
async fn a_spent_refresh_token_ends_its_session(server: &Subject) {
    let first = server.login().await;
    let second = server.refresh(&first.text("refresh_token")).await;
    assert_eq!(server.refresh(&first.text("refresh_token")).await.denial(), denied(400, "invalid_grant"));
    assert_eq!(server.refresh(&second.text("refresh_token")).await.denial(), denied(400, "invalid_grant"));
    for got in [first, second] {
        assert_eq!(server.call(&got.text("access_token")).await.status, 401);
    }
    let other = server.login().await;
    assert_eq!(server.call(&other.text("access_token")).await.status, 200, "another session is another's");
    if let Some(provider) = &server.provider {
        assert_eq!(provider.count("reuses").await, 1, "the counter that other tests rely on");
    }
}

/// Two refreshes at once, as a client without single flight makes them.
async fn of_eight_refreshes_at_once_one_wins_at_most_and_the_session_ends(server: &Subject) {
    let first = server.login().await.text("refresh_token");
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let form = [("client_id", server.client_id), ("grant_type", "refresh_token"), ("refresh_token", &first)];
        let (http, url, form) = (server.http.clone(), server.token_url.clone(), encoded(&form));
        running.spawn(async move { send(&http, form_to(&url), form).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = running.join_all().await.into_iter().partition(|got| got.status == 200);
    assert!(won.len() <= 1, "{won:?}");
    for got in lost {
        assert_eq!(got.denial(), denied(400, "invalid_grant"));
    }
    for got in won {
        assert_eq!(server.refresh(&got.text("refresh_token")).await.denial(), denied(400, "invalid_grant"));
    }
    if let Some(provider) = &server.provider {
        assert!(provider.count("token_calls_at_once").await > 1, "the counter that other tests rely on");
    }
}

/// RFC 6749 section 5.2.
async fn what_is_wrong_with_a_call_is_told_by_a_code(server: &Subject) {
    let login = server.login_form();
    let cases = [
        ("grant_type", None, "invalid_request"),
        ("grant_type", Some("magic"), "unsupported_grant_type"),
        ("scope", Some("nonsense"), "invalid_scope"),
        ("username", None, "invalid_request"),
        ("username", Some("nobody"), "invalid_grant"),
        ("password", None, "invalid_request"),
        ("password", Some("wrong"), "invalid_grant"),
    ];
    for (name, value, code) in cases {
        let got = server.token(&with(login.clone(), name, value)).await;
        assert_eq!(got.denial(), denied(400, code), "{name}: {value:?}");
        assert!(got.header("content-type").starts_with("application/json"), "{got:?}");
    }
    assert_eq!(server.refresh("garbage").await.denial(), denied(400, "invalid_grant"));
    let nothing = [("client_id", server.client_id), ("grant_type", "refresh_token")];
    assert_eq!(server.token(&nothing).await.denial(), denied(400, "invalid_request"));
}

/// RFC 6749 section 5.2: "The authorization server MAY return an HTTP 401 (Unauthorized) status code".
async fn an_unknown_client_is_denied(server: &Subject) {
    let stranger = with(server.login_form(), "client_id", Some("stranger"));
    let (status, code) = server.token(&stranger).await.denial();
    assert!([400, 401].contains(&status) && code == "invalid_client", "{status} {code}");
    // Without a client the RFC allows both "no client authentication included" and "missing a required parameter".
    let (status, code) = server.token(&with(server.login_form(), "client_id", None)).await.denial();
    assert!([400, 401].contains(&status) && ["invalid_client", "invalid_request"].contains(&&*code), "{status} {code}");
}

/// RFC 6749 section 3.2: "Request and response parameters MUST NOT be included more than once."
async fn a_parameter_may_not_come_twice(server: &Subject) {
    let refresh_token = server.login().await.text("refresh_token");
    let mut form =
        vec![("client_id", server.client_id), ("grant_type", "refresh_token"), ("refresh_token", &*refresh_token)];
    form.push(("refresh_token", &refresh_token));
    assert_eq!(server.token(&form).await.denial(), denied(400, "invalid_request"));
    assert_eq!(server.refresh(&refresh_token).await.status, 200, "it was not used up");
}

/// RFC 6749 section 3.2: "Parameters sent without a value MUST be treated as if they were omitted from the request."
async fn a_parameter_without_a_value_counts_as_absent(server: &Subject) {
    for name in ["grant_type", "username", "password"] {
        let got = server.token(&with(server.login_form(), name, Some(""))).await;
        assert_eq!(got.denial(), denied(400, "invalid_request"), "{name}");
    }
    assert_eq!(server.refresh("").await.denial(), denied(400, "invalid_request"));
    let unscoped = server.token(&with(server.login_form(), "scope", Some(""))).await;
    assert_eq!((unscoped.status.as_u16(), unscoped.json().get("refresh_token")), (200, None));
}

/// RFC 6749 section 3.2: "The authorization server MUST ignore unrecognized request parameters."
async fn an_unknown_parameter_is_ignored(server: &Subject) {
    let mut form = server.login_form();
    form.push(("colour", "green"));
    assert_eq!(server.token(&form).await.status, 200);
}

/// RFC 6749 section 2.3.1: the parameters "MUST NOT be included in the request URI"; section 4.3.2 names the form's
/// content type.
async fn a_form_is_read_from_the_body_alone(server: &Subject) {
    let form = encoded(&server.login_form());
    let in_the_uri = format!("{}?{form}", server.token_url);
    assert_eq!(send(&server.http, form_to(&in_the_uri), "").await.status, 400);
    let json = Request::post(&server.token_url).header("content-type", "application/json");
    assert_eq!(send(&server.http, json, form.clone()).await.denial(), denied(400, "invalid_request"));
    let unnamed = Request::post(&server.token_url);
    assert_eq!(send(&server.http, unnamed, form).await.denial(), denied(400, "invalid_request"));
}

/// RFC 6749 section 6: "The requested scope MUST NOT include any scope not originally granted".
async fn a_refresh_cannot_widen_the_scope(server: &Subject) {
    let refresh_token = server.login().await.text("refresh_token");
    let form = [
        ("client_id", server.client_id),
        ("grant_type", "refresh_token"),
        ("refresh_token", &*refresh_token),
        ("scope", "nonsense"),
    ];
    assert_eq!(server.token(&form).await.denial(), denied(400, "invalid_scope"));
    assert_eq!(server.refresh(&refresh_token).await.status, 200, "it was not used up");
}

/// RFC 7009 section 2.1: "the authorization server SHOULD also invalidate all access tokens based on the same
/// authorization grant".
async fn a_revoked_refresh_token_ends_its_session(server: &Subject) {
    // "If the server is unable to locate the token using the given hint, it MUST extend its search".
    for hint in [None, Some("refresh_token"), Some("access_token"), Some("unheard_of")] {
        let session = server.login().await;
        let refresh_token = session.text("refresh_token");
        let form: Vec<_> =
            [("token", &*refresh_token)].into_iter().chain(hint.map(|hint| ("token_type_hint", hint))).collect();
        for _ in 0..2 {
            assert_eq!(server.revoke(&form).await.status, 200, "{hint:?}");
        }
        assert_eq!(server.refresh(&refresh_token).await.denial(), denied(400, "invalid_grant"), "{hint:?}");
        assert_eq!(server.call(&session.text("access_token")).await.status, 401, "{hint:?}");
    }
}

/// RFC 7009 section 2.2: "invalid tokens do not cause an error response".
async fn revoking_an_unknown_token_succeeds(server: &Subject) {
    let session = server.login().await;
    let got = server.revoke(&[("token", "unknown")]).await;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
    assert_eq!(server.refresh(&session.text("refresh_token")).await.status, 200);
}

/// RFC 7009 section 2.2.1.
async fn what_is_wrong_with_a_revocation_is_told_by_a_code(server: &Subject) {
    assert_eq!(server.revoke(&[]).await.denial(), denied(400, "invalid_request"));
    assert_eq!(server.revoke(&[("token", "")]).await.denial(), denied(400, "invalid_request"));
    let stranger = encoded(&[("client_id", "stranger"), ("token", "unknown")]);
    let (status, code) = send(&server.http, form_to(&server.revocation_url), stranger).await.denial();
    assert!([400, 401].contains(&status) && code == "invalid_client", "{status} {code}");
}
