//! The built program, as a person at a terminal and a script with 24 jobs run it.

#[path = "../src/fake.rs"]
#[expect(dead_code, reason = "the program serves it as well")]
mod fake;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use loopback::Server;
use tokio::process::Command;

use crate::fake::Fake;

const COPIES: usize = 24;
const LIFETIME: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

async fn cli(server: &Server, home: &Path, command: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cli"));
    program.arg(command).env("CLI_SERVER", server.origin()).env("XDG_STATE_HOME", home);
    program.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("it starts")
}

/// Runs it, and returns what it printed; it ends well.
async fn succeeds(server: &Server, home: &Path, command: &str) -> String {
    let output = cli(server, home, command).await;
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs it, and returns what it printed; it fails.
async fn fails(server: &Server, home: &Path, command: &str) -> String {
    let output = cli(server, home, command).await;
    assert_eq!(output.status.code(), Some(1), "{command}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// Calls from so many processes at once; each gets its answer.
async fn call_at_once(server: &Server, home: &Path) {
    let calls = (0..COPIES).map(|_| {
        let (server, home) = (server.clone(), home.to_owned());
        async move { succeeds(&server, &home, "call").await }
    });
    let mut running = tokio::task::JoinSet::new();
    calls.for_each(|call| _ = running.spawn(call));
    for printed in running.join_all().await {
        assert!(printed.starts_with("200 OK"), "{printed}");
    }
}

#[tokio::test]
async fn any_number_of_copies_share_a_session_from_its_login_to_its_logout() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let fake = Fake::new(LIFETIME);
    let server = fake.start().await;

    let said = fails(&server, home, "call").await;
    assert!(said.starts_with("log in first: cli login"), "{said}");
    assert_eq!(fake.calls(), [""; 0]);

    let said = succeeds(&server, home, "login").await;
    assert!(said.contains("Open https://example.com/device and enter WDJB-MJHT"), "{said}");
    assert!(succeeds(&server, home, "call").await.starts_with("200 OK"));

    // Each copy begins with a token that has ended; the next one does not end while they run.
    tokio::time::sleep(LIFETIME).await;
    fake.lifetime(HOUR);
    let before = fake.calls();
    call_at_once(&server, home).await;
    assert_eq!(fake.calls()[before.len()..], ["refreshed"]);
    call_at_once(&server, home).await;
    assert_eq!(fake.calls().len(), before.len() + 1);

    succeeds(&server, home, "logout").await;
    let said = fails(&server, home, "call").await;
    assert!(said.starts_with("log in first: cli login"), "{said}");
    assert_eq!(fake.calls()[before.len()..], ["refreshed", "revoked"]);
    // A second logout has nothing to revoke.
    succeeds(&server, home, "logout").await;
    assert_eq!(fake.calls().len(), before.len() + 2);

    succeeds(&server, home, "login").await;
    call_at_once(&server, home).await;
    assert_eq!(fake.calls()[before.len()..], ["refreshed", "revoked", "logged in"]);
}

/// A person logs in a second time, in another terminal, perhaps as somebody else.
#[tokio::test]
async fn a_login_takes_the_place_of_the_session_that_was_there() {
    let home = tempfile::tempdir().expect("a directory");
    let fake = Fake::new(HOUR);
    let server = fake.start().await;
    succeeds(&server, home.path(), "login").await;
    succeeds(&server, home.path(), "login").await;
    succeeds(&server, home.path(), "call").await;
    assert_eq!(server.tokens().last().expect("a call"), "Bearer token-2");
}

/// The issuer ends the session, as after a password was changed.
#[tokio::test]
async fn a_session_that_the_issuer_ended_asks_for_a_login() {
    let home = tempfile::tempdir().expect("a directory");
    let fake = Fake::new(LIFETIME);
    let server = fake.start().await;
    succeeds(&server, home.path(), "login").await;
    fake.end_session();
    tokio::time::sleep(LIFETIME).await;
    for _ in 0..2 {
        let said = fails(&server, home.path(), "call").await;
        assert!(said.starts_with("log in first: cli login"), "{said}");
    }
    // The second copy does not ask the issuer again.
    assert_eq!(fake.calls().iter().filter(|call| *call == "denied").count(), 1);
    succeeds(&server, home.path(), "login").await;
    succeeds(&server, home.path(), "call").await;
}

#[tokio::test]
async fn a_session_that_cannot_be_kept_is_an_error_that_names_the_file() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("tower-bearer-cli"), "a file where the directory would be").expect("a file");
    let server = Fake::new(HOUR).start().await;
    let said = fails(&server, home.path(), "login").await;
    assert!(said.contains("tower-bearer-cli"), "{said}");
}
