//! A server that reads a request, writes these bytes, and closes the connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Raw {
    address: SocketAddr,
    received: Arc<Mutex<Vec<String>>>,
}

impl Raw {
    /// Writes each answer to one connection. The server accepts no connection after the last.
    pub(crate) async fn start(answers: impl IntoIterator<Item = &'static str>) -> Self {
        Self::hanging_up(answers, false).await
    }

    /// Closes each connection after its answer, with a reset if `resets`. A reset may overtake the answer.
    pub(crate) async fn hanging_up(answers: impl IntoIterator<Item = &'static str>, resets: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let raw = Self { address: listener.local_addr().expect("an address"), received: Arc::default() };
        let received = Arc::clone(&raw.received);
        let answers: Vec<_> = answers.into_iter().collect();
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let request = request(&mut socket).await;
                received.lock().expect("no panic").push(request);
                socket.write_all(answer.as_bytes()).await.expect("the client reads");
                if resets {
                    socket.set_zero_linger().expect("a socket");
                }
            }
        });
        raw
    }

    /// `http://127.0.0.1:port`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bytes of all requests so far.
    pub(crate) fn received(&self) -> Vec<String> {
        self.received.lock().expect("no panic").clone()
    }
}

async fn request(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let read = socket.read_buf(&mut bytes).await.expect("the client writes");
        let text = String::from_utf8(bytes.clone()).expect("text");
        if read == 0 || is_whole(&text) {
            return text;
        }
    }
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if head.contains("transfer-encoding: chunked") {
        (body.starts_with("0\r\n") || body.contains("\r\n0\r\n")) && body.ends_with("\r\n\r\n")
    } else {
        body.len() >= length.unwrap_or(0)
    }
}
