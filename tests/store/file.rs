//! The store in a directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tower_bearer::store::{FileStore, Lease, Saved, TokenStore};
use tower_bearer::testing::store_conformance;

use crate::harness::{Issuer, KEY, SECOND, process, text};

fn store() -> (FileStore, PathBuf, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state/tool");
    (FileStore::new(&directory), directory, home)
}

/// The files whose names have this ending.
fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().ends_with(end)).collect()
}

async fn save(store: &FileStore, bytes: &[u8]) -> u64 {
    assert_eq!(store.acquire(KEY, "a", 60 * SECOND).await.unwrap(), Lease::Held);
    let expected = store.load(KEY).await.unwrap().map(|stored| stored.version);
    let Saved::Saved { version } = store.save(KEY, "a", expected, bytes).await.unwrap() else { panic!("a conflict") };
    store.release(KEY, "a").await.unwrap();
    version
}

#[tokio::test]
async fn it_passes_the_conformance_suite() {
    let (store, directory, _home) = store();
    store_conformance(&store, &store.clone(), "a").await;
    store_conformance(&store, &FileStore::new(directory), "b").await;
}

#[tokio::test]
async fn nothing_is_made_before_the_first_record_and_all_is_private() {
    let (store, directory, _home) = store();
    assert!(store.load(KEY).await.unwrap().is_none() && !directory.exists());
    save(&store, b"record").await;
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    assert_eq!(files(&directory, "").len(), 2, "the record and the lock file");
}

#[tokio::test]
async fn a_directory_that_others_may_write_is_rejected() {
    let (store, directory, _home) = store();
    save(&store, b"record").await;
    let [record] = &files(&directory, ".json")[..] else { panic!("one record") };
    for (path, mode, restored) in [(record, 0o620, 0o600), (&directory, 0o777, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let error = store.load(KEY).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("may be written by others"), "{error}");
        fs::set_permissions(path, fs::Permissions::from_mode(restored)).unwrap();
    }
    assert_eq!(store.load(KEY).await.unwrap().unwrap().bytes, b"record");
}

#[tokio::test]
async fn a_file_cut_off_anywhere_is_no_error_of_the_store_and_no_version_comes_twice() {
    let (store, directory, _home) = store();
    let first = save(&store, b"record").await;
    let [record] = &files(&directory, ".json")[..] else { panic!("one record") };
    let whole = fs::read(record).unwrap();
    for end in 0..whole.len() {
        fs::write(record, &whole[..end]).unwrap();
        assert_ne!(store.load(KEY).await.unwrap().unwrap().bytes, b"record");
    }
    fs::remove_file(record).unwrap();
    assert!(save(&store, b"again").await > first);
}

#[tokio::test]
async fn a_record_cut_off_in_the_middle_is_set_aside() {
    let (store, directory, _home) = store();
    let issuer = Issuer::new();
    process(issuer.login(), &store).get().await.unwrap();
    let [record] = &files(&directory, ".json")[..] else { panic!("one record") };
    let whole = fs::read(record).unwrap();
    fs::write(record, &whole[..whole.len() / 2]).unwrap();
    let cache = process(issuer.login_with("seed-2"), &store);
    assert_eq!(text(cache.get().await), "t2");
    let [aside] = &files(&directory, ".set-aside")[..] else { panic!("one set aside") };
    assert_eq!(fs::read(aside).unwrap(), whole[..whole.len() / 2]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_an_error_and_a_live_token_is_sent_on() {
    let (store, directory, home) = store();
    let issuer = Issuer::new();
    let cache = process(issuer.password(), &store);
    cache.get().await.unwrap();
    fs::remove_dir_all(&directory).unwrap();
    fs::remove_dir_all(home.path()).unwrap();
    fs::write(home.path(), "a file").unwrap();
    cache.refresh().await.unwrap_err();
    assert_eq!(text(cache.get().await), "t1");
    let error = cache.status().store.unwrap().error.expect("it is shown");
    assert!(format!("{error:?}").contains("failed to"), "{error:?}");
    fs::remove_file(home.path()).unwrap();
}

#[tokio::test]
async fn a_lease_of_a_stopped_owner_ends_and_its_save_is_a_conflict() {
    let (store, directory, _home) = store();
    let other = FileStore::new(directory);
    let ttl = SECOND / 2;
    assert_eq!(store.acquire(KEY, "stopped", ttl).await.unwrap(), Lease::Held);
    let Lease::Busy { owner, remaining } = other.acquire(KEY, "b", ttl).await.unwrap() else { panic!("two owners") };
    assert!(owner.as_deref() == Some("stopped") && remaining <= ttl);
    tokio::time::sleep(remaining).await;
    assert_eq!(other.acquire(KEY, "b", 60 * SECOND).await.unwrap(), Lease::Held);
    assert!(!store.extend(KEY, "stopped", ttl).await.unwrap());
    assert_eq!(store.save(KEY, "stopped", None, b"late").await.unwrap(), Saved::Conflict);
    store.release(KEY, "stopped").await.unwrap();
    assert!(matches!(other.save(KEY, "b", None, b"newer").await.unwrap(), Saved::Saved { .. }));
}

#[tokio::test]
async fn a_record_that_has_expired_is_gone_and_its_file_goes_with_the_next_search() {
    let (store, directory, _home) = store();
    let expire = async |store: &FileStore, key: &str, after| {
        assert_eq!(store.acquire(key, "a", 60 * SECOND).await.unwrap(), Lease::Held);
        let Saved::Saved { version } = store.save(key, "a", None, b"record").await.unwrap() else {
            panic!("a conflict")
        };
        store.expire(key, "a", version, after).await.unwrap();
        store.release(key, "a").await.unwrap();
    };
    expire(&store, "at once", Duration::ZERO).await;
    expire(&store, "later", 3600 * SECOND).await;
    save(&store, b"never").await;
    assert!(store.load("at once").await.unwrap().is_none());
    assert_eq!(store.load("later").await.unwrap().unwrap().bytes, b"record");
    assert_eq!(files(&directory, ".json").len(), 3);
    // A new process has not searched yet.
    let other = FileStore::new(&directory);
    expire(&other, "another", Duration::ZERO).await;
    assert_eq!(files(&directory, ".json").len(), 3, "all but the first");
    assert!(other.load("later").await.unwrap().is_some() && other.load(KEY).await.unwrap().is_some());
    // Its key is free for another record.
    expire(&other, "at once", 3600 * SECOND).await;
    assert_eq!(store.load("at once").await.unwrap().unwrap().bytes, b"record");
}
