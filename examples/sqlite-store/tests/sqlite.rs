//! The suite that every store has to pass, through connections of their own; then processes, and caches that share a session.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sqlite_store::SqliteStore;
use tokio::process::{Child, Command};
use tower_bearer::store::{Lease, Saved, SharedSession, TokenStore};
use tower_bearer::testing::store_conformance;
use tower_bearer::{FetchContext, Token, TokenCache};

const PROCESSES: usize = 6;
const ROUNDS: u64 = 10;
const LEASE: Duration = Duration::from_secs(60);

fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(&directory.join("sessions.db")).expect("a database")
}

#[tokio::test]
async fn it_passes_the_suite_through_many_connections_at_once() {
    let home = tempfile::tempdir().expect("a directory");
    let stores: [_; 6] = std::array::from_fn(|_| open(home.path()));
    let [a, b, c, d, e, f] = &stores;
    let clone = a.clone();
    tokio::join!(
        store_conformance(a, b, "suite"),
        store_conformance(c, d, "suite"),
        store_conformance(e, f, "suite"),
        store_conformance(a, &clone, "suite"),
    );
}

#[tokio::test]
async fn processes_take_turns() {
    let home = tempfile::tempdir().expect("a directory");
    let processes: Vec<_> = (0..PROCESSES).map(|_| start(home.path())).collect();
    for process in processes {
        let output = process.wait_with_output().await.expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let counted = open(home.path()).load("counter").await.expect("a look").expect("a record");
    assert_eq!(count(&counted.bytes), PROCESSES as u64 * ROUNDS, "no step was lost");
}

/// This test binary again, which runs [`process`] alone.
fn start(directory: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "process", "--ignored"]).env("DIRECTORY", directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts")
}

/// Counts on from the record, each time under a lease.
#[tokio::test]
#[ignore = "is what the test above starts"]
async fn process() {
    let Some(directory) = std::env::var_os("DIRECTORY") else { return };
    let store = open(directory.as_ref());
    for round in 0..ROUNDS {
        let owner = format!("{}-{round}", std::process::id());
        while store.acquire("counter", &owner, LEASE).await.expect("an answer") != Lease::Held {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let found = store.load("counter").await.expect("a look");
        let (version, next) = match &found {
            Some(stored) => (Some(stored.version), count(&stored.bytes) + 1),
            None => (None, 1),
        };
        let saved = store.save("counter", &owner, version, next.to_string().as_bytes()).await.expect("an answer");
        assert!(matches!(saved, Saved::Saved { .. }), "the lease was another's, too");
        store.release("counter", &owner).await.expect("an answer");
    }
}

fn count(bytes: &[u8]) -> u64 {
    str::from_utf8(bytes).expect("text").parse().expect("a number")
}

#[tokio::test]
async fn caches_share_a_session() {
    let home = tempfile::tempdir().expect("a directory");
    let login = async |context: FetchContext| {
        let spent = context.refresh_token().map_or("none".to_owned(), |token| token.expose().to_owned());
        Token::new(format!("after-{spent}")).map(|token| token.with_refresh_token(format!("{spent}+")))
    };
    let cache = || {
        let session = SharedSession::new(open(home.path()), "ada@example.com");
        TokenCache::builder(login).shared_session(session).build().expect("a cache")
    };
    let (first, second) = (cache(), cache());
    for cache in [&first, &second] {
        assert_eq!(cache.get().await.expect("a token").access_token(), "after-none");
    }
    assert_eq!(second.refresh().await.expect("a token").access_token(), "after-none+");
    assert_eq!(cache().get().await.expect("a token").access_token(), "after-none+");
}

#[cfg(unix)]
#[tokio::test]
async fn its_files_are_readable_by_their_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("a directory");
    let _store = open(home.path());
    for file in std::fs::read_dir(home.path()).expect("a directory") {
        let mode = file.and_then(|file| file.metadata()).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_file_that_is_no_database_is_an_error_that_lasts() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("sessions.db"), "no database, but something that a person wrote").expect("a file");
    let error = SqliteStore::open(&home.path().join("sessions.db")).expect_err("no database");
    assert!(!error.is_transient(), "{error}");
}
