//! A proxy that delays or loses a server's answers, and a server with fixed answers.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_bearer_redis::RedisStore;

/// A proxy, which ends when this is dropped.
pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Whether answers wait.
    held: bool,
    /// Whether the next answer is lost with its connection.
    loses: bool,
    /// The number of connections so far.
    connections: usize,
    /// The number of the first connections whose answers wait.
    dead: usize,
}

// === impl Proxy ===

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (state, _) = watch::channel(State::default());
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = shared.borrow().connections;
                shared.send_modify(|state| state.connections += 1);
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server");
                connections.spawn(carry(client, server, number, shared.clone()));
            }
        });
        Self { port, state, _tasks: tasks }
    }

    pub(crate) fn store(&self, timeout: Duration) -> RedisStore {
        RedisStore::new(format!("redis://127.0.0.1:{}", self.port)).expect("a URL").timeout(timeout)
    }

    pub(crate) fn hold(&self) {
        self.state.send_modify(|state| state.held = true);
    }

    pub(crate) fn resume(&self) {
        self.state.send_modify(|state| state.held = false);
    }

    /// Keeps the current connections open, and stops their answers.
    pub(crate) fn kill_silently(&self) {
        self.state.send_modify(|state| state.dead = state.connections);
    }

    /// Ends a connection after the next command on it, before its answer.
    pub(crate) fn lose_answer(&self) {
        self.state.send_modify(|state| state.loses = true);
    }
}

async fn carry(client: TcpStream, server: TcpStream, number: usize, state: watch::Sender<State>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let answers = async {
        let mut buffer = vec![0; 100_000];
        let mut watched = state.subscribe();
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if state.send_if_modified(|state| std::mem::take(&mut state.loses)) {
                return;
            }
            let passes = |state: &State| !state.held && number >= state.dead;
            if watched.wait_for(passes).await.is_err() || to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
    }
}

/// Starts a server that sends one of these answers after each read. Returns its port.
pub(crate) async fn scripted(answers: &'static [&'static str]) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            for answer in answers {
                let mut request = vec![0; 100_000];
                assert_ne!(client.read(&mut request).await.expect("a request"), 0, "the client has gone");
                client.write_all(answer.as_bytes()).await.expect("sent");
            }
        }
    });
    (port, tasks)
}
