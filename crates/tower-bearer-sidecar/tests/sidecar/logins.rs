//! Each login, end to end.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tower_bearer::TokenCache;
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, Api, Ledger, MeshConnectServer, MeshyDbServer, TokenServer};

use crate::harness::{SECRET, Sidecar, fails, issuer, json as parsed, raw, read, serve, status_of, until, write};

const UPSTREAM: &str = "http://127.0.0.1:1";
const HOUR: Duration = Duration::from_secs(3600);

/// A sidecar with this grant, and its issuer. The API accepts the issuer's tokens.
async fn granted(grant: &str, args: &[&str], variables: &[(&str, &str)]) -> (Sidecar, TokenServer) {
    let (issuer, tokens) = issuer().await;
    let upstream = serve(Api::new(issuer.ledger())).await;
    let token_url = format!("{tokens}/token");
    let place = ["--upstream", &upstream, "--token-url", &token_url, "--grant", grant];
    let sidecar = Sidecar::start_with(&[&place, args].concat(), variables).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    (sidecar, issuer)
}

#[tokio::test]
async fn each_grant_asks_as_its_rfc_says() {
    let id: &[&str] = &["--client-id", "my-app"];
    let secret = ("SIDECAR_CLIENT_SECRET", SECRET);
    let post: &[&str] =
        &["--client-auth", "post", "--scope", "a b", "--audience", "x", "--resource", "https://r.example/"];
    let (_sidecar, issuer) = granted("client-credentials", &[id, post].concat(), &[secret]).await;
    let form = issuer.requests()[0].form();
    for (name, value) in [
        ("grant_type", "client_credentials"),
        ("client_id", "my-app"),
        ("client_secret", SECRET),
        ("scope", "a b"),
        ("audience", "x"),
        ("resource", "https://r.example/"),
    ] {
        assert_eq!(form[name], value, "{name}");
    }

    let (_sidecar, issuer) =
        granted("password", &[id, &["--username", "ann"]].concat(), &[("SIDECAR_PASSWORD", "pw-1\n")]).await;
    let form = issuer.requests()[0].form();
    assert_eq!((&*form["grant_type"], &*form["username"], &*form["password"]), ("password", "ann", "pw-1"));

    let (_sidecar, issuer) = granted("refresh-token", id, &[("SIDECAR_REFRESH_TOKEN", "saved"), secret]).await;
    let request = &issuer.requests()[0];
    assert_eq!((&*request.form()["grant_type"], &*request.form()["refresh_token"]), ("refresh_token", "saved"));
    assert!(request.headers["authorization"].to_str().unwrap().starts_with("Basic "));

    let jwt = ["--subject-token-type", "urn:ietf:params:oauth:token-type:jwt"];
    let (_sidecar, issuer) = granted("token-exchange", &jwt, &[("SIDECAR_SUBJECT_TOKEN", "subject")]).await;
    let form = issuer.requests()[0].form();
    assert_eq!((&*form["subject_token"], &*form["subject_token_type"]), ("subject", jwt[1]));

    let (_sidecar, issuer) = granted("jwt-bearer", id, &[("SIDECAR_ASSERTION", "assertion")]).await;
    let form = issuer.requests()[0].form();
    assert_eq!((&*form["assertion"], &*form["client_id"]), ("assertion", "my-app"));
}

#[tokio::test]
async fn each_secret_may_be_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory.path().join("secret"), "of-the-file\n");
    let basic = "Basic bXktYXBwOm9mLXRoZS1maWxl";
    for (grant, id, flag, field) in [
        ("client-credentials", "--client-id=my-app", "--client-secret-file", None),
        ("refresh-token", "--client-id=my-app", "--refresh-token-file", Some("refresh_token")),
        ("token-exchange", "--client-id=my-app", "--subject-token-file", Some("subject_token")),
        ("jwt-bearer", "--client-id=my-app", "--assertion-file", Some("assertion")),
    ] {
        let (_sidecar, issuer) = granted(grant, &[id, flag, &file], &[]).await;
        let asked = &issuer.requests()[0];
        match field {
            Some(field) => assert_eq!(asked.form()[field], "of-the-file", "{grant}"),
            None => assert_eq!(asked.headers["authorization"], basic),
        }
    }
}

