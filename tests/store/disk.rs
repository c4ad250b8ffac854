//! Disks that are full or read-only, and files of other users.
//!
//! Some tests mount a disk of a few kilobytes, which only root may do. For other users they print that they are
//! skipped.

use std::error::Error as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tower_bearer::store::{FileStore, SharedSession};
use tower_bearer::{Error, FetchContext, Secret, Token, TokenCache, TokenSource};

use crate::harness::{Issuer, KEY, Login, SECOND, process, text};

/// A small disk.
struct Disk {
    home: TempDir,
}

/// A login during which something happens.
struct Meanwhile<F> {
    login: Login,
    happens: F,
}

// === impl Disk ===

impl Disk {
    /// Returns `None` if this user may not mount a disk.
    fn mount() -> Option<Self> {
        let disk = Self { home: tempfile::tempdir().unwrap() };
        if !disk.command("mount", &["-t", "tmpfs", "-o", "size=64k,mode=700", "none"]) {
            skipped("only root mounts a small disk");
            return None;
        }
        Some(disk)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> bool {
        let ran = Command::new(program).args(arguments).arg(self.home.path()).output();
        ran.is_ok_and(|output| output.status.success())
    }

    fn ballast(&self) -> PathBuf {
        self.home.path().join("ballast")
    }

    /// Fills the disk to the last byte.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 512]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn set_read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(self.command("mount", &["-o", how]), "{how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.command("umount", &["-l"]);
    }
}

impl<F: Fn() + Send + Sync + 'static> TokenSource for Meanwhile<F> {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        (self.happens)();
        self.login.fetch(context).await
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        self.login.refresh_token().await
    }

    fn identity(&self) -> Vec<String> {
        self.login.identity()
    }
}

/// Writes to stderr, because the output of `println!` is hidden if the test passes.
fn skipped(why: &str) {
    std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The error with its causes.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The error of the store in the status.
fn store_error(cache: &TokenCache) -> String {
    chain(&cache.status().store.unwrap().error.expect("the store has failed"))
}

/// The only record in the directory.
fn record(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).expect("a record")
}

/// The record or the lock, by the end of its name; the directory itself if that is empty.
fn file(directory: &Path, end: &str) -> PathBuf {
    if end.is_empty() { directory.to_owned() } else { record(directory).with_extension(end) }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    tokio::time::timeout(60 * SECOND, waiting).await.expect("it happens");
}

/// The store fails. A live token is still sent, the error says what to do, and no refresh token is used. Then the store
/// works again.
async fn outage_is_harmless(directory: &Path, breaks: impl Fn(), remedy: &str, mends: impl Fn()) {
    let (issuer, store) = (Issuer::new(), FileStore::new(directory));
    let (cache, newcomer) = (process(issuer.login(), &store), process(issuer.login(), &store));
    assert_eq!(text(cache.get().await), "t1");
    let before = fs::read(record(directory)).unwrap();
    breaks();
    cache.refresh().await.unwrap_err();
    assert_eq!((text(cache.get().await), issuer.calls()), ("t1".into(), 1));
    assert!(store_error(&cache).contains(remedy), "{}", store_error(&cache));
    assert_eq!(fs::read(record(directory)).unwrap(), before, "the record is what it was");
    // Another process adopts a record that can be read, and otherwise uses no refresh token.
    let answer = newcomer.get().await;
    assert!(answer.is_err() || text(answer) == "t1");
    assert_eq!(issuer.calls(), 1);
    mends();
    until(async || cache.refresh().await.is_ok()).await;
    assert_eq!((text(cache.get().await), issuer.reused()), ("t2".into(), 0));
    assert!(fs::read_to_string(record(directory)).unwrap().contains("\"t2\""));
    until(async || newcomer.get().await.is_ok()).await;
    assert_eq!(issuer.calls(), 2);
}

