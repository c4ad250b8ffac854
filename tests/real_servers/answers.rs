//! The forms of token answers.

use serde_json::json;
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{self, DeviceCodeLogin, RefreshTokenGrant, TokenExchangeGrant};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Token, TokenCache};

use crate::sources::{HOUR, TOKEN_URL, ask, at, client_credentials, refresh_token};
use crate::{sent_next, session};

async fn raw(body: impl Into<bytes::Bytes>) -> Token {
    ask(Answer::raw(200, body)).await.unwrap()
}

#[tokio::test]
async fn a_scope_may_be_a_list_and_odd_members_are_kept() {
    let answer =
        json!({ "access_token": "t", "scope": ["chat:edit", "chat:read"], "id_token": {}, "refresh_token": 7 });
    let token = ask(Answer::json(200, answer)).await.unwrap();
    assert_eq!(token.scope(), Some("chat:edit chat:read"));
    assert!(token.id_token().is_none() && token.refresh_token().is_none());
    assert_eq!((token.extra("id_token"), token.extra("refresh_token")), (Some(&json!({})), Some(&json!(7))));
    let token = ask(Answer::json(200, json!({ "access_token": "t", "scope": ["a", 7] }))).await.unwrap();
    assert_eq!((token.scope(), token.extra("scope")), (None, Some(&json!(["a", 7]))));
}

#[tokio::test]
async fn the_type_of_a_token_is_trimmed_and_other_names_are_a_setting() {
    let typed = |kind: &str| Answer::json(200, json!({ "access_token": "a.1", "token_type": kind }));
    ask(typed("Bearer ")).await.unwrap();
    let named = async |kind: &str, names: &[&str]| {
        let issuer = TokenServer::new();
        issuer.queue(typed(kind));
        let source = names.iter().fold(client_credentials(&issuer), |source, name| source.token_type(name));
        TokenCache::new(source.build().unwrap()).get().await
    };
    for kind in ["BearerToken", "bot", "User"] {
        assert!(named(kind, &[]).await.unwrap_err().to_string().contains(kind));
        named(kind, &["bearertoken", "bot", "user"]).await.unwrap();
        named("Bearer", &["bot"]).await.unwrap();
    }
    for kind in ["DPoP", "mac"] {
        assert!(named(kind, &["bot"]).await.is_err(), "{kind}");
        assert!(client_credentials(&TokenServer::new()).token_type(kind).build().unwrap_err().is_invalid(), "{kind}");
    }
    assert!(client_credentials(&TokenServer::new()).token_type("").build().unwrap_err().is_invalid());
}

#[tokio::test]
async fn an_answer_may_be_a_form() {
    let body = "access_token=ghu_1&expires_in=28800&refresh_token=ghr_2&scope=a+b&token_type=bearer";
    let token = raw(body).await;
    assert_eq!((token.access_token(), token.lifetime()), ("ghu_1", 8 * HOUR));
    assert_eq!((token.refresh_token().unwrap().expose(), token.scope()), ("ghr_2", Some("a b")));
    assert_eq!(sent_next(Answer::raw(200, body)).await, "ghr_2");
    let error = ask(Answer::raw(200, "error=bad_verification_code&error_description=It+is+wrong.")).await.unwrap_err();
    assert_eq!((error.code(), error.description()), (Some("bad_verification_code"), Some("It is wrong.")));
}