#[tokio::test]
async fn each_option_may_be_a_variable() {
    let (issuer, tokens) = issuer().await;
    let upstream = serve(Api::new(issuer.ledger())).await;
    let token_url = format!("{tokens}/token");
    let variables = [
        ("SIDECAR_UPSTREAM", &*upstream),
        ("SIDECAR_TOKEN_URL", &token_url),
        ("SIDECAR_GRANT", "client-credentials"),
        ("SIDECAR_CLIENT_ID", "my-app"),
        ("SIDECAR_CLIENT_SECRET", SECRET),
        ("SIDECAR_CLIENT_AUTH", "post"),
        ("SIDECAR_SCOPE", "a b"),
        ("SIDECAR_ALLOW_HOST", "sidecar,gateway.internal"),
        ("SIDECAR_LOG", "trace"),
    ];
    let sidecar = Sidecar::start_with(&[], &variables).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    let form = issuer.requests()[0].form();
    assert_eq!((&*form["client_id"], &*form["client_secret"], &*form["scope"]), ("my-app", SECRET, "a b"));
    for host in ["sidecar", "gateway.internal"] {
        let head = format!("GET /me HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(status_of(&raw(sidecar.host(), &head).await), "200");
    }
    until(async || sidecar.log().contains("token fetched")).await;
}

#[tokio::test]
async fn an_issuer_is_asked_where_its_token_endpoint_is() {
    let (issuer, tokens) = issuer().await;
    let metadata = TokenServer::new();
    let base = serve(metadata.clone()).await;
    metadata.queue(Answer::json(200, json!({ "issuer": base, "token_endpoint": format!("{tokens}/t") })));
    let upstream = serve(Api::new(issuer.ledger())).await;
    let grant = ["--grant", "client-credentials", "--client-id", "my-app", "--upstream", &upstream];
    let sidecar = Sidecar::start(&[&grant[..], &["--issuer", &base]].concat()).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    assert_eq!(issuer.requests()[0].uri.path(), "/t");
}

#[tokio::test]
async fn a_secret_file_is_read_again_for_every_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    let file = write(&path, "first\n");
    let args = ["--client-id", "my-app", "--username", "ann", "--password-file", &file];
    let (sidecar, issuer) = granted("password", &args, &[]).await;
    write(&path, "second\n");
    issuer.ledger().revoke_all();
    // For two seconds, a rejected token may not have reached every server of the API.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    let passwords: Vec<_> = issuer.requests().iter().map(|request| request.form()["password"].clone()).collect();
    assert_eq!(passwords, ["first", "second"]);
}

#[tokio::test]
async fn a_rotated_refresh_token_is_written_back_to_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("refresh");
    let file = write(&path, "saved\n");
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    let upstream = serve(Api::new(issuer.ledger())).await;
    let token_url = format!("{tokens}/token");
    let args =
        ["--upstream", &upstream, "--token-url", &token_url, "--grant", "refresh-token", "--client-id", "my-app"];
    for (used, newest) in [("saved", "refresh-1\n"), ("refresh-1", "refresh-2\n")] {
        let sidecar = Sidecar::start_with(&[&args[..], &["--refresh-token-file", &file]].concat(), &[]).await;
        assert_eq!(sidecar.get("/me").await.0, 200);
        assert_eq!(issuer.requests().last().unwrap().form()["refresh_token"], used);
        assert_eq!(read(&path), newest);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no other file is left");
}

