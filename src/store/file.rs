//! A store in a directory, for the processes of one machine.
//!
//! # Algorithm
//! A key has up to five files. Their names begin with the key and a digest of it:
//!
//! | file | content |
//! |---|---|
//! | `….json` | a line with the version and the expiry, if there is one, and the record. It is replaced by renaming, so a reader needs no lock |
//! | `….lock` | the owner of the lease. It is never renamed; each operation holds the operating system's lock on it |
//! | `….held` | nothing. Its lock is held as long as the lease, and ends with its process |
//! | `….new`, `….set-aside` | the record that is being written; a record that could not be read |
//!
//! No clock that can jump decides whether a lease has ended. If its holder died, the lock on `….held` is free at once.
//! A stopped holder keeps its lock. Another process then takes the lease if the number in the lock file has not changed
//! for the duration of the lease, by its own monotonic clock. The holder counts from an earlier time, so its lease ends
//! first.
//!
//! Every operation is a series of blocking tasks that try the lock and do not wait for it. So a stopped process does
//! not block a thread of the runtime.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::clock::{self, Clock};
use crate::store::error::StoreError;
use crate::store::record::Digest;
use crate::store::token_store::{Lease, Saved, Stored, TokenStore};

/// A [`TokenStore`] in a directory, for the processes of one machine and one user.
///
/// The directory belongs to the application, and is created with the first record. A record is written as a new file,
/// synced and renamed, so a process that is killed at any point leaves the previous record or the new one. Only their
/// user can read the directory and the files (0700, 0600). They are rejected if another user owns or can write them. A
/// lease ends at once when its process dies.
///
/// The record of an ended session expires after 30 days; its file is removed when another session ends.
///
/// Use a directory on a local disk, because the locks of network file systems differ. There are no notifications, so
/// other processes learn of a new login when they next [read the record](crate::store::SharedSession::poll_interval).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower_bearer::Token;
/// use tower_bearer::TokenCache;
/// use tower_bearer::store::{FileStore, SharedSession};
/// # let home = tempfile::tempdir()?;
/// # let directory = home.path().join("my-tool");
/// # let source = async |_| Token::new("t");
///
/// // For a command line tool: ~/.local/state/my-tool
/// let session = SharedSession::new(FileStore::new(directory), "ada@example.com");
/// let cache = TokenCache::builder(source).shared_session(session).build()?;
/// assert_eq!(cache.get().await?.access_token(), "t");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FileStore {
    directory: Arc<Path>,
    leases: Arc<Mutex<Leases>>,
}

/// The leases that this process holds or has seen.
#[derive(Debug, Default)]
struct Leases {
    /// The leases of this process, by the path of the lock file.
    held: HashMap<PathBuf, Held>,
    /// The leases of other processes, and since when this process has seen each unchanged.
    seen: HashMap<PathBuf, (LeaseEntry, Duration)>,
    /// The time of this process's last search for expired records.
    swept: Option<Duration>,
}

#[derive(Debug)]
struct Held {
    owner: String,
    until: Duration,
    /// The file, which is locked while it is open.
    _file: Option<File>,
}

/// The content of a lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeaseEntry {
    owner: String,
    /// Counts the extensions.
    number: u64,
    ttl: Duration,
}

/// The first line of a record.
#[derive(Default)]
struct Header {
    version: u64,
    /// When the record expires, in microseconds since 1970.
    expires: Option<u64>,
    /// Where the record begins.
    len: usize,
}

/// The files of one key.
#[derive(Clone, Debug)]
struct Files {
    directory: Arc<Path>,
    name: String,
}

/// The result of one attempt to do the work under the lock.
enum Attempt<T, W> {
    Done(T),
    /// Another operation holds the lock. The work is returned.
    Busy(W),
}

/// How long an operation waits for the lock, which another process holds for one operation.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The greatest length of a first line, in bytes.
const LONGEST_HEADER: u64 = 128;
/// The greatest length of a record, in bytes.
const LONGEST: u64 = 1024 * 1024;
/// The time between two searches for expired records.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// The beginning of a record's first line. The version follows, and the expiry in microseconds since 1970.
const HEADER: &str = "tower-bearer-file-1 ";

// === impl FileStore ===

