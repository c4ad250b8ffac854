//! Several sidecars share one session in a store.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tower_bearer::testing::{Answer, Api, MeshyDbServer};

use crate::harness::{SECRET, Sidecar, fails, issuer, json, patiently, read, serve, spawn, until, write};

const LIFETIME: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);
/// How many tokens expire while the sidecars run.
const EXPIRIES: usize = 3;
const PATH: &str = "/acme/meshes/person";
const SEAL_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

/// A server whose refresh tokens work once. A second use ends the session.
fn meshydb() -> MeshyDbServer {
    MeshyDbServer::new("acme", "public-key").user("ann", "pw-of-ann")
}

/// A sidecar of ann's session in this store.
async fn sidecar(base: &str, store: &str, more: &[&str]) -> Sidecar {
    let account = ["--preset", "meshydb", "--account", "acme", "--public-key", "public-key", "--username", "ann"];
    let places = ["--upstream", base, "--issuer", base];
    // A URL with a password is allowed only in the variable.
    let variables = [("SIDECAR_PASSWORD", "pw-of-ann"), ("SIDECAR_STORE", store)];
    Sidecar::start_with(&[&account[..], &places, more].concat(), &variables).await
}

/// The refresh tokens that were sent, and the number of logins with a password.
fn sent(server: &MeshyDbServer) -> (Vec<String>, usize) {
    let forms = server.requests().into_iter().filter(|request| request.uri.path().ends_with("/connect/token"));
    let forms: Vec<_> = forms.map(|request| request.form()).collect();
    let logins = forms.iter().filter(|form| form["grant_type"] == "password").count();
    (forms.into_iter().filter_map(|mut form| form.remove("refresh_token")).collect(), logins)
}

/// All sidecars together make one login, and one token call for each token that expires, even after one was killed.
async fn share(store: &str) {
    let server = meshydb();
    server.lifetime(LIFETIME);
    let base = serve(server.clone()).await;
    let mut first = sidecar(&base, store, &[]).await;
    assert_eq!(first.get(PATH).await.0, 200);
    let second = sidecar(&base, store, &[]).await;
    assert_eq!(second.get(PATH).await.0, 200);

    until(async || server.token_calls().total() >= EXPIRIES).await;
    // The next token does not expire.
    server.lifetime(HOUR);
    let newest = async |sidecar: &Sidecar| {
        assert_eq!(sidecar.get(PATH).await.0, 200);
        let (_, health) = sidecar.status("/health").await;
        assert!(json(&health)["store"]["error"].is_null(), "{health}");
        json(&health)["usable_for_seconds"].as_f64().unwrap_or_default() > 2.0 * LIFETIME.as_secs_f64()
    };
    until(async || newest(&first).await && newest(&second).await).await;
    let calls = server.token_calls().total();
    let (refresh_tokens, logins) = sent(&server);
    assert_eq!((logins, refresh_tokens.len()), (1, calls - 1));
    assert_eq!(refresh_tokens.iter().collect::<HashSet<_>>().len(), calls - 1, "each was sent once");

    first.signal("KILL").await;
    first.ended().await;
    let third = sidecar(&base, store, &[]).await;
    for sidecar in [&second, &third] {
        assert_eq!(sidecar.get(PATH).await.0, 200);
    }
    assert_eq!((server.token_calls().total(), server.reuses(), server.api().rejected()), (calls, 0, 0));
}

#[tokio::test]
async fn sidecars_of_one_machine_share_a_session_in_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("store");
    share(&format!("file:{}", directory.display())).await;
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
}

/// A server on a free port, which is killed by its id when this is dropped.
struct Redis {
    port: u16,
    process: Child,
}