#[tokio::test]
async fn a_password_logs_in_if_there_is_no_saved_session_or_it_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("refresh");
    let file = path.to_str().unwrap().to_owned();
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    let upstream = serve(Api::new(issuer.ledger())).await;
    let token_url = format!("{tokens}/token");
    let place = ["--upstream", &upstream, "--token-url", &token_url, "--grant", "password", "--client-id", "my-app"];
    let args = [&place[..], &["--username", "ann", "--refresh-token-file", &file]].concat();
    for (grants, newest) in [
        (&["password"][..], "refresh-1\n"),
        (&["refresh_token"], "refresh-2\n"),
        (&["refresh_token", "password"], "refresh-3\n"),
    ] {
        if grants.len() > 1 {
            issuer.queue(Answer::oauth_error(400, "invalid_grant"));
        }
        let before = issuer.requests().len();
        let sidecar = Sidecar::start_with(&args, &[("SIDECAR_PASSWORD", SECRET)]).await;
        assert_eq!(sidecar.get("/me").await.0, 200);
        let sent: Vec<_> = issuer.requests()[before..].iter().map(|call| call.form()["grant_type"].clone()).collect();
        assert_eq!(
            (&*sent, &*read(&path)),
            (&*grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>(), newest)
        );
    }
}

fn device_code(user_code: &str) -> Answer {
    Answer::json(
        200,
        json!({
            "device_code": "the-device-code",
            "user_code": user_code,
            "verification_uri": "https://auth.example.com/device",
            "verification_uri_complete": format!("https://auth.example.com/device?user_code={user_code}"),
            "expires_in": 1800,
            "interval": 1,
        }),
    )
}

#[tokio::test]
async fn a_person_logs_in_once_and_the_session_goes_on_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("session");
    let (issuer, tokens) = issuer().await;
    issuer.rotate_refresh_tokens(true);
    let upstream = serve(Api::new(issuer.ledger())).await;
    let (device_url, token_url) = (format!("{tokens}/device"), format!("{tokens}/token"));
    let place = ["--upstream", &upstream, "--device-authorization-url", &device_url, "--token-url", &token_url];
    let login = ["--grant", "device-code", "--client-id", "my-cli", "--scope", "offline_access"];
    let args = [&place[..], &login, &["--refresh-token-file", path.to_str().unwrap()]].concat();
    let ask = |user_code: &str| {
        issuer.queue(device_code(user_code));
        issuer.queue(Answer::oauth_error(400, "authorization_pending"));
    };
    let forms = || issuer.requests().iter().map(|request| request.form()).collect::<Vec<_>>();

    ask("WDJB-MJHT");
    let sidecar = Sidecar::start_with(&args, &[]).await;
    let log = sidecar.log();
    assert!(log.contains("within 30 minutes: open https://auth.example.com/device and enter WDJB-MJHT\n"), "{log}");
    assert!(log.contains("or open https://auth.example.com/device?user_code=WDJB-MJHT\n"), "{log}");
    assert_eq!(sidecar.get("/me").await.0, 200);
    let asked = forms();
    assert_eq!((&*asked[0]["client_id"], &*asked[0]["scope"]), ("my-cli", "offline_access"));
    assert_eq!(asked[2]["device_code"], "the-device-code");
    assert_eq!(asked.len(), 3, "the code, no answer yet, the token");
    until(async || path.exists()).await;
    assert_eq!(read(&path), "refresh-1\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(sidecar);

    let sidecar = Sidecar::start_with(&args, &[]).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    assert!(!sidecar.log().contains("enter"), "{}", sidecar.log());
    assert_eq!((forms().len(), &*forms()[3]["refresh_token"]), (4, "refresh-1"));
    until(async || read(&path) == "refresh-2\n").await;
    drop(sidecar);

    // The session has ended, so a person logs in again.
    issuer.queue(Answer::oauth_error(400, "invalid_grant"));
    ask("XKCD-NINE");
    let sidecar = Sidecar::start_with(&args, &[]).await;
    assert!(sidecar.log().contains("enter XKCD-NINE\n"), "{}", sidecar.log());
    assert_eq!(sidecar.get("/me").await.0, 200);
    until(async || read(&path) == "refresh-3\n").await;
    for secret in ["the-device-code", "refresh-", "token-"] {
        assert!(!sidecar.log().contains(secret), "{secret} in {}", sidecar.log());
    }
}