/// A process that starts while the store fails uses no refresh token, and starts its session once the store works.
async fn starts_later(directory: &Path, breaks: impl Fn(), mends: impl Fn()) {
    let issuer = Issuer::new();
    let cache = process(issuer.login(), &FileStore::new(directory));
    breaks();
    let error = cache.get().await.unwrap_err();
    assert!(error.is_transient() && issuer.calls() == 0, "{}", chain(&error));
    mends();
    until(async || cache.get().await.is_ok()).await;
    assert_eq!((issuer.calls(), issuer.reused()), (1, 0));
}

#[tokio::test]
async fn a_full_disk_costs_no_token_and_no_refresh_token() {
    let Some(disk) = Disk::mount() else { return };
    outage_is_harmless(&disk.home.path().join("state"), || disk.fill(), "free space", || disk.free()).await;
    starts_later(&disk.home.path().join("another"), || disk.fill(), || disk.free()).await;
}

#[tokio::test]
async fn a_disk_that_is_full_when_the_answer_comes_loses_nothing() {
    let Some(disk) = Disk::mount() else { return };
    let disk = Arc::new(disk);
    let (issuer, directory) = (Issuer::new(), disk.home.path().join("state"));
    let session = || SharedSession::new(FileStore::new(&directory), KEY).lease(SECOND);
    let filled = Arc::clone(&disk);
    let source = Meanwhile { login: issuer.login(), happens: move || filled.fill() };
    let cache = TokenCache::builder(source).shared_session(session()).build().unwrap();
    assert_eq!(text(cache.get().await), "t1", "it is used though it is not saved");
    assert!(cache.status().store.unwrap().unsaved.is_some_and(|error| chain(&error).contains("free space")));
    // In the meantime, another process does not use the refresh token again.
    let other = TokenCache::builder(issuer.login()).shared_session(session()).build().unwrap();
    assert!(tokio::time::timeout(2 * SECOND, other.get()).await.is_err());
    disk.free();
    until(async || cache.status().store.unwrap().unsaved.is_none()).await;
    until(async || other.get().await.is_ok()).await;
    assert_eq!((text(other.get().await), issuer.calls()), ("t1".into(), 1));
}

#[tokio::test]
async fn a_read_only_disk_costs_no_token_and_no_refresh_token() {
    let Some(disk) = Disk::mount() else { return };
    let directory = disk.home.path().join("state");
    outage_is_harmless(
        &directory,
        || disk.set_read_only(true),
        "mount its disk for writing",
        || disk.set_read_only(false),
    )
    .await;
    starts_later(&disk.home.path().join("another"), || disk.set_read_only(true), || disk.set_read_only(false)).await;
}

#[tokio::test]
async fn a_read_only_directory_costs_no_token_and_no_refresh_token() {
    if is_root() {
        return skipped("root may write everywhere");
    }
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    let set = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    let set_lock = |mode| {
        let lock = record(&directory).with_extension("lock");
        fs::set_permissions(lock, fs::Permissions::from_mode(mode)).unwrap();
    };
    let breaks = || {
        set_lock(0o400);
        set(0o500);
    };
    let mends = || {
        set(0o700);
        set_lock(0o600);
    };
    outage_is_harmless(&directory, breaks, "chmod u+rwX", mends).await;
}

#[tokio::test]
async fn files_that_others_may_write_cost_no_token_and_no_refresh_token() {
    let home = tempfile::tempdir().unwrap();
    for end in ["json", "lock", ""] {
        let directory = home.path().join(format!("state-{end}"));
        let set = |mode| fs::set_permissions(file(&directory, end), fs::Permissions::from_mode(mode)).unwrap();
        outage_is_harmless(&directory, || set(0o777), "chmod go-w", || set(0o700)).await;
    }
}

#[tokio::test]
async fn files_of_another_user_cost_no_token_and_no_refresh_token() {
    if !is_root() {
        return skipped("only root gives files away");
    }
    let home = tempfile::tempdir().unwrap();
    for end in ["json", "lock", ""] {
        let directory = home.path().join(format!("state-{end}"));
        let give = |user| std::os::unix::fs::chown(file(&directory, end), Some(user), None).unwrap();
        outage_is_harmless(&directory, || give(65534), "chown", || give(0)).await;
    }
}