impl Redis {
    fn start(directory: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--logfile", ""]);
        command.args(["--requirepass", SECRET, "--dir"]).arg(directory).stdin(Stdio::null()).stdout(Stdio::piped());
        let Ok(mut process) = command.spawn() else {
            eprintln!("SKIPPED: `redis-server` does not run here; install it to run this test");
            return None;
        };
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let redis = Self { port, process };
        assert!(lines.any(|line| line.contains("Ready to accept connections")), "it does not start");
        // Reads the pipe to its end, so that the server never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Some(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn sidecars_of_a_fleet_share_a_session_in_redis() {
    let home = tempfile::tempdir().unwrap();
    let Some(redis) = Redis::start(home.path()) else { return };
    share(&format!("redis://:{SECRET}@127.0.0.1:{}", redis.port)).await;

    let url = format!("redis://:wrong-password@127.0.0.1:{}", redis.port);
    let args = ["--upstream", "https://a.example", "--token-command", "/bin/cat", "--listen", "127.0.0.1:0"];
    let ended = fails(&args, &[("SIDECAR_STORE", &url)]).await;
    assert!(ended.status.code() == Some(2) && ended.said.contains("--store: "), "{}", ended.said);
    assert!(!ended.said.contains("wrong-password"), "{}", ended.said);
}

#[tokio::test]
async fn a_sidecar_starts_while_the_server_of_its_store_is_down() {
    let server = meshydb();
    let base = serve(server.clone()).await;
    let sidecar = sidecar(&base, "redis://127.0.0.1:1", &[]).await;
    // A login uses no refresh token of another sidecar.
    assert_eq!(sidecar.get(PATH).await.0, 200);
    let (_, health) = sidecar.status("/health").await;
    assert!(json(&health)["store"]["error"].as_str().unwrap().contains("the token store"), "{health}");
    assert!(sidecar.log().contains("the store is not there yet"), "{}", sidecar.log());
}

#[tokio::test]
async fn a_sealed_session_shows_no_token_in_its_files_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("store");
    let key = write(&home.path().join("key"), SEAL_KEY);
    let server = meshydb();
    let base = serve(server.clone()).await;
    let store = format!("file:{}", directory.display());
    for _ in 0..2 {
        let sidecar = sidecar(&base, &store, &["--store-seal-key-file", &key]).await;
        assert_eq!(sidecar.get(PATH).await.0, 200);
        assert_eq!(server.token_calls().total(), 1);
    }
    let token = server.ledger().newest().unwrap();
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
    let record = files.iter().find(|path| path.extension().is_some_and(|kind| kind == "json")).unwrap();
    let bytes = std::fs::read(record).unwrap();
    assert!(!bytes.windows(token.len()).any(|part| part == token.as_bytes()), "the token is in {}", record.display());
}

#[tokio::test]
async fn a_person_logs_in_at_one_sidecar_for_all() {
    let home = tempfile::tempdir().unwrap();
    let store = format!("file:{}", home.path().join("store").display());
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    let upstream = serve(Api::new(issuer.ledger())).await;
    let (device_url, token_url) = (format!("{tokens}/device"), format!("{tokens}/token"));
    let place = ["--upstream", &upstream, "--device-authorization-url", &device_url, "--token-url", &token_url];
    let login = ["--grant", "device-code", "--client-id", "my-cli", "--scope", "offline_access", "--store", &store];
    let args = [&place[..], &login].concat();
    let code = serde_json::json!({
        "device_code": "the-device-code",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://auth.example.com/device",
        "expires_in": 600,
        "interval": 1,
    });
    issuer.queue(Answer::json(200, code));

    // While the store is down, the sidecar asks no person to log in, because there may be a session.
    let down = [&args[..args.len() - 1], &["redis://127.0.0.1:1"]].concat();
    let mut waiting = spawn(&down, &[]);
    let mut lines = tokio::io::BufReader::new(waiting.stderr.take().unwrap()).lines();
    let mut said = String::new();
    patiently(async {
        while !said.contains("whether there is a session is not known") {
            said += &lines.next_line().await.unwrap().expect("it waits");
        }
    })
    .await;
    assert!(!said.contains("enter") && issuer.calls().total() == 0, "{said}");
    drop(waiting);

    let first = Sidecar::start_with(&args, &[]).await;
    until(async || first.log().contains("enter WDJB-MJHT") && first.log().contains("Logged in.\n")).await;
    assert_eq!(first.get("/me").await.0, 200);
    drop(first);
    for _ in 0..2 {
        let next = Sidecar::start_with(&args, &[]).await;
        assert_eq!(next.get("/me").await.0, 200);
        assert!(!next.log().contains("enter"), "{}", next.log());
    }
    assert_eq!(issuer.calls().total(), 2, "a code, and a token");
}

/// A restarted sidecar has the old refresh token of its file, and continues the session of the store.
#[tokio::test]
async fn a_refresh_token_begins_the_session_and_its_file_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let store = format!("file:{}", home.path().join("store").display());
    let path = home.path().join("refresh");
    let file = write(&path, "seed\n");
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    issuer.lifetime(LIFETIME);
    let upstream = serve(Api::new(issuer.ledger())).await;
    let token_url = format!("{tokens}/token");
    let place = ["--upstream", &upstream, "--token-url", &token_url, "--grant", "refresh-token", "--client-id", "me"];
    let args = [&place[..], &["--refresh-token-file", &file, "--store", &store]].concat();
    for _ in 0..2 {
        let before = issuer.calls().total();
        let mut sidecar = Sidecar::start_with(&args, &[]).await;
        until(async || issuer.calls().total() > before + 1).await;
        assert_eq!(sidecar.get("/me").await.0, 200);
        // SIGTERM waits for a refresh in flight.
        sidecar.signal("TERM").await;
        sidecar.ended().await;
    }
    let sent = issuer.requests().into_iter().map(|call| call.form()["refresh_token"].clone());
    for (number, refresh_token) in sent.enumerate() {
        let expected = if number == 0 { "seed".to_owned() } else { format!("refresh-{number}") };
        assert_eq!(refresh_token, expected);
    }
    assert_eq!(read(&path), "seed\n");
}

