//! Real processes share a session in a directory. Many run at once, are killed at each step, or stop past their lease.
//!
//! A process is this test binary, which runs only the test `process`. The issuer is in the parent, behind a socket.

use std::env;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tower_bearer::store::{FileStore, SharedSession};
use tower_bearer::{Error, FetchContext, Secret, Token, TokenCache, TokenSource};

use crate::harness::{Issuer, KEY, Mortal, SECOND, Steps};

// === the issuer ===

/// Serves the issuer on loopback. A request is a line with a refresh token, and its answer is a line.
async fn serve(issuer: Issuer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let issuer = issuer.clone();
            tokio::spawn(async move {
                let mut line = String::new();
                let (read, mut write) = stream.split();
                if BufReader::new(read).read_line(&mut line).await.is_err() {
                    return;
                }
                let answer = match issuer.answer(Some(line.trim())).await {
                    Ok(token) => {
                        let refresh_token = token.refresh_token().unwrap();
                        format!(
                            "{} {} {}\n",
                            token.access_token(),
                            refresh_token.expose(),
                            token.lifetime().as_millis()
                        )
                    }
                    Err(_) => "denied\n".to_owned(),
                };
                let _ = write.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

/// A process's client of the issuer.
struct Remote {
    address: String,
    steps: Steps,
    /// Whether the process is stopped after it gets its answer.
    stops: bool,
}

impl TokenSource for Remote {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let refresh_token = context.refresh_token().unwrap_or_else(|| "seed".into());
        self.steps.step().await;
        let mut stream = TcpStream::connect(&self.address).await.map_err(Error::transient)?;
        stream.write_all(format!("{}\n", refresh_token.expose()).as_bytes()).await.map_err(Error::transient)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.map_err(Error::transient)?;
        self.steps.step().await;
        if self.stops {
            signal("STOP", std::process::id());
        }
        let parts: Vec<_> = line.split_whitespace().collect();
        let [token, refresh_token, lifetime] = parts[..] else { return Err(Error::denied("invalid_grant")) };
        let lifetime = Duration::from_millis(lifetime.parse().unwrap());
        Ok(Token::new(token)?.with_lifetime(lifetime).with_refresh_token(refresh_token))
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        Ok(Some("seed".into()))
    }
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().unwrap();
    assert!(sent.success());
}

// === a process ===

/// Starts a process with a task: `get` or `refresh` once, or `work` for a number of milliseconds.
fn start(address: &str, directory: &Path, task: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "processes::process", "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env("ISSUER", address).env("DIRECTORY", directory).env("TASK", task);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The line that the process printed: `token ..` or `error ..`.
fn printed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("answer: ").map(|(_, answer)| answer.to_owned()));
    line.unwrap_or_else(|| format!("nothing; {:?} {text} {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[test]
#[ignore = "is what the tests here start"]
fn process() {
    let Ok(address) = env::var("ISSUER") else { return };
    let steps = match env::var("STEPS") {
        Ok(steps) => Steps::new(steps.parse().unwrap()),
        Err(_) => Steps::default(),
    };
    let store = Mortal::new(FileStore::new(env::var("DIRECTORY").unwrap()), &steps);
    let session = SharedSession::new(store, KEY).lease(SECOND).poll_interval(SECOND / 2);
    let source = Remote { address, steps: steps.clone(), stops: env::var("STOPS").is_ok() };
    let cache = TokenCache::builder(source).shared_session(session).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(async move {
            // At the last step, the process is killed.
            while !steps.are_over() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            signal("KILL", std::process::id());
        });
        let task = env::var("TASK").unwrap();
        let answer = match &*task {
            "get" => cache.get().await,
            "refresh" => match cache.get().await {
                Ok(_) => cache.refresh().await,
                Err(error) => Err(error),
            },
            millis => {
                let end = tokio::time::Instant::now() + Duration::from_millis(millis.parse().unwrap());
                loop {
                    let answer = cache.get().await;
                    if answer.is_err() || tokio::time::Instant::now() > end {
                        break answer;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        match answer {
            Ok(token) => println!("answer: token {}", token.access_token()),
            Err(error) => println!("answer: error {error}"),
        }
    });
}

// === tests ===

#[tokio::test]
async fn twenty_four_processes_started_at_once_make_one_call() {
    let (issuer, home) = (Issuer::new(), tempfile::tempdir().unwrap());
    let address = serve(issuer.clone()).await;
    let all: Vec<_> = (0..24).map(|_| tokio::spawn(run(start(&address, &home.path().join("s"), "get")))).collect();
    for process in all {
        assert_eq!(printed(&process.await.unwrap()), "token t1");
    }
    assert_eq!((issuer.calls(), issuer.reused()), (1, 0));
}

#[tokio::test]
async fn processes_with_tokens_of_seconds_never_log_each_other_out() {
    let (issuer, home) = (Issuer::new(), tempfile::tempdir().unwrap());
    issuer.lifetime(3 * SECOND);
    let address = serve(issuer.clone()).await;
    let all: Vec<_> = (0..8).map(|_| tokio::spawn(run(start(&address, &home.path().join("s"), "8000")))).collect();
    for process in all {
        let answer = printed(&process.await.unwrap());
        assert!(answer.starts_with("token"), "{answer}");
    }
    assert_eq!((issuer.reused(), issuer.most_at_once()), (0, 1));
    assert!(issuer.calls() >= 3, "the token ended meanwhile");
}

#[tokio::test]
async fn a_process_may_be_killed_at_any_step() {
    let mut windows = 0;
    for steps in 0.. {
        let (issuer, home) = (Issuer::new(), tempfile::tempdir().unwrap());
        issuer.delay(Duration::ZERO);
        let (address, directory) = (serve(issuer.clone()).await, home.path().join("s"));
        assert_eq!(printed(&run(start(&address, &directory, "get")).await), "token t1");
        let mut killed = start(&address, &directory, "refresh");
        killed.env("STEPS", steps.to_string());
        let killed = run(killed).await;
        let survived = killed.status.success();
        let called = issuer.calls() == 2;
        let saved = printed(&run(start(&address, &directory, "get")).await);
        let answer = printed(&run(start(&address, &directory, "refresh")).await);
        if called && saved == "token t1" {
            windows += 1;
            assert!(answer.contains("a process died"), "after {steps} steps: {answer}");
        } else {
            assert!(answer.starts_with("token"), "after {steps} steps: {answer}");
            assert_eq!(issuer.reused(), 0, "after {steps} steps");
        }
        if survived {
            assert!(steps > 10, "it survived {steps} steps");
            break;
        }
    }
    // A process dies with its answer in flight and with its save in flight. On a slow machine, an extension of the
    // lease is between them.
    assert!((1..8).contains(&windows), "{windows} windows");
}

#[tokio::test]
async fn a_process_that_is_stopped_past_its_lease_does_not_overwrite_the_newer_record() {
    let (issuer, home) = (Issuer::new(), tempfile::tempdir().unwrap());
    issuer.forgive();
    let (address, directory) = (serve(issuer.clone()).await, home.path().join("s"));
    assert_eq!(printed(&run(start(&address, &directory, "get")).await), "token t1");
    let mut stopped = start(&address, &directory, "refresh");
    let stopped = stopped.env("STOPS", "1").spawn().unwrap();
    while issuer.calls() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The process stops before it saves its answer. The next process gets the lease after that.
    assert_eq!(printed(&run(start(&address, &directory, "refresh")).await), "token t3");
    signal("CONT", stopped.id());
    let output = tokio::task::spawn_blocking(move || stopped.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(printed(&output), "token t3", "it adopts what is there");
    assert_eq!(printed(&run(start(&address, &directory, "get")).await), "token t3");
    assert_eq!(issuer.calls(), 3);
}