#[tokio::test]
async fn a_login_that_is_not_made_in_time_ends_the_sidecar() {
    let (issuer, tokens) = issuer().await;
    issuer.queue(device_code("WDJB-MJHT"));
    issuer.queue(Answer::oauth_error(400, "access_denied"));
    let (device_url, token_url) = (format!("{tokens}/device"), format!("{tokens}/token"));
    let place = ["--upstream", UPSTREAM, "--device-authorization-url", &device_url, "--token-url", &token_url];
    let login = ["--listen", "127.0.0.1:0", "--grant", "device-code", "--client-id", "my-cli"];
    let ended = fails(&[&place[..], &login].concat(), &[]).await;
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.said.contains("enter WDJB-MJHT") && ended.said.contains("access_denied"), "{}", ended.said);
    assert!(!ended.said.contains("listening"), "{}", ended.said);
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let ledger = Ledger::new();
    let api = Api::new(ledger.clone());
    let (upstream, file) = (serve(api.clone()).await, path.to_str().unwrap());
    let sidecar = Sidecar::start(&["--upstream", &upstream, "--token-file", file]).await;
    assert_eq!(sidecar.get("/me").await.0, 503, "it is not there yet");
    ledger.issue("first-of-the-file", HOUR);
    write(&path, "first-of-the-file\n");
    until(async || sidecar.get("/me").await.0 == 200).await;
    ledger.revoke_all();
    ledger.issue("second-of-the-file", HOUR);
    write(&path, "second-of-the-file\n");
    until(async || sidecar.get("/me").await.0 == 200).await;
    assert_eq!(api.requests().last().unwrap().headers["authorization"], "Bearer second-of-the-file");
}