#[tokio::test]
async fn sidecars_of_other_users_do_not_take_the_session_under_a_key_that_they_share_by_mistake() {
    let home = tempfile::tempdir().unwrap();
    let store = format!("file:{}", home.path().join("store").display());
    let server = meshydb().user("bob", "pw-of-ann");
    let base = serve(server.clone()).await;
    let ann = sidecar(&base, &store, &["--store-key", "ours"]).await;
    assert_eq!(ann.get(PATH).await.0, 200);
    let account = ["--preset", "meshydb", "--account", "acme", "--public-key", "public-key", "--username", "bob"];
    let places = ["--upstream", &base, "--issuer", &base, "--store", &store];
    let of_bob = |more: &[&'static str]| [&account[..], &places, more].concat();
    let variables = [("SIDECAR_PASSWORD", "pw-of-ann")];
    let bob = Sidecar::start_with(&of_bob(&["--store-key", "ours"]), &variables).await;
    let (status, problem) = bob.get(PATH).await;
    assert!(status != 200 && problem.contains("belongs to another user"), "{status} {problem}");
    // Without --store-key, each user has a separate session.
    let bob = Sidecar::start_with(&of_bob(&[]), &variables).await;
    assert_eq!(bob.get(PATH).await.0, 200);
}

#[tokio::test]
async fn each_mistake_names_its_option_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let file = write(&home.path().join("a-file"), "00");
    let shared = home.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    let grant = ["--upstream", "https://a.example", "--token-url", "https://i.example/t", "--client-id", "me"];
    let client = [&grant[..], &["--grant", "client-credentials", "--store"]].concat();
    let password =
        [&grant[..], &["--grant", "password", "--username", "ann", "--store", "redis://127.0.0.1:1"]].concat();
    let stored = [&client[..], &["redis://127.0.0.1:1"]].concat();
    let (in_file, in_shared, long) = (format!("file:{file}"), format!("file:{}", shared.display()), "x".repeat(257));
    let with_password = format!("--store=redis://:{SECRET}@redis.example");
    let cases: &[(&[&str], &[&str])] = &[
        (&[&client[..], &["s3://bucket"]].concat(), &["--store: write file:/DIRECTORY, redis://HOST:PORT"]),
        (&[&client[..], &["/var/lib/store"]].concat(), &["--store: write file:/DIRECTORY"]),
        (&[&client[..], &["file:"]].concat(), &["--store: write file:/DIRECTORY"]),
        (&[&client[..], &["redis://[hunter2"]].concat(), &["--store: ", "URL of Redis is invalid"]),
        (&[&client[..], &[&in_file]].concat(), &["--store: ", &file]),
        (&[&client[..], &[&in_shared]].concat(), &["--store: ", "may be written by others"]),
        (&[&client[..], &["redis://me:hunter2@redis.example"]].concat(), &["--store: ", "SIDECAR_STORE"]),
        (&[&grant[..], &["--grant", "client-credentials", &with_password]].concat(), &["--store: ", "SIDECAR_STORE"]),
        (&[&grant[..], &["--grant", "client-credentials", "--store-key", "ours"]].concat(), &["--store <STORE>"]),
        (&[&stored[..], &["--store-key", &long]].concat(), &["--store-key: ", "longer than 256 bytes"]),
        (&[&stored[..], &["--store-seal-key-file", &file]].concat(), &["--store-seal-key-file: ", "64 hexadecimal"]),
        (&[&stored[..], &["--store-seal-key", SECRET]].concat(), &["--store-seal-key: ", "SIDECAR_STORE_SEAL_KEY"]),
        (
            &[&password[..], &["--refresh-token-file", &file]].concat(),
            &["--refresh-token-file: --grant password with --store does not use it"],
        ),
        (
            &["--upstream", "https://a.example", "--token-file", "f", "--store", "redis://127.0.0.1:1"],
            &["--store: --token-file does not use it"],
        ),
    ];
    for (args, words) in cases {
        let secret = if args.contains(&"password") { "SIDECAR_PASSWORD" } else { "SIDECAR_CLIENT_SECRET" };
        let ended = fails(args, &[(secret, SECRET)]).await;
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.said);
        for words in *words {
            assert!(ended.said.contains(words), "{words} for {args:?}: {}", ended.said);
        }
        assert!(!ended.said.contains("hunter2") && !ended.said.contains(SECRET), "{}", ended.said);
    }
}
