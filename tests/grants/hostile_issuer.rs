//! An issuer's answer is untrusted: any bytes give an error or a token, in bounded memory, and no redirect is followed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::service_fn;
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{self, ClientCredentialsGrant, RefreshTokenGrant};
use tower_bearer::providers::mesh_connect::MeshConnect;
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, ManualClock, TokenServer};
use tower_bearer::{Error, FetchContext, MAX_LIFETIME, Reason, Token, TokenCache, TokenSource};

use crate::sources::any::{any_body, any_retry_after};
use crate::sources::{HOUR, Streamed, TOKEN_URL, ask, at, client_credentials, next_attempt, pass};

async fn granted(members: Value) -> Result<Token, Error> {
    let mut body = json!({ "access_token": "the.token", "token_type": "Bearer", "expires_in": 60 });
    for (name, value) in members.as_object().unwrap() {
        body[name] = value.clone();
    }
    ask(Answer::json(200, body)).await
}

async fn rejected(answer: Answer) -> Error {
    ask(answer).await.unwrap_err()
}

#[tokio::test]
async fn each_form_of_expires_in_has_its_documented_meaning() {
    let table = [
        (json!(60), Duration::from_secs(60)),
        (json!("3600"), HOUR),
        (json!(" 3600 "), HOUR),
        (json!("3600.5"), Duration::from_millis(3_600_500)),
        (json!(3600.5), Duration::from_millis(3_600_500)),
        (json!(1e300), MAX_LIFETIME),
        (json!(null), HOUR),
        (json!(true), HOUR),
        (json!("soon"), HOUR),
        (json!({}), HOUR),
    ];
    for (expires_in, lifetime) in table {
        let token = granted(json!({ "expires_in": expires_in })).await.unwrap();
        assert_eq!(token.lifetime(), lifetime, "{expires_in}");
    }
    let missing = Answer::json(200, json!({ "access_token": "t" }));
    assert_eq!(ask(missing).await.unwrap().lifetime(), HOUR);
}

#[tokio::test]
async fn the_refresh_token_of_a_token_without_lifetime_is_kept() {
    for expired in [json!(0), json!(-1), json!("0"), json!(-1e300)] {
        let error = granted(json!({ "expires_in": expired })).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("expired when it arrived"), "{expired}: {error}");
    }
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, json!({ "access_token": "t", "expires_in": 0, "refresh_token": "rotated" })));
    let cache = TokenCache::new(crate::sources::refresh_token(&issuer).build().unwrap());
    cache.get().await.unwrap_err();
    cache.refresh().await.unwrap();
    assert_eq!(issuer.requests()[1].form()["refresh_token"], "rotated");
}