#[tokio::test]
async fn a_program_prints_the_token() {
    let ledger = Ledger::new();
    let api = Api::new(ledger.clone());
    let upstream = serve(api.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let print = |name: &str, text: serde_json::Value| write(&directory.path().join(name), &text.to_string());
    let credential = |token: &str| json!({ "kind": "ExecCredential", "status": { "token": token } });
    let file = print("credential", credential("first-printed"));
    for token in ["first-printed", "second-printed", "of-az"] {
        ledger.issue(token, HOUR);
    }
    let command = format!(" /bin/cat  {file} ");
    let sidecar = Sidecar::start_with(&["--upstream", &upstream, "--token-command", &command], &[]).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    // The sidecar runs the program again.
    print("credential", credential("second-printed"));
    ledger.revoke("first-printed");
    until(async || sidecar.get("/me").await.0 == 200).await;
    assert_eq!(api.requests().last().unwrap().headers["authorization"], "Bearer second-printed");

    let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + HOUR;
    let file = print("az", json!({ "accessToken": "of-az", "expires_on": end.as_secs() }));
    let command = format!("cat {file}");
    let variables = [
        ("PATH", "/usr/bin:/bin"),
        ("SIDECAR_UPSTREAM", &upstream),
        ("SIDECAR_TOKEN_COMMAND", &command),
        ("SIDECAR_TOKEN_AT", "/accessToken"),
        ("SIDECAR_EXPIRES_AT", "/expires_on"),
    ];
    let sidecar = Sidecar::start_with(&[], &variables).await;
    assert_eq!(sidecar.get("/me").await.0, 200);
    assert_eq!(api.requests().last().unwrap().headers["authorization"], "Bearer of-az");
    let (_, health) = sidecar.status("/health").await;
    assert!((3000.0..3600.0).contains(&parsed(&health)["usable_for_seconds"].as_f64().unwrap()), "{health}");
}

#[tokio::test]
async fn an_error_names_the_program_that_prints_no_token_and_its_message() {
    let args = ["--upstream", "http://127.0.0.1:1", "--token-command", "/bin/cat /no/such/file"];
    let sidecar = Sidecar::start_with(&args, &[]).await;
    let (status, body) = sidecar.get("/me").await;
    assert_eq!(status, 503);
    for words in ["/bin/cat", "exit status: 1", "No such file"] {
        assert!(body.contains(words), "{words} in {body}");
        until(async || sidecar.log().contains(words)).await;
    }
}

#[tokio::test]
async fn meshydb_by_its_preset() {
    let server = MeshyDbServer::new("acme", "public-key").tenant_user("blue", "ann", "pw-of-ann");
    server.lifetime(Duration::from_secs(2));
    let base = serve(server.clone()).await;
    let account = ["--preset", "meshydb", "--account", "acme", "--public-key", "public-key", "--tenant", "blue"];
    let places = ["--upstream", &base, "--issuer", &base, "--username", "ann"];
    let args = [&account[..], &places].concat();
    let sidecar = Sidecar::start_with(&args, &[("SIDECAR_PASSWORD", "pw-of-ann")]).await;
    assert_eq!(sidecar.get("/acme/meshes/person").await.0, 200);
    assert_eq!(server.api().requests()[0].headers["tenant"], "blue");
    // The session continues with its refresh tokens.
    until(async || server.token_calls().total() >= 3).await;
    assert_eq!(sidecar.get("/acme/meshes/person").await.0, 200);
    assert_eq!(server.api().rejected(), 0);
}

#[tokio::test]
async fn meshydb_from_a_saved_session() {
    let server = MeshyDbServer::new("acme", "public-key").user("ann", "pw-of-ann");
    let account = MeshyDb::builder(server.clone(), "acme", "public-key").build().unwrap();
    let login = TokenCache::new(account.login_with_password("ann", "pw-of-ann").build().unwrap());
    let saved = login.get().await.unwrap().refresh_token().unwrap();
    let base = serve(server.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("session");
    let file = write(&path, saved.expose());
    let account = ["--preset", "meshydb", "--account", "acme", "--public-key", "public-key"];
    let places = ["--upstream", &base, "--issuer", &base, "--refresh-token-file", &file];
    let sidecar = Sidecar::start_with(&[&account[..], &places].concat(), &[]).await;
    assert_eq!(sidecar.get("/acme/meshes/person").await.0, 200);
    assert_eq!(server.token_calls().total(), 2, "one by the password above, one from the session");
    assert_ne!(read(&path).trim(), saved.expose(), "the newest is in the file");
}

#[tokio::test]
async fn mesh_connect_by_its_preset() {
    let server = MeshConnectServer::new("my-client", SECRET);
    let base = serve(server.clone()).await;
    let args = ["--preset", "mesh-connect", "--client-id", "my-client", "--upstream", &base, "--issuer", &base];
    let sidecar = Sidecar::start(&args).await;
    assert_eq!(sidecar.get("/admin/api/v1/transfers").await.0, 200);
    assert_eq!(server.api().accepted(), 1);
}

#[tokio::test]
async fn the_presets_know_their_upstream() {
    let unreachable = ["--issuer", "http://127.0.0.1:1"];
    let meshydb = ["--preset", "meshydb", "--account", "a", "--public-key", "k", "--username", "ann"];
    let mesh_connect = ["--preset", "mesh-connect", "--client-id", "my-client"];
    for (preset, upstream) in
        [(&meshydb[..], "https://api.meshydb.com"), (&mesh_connect, "https://admin-api.meshconnect.com")]
    {
        let secrets = if preset[1] == "meshydb" { "SIDECAR_PASSWORD" } else { "SIDECAR_CLIENT_SECRET" };
        // The sidecar prints its upstream, and does not call it.
        let sidecar = Sidecar::start_with(&[preset, &unreachable].concat(), &[(secrets, SECRET)]).await;
        assert!(sidecar.said.contains(&format!("for {upstream}")), "{}", sidecar.said);
    }
}
