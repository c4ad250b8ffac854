//! The same answers from files, programs, and logins by GET.
#![allow(clippy::disallowed_methods, reason = "files are written by the wall clock")]

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tempfile::TempDir;
use tower_bearer::file::{TokenFile, TokenFileBuilder};
use tower_bearer::json::JsonLogin;
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, MAX_LIFETIME, Token, TokenCache};

use crate::lifetimes::jwt;
use crate::sources::{TOKEN_URL, headers};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn read(
    content: impl AsRef<[u8]>,
    set: impl FnOnce(TokenFileBuilder) -> TokenFileBuilder,
) -> Result<Token, Error> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, content).unwrap();
    TokenCache::new(set(TokenFile::builder(path)).build().unwrap()).get().await
}

/// Checks the remaining lifetime, of which the test has taken some.
#[track_caller]
fn assert_lives(token: &Token, seconds: u64) {
    let left = token.lifetime().as_secs();
    assert!(left <= seconds && left + 60 >= seconds, "{left} and not {seconds}");
}

#[tokio::test]
async fn a_file_may_begin_with_a_byte_order_mark_or_the_word_bearer() {
    let utf16: Vec<u8> = "\u{feff}a-token\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for content in [&b"\xef\xbb\xbfa-token\n"[..], b"Bearer a-token\n", b"a-token", &utf16] {
        let token = read(content, |file| file).await.unwrap();
        assert_eq!((token.access_token(), token.lifetime()), ("a-token", MAX_LIFETIME));
    }
}

#[tokio::test]
async fn a_file_may_hold_json() {
    let at = |pointer: &'static str| move |file: TokenFileBuilder| file.token_at(pointer);
    let content = json!({ "access_token": "t", "expires_in": 600, "data": { "jwt": "j", "ends": now() + 300 } });
    let token = read(content.to_string(), at("/access_token")).await.unwrap();
    assert_eq!(token.access_token(), "t");
    assert_lives(&token, 600);
    let token = read(format!("\u{feff}{content}"), |file| at("/data/jwt")(file).expires_at("/data/ends")).await;
    assert_eq!(token.as_ref().unwrap().access_token(), "j");
    assert_lives(&token.unwrap(), 300);
    for (content, problem) in
        [("no json", "holds no JSON"), ("{}", "no access token"), (r#"{"access_token":7}"#, "not a string")]
    {
        let said = read(content, at("/access_token")).await.unwrap_err().to_string();
        assert!(said.contains(problem) && said.contains("token_at"), "{said}");
    }
    let said = read(content.to_string(), |file| file).await.unwrap_err().to_string();
    assert!(said.contains("token_at") && !said.contains("jwt"), "{said}");
}

#[tokio::test]
async fn a_file_says_when_its_token_ends_in_every_way_of_an_answer() {
    let at = |file: TokenFileBuilder| file.token_at("/token");
    let ms = |file| at(file).lifetime_at("/ms").lifetime_unit(Duration::from_millis(1));
    assert_lives(&read(json!({ "token": "t", "ms": "600000" }).to_string(), ms).await.unwrap(), 600);
    for moment in [json!((now() + 600).to_string()), json!((now() + 600) * 1000)] {
        assert_lives(&read(json!({ "token": "t", "expires_on": moment }).to_string(), at).await.unwrap(), 600);
    }
    assert_lives(&read(json!({ "token": jwt(now() + 600) }).to_string(), at).await.unwrap(), 600);
    let default = |file| at(file).default_lifetime(Duration::from_secs(600));
    assert_lives(&read(b"{\"token\":\"t\",\"user\":\"Jos\xe9\"}", default).await.unwrap(), 600);
}

#[tokio::test]
async fn the_lifetime_in_a_file_counts_from_when_it_was_written() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, json!({ "access_token": "t", "expires_in": 3600 }).to_string()).unwrap();
    let write_before = |age: u64| {
        let written = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        TokenCache::new(TokenFile::builder(&path).token_at("/access_token").build().unwrap())
    };
    assert_lives(&write_before(1800).get().await.unwrap(), 1800);
    let said = write_before(4000).get().await.unwrap_err().to_string();
    assert!(said.contains("ended 4") && said.contains("whatever rewrites it has stopped"), "{said}");
}

#[tokio::test]
async fn a_login_may_be_a_get_with_headers() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, json!({ "access_token": "t", "expires_in": "86399" })));
    let login = JsonLogin::get(issuer.clone(), &format!("{TOKEN_URL}?resource=x")).header("metadata", "true");
    let token = TokenCache::new(login.build().unwrap()).get().await.unwrap();
    assert_eq!((token.access_token(), token.lifetime().as_secs()), ("t", 86399));
    let request = issuer.requests().remove(0);
    assert_eq!((request.method.as_str(), request.uri.to_string()), ("GET", format!("{TOKEN_URL}?resource=x")));
    let sent = headers(&request);
    assert_eq!((sent["metadata"].as_str(), sent.contains_key("content-type")), ("true", false));
    assert!(request.body.is_empty());
}