#[tokio::test]
async fn bearer_in_any_case_and_a_missing_token_type_are_accepted() {
    for kind in ["Bearer", "bearer", "BEARER", ""] {
        granted(json!({ "token_type": kind })).await.unwrap();
    }
    for kind in [json!(null), json!(7)] {
        granted(json!({ "token_type": kind })).await.unwrap();
    }
    for kind in ["mac", "DPoP", "N_A", "bearer token"] {
        let error = granted(json!({ "token_type": kind })).await.unwrap_err();
        assert!(error.to_string().contains(&format!("its token type is {kind}, not Bearer")), "{error}");
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn an_access_token_that_is_not_a_header_value_is_an_error() {
    for odd in ["", " ", "a b", "a\r\nx-admin: 1", "a\0", "tökén", "a\u{7f}", "\u{202e}"] {
        let error = granted(json!({ "access_token": odd })).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(TOKEN_URL), "{odd:?}: {error}");
        assert!(error.to_string().contains("the access token"), "{error}");
    }
    for odd in [json!(null), json!(7), json!(true), json!(["t"]), json!({})] {
        let error = granted(json!({ "access_token": odd })).await.unwrap_err();
        assert!(error.to_string().contains("access token"), "{odd}: {error}");
    }
    rejected(Answer::json(200, json!({ "token_type": "Bearer" }))).await;
}

#[tokio::test]
async fn other_members_are_kept_and_invalid_ones_are_no_error() {
    let token =
        granted(json!({ "scope": "a b", "id_token": "i", "refresh_token": "r", "region": "eu" })).await.unwrap();
    assert_eq!((token.scope(), token.id_token().unwrap().expose()), (Some("a b"), "i"));
    assert_eq!((token.refresh_token().unwrap().expose(), token.extra("region")), ("r", Some(&json!("eu"))));
    assert_eq!((token.extra("access_token"), token.extra("refresh_token")), (None, None));
    let token = granted(json!({ "scope": [7], "id_token": 7, "refresh_token": {} })).await.unwrap();
    assert!(token.scope().is_none() && token.id_token().is_none() && token.refresh_token().is_none());
}

#[tokio::test]
async fn a_known_error_code_denies_with_any_status() {
    let codes =
        ["invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope", "access_denied"];
    for code in codes.into_iter().chain(["unsupported_grant_type"]) {
        for status in [200, 400, 401, 403, 404, 500, 503] {
            let error = rejected(Answer::oauth_error(status, code)).await;
            assert!(error.is_denied() && !error.is_transient(), "{status} {code}: {error}");
            assert_eq!((error.code(), error.status().unwrap().as_u16()), (Some(code), status));
        }
        assert!(!rejected(Answer::oauth_error(429, code)).await.is_denied(), "{code}");
    }
}

#[tokio::test]
async fn an_unknown_error_code_does_not_deny() {
    let bodies = ["", "Forbidden", "<html>invalid_grant</html>", "null", "[]", r#"{"error":"slow_down"}"#];
    let odd = [r#"{"error":null}"#, r#"{"error":"invalid_grant""#, "\u{feff}"];
    for body in bodies.into_iter().chain(odd) {
        for status in [201, 400, 401, 403, 429, 500, 503] {
            let error = rejected(Answer::raw(status, body)).await;
            assert!(error.is_transient() && !error.is_denied(), "{status} {body}: {error}");
        }
    }
}

#[tokio::test]
async fn an_error_has_the_status_the_code_and_the_issuers_text() {
    let body = json!({ "error": "invalid_grant", "error_description": "Refresh\r\ntoken is\u{1b}[31m expired." });
    let said = rejected(Answer::json(400, body)).await.to_string();
    assert!(said.contains("/token answered 400 invalid_grant (Refresh  token is [31m expired.)"), "{said}");
    assert!(rejected(Answer::raw(400, "Bad day.")).await.to_string().contains("answered 400 (Bad day.)"));
    assert!(rejected(Answer::raw(400, "")).await.to_string().contains("answered 400; "));
    assert!(rejected(Answer::oauth_error(400, "")).await.to_string().contains("answered 400; "));
    let long = rejected(Answer::json(400, json!({ "error": "e".repeat(9999), "message": "m".repeat(9999) }))).await;
    assert!(long.to_string().len() < 1000, "{long}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_reaches_the_error_and_the_pause() {
    let date =
        |seconds: u64| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds));
    let in_seconds = Answer::raw(429, "").header("retry-after", "7");
    let as_date = Answer::raw(503, "<h1>").header("date", &date(0)).header("retry-after", &date(90));
    let huge = Answer::raw(503, "").header("retry-after", "99999999999999999999999");
    for (answer, wait, pause) in [(in_seconds, Some(7), 7.0), (as_date, Some(90), 90.0), (huge, None, 300.0)] {
        let issuer = TokenServer::new();
        issuer.queue(answer);
        let cache = TokenCache::new(client_credentials(&issuer).build().unwrap());
        let error = cache.get().await.unwrap_err();
        let said = error.retry_after().unwrap().as_secs();
        assert_eq!(said, wait.unwrap_or(u64::MAX));
        assert_eq!(next_attempt(&cache), Some(pause));
        pass(Duration::from_secs_f64(pause - 1.0)).await;
        cache.get().await.unwrap_err();
        pass(Duration::from_secs(1)).await;
        cache.get().await.unwrap();
        assert_eq!(issuer.calls().total(), 2);
    }
}

#[tokio::test]
async fn a_retry_after_date_is_compared_with_the_clock_of_the_fetch_if_there_is_no_date_header() {
    let (fake, clock) = (TokenServer::new(), ManualClock::new());
    let in_90_seconds = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_090));
    fake.fail(Some(Answer::raw(503, "").header("retry-after", &in_90_seconds)));
    let metadata = oauth2::Issuer::discover(fake.clone(), "https://auth.example.com");
    let of_metadata = ClientCredentialsGrant::builder(&metadata, "my-app", "its secret").build().unwrap();
    for source in [client_credentials(&fake).build().unwrap(), of_metadata] {
        let context = FetchContext::new(Reason::First).with_clock(clock.clone());
        let error = source.fetch(context).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(90)), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_error_says_so() {
    for status in [301, 302, 303, 307, 308] {
        for body in ["", "<html>", r#"{"error":"moved","error_description":"over there"}"#] {
            let issuer = TokenServer::new();
            issuer.queue(Answer::raw(status, body).header("location", "https://evil.example/token"));
            let error = TokenCache::new(client_credentials(&issuer).build().unwrap()).get().await.unwrap_err();
            assert!(error.to_string().contains("redirects, which is not followed"), "{status}: {error}");
            assert_eq!(issuer.calls().total(), 1);
        }
    }
}

#[tokio::test]
async fn reading_stops_near_one_mebibyte() {
    const PIECE: usize = 64 * 1024;
    for status in [200, 500] {
        let pulled = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pulled);
        let endless = service_fn(move |_: Request<Full<Bytes>>| {
            let counter = Arc::clone(&counter);
            let piece = Bytes::from_static(&[b' '; PIECE]);
            let body =
                Streamed(move || (counter.fetch_add(PIECE, Ordering::SeqCst) < 1 << 30).then(|| Ok(piece.clone())));
            async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
        });
        let source = RefreshTokenGrant::builder(&at(endless), "my-app", "saved").build().unwrap();
        let error = TokenCache::new(source).get().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("longer than 1 MiB"), "{error}");
        let pulled = pulled.load(Ordering::SeqCst);
        assert!(pulled <= (1 << 20) + 2 * PIECE, "{pulled} bytes, in one call");
    }
}