impl FileStore {
    /// The store in this directory.
    ///
    /// The directory is created when it is needed, and nothing is opened yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into().into(), leases: Arc::default() }
    }

    fn files(&self, key: &str) -> Files {
        Files { directory: Arc::clone(&self.directory), name: file_name(key) }
    }

    /// Does the work in a blocking task, under the lock of the key.
    async fn locked<T, W>(&self, key: &str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Files, &mut File, &mut Leases) -> io::Result<T> + Send + 'static,
    {
        let files = self.files(key);
        let start = now();
        let mut work = work;
        loop {
            let (these, leases) = (files.clone(), Arc::clone(&self.leases));
            let tried = blocking(move || {
                let Some(mut lock) = these.try_lock()? else { return Ok(Attempt::Busy(work)) };
                work(&these, &mut lock, &mut guard(&leases)).map(Attempt::Done)
            });
            match tried.await? {
                Attempt::Done(done) => return Ok(done),
                Attempt::Busy(returned) => work = returned,
            }
            if now().saturating_sub(start) > LOCK_DEADLINE {
                let path = files.path("lock");
                let problem = format!("another process has locked {} for {LOCK_DEADLINE:?}", path.display());
                return Err(StoreError::transient(problem));
            }
            clock::sleep(LOCK_PAUSE.mul_f64(0.1 + 0.9 * fastrand::f64())).await;
        }
    }
}

impl TokenStore for FileStore {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let files = self.files(key);
        blocking(move || files.load()).await
    }

    async fn acquire(&self, key: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let owner = owner.to_owned();
        self.locked(key, move |files, lock, leases| files.acquire(lock, leases, owner, ttl)).await
    }

    async fn extend(&self, key: &str, owner: &str, ttl: Duration) -> Result<bool, StoreError> {
        let owner = owner.to_owned();
        self.locked(key, move |files, lock, leases| files.extend(lock, leases, &owner, ttl)).await
    }

    async fn release(&self, key: &str, owner: &str) -> Result<(), StoreError> {
        let owner = owner.to_owned();
        let release = move |files: &Files, lock: &mut File, leases: &mut Leases| {
            if files.holder(lock, leases, &owner)?.is_some() {
                lock.set_len(0)?;
                leases.held.remove(&files.path("lock"));
                let _ = fs::remove_file(files.held_path(&owner));
            }
            Ok(())
        };
        self.locked(key, release).await
    }

    async fn save(&self, key: &str, owner: &str, expected: Option<u64>, bytes: &[u8]) -> Result<Saved, StoreError> {
        let (owner, bytes) = (owner.to_owned(), bytes.to_vec());
        let save = move |files: &Files, lock: &mut File, leases: &mut Leases| {
            if files.holder(lock, leases, &owner)?.is_none() || files.version()? != expected {
                return Ok(Saved::Conflict);
            }
            // The time makes the version unique, also after the file was removed.
            let version = expected.map_or(1, |expected| expected + 1).max(micros());
            files.write(version, None, &bytes)?;
            Ok(Saved::Saved { version })
        };
        self.locked(key, save).await
    }

    async fn set_aside(&self, key: &str, owner: &str, expected: u64) -> Result<Option<String>, StoreError> {
        let owner = owner.to_owned();
        let set_aside = move |files: &Files, lock: &mut File, leases: &mut Leases| {
            if files.holder(lock, leases, &owner)?.is_none() || files.version()? != Some(expected) {
                return Ok(None);
            }
            let aside = files.path("set-aside");
            fs::rename(files.path("json"), &aside).map_err(|error| failed("set aside", &aside, error))?;
            files.sync_directory()?;
            Ok(Some(aside.display().to_string()))
        };
        self.locked(key, set_aside).await
    }

    async fn expire(&self, key: &str, owner: &str, expected: u64, after: Duration) -> Result<(), StoreError> {
        let owner = owner.to_owned();
        let expire = move |files: &Files, lock: &mut File, leases: &mut Leases| {
            if files.holder(lock, leases, &owner)?.is_none() {
                return Ok(());
            }
            if let Some(stored) = files.load()?.filter(|stored| stored.version == expected) {
                let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                files.write(expected, Some(micros().saturating_add(after)), &stored.bytes)?;
            }
            if leases.swept.is_none_or(|swept| now() >= swept + SWEEP_EVERY) {
                leases.swept = Some(now());
                files.sweep();
            }
            Ok(())
        };
        self.locked(key, expire).await
    }
}

// === impl Files ===

impl Files {
    fn path(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", self.name))
    }

    /// The file whose lock this owner's process holds.
    fn held_path(&self, owner: &str) -> PathBuf {
        self.path(&format!("{}.held", Digest::of([owner]).short()))
    }

    // --- the lease ---

