//! The sidecar as a child process, and its fake servers.

use std::io::Read;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tower::{BoxError, Service};
use tower_bearer::testing::{Collected, TokenServer};

/// The timeout of each step of a test, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const SECRET: &str = "sekrit-of-the-client";

/// A running sidecar, which is killed by its id when this is dropped.
pub(crate) struct Sidecar {
    pub(crate) child: Child,
    /// Its address: `http://127.0.0.1:..` or `unix:..`.
    pub(crate) base: String,
    pub(crate) status: Option<String>,
    /// Its standard output at the start.
    pub(crate) said: String,
    log: Arc<Mutex<String>>,
}

/// The exit status and the output of a command.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
}

// === impl Sidecar ===

impl Sidecar {
    /// Starts a sidecar on a free port, with a status address and the client's secret.
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[("SIDECAR_CLIENT_SECRET", SECRET)]).await
    }

    /// Starts a sidecar with client credentials of this issuer.
    pub(crate) async fn of(issuer: &str, upstream: &str, more: &[&str]) -> Self {
        let token_url = format!("{issuer}/token");
        let mut args = vec!["--upstream", upstream, "--token-url", &token_url];
        args.extend(["--grant", "client-credentials", "--client-id", "my-app"]);
        args.extend(more);
        Self::start(&args).await
    }

    pub(crate) async fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(variables);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(["--status-listen", "127.0.0.1:0"]).args(args);
        Self::started(command).await
    }

    /// Starts a sidecar that only variables configure.
    pub(crate) async fn start_by_variables(variables: &[(&str, &str)]) -> Self {
        Self::started(command(variables)).await
    }

    async fn started(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the sidecar starts");
        let log = Arc::<Mutex<String>>::default();
        collect(child.stderr.take().unwrap(), &log);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut base, mut status, mut said) = (None, None, String::new());
        while base.is_none() {
            let line = patiently(lines.next_line()).await.unwrap();
            let Some(line) = line else { panic!("it ended early: {}", log.lock().unwrap()) };
            let place =
                |start: &str| line.strip_prefix(start).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
            status = status.or(place("status at "));
            base = place("listening at ");
            said += &line;
        }
        Self { child, base: base.unwrap(), status, said, log }
    }

    /// The status of a GET at its Unix socket.
    pub(crate) async fn get_by_socket(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.base.strip_prefix("unix:").unwrap()).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        patiently(stream.read_to_string(&mut answer)).await.unwrap();
        status_of(&answer).to_owned()
    }

    pub(crate) fn host(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }

    pub(crate) fn port(&self) -> &str {
        self.base.rsplit(':').next().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        text(send(get(&format!("{}{path}", self.base))).await).await
    }

    /// The answer of the status address.
    pub(crate) async fn status(&self, path: &str) -> (StatusCode, String) {
        text(send(get(&format!("{}{path}", self.status.as_ref().unwrap()))).await).await
    }

    /// The number of answers by `by`, which is `upstream` or a code of the sidecar.
    pub(crate) async fn answered(&self, by: &str) -> u64 {
        self.counted("sidecar_requests_total", by).await.unwrap_or_default()
    }

    /// The sum of a counter with this value of a label, or `None` if it is not registered.
    pub(crate) async fn counted(&self, counter: &str, label: &str) -> Option<u64> {
        let (_, metrics) = self.status("/metrics").await;
        let of_this = |line: &&str| {
            line.strip_prefix(counter).is_some_and(|labels| labels.starts_with('{'))
                && line.contains(&format!("\"{label}\""))
        };
        let mut counts = metrics.lines().filter(of_this).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap());
        counts.next().map(|first: u64| first + counts.sum::<u64>())
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        patiently(self.child.wait()).await.unwrap()
    }
}

/// Runs a sidecar that must not start.
pub(crate) async fn fails(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    ended(spawn(args, variables)).await
}

/// Starts a sidecar, and does not wait until it listens.
pub(crate) fn spawn(args: &[&str], variables: &[(&str, &str)]) -> Child {
    command(variables).args(args).spawn().unwrap()
}

pub(crate) async fn ended(child: Child) -> Ended {
    let output = patiently(child.wait_with_output()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    Ended { status: output.status, said: String::from_utf8_lossy(&said).into_owned() }
}

/// The binary with these variables, and no others.
fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-bearer-sidecar"));
    command.env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn collect(mut from: tokio::process::ChildStderr, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    });
}

// === servers and calls ===

/// Serves a fake on a free port, and returns its base URL.
pub(crate) async fn serve<S>(fake: S) -> String
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(Collected::new(fake.clone()));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    base
}

/// An issuer over a socket.
pub(crate) async fn issuer() -> (TokenServer, String) {
    let issuer = TokenServer::new();
    let base = serve(issuer.clone()).await;
    (issuer, base)
}

pub(crate) fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) async fn send(request: Request<Full<Bytes>>) -> Response<Incoming> {
    patiently(client().request(request)).await.unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = patiently(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Writes these bytes, and reads until the other side closes. No client sends such requests.
pub(crate) async fn raw(host: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    patiently(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

/// The status of a raw answer.
pub(crate) fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("within a minute")
}

/// Waits until the condition is true.
pub(crate) async fn until<F: Future<Output = bool>>(mut so: impl FnMut() -> F) {
    patiently(async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Whether a program is installed. If not, prints that its test is skipped.
pub(crate) fn there_is(program: &str, args: &[&str]) -> bool {
    let asked = std::process::Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = asked.is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: `{program} {}` does not run here; install it to run this test", args.join(" "));
    }
    there
}

pub(crate) fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let mut text = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}
