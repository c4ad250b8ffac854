//! Real servers, started for a test on a free port of loopback.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write, stderr};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;
use tower_bearer::store::{Lease, Saved, TokenStore};
use tower_bearer_redis::RedisStore;

/// The programs. `tests/install-valkey` installs the last one.
const PROGRAMS: [&str; 3] =
    ["redis-server", "valkey-server", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/valkey/valkey-server")];

/// A running server. It is stopped by its process id when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    /// The port for the other nodes of a cluster.
    pub(crate) cluster_port: Option<u16>,
    program: String,
    options: Vec<String>,
    process: Child,
    folder: TempDir,
}

/// Starts a server of each installed program. Prints a message if there is none.
pub(crate) fn each(options: &[&str]) -> Vec<Server> {
    let servers: Vec<_> = PROGRAMS.iter().filter_map(|program| Server::start(program, options)).collect();
    if servers.is_empty() {
        // The output of `println!` is hidden if the test passes.
        let note = "skipped: no redis-server here that has what the test needs (apt-get install redis-server)\n";
        stderr().write_all(note.as_bytes()).expect("stderr");
    }
    servers
}

/// Fails if it takes much longer than any timeout of these tests.
pub(crate) async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it ends in bounded time")
}

/// Loads until it succeeds, without any other step.
pub(crate) async fn recovers(store: &RedisStore) {
    bounded(async { while store.load("key").await.is_err() {} }).await;
}

/// Saves a record under a new lease, and returns its version.
pub(crate) async fn save(store: &RedisStore, key: &str, expected: Option<u64>, bytes: &[u8]) -> u64 {
    let owner = format!("owner-{key}-{expected:?}");
    assert_eq!(store.acquire(key, &owner, Duration::from_secs(60)).await.expect("a lease"), Lease::Held);
    let saved = store.save(key, &owner, expected, bytes).await.expect("a save");
    store.release(key, &owner).await.expect("a release");
    let Saved::Saved { version } = saved else { panic!("a conflict") };
    version
}

// === impl Server ===

impl Server {
    /// Returns `None` if the program is not installed, or was built without a feature of the options.
    fn start(program: &str, options: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        for _ in 0..20 {
            // Another program may take the port before the server does.
            let port = free_port();
            let cluster_port = options.iter().any(|option| option == "--cluster-enabled").then(free_port);
            match spawn(program, (port, cluster_port), &options, folder.path()) {
                Ok(process) => {
                    return Some(Self { port, cluster_port, program: program.to_owned(), options, process, folder });
                }
                Err(why) if why.contains("Address already in use") => {}
                Err(why) if why.contains("No such file") || why.contains("Failed finding TLS support") => return None,
                Err(why) => panic!("{program} does not start: {why}"),
            }
        }
        panic!("{program} finds no port")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn store(&self) -> RedisStore {
        RedisStore::new(self.url()).expect("a URL")
    }

    /// Runs one command over a new connection. Spaces separate the words.
    pub(crate) async fn admin<T: FromRedisValue>(&self, words: &str) -> T {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await.expect("an answer")
    }

    /// The value of this name in `INFO`.
    pub(crate) async fn info(&self, section: &str, name: &str) -> Option<String> {
        let info: String = self.admin(&format!("INFO {section}")).await;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::to_owned)
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status().expect("kill");
        assert!(status.success(), "kill {signal}");
    }

    pub(crate) fn stop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.process.kill();
        self.process.wait().expect("its end");
    }

    /// Restarts the server on its port, without its data.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.process = spawn(&self.program, (self.port, self.cluster_port), &self.options, self.folder.path())
            .expect("it starts again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}

/// Waits until the server accepts connections. Returns its last lines if it does not.
fn spawn(
    program: &str,
    (port, cluster_port): (u16, Option<u16>),
    options: &[String],
    folder: &Path,
) -> Result<Child, String> {
    let text = |error: &dyn Debug| format!("{error:?}");
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", ""]);
    command.arg("--dir").arg(folder);
    // With TLS, this is the TLS port.
    let tls = options.iter().any(|option| option.starts_with("--tls"));
    let ports = if tls { ["--port", "0", "--tls-port"].as_slice() } else { &["--port"] };
    command.args(ports).arg(port.to_string()).args(options);
    if let Some(cluster_port) = cluster_port {
        // By default it is the port plus 10000, which may be too large.
        command.args(["--cluster-port", &cluster_port.to_string()]);
    }
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut process = spawned.map_err(|error| error.to_string())?;

    // Reads the pipes to their ends, so that the server never waits for a reader.
    let (ready, wait) = mpsc::channel();
    let lines = ready.clone();
    let (out, err) = (process.stdout.take().expect("piped"), process.stderr.take().expect("piped"));
    for stream in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
        let lines = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // The receiver is dropped after the start.
                let _ = lines.send(line);
            }
        });
    }
    drop((ready, lines));
    let mut said = String::new();
    loop {
        match wait.recv_timeout(Duration::from_secs(60)) {
            Ok(line) if line.contains("Ready to accept connections") => return Ok(process),
            Ok(line) => said = format!("{said}{line}\n"),
            Err(error) => {
                let _ = process.kill();
                process.wait().map_err(|error| text(&error))?;
                return Err(format!("{said}{error}"));
            }
        }
    }
}
