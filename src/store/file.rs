//! The store of the processes of one machine: a directory.
//!
//! # The story
//! A key has up to four files, whose name begins with the key and ends with a digest of it:
//!
//! | file | holds |
//! |---|---|
//! | `….json` | the record, behind a line with its version and, if it expires, when. Replaced by renaming, so a reader needs no lock |
//! | `….lock` | who has the lease. Never renamed; the lock of the operating system on it is held for one operation |
//! | `….held` | nothing. Its lock is held as long as the lease, and dies with its process |
//! | `….new`, `….set-aside` | the record that is being written; the one that could not be read |
//!
//! Whether a lease has ended is decided without a clock that could jump. A holder that died is known by its lock, at once. A
//! holder that is stopped keeps its lock: whoever wants the lease sees the same number in the lock file for as long as the
//! lease lasts, by its own monotonic clock, and takes it. The holder counts its own time from before, so it gives up first.
//!
//! Every operation is one blocking task. The lock file is tried and never waited for in that task, so that no thread of the
//! runtime is held up by a process that is stopped.

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
/// The directory belongs to the application, and is made with the first record. Records are written as new files, synced
/// and renamed; a process that is killed at any point leaves the former record or the new one. Directory and files are
/// readable by their user only (0700, 0600), and are rejected if others own them or may write them. A lease ends at once when
/// its process dies.
///
/// The record of a session that has ended is gone after 30 days; its file is removed when another session ends.
///
/// The directory is on a local disk: the locks of network file systems differ. There are no notifications, so other
/// processes learn of a new login at their next [look](crate::store::SharedSession::look_every).
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

/// What this process knows of leases.
#[derive(Debug, Default)]
struct Leases {
    /// The leases of this process, by the path of the lock file: the owner, its locked file, and when it gives up.
    held: HashMap<PathBuf, Held>,
    /// The leases of others: since when this process has seen the same one.
    seen: HashMap<PathBuf, (LeaseEntry, Duration)>,
    /// When this process last looked for records that have expired.
    swept: Option<Duration>,
}

#[derive(Debug)]
struct Held {
    owner: String,
    until: Duration,
    /// Locked for as long as it is open.
    _file: Option<File>,
}

/// What a lock file says.
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

/// One try to do the work under the lock.
enum Try<T, W> {
    Done(T),
    /// The lock is another's: the work is given back.
    Busy(W),
}

/// How long an operation waits for the lock, which is held for one operation of another process.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
/// Between two tries for the lock, at most.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// No first line is longer.
const LONGEST_HEADER: u64 = 128;
/// No record is longer.
const LONGEST: u64 = 1024 * 1024;
/// Between two searches for records that have expired.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// What the first line of a record begins with. Its version follows, and when it expires, in microseconds since 1970.
const HEADER: &str = "tower-bearer-file-1 ";

// === impl FileStore ===

impl FileStore {
    /// The store in this directory, which is made when it is needed. Nothing is opened yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into().into(), leases: Arc::default() }
    }

    fn files(&self, key: &str) -> Files {
        Files { directory: Arc::clone(&self.directory), name: file_name(key) }
    }

    /// Does the work in one blocking task, under the lock of the key.
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
                let Some(mut lock) = these.try_lock()? else { return Ok(Try::Busy(work)) };
                work(&these, &mut lock, &mut guard(&leases)).map(Try::Done)
            });
            match tried.await? {
                Try::Done(done) => return Ok(done),
                Try::Busy(given_back) => work = given_back,
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
            // Also after the file was removed, no version comes twice.
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

    /// The file whose lock lives as long as this owner's process.
    fn held_path(&self, owner: &str) -> PathBuf {
        self.path(&format!("{}.held", Digest::of([owner]).short()))
    }

    // --- the lease ---

    /// The lock file, locked; `None` if another operation has it.
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
            // Dead, or stopped for longer than its lease.
            let _ = fs::remove_file(self.held_path(&entry.owner));
        }
        leases.seen.remove(&path);
        // The entry comes first: if this process dies in between, it names a file that is not there, which is a dead owner.
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
        let lives = now() < held.until && entry.as_ref().is_some_and(|entry| entry.owner == held.owner);
        if !lives {
            // Given up: the lock on the file goes, and others need not wait.
            leases.held.remove(&path);
            return Ok(None);
        }
        Ok(entry.filter(|entry| entry.owner == owner))
    }

    /// Whether the process of this owner is alive.
    fn is_alive(&self, owner: &str) -> bool {
        match private().write(true).open(self.held_path(owner)) {
            Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
            // Not made yet, or removed.
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

    /// Writes a new file and puts it in the place of the former one.
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

    /// Removes the records of all keys that have expired, each under its lock. What cannot be removed now is left for the
    /// next time. The lock files stay: another process may have opened one.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&*self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let Some(name) = name.filter(|name| *name != self.name && has_expired(&path)) else { continue };
            let files = Self { directory: Arc::clone(&self.directory), name: name.to_owned() };
            // Looked at again under the lock, because it may have been saved meanwhile.
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

    /// Has the renaming survive a loss of power. Other systems than Unix do so by themselves.
    fn sync_directory(&self) -> io::Result<()> {
        #[cfg(unix)]
        File::open(&*self.directory)?.sync_all().map_err(|error| failed("sync", &self.directory, error))?;
        Ok(())
    }
}

// === impl Header ===

impl Header {
    /// A file without the first line has version 0, and is no record.
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
    /// `None` also if the file was half written: then its writer died.
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

/// A file name for this key: readable, of characters that every file system takes, and with a digest, because file systems
/// may not tell capitals apart.
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

/// For files that only their user may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Rejects what another user owns or may write.
#[cfg(unix)]
fn check(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let rejected = |why: &str| {
        let problem = format!("{} {why}; make it this user's alone (chmod go-w, chown)", path.display());
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

/// Says what was done to which file, and what a person can do.
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

/// Runs the work where it may block.
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

/// The monotonic clock.
fn now() -> Duration {
    Clock::System.now().mono
}

fn micros() -> u64 {
    let since_1970 = clock::wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or_default()
}
