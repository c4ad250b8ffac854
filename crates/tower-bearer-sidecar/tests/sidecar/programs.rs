//! curl and Python's `requests`, as users run them.

use std::process::Stdio;

use tokio::process::Command;
use tower_bearer::testing::Api;

use crate::harness::{Sidecar, ended, fails, issuer, json, read, serve, there_is, write};
use crate::upstream::Upstream;

async fn output(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let ended = ended(command.spawn().unwrap()).await;
    assert!(ended.status.success(), "{program}: {}", ended.said);
    ended.said
}

#[tokio::test]
async fn curl_works_through_it() {
    if !there_is("curl", &["--version"]) {
        return;
    }
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let sidecar = Sidecar::of(&tokens, &serve(api.clone()).await, &[]).await;
    let url = format!("{}/me", sidecar.base);
    assert_eq!(json(&output("curl", &["-sS", &url]).await)["accepted"], true);
    output("curl", &["-sSf", "-X", "POST", "--json", r#"{"a":1}"#, &url]).await;
    assert_eq!(api.requests()[1].json()["a"], 1);
    // The upload is longer than the replay limit, with `Expect: 100-continue`, and from a pipe without a length.
    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory.path().join("big"), &"x".repeat(3 << 20));
    output("curl", &["-sSf", "-T", &file, "-H", "Expect: 100-continue", &url]).await;
    output("curl", &["-sSf", "-T", &file, "-H", "Transfer-Encoding: chunked", &url]).await;
    assert!(api.requests()[2..].iter().all(|request| request.body.len() == 3 << 20));

    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let back = directory.path().join("back").to_str().unwrap().to_owned();
    output("curl", &["-sSf", "--data-binary", &format!("@{file}"), "-o", &back, &format!("{}/echo", sidecar.base)])
        .await;
    assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&file).unwrap());
}

#[tokio::test]
async fn curl_reaches_a_unix_socket_that_only_this_user_can_open() {
    use std::os::unix::fs::PermissionsExt;

    if !there_is("curl", &["--version"]) {
        return;
    }
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let base = serve(api.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let socket = path.to_str().unwrap();
    // A socket that a killed process left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = format!("unix:{socket}");
    let mut sidecar = Sidecar::of(&tokens, &base, &["--listen", &listen]).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no other name for it is left");
    let again = ["--preset", "mesh-connect", "--client-id", "x", "--listen", &listen];
    let ask = async |url| output("curl", &["-sS", "--unix-socket", socket, url]).await;
    assert_eq!(json(&ask("http://localhost/me").await)["accepted"], true);
    assert_eq!(json(&ask("http://evil.example/me").await)["status"], 403);
    let second = fails(&again, &[("SIDECAR_CLIENT_SECRET", "x")]).await;
    assert!(second.said.contains("another process listens there"), "{}", second.said);
    sidecar.signal("TERM").await;
    assert!(sidecar.ended().await.success());
    assert!(!path.exists(), "its file goes with it");
    write(&path, "mine");
    let rejected = fails(&again, &[("SIDECAR_CLIENT_SECRET", "x")]).await;
    assert!(rejected.said.contains("a file that is no socket"), "{}", rejected.said);
    assert_eq!(read(&path), "mine");
}

#[tokio::test]
async fn python_requests_work_through_it() {
    if !there_is("python3", &["-c", "import requests"]) {
        return;
    }
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let sidecar = Sidecar::of(&tokens, &upstream.serve().await, &[]).await;
    let script = r#"
import sys, requests
base = sys.argv[1]
api = requests.Session()
assert api.get(base + "/me").json() == {"method": "GET", "authorization": "Bearer token-1"}
assert api.post(base + "/me", json={"a": 1}).json()["method"] == "POST"
assert api.get(base + "/me", auth=("some", "netrc")).json()["authorization"] == "Bearer token-1"
parts = [bytes([number]) * 70_000 for number in range(40)]
with api.post(base + "/echo", data=iter(parts), stream=True) as answer:
    back = b"".join(answer.iter_content(8192))
assert answer.status_code == 200 and back == b"".join(parts), len(back)
answer = api.get(base + "/me", headers={"Origin": "https://evil.example"})
assert answer.status_code == 403 and "--allow-origin" in answer.json()["detail"]
print("well")
"#;
    assert_eq!(output("python3", &["-c", script, &sidecar.base]).await, "well\n");
}
