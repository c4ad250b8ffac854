//! A redis-server from the path, on a free port of loopback.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tower::BoxError;

/// A running server, which ends when this is dropped.
pub(crate) struct RedisServer {
    pub(crate) url: String,
    process: Child,
}

impl RedisServer {
    /// Waits until the server accepts connections. Returns `None` if there is no redis-server.
    pub(crate) fn start() -> Result<Option<Self>, BoxError> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", ""]);
        command.args(["--port", &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let Ok(mut process) = command.spawn() else { return Ok(None) };
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let server = Self { url: format!("redis://127.0.0.1:{port}"), process };
        if !lines.by_ref().any(|line| line.contains("Ready to accept connections")) {
            return Err("redis-server does not start".into());
        }
        // Reads the pipes to their end, so that the server never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Some(server))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