    /// The lock file, locked; `None` if another operation holds the lock.
    fn try_lock(&self) -> io::Result<Option<File>> {
        self.make_directory()?;
        let path = self.path("lock");
        let file = private().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| failed("open", &path, error))?;
        check(&path, &file.metadata()?)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path, error)),
        }
    }

    fn acquire(&self, lock: &mut File, leases: &mut Leases, owner: String, ttl: Duration) -> io::Result<Lease> {
        let path = self.path("lock");
        let entry = LeaseEntry::read(lock)?;
        if self.holder(lock, leases, &owner)?.is_some() {
            self.extend(lock, leases, &owner, ttl)?;
            return Ok(Lease::Held);
        }
        if let Some(entry) = entry.filter(|entry| entry.owner != owner) {
            if self.is_alive(&entry.owner) {
                let now = now();
                let (seen, since) = leases.seen.entry(path.clone()).or_insert_with(|| (entry.clone(), now));
                if *seen != entry {
                    (*seen, *since) = (entry.clone(), now);
                }
                let remaining = entry.ttl.saturating_sub(now.saturating_sub(*since));
                if !remaining.is_zero() {
                    return Ok(Lease::Busy { owner: Some(entry.owner), remaining });
                }
            }
            // The owner has died, or was stopped for longer than its lease.
            let _ = fs::remove_file(self.held_path(&entry.owner));
        }
        leases.seen.remove(&path);
        // The entry is written first. If this process dies in between, the entry names a missing file, which means that
        // its owner has died.
        let until = now() + ttl;
        let entry = LeaseEntry { owner: owner.clone(), number: 0, ttl };
        entry.write(lock).map_err(|error| failed("write", &path, error))?;
        let held_path = self.held_path(&owner);
        let file = private().write(true).create(true).truncate(true).open(&held_path);
        let file = file.map_err(|error| failed("make", &held_path, error))?;
        file.lock().map_err(|error| failed("lock", &held_path, error))?;
        leases.held.insert(path, Held { owner, until, _file: Some(file) });
        Ok(Lease::Held)
    }

    fn extend(&self, lock: &mut File, leases: &mut Leases, owner: &str, ttl: Duration) -> io::Result<bool> {
        let Some(entry) = self.holder(lock, leases, owner)? else { return Ok(false) };
        let until = now() + ttl;
        let (entry, path) = (LeaseEntry { number: entry.number + 1, ttl, ..entry }, self.path("lock"));
        entry.write(lock).map_err(|error| failed("write", &path, error))?;
        if let Some(held) = leases.held.get_mut(&path) {
            held.until = until;
        }
        Ok(true)
    }

    /// The lease, if this owner holds it.
    fn holder(&self, lock: &mut File, leases: &mut Leases, owner: &str) -> io::Result<Option<LeaseEntry>> {
        let path = self.path("lock");
        let entry = LeaseEntry::read(lock)?;
        let Some(held) = leases.held.get(&path) else { return Ok(None) };
        let is_current = now() < held.until && entry.as_ref().is_some_and(|entry| entry.owner == held.owner);
        if !is_current {
            // The lease has ended. Dropping it unlocks the file, so that others need not wait.
            leases.held.remove(&path);
            return Ok(None);
        }
        Ok(entry.filter(|entry| entry.owner == owner))
    }

    /// Whether the process of this owner is alive.
    fn is_alive(&self, owner: &str) -> bool {
        match private().write(true).open(self.held_path(owner)) {
            Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
            // The file does not exist yet, or was removed.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    // --- the record ---

    fn load(&self) -> io::Result<Option<Stored>> {
        let path = self.path("json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path, error)),
        };
        check(&self.directory, &fs::metadata(&*self.directory)?)?;
        let metadata = file.metadata()?;
        check(&path, &metadata)?;
        // One more, so that its end is seen without another allocation.
        let room = metadata.len().min(LONGEST) + 1;
        let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default());
        file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| failed("read", &path, error))?;
        let age = metadata.modified().ok().and_then(|saved| clock::wall_time().duration_since(saved).ok());
        let Header { version, expires, len } = Header::parse(&bytes);
        if expires.is_some_and(|expires| expires <= micros()) {
            return Ok(None);
        }
        bytes.drain(..len);
        Ok(Some(Stored::new(bytes, version, age.unwrap_or_default())))
    }

    fn version(&self) -> io::Result<Option<u64>> {
        Ok(self.load()?.map(|stored| stored.version))
    }

    /// Writes a new file and replaces the previous one with it.
    fn write(&self, version: u64, expires: Option<u64>, bytes: &[u8]) -> io::Result<()> {
        let (new, path) = (self.path("new"), self.path("json"));
        let write = || {
            let mut file = private().write(true).create(true).truncate(true).open(&new)?;
            check(&new, &file.metadata()?)?;
            let expires = expires.map(|expires| format!(" {expires}")).unwrap_or_default();
            file.write_all(format!("{HEADER}{version}{expires}\n").as_bytes())?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&new);
            failed("write", &path, error)
        })?;
        self.sync_directory()
    }

    /// Removes the expired records of all keys, each under its lock. A record that cannot be removed now stays for the
    /// next search. The lock files stay, because another process may have opened one.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&*self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let Some(name) = name.filter(|name| *name != self.name && has_expired(&path)) else { continue };
            let files = Self { directory: Arc::clone(&self.directory), name: name.to_owned() };
            // The record is checked again under the lock, because it may have been saved meanwhile.
            if let Ok(Some(_lock)) = files.try_lock()
                && has_expired(&path)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }

    // --- the directory ---

    fn make_directory(&self) -> io::Result<()> {
        match fs::metadata(&*self.directory) {
            Ok(metadata) => check(&self.directory, &metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut builder = fs::DirBuilder::new();
                builder.recursive(true);
                #[cfg(unix)]
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                builder.create(&*self.directory).map_err(|error| failed("make", &self.directory, error))
            }
            Err(error) => Err(failed("open", &self.directory, error)),
        }
    }

    /// Makes the renaming survive a loss of power. Only Unix needs this.
    fn sync_directory(&self) -> io::Result<()> {
        #[cfg(unix)]
        File::open(&*self.directory)?.sync_all().map_err(|error| failed("sync", &self.directory, error))?;
        Ok(())
    }
}

