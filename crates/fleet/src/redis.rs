//! A redis-server from the `PATH`, on a free port of loopback.
//!
//! It is the child of a guard process, which runs this program and stops the server when its own standard input ends.
//! So the server does not outlive the fleet, even if the fleet is killed.

use std::io::{BufRead, BufReader, Read, stdin};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tower::BoxError;

pub(crate) const SUBCOMMAND: &str = "__redis";

/// A running server, which ends when this is dropped.
pub(crate) struct Redis {
    pub(crate) url: String,
    guard: Child,
    _directory: TempDir,
}

impl Redis {
    /// Returns when it accepts connections.
    pub(crate) fn start() -> Result<Self, BoxError> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut guard = Command::new(std::env::current_exe()?)
            .args([SUBCOMMAND, &port.to_string()])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("it is piped")).read_line(&mut line)?;
        let redis = Self { url: format!("redis://127.0.0.1:{port}"), guard, _directory: directory };
        if line.trim() == "ready" { Ok(redis) } else { Err("redis-server did not start".into()) }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // It fails only if the guard has already ended.
        let _ = self.guard.wait();
    }
}

/// Runs the server until standard input ends.
pub(crate) fn guard(port: &str, directory: &str) -> Result<(), BoxError> {
    let mut server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--logfile", ""])
        .args(["--dir", directory])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("failed to start redis-server: {error}; install it, or name a server with --redis"))?;
    let mut lines = BufReader::new(server.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    let mut said = Vec::new();
    let ready = lines.by_ref().any(|line| {
        said.push(line);
        said.last().is_some_and(|line| line.contains("Ready to accept connections"))
    });
    if !ready {
        server.wait()?;
        return Err(format!("redis-server ended at once:\n{}", said.join("\n")).into());
    }
    println!("ready");
    // The output is read to its end, so that the server never blocks on it.
    std::thread::spawn(move || lines.for_each(drop));
    // An error counts as the end, too.
    let _ = stdin().read_to_end(&mut Vec::new());
    server.kill()?;
    server.wait()?;
    Ok(())
}
