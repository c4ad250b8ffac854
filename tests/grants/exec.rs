//! A token that a program prints: what is understood, what is an error, and that no program outlives its fetch.
//!
//! The programs are scripts of `/bin/sh`. Time is real, for tokio's paused time does not wait for programs; no test
//! depends on how fast they are.
#![cfg(all(unix, feature = "exec"))]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;
use tower_bearer::exec::{TokenCommand, TokenCommandBuilder};
use tower_bearer::testing::ManualClock;
use tower_bearer::{
    BearerLayer, Error, FetchContext, MAX_LIFETIME, Reason, RefreshPolicy, Token, TokenCache, TokenSource,
};

use crate::common::{MINUTE, text};

fn sh(script: impl Into<String>) -> TokenCommandBuilder {
    TokenCommand::builder("/bin/sh").args(["-c".to_owned(), script.into()])
}

/// A program that prints this.
fn printing(json: &Value) -> TokenCommandBuilder {
    TokenCommand::builder("printf").args(["%s".to_owned(), json.to_string()])
}

fn credential(status: Value) -> TokenCommandBuilder {
    printing(&json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status }))
}

async fn run(command: TokenCommandBuilder) -> Result<Token, Error> {
    TokenCache::new(command.build().unwrap()).get().await
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whether a token lives about so many seconds: the program took some of them.
#[track_caller]
fn assert_lives(token: Result<Token, Error>, seconds: u64) {
    let left = token.expect("a token").lifetime().as_secs();
    assert!(left <= seconds && left + 60 >= seconds, "{left} and not {seconds}");
}

// === what is understood ===

#[tokio::test]
async fn an_exec_credential_is_understood() {
    let date = "2100-01-02T03:04:05Z";
    let token = run(credential(json!({ "token": "k8s-aws-v1.aHR0", "expirationTimestamp": date }))).await;
    assert_eq!(token.as_ref().unwrap().header_value(), "Bearer k8s-aws-v1.aHR0");
    assert_lives(token, 4_102_542_245 - now());
}

#[tokio::test]
async fn the_end_of_a_token_is_compared_with_the_clock_of_the_fetch() {
    let clock = ManualClock::new();
    let fetch = async |expires_at: Value| {
        let context = FetchContext::new(Reason::First).with_clock(clock.clone());
        credential(json!({ "token": "t", "expirationTimestamp": expires_at })).build().unwrap().fetch(context).await
    };
    // The clock begins at 2023-11-14T22:13:20Z.
    for expires_at in [json!("2023-11-14T23:13:20Z"), json!(1_700_003_600)] {
        assert_eq!(fetch(expires_at).await.unwrap().lifetime(), 60 * MINUTE);
    }
    clock.sleep(90 * MINUTE);
    let error = fetch(json!("2023-11-14T23:13:20Z")).await.unwrap_err();
    assert!(error.to_string().contains("ended 1800 s ago"), "{error}");
}

#[tokio::test]
async fn a_date_may_have_an_offset_and_fractions_and_a_time_be_a_number_or_a_text() {
    let in_an_hour = now() + 3600;
    for (end, seconds) in [
        (json!("2050-06-01T00:00:00.75+05:30"), 2_537_634_600 - now()),
        (json!("2050-05-31T18:30:00-00:00"), 2_537_634_600 - now()),
        (json!(in_an_hour), 3600),
        (json!(in_an_hour.to_string()), 3600),
        (json!(in_an_hour as f64 + 0.5), 3600),
    ] {
        assert_lives(run(credential(json!({ "token": "t", "expirationTimestamp": end }))).await, seconds);
    }
}

#[tokio::test]
async fn a_token_without_an_end_is_kept_until_it_is_rejected_or_as_long_as_was_set() {
    for status in [json!({ "token": "t" }), json!({ "token": "t", "expirationTimestamp": null })] {
        assert_eq!(run(credential(status.clone())).await.unwrap().lifetime(), MAX_LIFETIME);
        let command = credential(status).default_lifetime(MINUTE);
        assert_eq!(run(command).await.unwrap().lifetime(), MINUTE);
    }
    assert!(sh("").default_lifetime(Duration::ZERO).build().unwrap_err().is_invalid());
}

#[tokio::test]
async fn other_shapes_are_told_by_json_pointers() {
    let in_an_hour = now() + 3600;
    let azure = json!({ "accessToken": "az", "expiresOn": "2026-01-02 03:04:05.000000", "expires_on": in_an_hour });
    let azure = printing(&azure).token_at("/accessToken").expires_at("/expires_on");
    assert_lives(run(azure).await, 3600);
    let google = json!({ "credential": { "access_token": "ya29", "token_expiry": "2100-01-02T03:04:05Z" } });
    let google = printing(&google).token_at("/credential/access_token");
    let token = run(google.expires_at("/credential/token_expiry")).await;
    assert_eq!(token.as_ref().unwrap().access_token(), "ya29");
    assert_lives(token, 4_102_542_245 - now());
    let oauth = printing(&json!({ "access_token": "t", "expires_in": "90" })).token_at("/access_token");
    let token = run(oauth.lifetime_at("/expires_in")).await.unwrap();
    assert_eq!(token.lifetime(), Duration::from_secs(90));
    for pointer in ["token", "/a~2"] {
        for rejected in [sh("").token_at(pointer), sh("").expires_at(pointer), sh("").lifetime_at(pointer)] {
            assert!(rejected.build().unwrap_err().is_invalid());
        }
    }
}

#[tokio::test]
async fn a_plugin_is_told_what_kubectl_tells_it() {
    let directory = TempDir::new().unwrap();
    let info = directory.path().join("info");
    let script =
        r#"printf '%s' "$KUBERNETES_EXEC_INFO" > "$INFO"; echo '{"kind":"ExecCredential","status":{"token":"t"}}'"#;
    let plugin = || sh(script).env("INFO", info.to_str().unwrap());
    run(plugin()).await.unwrap();
    let told: Value = serde_json::from_str(&fs::read_to_string(&info).unwrap()).unwrap();
    let expected = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": { "interactive": false },
    });
    assert_eq!(told, expected);
    run(plugin().env("KUBERNETES_EXEC_INFO", "mine")).await.unwrap();
    assert_eq!(fs::read_to_string(&info).unwrap(), "mine");
    run(plugin().token_at("/status/token")).await.unwrap();
    assert_eq!(fs::read_to_string(&info).unwrap(), "", "no plugin was asked for");
}