// === impl Header ===

impl Header {
    /// Parses the first line. A file without it has version 0, and the cache cannot read it.
    fn parse(bytes: &[u8]) -> Self {
        let parsed = || {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            let mut numbers = str::from_utf8(&bytes[..end]).ok()?.strip_prefix(HEADER)?.split(' ').map(str::parse);
            let version = numbers.next()?.ok()?;
            Some(Self { version, expires: numbers.next().transpose().ok()?, len: end + 1 })
        };
        parsed().unwrap_or_default()
    }
}

// === impl LeaseEntry ===

impl LeaseEntry {
    /// Returns `None` also if the file is incomplete, because its writer has died.
    fn read(lock: &mut File) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        lock.seek(SeekFrom::Start(0))?;
        Read::by_ref(lock).take(LONGEST).read_to_end(&mut bytes)?;
        let Ok(entry) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
        let parsed = || {
            Some(Self {
                owner: entry["owner"].as_str()?.to_owned(),
                number: entry["number"].as_u64()?,
                ttl: Duration::from_millis(entry["ttl_ms"].as_u64()?),
            })
        };
        Ok(parsed())
    }

    fn write(&self, lock: &mut File) -> io::Result<()> {
        let ttl = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let text = json!({ "owner": self.owner, "number": self.number, "ttl_ms": ttl }).to_string();
        lock.seek(SeekFrom::Start(0))?;
        lock.write_all(text.as_bytes())?;
        lock.set_len(text.len() as u64)
    }
}

// === helpers ===

/// A readable file name for this key, with characters that every file system accepts. It contains a digest, because
/// some file systems ignore case.
fn file_name(key: &str) -> String {
    let readable = key.chars().take(40).map(|c| if c.is_ascii_alphanumeric() || "-_@".contains(c) { c } else { '_' });
    let readable: String = readable.collect();
    format!("{readable}-{}", Digest::of(["tower-bearer-file", key]).short())
}

fn has_expired(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_HEADER).read_to_end(&mut bytes));
    read.is_ok() && Header::parse(&bytes).expires.is_some_and(|expires| expires <= micros())
}

/// Options that create files that only their user can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Rejects a file or directory that another user owns or can write.
#[cfg(unix)]
fn check(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let rejected = |why: &str| {
        let problem = format!("{} {why}; restrict it to this user (chmod go-w, chown)", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return rejected("belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return rejected("may be written by others");
    }
    Ok(())
}

#[cfg(not(unix))]
fn check(_: &Path, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

/// Adds the operation, the file and the next step to an error.
fn failed(what: &str, path: &Path, error: io::Error) -> io::Error {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let remedy = match error.kind() {
        StorageFull | QuotaExceeded => "; free space on its disk",
        ReadOnlyFilesystem => "; mount its disk for writing, or choose another directory",
        PermissionDenied => "; give this user the directory and its files (chown, chmod u+rwX)",
        _ => "",
    };
    io::Error::new(error.kind(), format!("failed to {what} {}: {error}{remedy}", path.display()))
}

/// Runs the work in a blocking task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(StoreError::permanent(error)),
        Ok(Err(error)) => Err(StoreError::transient(error)),
        Err(error) => Err(StoreError::transient(error)),
    }
}

fn guard(leases: &Mutex<Leases>) -> MutexGuard<'_, Leases> {
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The monotonic time.
fn now() -> Duration {
    Clock::System.now().mono
}

fn micros() -> u64 {
    let since_1970 = clock::wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or_default()
}