#[tokio::test]
async fn a_byte_order_mark_is_ignored_in_every_answer() {
    let marked = |body: &str| format!("\u{feff}{body}");
    let body = r#"{"access_token":"t","refresh_token":"rotated-2"}"#;
    assert_eq!(raw(marked(body)).await.access_token(), "t");
    assert_eq!(sent_next(Answer::raw(200, marked(body))).await, "rotated-2");
    assert_eq!(sent_next(Answer::raw(200, marked(r#"{"refresh_token":"rotated-2"}"#))).await, "rotated-2");
    let denied = ask(Answer::raw(400, marked(r#"{"error":"invalid_grant"}"#))).await.unwrap_err();
    assert!(denied.is_denied() && denied.code() == Some("invalid_grant"), "{denied}");
    let utf16: Vec<u8> = marked(body).encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(raw(utf16).await.access_token(), "t");

    let issuer = TokenServer::new();
    issuer.queue(Answer::raw(200, marked(body)));
    let login = JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({})).build().unwrap();
    assert_eq!(TokenCache::new(login).get().await.unwrap().access_token(), "t");

    let metadata = json!({ "issuer": "https://auth.example.com", "token_endpoint": TOKEN_URL });
    issuer.queue(Answer::raw(200, marked(&metadata.to_string())));
    let metadata = oauth2::Issuer::discover(issuer.clone(), "https://auth.example.com");
    assert_eq!(metadata.metadata().await.unwrap()["token_endpoint"], TOKEN_URL);

    let secret = async || Ok::<_, std::io::Error>("\u{feff}saved\r\n".to_owned());
    let source = RefreshTokenGrant::builder(&at(issuer.clone()), "my-app", secret).build().unwrap();
    TokenCache::new(source).get().await.unwrap();
    assert_eq!(issuer.requests().pop().unwrap().form()["refresh_token"], "saved");
    // In a fixed text, a byte order mark is an error, because the caller can correct the text.
    let error = RefreshTokenGrant::builder(&at(issuer), "my-app", "\u{feff}saved").build().unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("byte order mark"), "{error}");
}

#[tokio::test]
async fn an_answer_may_be_in_latin_1_with_line_breaks_in_its_texts() {
    for body in [
        &b"{\"error\":\"invalid_grant\",\"error_description\":\"no est\xe1 activo\"}"[..],
        b"{\"error\":\"invalid_grant\",\"error_description\":\"no est\xe1\r\nactivo\"}",
    ] {
        let error = ask(Answer::raw(400, body)).await.unwrap_err();
        assert!(error.is_denied() && error.code() == Some("invalid_grant"), "{error}");
        assert!(error.description().unwrap().starts_with("no está"), "{error}");
    }
    assert_eq!(raw(&b"{\"access_token\":\"t\",\"userName\":\"Jos\xe9\"}"[..]).await.access_token(), "t");
    assert_eq!(raw(r#"{"access_token":"t","userName":"\ud83d"}"#).await.access_token(), "t");
    assert_eq!(raw(r#""{\"access_token\":\"t\"}""#).await.access_token(), "t");
}

#[tokio::test]
async fn a_json_login_reads_what_other_sources_read() {
    let login = async |status, body: &[u8]| {
        let issuer = TokenServer::new();
        issuer.queue(Answer::raw(status, body.to_vec()));
        TokenCache::new(JsonLogin::builder(issuer, TOKEN_URL, json!({})).build().unwrap()).get().await
    };
    for body in [
        &b"access_token=t&expires_in=3600&token_type=bearer"[..],
        b"{\"access_token\":\"t\",\"userName\":\"Jos\xe9\"}",
        b"{\"access_token\":\"t\",\"motd\":\"two\r\nlines\"}",
        br#""{\"access_token\":\"t\"}""#,
    ] {
        let token = login(200, body).await.unwrap();
        assert_eq!((token.access_token(), token.lifetime()), ("t", HOUR), "{body:?}");
    }
    for body in [
        &b"error=invalid_grant&error_description=no+est%C3%A1+activo"[..],
        b"{\"error\":\"invalid_grant\",\"error_description\":\"no est\xe1\r\nactivo\"}",
        "\u{feff}{\"error\":\"invalid_grant\",\"error_description\":\"no está activo\"}".as_bytes(),
    ] {
        let error = login(400, body).await.unwrap_err();
        assert!(error.is_denied() && error.code() == Some("invalid_grant"), "{error}");
        assert!(error.description().unwrap().starts_with("no está"), "{error}");
    }
}

#[tokio::test]
async fn a_rotated_refresh_token_is_kept_although_the_rest_is_invalid() {
    for body in [
        r#"{"access_token":"t","refresh_token":"rotated-2","expires_"#,
        r#"{"access_token":"t","refresh_token":"rotated-2"}}"#,
        r#"{"access_token":"two words","refresh_token":"rotated-2"}"#,
        r#"{"access_token":"t","token_type":"DPoP","refresh_token":"rotated-2"}"#,
        r#"{"data":{"access_token":"t","refresh_token":"rotated-2"}}"#,
        r#"[{"access_token":"t","refresh_token":"rotated-2"}]"#,
        r#"{"token":"t","refresh_token":"rotated-2"}"#,
        "token=t&refresh_token=rotated-2",
    ] {
        let (cache, _) = session(Answer::raw(200, body));
        cache.get().await.unwrap_err();
        assert_eq!(sent_next(Answer::raw(200, body)).await, "rotated-2", "{body}");
    }
    // A refresh token that is cut off is ignored, and so is one in an error.
    for body in [r#"{"access_token":"t","refresh_token":"rotat"#, r#"{"error":"x","refresh_token":"other"}"#, "", "{}"]
    {
        assert_eq!(sent_next(Answer::raw(200, body)).await, "saved", "{body}");
    }
    let error = ask(Answer::raw(503, r#"{"refresh_token":"other"}"#)).await.unwrap_err();
    assert!(!error.to_string().contains("other"), "{error}");
    assert_eq!(sent_next(Answer::raw(503, r#"{"refresh_token":"other"}"#)).await, "saved");
}

#[tokio::test]
async fn a_token_may_come_with_the_word_bearer() {
    assert_eq!(raw(r#"{"access_token":"Bearer eyJ.a.b"}"#).await.header_value(), "Bearer eyJ.a.b");
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, json!({ "token": "bearer eyJ.a.b" })));
    let login = JsonLogin::builder(issuer, TOKEN_URL, json!({})).token_at("/token").build().unwrap();
    assert_eq!(TokenCache::new(login).get().await.unwrap().header_value(), "Bearer eyJ.a.b");
    let error = ask(Answer::json(200, json!({ "access_token": "Basic eyJ" }))).await.unwrap_err();
    assert!(error.to_string().contains("no header may carry"), "{error}");
}

#[tokio::test]
async fn an_envelope_is_opened_by_pointers() {
    let slack = json!({
        "ok": true,
        "app_id": "A1",
        "authed_user": { "access_token": "a", "refresh_token": "r2", "expires_in": 43200, "token_type": "user" },
    });
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, slack));
    // An answer without the envelope is read, too.
    issuer.queue(Answer::json(200, json!({ "ok": true, "access_token": "b", "expires_in": 60 })));
    let source = refresh_token(&issuer).answer_at("/authed_user").token_type("user").build().unwrap();
    let cache = TokenCache::new(source);
    let token = cache.get().await.unwrap();
    assert_eq!((token.access_token(), token.lifetime()), ("a", 12 * HOUR));
    assert_eq!(cache.refresh().await.unwrap().access_token(), "b");
    assert_eq!(issuer.requests()[1].form()["refresh_token"], "r2");

    issuer.queue(Answer::json(200, json!({ "data": { "access_token": "x", "jwt": "j", "ttl": 5 } })));
    let source = client_credentials(&issuer).answer_at("/data").token_at("/jwt").lifetime_at("/ttl");
    let token = TokenCache::new(source.build().unwrap()).get().await.unwrap();
    assert_eq!((token.access_token(), token.lifetime().as_secs()), ("j", 5));

    let source = || client_credentials(&issuer);
    for rejected in
        [source().answer_at("data"), source().token_at("/a~"), source().lifetime_at("a"), source().expires_at("a")]
    {
        assert!(rejected.build().unwrap_err().is_invalid());
    }
}

#[tokio::test]
async fn an_error_names_a_content_encoding_that_was_not_requested() {
    let gzip = &b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabV*I-.Q\xb2R*\x01\0"[..];
    for status in [200, 400, 502] {
        for answer in [
            Answer::raw(status, gzip).header("content-encoding", "GZIP"),
            Answer::raw(status, gzip),
            Answer::raw(status, &b"\x0b\x02\x80{}\x03"[..]).header("content-encoding", "br"),
        ] {
            let issuer = TokenServer::new();
            issuer.fail(Some(answer));
            let login = JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({})).build().unwrap();
            for cache in [TokenCache::new(client_credentials(&issuer).build().unwrap()), TokenCache::new(login)] {
                let said = cache.get().await.unwrap_err().to_string();
                assert!(said.contains("content-encoding is gzip") || said.contains("content-encoding is br"), "{said}");
            }
        }
    }
    // A client that decompresses may keep the header.
    let plain = Answer::json(200, json!({ "access_token": "t" })).header("content-encoding", "gzip");
    assert_eq!(ask(plain).await.unwrap().access_token(), "t");
}

#[tokio::test]
async fn every_call_asks_for_an_answer_that_is_not_compressed() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, json!({ "issuer": "https://auth.example.com", "token_endpoint": TOKEN_URL })));
    let discovered = oauth2::Issuer::discover(issuer.clone(), "https://auth.example.com");
    let grant = RefreshTokenGrant::builder(&discovered, "my-app", "saved").build().unwrap();
    TokenCache::new(grant).get().await.unwrap();
    let login = || JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({}));
    TokenCache::new(login().build().unwrap()).get().await.unwrap();
    let sent = |requests: Vec<tower_bearer::testing::Recorded>| -> Vec<_> {
        requests.iter().map(|request| request.headers["accept-encoding"].clone()).collect()
    };
    assert_eq!(sent(issuer.requests()), ["identity"; 3]);
    // A client that decompresses may add other encodings.
    let login = login().header("accept-encoding", "gzip").build().unwrap();
    TokenCache::new(login).get().await.unwrap();
    assert_eq!(sent(issuer.requests())[3], "gzip");
}

#[tokio::test]
async fn a_token_of_more_than_64_kib_is_an_error() {
    let error = ask(Answer::json(200, json!({ "access_token": "t".repeat(900_000) }))).await.unwrap_err();
    assert!(error.to_string().contains("64 KiB"), "{error}");
}

/// Every grant has these settings.
#[test]
fn the_settings_are_those_of_every_grant() {
    let issuer = TokenServer::new();
    let server = at(issuer.clone()).device_authorization_endpoint(TOKEN_URL);
    let exchange = TokenExchangeGrant::builder(&server, "subject");
    exchange.answer_at("/data").token_type("N_A").build().unwrap();
    let device = DeviceCodeLogin::builder(&server, "my-app");
    device.answer_at("/data").lifetime_unit(std::time::Duration::from_millis(1)).build().unwrap();
    client_credentials(&issuer).evaluate(|_, _| None).build().unwrap();
}