#[tokio::test]
async fn a_rejected_token_makes_the_program_run_again() {
    let directory = TempDir::new().unwrap();
    let script = r#"echo >> "$RUNS"; n=$(wc -l < "$RUNS" | tr -d ' ')
        echo "{\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t$n\"}}""#;
    let cache =
        TokenCache::new(sh(script).env("RUNS", directory.path().join("runs").to_str().unwrap()).build().unwrap());
    let first = cache.get().await.unwrap();
    assert_eq!((first.access_token(), text(cache.get().await)), ("t1", "t1".to_owned()));
    assert_eq!(text(cache.report_rejected(&first).await), "t2");
}

// === what is an error ===

#[tokio::test]
async fn what_is_no_token_is_an_error_that_names_the_program_and_shows_nothing_it_printed() {
    let kind = |token: Value| json!({ "kind": "ExecCredential", "status": { "token": token } }).to_string();
    let ended =
        format!(r#"{{"kind":"ExecCredential","status":{{"token":"s3cret","expirationTimestamp":{}}}}}"#, now() - 900);
    for (printed, problem) in [
        ("", "no JSON"),
        ("s3cret", "no JSON"),
        (r#"{"token":"s3cret"} {}"#, "no JSON"),
        (r#"{"token":"s3cret"}"#, "no ExecCredential"),
        (r#"["s3cret"]"#, "no ExecCredential"),
        (r#"{"kind":"Secret","status":{"token":"s3cret"}}"#, "no ExecCredential"),
        (r#"{"kind":"ExecCredential"}"#, "no token at /status/token"),
        (&kind(Value::Null), "no token at /status/token"),
        (&kind(json!({ "value": "s3cret" })), "no text"),
        (&kind(json!("")), "empty"),
        (&kind(json!("s3cret\n")), "line break"),
        (r#"{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":"tomorrow"}}"#, "RFC 3339"),
        (r#"{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":"2100-01-02 03:04"}}"#, "RFC 3339"),
        (r#"{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":[1]}}"#, "RFC 3339"),
        (r#"{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":"1969-01-02T03:04:05Z"}}"#, "ended"),
        (&ended, "ended 9"),
    ] {
        let error = run(TokenCommand::builder("printf").args(["%s", printed])).await.unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(error.is_transient() && said.contains(problem) && said.contains("printf"), "{problem}: {said}");
        assert!(!said.contains("s3cret") && !said.contains('{'), "{said}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let error = run(TokenCommand::builder("no-such-program-anywhere").args(["s3cret"])).await.unwrap_err().to_string();
    assert!(error.contains("no-such-program-anywhere") && error.contains("could not be started"), "{error}");
    assert!(error.contains("PATH") && !error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn a_program_that_fails_is_an_error_with_its_words() {
    let error = run(sh("echo Please run \"'az login'\" to set up. >&2; exit 3")).await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_transient() && said.contains("exit status: 3"), "{said}");
    assert!(said.contains("/bin/sh") && said.contains("it said: Please run 'az login' to set up.;"), "{said}");
    let killed = run(sh("kill -9 $$")).await.unwrap_err().to_string();
    assert!(killed.contains("signal: 9") && killed.contains("no reason"), "{killed}");
    // Also a token is none when the program says that it failed.
    let token = r#"echo '{"kind":"ExecCredential","status":{"token":"t"}}'; exit 1"#;
    assert!(run(sh(token)).await.unwrap_err().to_string().contains("exit status: 1"));
}

#[tokio::test]
async fn its_words_are_bounded_and_hold_neither_secrets_nor_control_characters() {
    let script = r#"
        echo '{"kind":"ExecCredential","status":{"token":"t0ken/abc"}}'
        printf 'begin %02000d \033[31mno entry for %s (%s) with %s, id %s, t0ken%%2Fabc \033[0m' 0 "$USER_KEY" hunter22 "$0" "$N" >&2
        exit 1"#;
    let command = TokenCommand::builder("/bin/sh")
        .args(["-c", script, "arg-of-a-kind", "--password=hunter22", "--verbose"])
        .env("USER_KEY", "env-s3cret")
        .env("N", "7");
    let shown = r#"TokenCommand { program: "/bin/sh", .. }"#;
    assert_eq!(format!("{command:?}"), format!("TokenCommandBuilder {{ command: {shown} }}"));
    assert_eq!(format!("{:?}", command.clone().build().unwrap()), shown);
    let error = run(command).await.unwrap_err();
    let said = error.to_string();
    let words = "no entry for [redacted] ([redacted]) with [redacted], id 7, [redacted]  [0m;";
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("begin") && !said.contains('\u{1b}') && said.len() < 500, "{said}");
    for secret in ["s3cret", "hunter", "arg-of", "t0ken"] {
        assert!(!format!("{error:?}").contains(secret), "{secret}: {error:?}");
    }
}

#[tokio::test]
async fn a_secret_that_the_bound_cuts_in_two_is_not_shown() {
    // Of 300 characters, so that the last 256 hold its end.
    let secret = format!("begin{}", "end0".repeat(75));
    let command = sh(r#"printf '%s' "$KEY" >&2; exit 1"#).env("KEY", &*secret);
    let said = run(command).await.unwrap_err().to_string();
    assert!(said.contains("it said: [redacted];"), "{said}");
}

#[tokio::test]
async fn a_long_complaint_does_not_stop_the_program() {
    let script =
        r#"head -c 5000000 /dev/zero | tr '\0' x >&2; echo '{"kind":"ExecCredential","status":{"token":"t"}}'"#;
    assert_eq!(text(run(sh(script)).await), "t");
}

// === what does not end ===

/// Notes the programs that were started, by their numbers.
struct Started {
    file: PathBuf,
    _directory: TempDir,
}

impl Started {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self { file: directory.path().join("started"), _directory: directory }
    }

    /// A script that notes its number first.
    fn script(&self, then: &str) -> TokenCommandBuilder {
        sh(format!("echo $$ >> \"$STARTED\"; {then}")).env("STARTED", self.file.to_str().unwrap())
    }

    fn all(&self) -> Vec<String> {
        let noted = fs::read_to_string(&self.file).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }

    /// Waits until all of them are gone; fails where one stays.
    async fn gone(&self) {
        let all = self.all();
        assert!(!all.is_empty(), "nothing was started");
        let lives = |number: &String| {
            let asked = Command::new("/bin/sh").args(["-c", "kill -0 \"$0\" 2>/dev/null", number]).status();
            asked.unwrap().success()
        };
        for _ in 0..600 {
            if !all.iter().any(lives) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it lives on");
    }
}

const CREDENTIAL: &str = r#"echo '{"kind":"ExecCredential","status":{"token":"t"}}'"#;

#[tokio::test]
async fn a_program_that_does_not_end_is_killed_when_its_time_is_over() {
    for hangs in [
        "exec sleep 1000".to_owned(),
        // One that has shown a token, and one that shows nothing more: neither has ended.
        format!("{CREDENTIAL}; exec sleep 1000"),
        format!("{CREDENTIAL}; exec >&- 2>&-; exec sleep 1000"),
        "trap '' HUP INT TERM PIPE; while :; do echo busy >&2; done".to_owned(),
        "exec cat < /dev/zero > /dev/null".to_owned(),
        // A script that waits for what hangs.
        "/bin/sh -c 'echo $$ >> \"$STARTED\"; exec sleep 1000'; echo never".to_owned(),
    ] {
        let started = Started::new();
        let settings = RefreshPolicy::new().deadline(Duration::from_millis(300));
        let cache =
            TokenCache::builder(started.script(&hangs).build().unwrap()).refresh_policy(settings).build().unwrap();
        let numbers = 1 + hangs.matches("$STARTED").count();
        // A busy machine may not have come as far as the numbers, or so late that the cache's own deadline was over.
        let (mut named, mut attempts) = (false, 0);
        while !named || started.all().len() < numbers {
            let error = cache.refresh().await.unwrap_err();
            let said = error.to_string();
            assert!(error.is_timeout(), "{hangs}: {said}");
            named |= said.contains("/bin/sh") && said.contains("270ms");
            attempts += 1;
            assert!(attempts < 100, "{hangs}: {said}");
        }
        started.gone().await;
    }
}

#[tokio::test]
async fn a_program_is_killed_when_its_fetch_is_dropped() {
    let started = Arc::new(Started::new());
    let command = Arc::new(started.script("exec sleep 1000").build().unwrap());
    let noted = Arc::clone(&started);
    let cache = TokenCache::new(move |context: FetchContext| {
        let (command, noted) = (Arc::clone(&command), Arc::clone(&noted));
        async move {
            let is_started = async {
                while noted.all().is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                fetched = command.fetch(context) => fetched,
                () = is_started => Err(Error::transient("dropped by the test")),
            }
        }
    });
    cache.get().await.unwrap_err();
    started.gone().await;
}

#[tokio::test]
async fn a_program_that_prints_too_much_is_killed() {
    for prints in ["exec head -c 10485760 /dev/zero", "exec yes", "trap '' PIPE; while :; do echo more; done", "yes; :"]
    {
        let started = Started::new();
        let error = run(started.script(prints)).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("/bin/sh") && said.contains("more than 1 MiB"), "{said}");
        started.gone().await;
    }
    let json = r#"{"kind":"ExecCredential","status":{"token":"t"}}"#;
    let padded = |to: usize| sh(format!("printf '%s%{}s' '{json}' ''", to - json.len()));
    assert_eq!(text(run(padded(1024 * 1024)).await), "t");
    assert!(run(padded(1024 * 1024 + 1)).await.unwrap_err().to_string().contains("more than 1 MiB"));
}

#[tokio::test]
async fn input_is_at_its_end_from_the_beginning() {
    assert_eq!(text(run(sh(format!("cat > /dev/null; {CREDENTIAL}"))).await), "t");
}

#[tokio::test]
async fn input_is_written_and_closed() {
    let directory = TempDir::new().unwrap();
    let read = directory.path().join("read");
    let command = sh(format!("cat > \"$READ\"; {CREDENTIAL}")).env("READ", read.to_str().unwrap());
    for input in ["protocol=https\nhost=git.example.com\n\n", "no line break", "", "line\r\nbreaks é\n"] {
        assert_eq!(text(run(command.clone().stdin(input)).await), "t");
        assert_eq!(fs::read_to_string(&read).unwrap(), input);
    }
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    // More than a pipe holds.
    let big = "x".repeat(1024 * 1024);
    for script in
        [CREDENTIAL.to_owned(), format!("exec <&-; {CREDENTIAL}"), format!("head -c 1 > /dev/null; {CREDENTIAL}")]
    {
        for input in ["short", &*big] {
            assert_eq!(text(run(sh(&*script).stdin(input)).await), "t", "{script}");
        }
    }
    let error = run(sh("exec <&-; echo no such host >&2; exit 1").stdin(big)).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 1") && error.contains("it said: no such host"), "{error}");
}

#[tokio::test]
async fn a_program_may_write_much_before_it_reads_much() {
    let input = "x".repeat(512 * 1024);
    let script = r#"
        head -c 500000 /dev/zero | tr '\0' ' '
        head -c 500000 /dev/zero | tr '\0' x >&2
        n=$(wc -c | tr -d ' ')
        echo "{\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t$n\"}}""#;
    assert_eq!(text(run(sh(script).stdin(input)).await), "t524288");
}

#[tokio::test]
async fn no_error_repeats_the_input() {
    for (input, words, clean) in [
        ("s3cret-1", "s3cret-1 is wrong", "[redacted] is wrong"),
        ("--s3cret-1\n", "no --s3cret-1", "no [redacted]"),
        ("username=annabel\npassword=s3cret-1\n\n", "annabel has not s3cret-1", "[redacted] has not [redacted]"),
        (r#"{"Username":"annabel","Secret":"s3cret-1"}"#, "annabel has not s3cret-1", "[redacted] has not [redacted]"),
    ] {
        let command = sh(format!("cat > /dev/null; echo {words} >&2; exit 1")).stdin(input);
        assert!(!format!("{command:?}").contains("s3cret"));
        let error = run(command).await.unwrap_err();
        assert!(error.to_string().contains(&format!("it said: {clean};")), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[tokio::test]
async fn credential_helpers_are_understood() {
    // As git-credential documents it, and as git 2.46 and later print it to those who know more.
    let git = |printed: &str| {
        let script = format!("cat > /dev/null; printf '{printed}'");
        sh(script)
            .stdin("protocol=https\nhost=git.example.com\n\n")
            .token_at("/password")
            .expires_at("/password_expiry_utc")
    };
    let printed = r"protocol=https\nhost=git.example.com\nusername=bob\npassword=gho_a=b\n";
    let token = run(git(printed)).await.unwrap();
    assert_eq!((token.access_token(), token.lifetime()), ("gho_a=b", MAX_LIFETIME));
    assert_lives(run(git(&format!(r"{printed}password_expiry_utc={}\n", now() + 600))).await, 600);
    let ended = run(git(&format!(r"{printed}password_expiry_utc={}\n", now() - 600))).await.unwrap_err();
    assert!(ended.to_string().contains("ended 6"), "{ended}");
    // As Docker's helpers print it.
    let docker = |printed: &str, status: u8| {
        let script = format!("cat > /dev/null; printf '%s' '{printed}'; exit {status}");
        sh(script).stdin("https://registry.example.com").token_at("/Secret")
    };
    let printed = r#"{"ServerURL":"https://registry.example.com","Username":"<token>","Secret":"dckr_1"}"#;
    assert_eq!(text(run(docker(printed, 0)).await), "dckr_1");
    let error = run(docker("credentials not found in native keychain", 1)).await.unwrap_err();
    assert!(error.to_string().contains("exit status: 1"), "{error}");
    for (printed, problem) in [
        ("", "no JSON"),
        ("gho_1", "no JSON"),
        ("name=value\nno value", "no JSON"),
        ("=value", "no JSON"),
        ("a name=value", "no JSON"),
        ("username=bob", "no token at /Secret"),
    ] {
        let said = run(docker(printed, 0)).await.unwrap_err().to_string();
        assert!(said.contains(problem) && !said.contains("gho"), "{printed}: {said}");
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_not_waited_for() {
    let directory = TempDir::new().unwrap();
    let flag = directory.path().join("flag");
    fs::write(&flag, "").unwrap();
    // It holds all three pipes open for as long as the test wants, and more input than a pipe holds.
    let script = format!("exec 3<&0; (while [ -e \"$FLAG\" ]; do sleep 0.2; done) <&3 & {CREDENTIAL}");
    let token = run(sh(script).env("FLAG", flag.to_str().unwrap()).stdin("x".repeat(1024 * 1024))).await;
    assert!(flag.exists());
    fs::remove_file(&flag).unwrap();
    assert_eq!(text(token), "t");
}

// === where it may be shown ===

#[test]
fn a_layer_over_a_program_shows_no_argument() {
    let cache = TokenCache::new(sh("s3cret").env("KEY", "s3cret").build().unwrap());
    let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap();
    assert!(!format!("{cache:?} {layer:?}").contains("s3cret"));
}