#[tokio::test]
async fn an_answer_may_be_the_token_and_nothing_else() {
    let read = async |status: u16, body: &'static str| {
        let issuer = TokenServer::new();
        issuer.queue(Answer::raw(status, body));
        TokenCache::new(JsonLogin::get(issuer, TOKEN_URL).token_at("").build().unwrap()).get().await
    };
    for body in ["a.b.c", "a.b.c\n", "\"a.b.c\"", "\u{feff}Bearer a.b.c"] {
        assert_eq!(read(200, body).await.unwrap().access_token(), "a.b.c", "{body}");
    }
    for (status, body) in [(200, ""), (200, "<html>"), (200, "not a token"), (401, "a.b.c"), (200, "{}")] {
        assert!(read(status, body).await.is_err(), "{status} {body}");
    }
}

#[tokio::test]
async fn no_error_repeats_the_header_of_a_get() {
    let issuer = TokenServer::new();
    let words = json!({ "message": "no job has the token s3cret-of-a-job" });
    issuer.queue(Answer::json(401, words));
    let login = JsonLogin::get(issuer, TOKEN_URL).header("authorization", "bearer s3cret-of-a-job");
    let error = TokenCache::new(login.build().unwrap()).get().await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("token [redacted]"), "{error}");
}

#[cfg(all(unix, feature = "exec"))]
mod programs {
    use serde_json::json;
    use tower_bearer::exec::{TokenCommand, TokenCommandBuilder};
    use tower_bearer::{Error, MAX_LIFETIME, Token, TokenCache};

    use crate::lifetimes::jwt;
    use crate::other_sources::{assert_lives, now};

    async fn run(printed: &str, set: impl FnOnce(TokenCommandBuilder) -> TokenCommandBuilder) -> Result<Token, Error> {
        TokenCache::new(set(TokenCommand::builder("printf").args(["%s", printed])).build().unwrap()).get().await
    }

    #[tokio::test]
    async fn a_program_may_print_a_bare_token() {
        for printed in ["gho_1\n", "gho_1", "\u{feff}gho_1\r\n", "Bearer gho_1"] {
            let token = run(printed, TokenCommandBuilder::bare_token).await.unwrap();
            assert_eq!((token.access_token(), token.lifetime()), ("gho_1", MAX_LIFETIME));
        }
        let token = run(&jwt(now() + 600), TokenCommandBuilder::bare_token).await.unwrap();
        assert_lives(&token, 600);
        for (printed, problem) in [("", "empty"), ("Please log in", "no header may carry")] {
            let said = run(printed, TokenCommandBuilder::bare_token).await.unwrap_err().to_string();
            assert!(said.contains(problem) && !said.contains("Please"), "{said}");
        }
        let said = run("gho_1", |command| command).await.unwrap_err().to_string();
        assert!(said.contains("no JSON") && said.contains("bare_token") && !said.contains("gho"), "{said}");
    }

    #[tokio::test]
    async fn what_a_program_prints_is_read_as_any_answer_is() {
        let credential = json!({ "kind": "ExecCredential", "status": { "token": "t" } });
        let token = run(&format!("\u{feff}{credential}"), |command| command).await.unwrap();
        assert_eq!((token.access_token(), token.lifetime()), ("t", MAX_LIFETIME));
        let at = |command: TokenCommandBuilder| command.token_at("/access_token");
        assert_lives(&run(r#"{"access_token":"t","expires_in":600}"#, at).await.unwrap(), 600);
        let ends = json!({ "access_token": "t", "expires_on": (now() + 600) * 1000 }).to_string();
        assert_lives(&run(&ends, at).await.unwrap(), 600);
        let ms = |command| at(command).lifetime_unit(std::time::Duration::from_millis(1));
        assert_lives(&run(r#"{"access_token":"t","expires_in":600000}"#, ms).await.unwrap(), 600);
    }

    #[tokio::test]
    async fn no_error_repeats_the_values_of_arguments() {
        let script = "echo \"cannot log in with hunter22, sesame77 or opener88, nor with pass99\" >&2; exit 1";
        let args = ["-c", script, "password=hunter22", "-psesame77", "--key=opener88", "user:pass99"];
        let command = TokenCommand::builder("/bin/sh").args(args).build().unwrap();
        let said = TokenCache::new(command).get().await.unwrap_err().to_string();
        assert!(
            said.contains("cannot log in with [redacted], [redacted] or [redacted], nor with [redacted]"),
            "{said}"
        );
    }
}