#[tokio::test]
async fn an_answer_of_almost_one_mebibyte_is_read() {
    let body = json!({ "access_token": "t", "padding": "x".repeat((1 << 20) - 100) });
    assert_eq!(ask(Answer::json(200, body)).await.unwrap().access_token(), "t");
}

#[tokio::test]
async fn an_answer_that_is_not_a_json_object_is_an_error_that_says_so() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let odd: Vec<Bytes> = vec![
        "".into(),
        "{".into(),
        r#"{"access_token":"t","expires_in":36"#.into(),
        "<html><body>Welcome to the hotel</body></html>".into(),
        "null".into(),
        "[]".into(),
        r#""t""#.into(),
        nested("[", "]").into(),
        format!(r#"{{"x":{}}}"#, nested(r#"{"x":"#, "}")).into(),
        Bytes::from_static(b"\0\0\0\0"),
    ];
    for body in odd {
        let start = body.slice(..body.len().min(40));
        let error = rejected(Answer::raw(200, body)).await;
        assert!(error.is_transient() && error.to_string().contains("not a JSON object"), "{start:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_bytes_and_any_status_give_an_error_or_a_token(
        body in any_body(),
        status in 200u16..600,
        retry_after in any_retry_after(),
    ) {
        let issuer = TokenServer::new();
        let mut answer = Answer::raw(status, body);
        if let Some(value) = &retry_after {
            answer = answer.header("retry-after", value);
        }
        issuer.fail(Some(answer));
        let meshy = MeshyDb::builder(issuer.clone(), "acme", "public-key").build().unwrap();
        let caches = [
            TokenCache::new(client_credentials(&issuer).build().unwrap()),
            TokenCache::new(meshy.login_with_refresh_token("saved").build().unwrap()),
            TokenCache::new(MeshConnect::builder(issuer.clone(), "id", "secret").build().unwrap()),
            TokenCache::new(JsonLogin::builder(issuer.clone(), TOKEN_URL, json!({ "key": "k" })).build().unwrap()),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for cache in caches {
            match runtime.block_on(cache.get()) {
                Ok(token) => prop_assert!(token.access_token().bytes().all(|byte| byte.is_ascii_graphic())),
                Err(error) => {
                    let said = error.to_string();
                    // The cache converts a panic into an error, so check that this is another error.
                    prop_assert!(!said.contains("panicked"), "{}", said);
                    prop_assert!(!said.contains(char::is_control) && said.len() < 2000, "{:?}", said);
                }
            }
        }
    }
}
