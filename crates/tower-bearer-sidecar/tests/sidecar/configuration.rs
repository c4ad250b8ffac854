//! A wrong configuration is an error before the sidecar listens. The error says what to do.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{SECRET, ended, fails, write};

const GRANT: [&str; 8] = [
    "--upstream",
    "https://api.example.com",
    "--token-url",
    "https://auth.example.com/token",
    "--grant",
    "client-credentials",
    "--client-id",
    "my-app",
];

/// A token endpoint with plain http beyond loopback.
const PLAIN: [&str; 4] = ["--upstream", "https://api.example.com", "--token-url", "http://auth.internal/token"];

/// Arguments, variables, and the words of the error.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test]
async fn a_secret_on_the_command_line_is_rejected_and_not_repeated() {
    for name in ["client-secret", "password", "refresh-token", "subject-token", "assertion"] {
        for secret in [&[&*format!("--{name}={SECRET}")][..], &[&format!("--{name}"), SECRET]] {
            let ended = fails(&[&GRANT, secret].concat(), &[]).await;
            assert_eq!(ended.status.code(), Some(2));
            let variable = format!("SIDECAR_{}", name.replace('-', "_").to_uppercase());
            for words in [&*variable, &format!("--{name}-file"), "ps"] {
                assert!(ended.said.contains(words), "{words}: {}", ended.said);
            }
            assert!(!ended.said.contains(SECRET), "{}", ended.said);
        }
    }
}

#[tokio::test]
async fn each_mistake_names_its_option_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| write(&directory.path().join(name), text);
    let empty = file("empty", "\n");
    let secret = file("secret", SECRET);
    let missing = directory.path().join("missing").to_str().unwrap().to_owned();
    // Reading a directory fails also for root, which may read every file.
    let unreadable = directory.path().to_str().unwrap().to_owned();
    let not_pem = file("not.pem", "hello");
    let given: &[(&str, &str)] = &[("SIDECAR_CLIENT_SECRET", SECRET)];
    let cases: &[Case<'_>] = &[
        (&["--upstream", "https://a.example"], &[], &["--grant", "--preset", "--token-file"]),
        (&GRANT[..2], &[("SIDECAR_GRANT", "password")], &["--issuer", "--token-url"]),
        (&GRANT[2..], given, &["--upstream", "such as https://api.example.com"]),
        (&GRANT[..6], given, &["--client-id", "needs it"]),
        (&GRANT, &[], &["--client-secret-file", "SIDECAR_CLIENT_SECRET"]),
        (&GRANT, &[("SIDECAR_CLIENT_SECRET", " ")], &["SIDECAR_CLIENT_SECRET", "empty"]),
        (
            &[&GRANT[..], &["--client-secret-file", &missing]].concat(),
            &[],
            &["--client-secret-file", &missing, "No such file"],
        ),
        (
            &[&GRANT[..], &["--client-secret-file", &unreadable]].concat(),
            &[],
            &["--client-secret-file", "cannot be read"],
        ),
        (&[&GRANT[..], &["--client-secret-file", &empty]].concat(), &[], &["--client-secret-file", "is empty"]),
        (&[&GRANT[..], &["--client-secret-file", &secret]].concat(), given, &["SIDECAR_CLIENT_SECRET", "as well"]),
        (&[&GRANT[..], &["--username", "me"]].concat(), given, &["--username", "does not use it"]),
        (&[&GRANT[..], &["--resource", "a\nb"]].concat(), given, &["--resource"]),
        (&[&GRANT[2..], &["--upstream", "http://api.example.com"]].concat(), given, &["--upstream", "write https://"]),
        (&[&GRANT[2..], &["--upstream", "https://a.example/v1"]].concat(), given, &["--upstream", "leave out path"]),
        (
            &[&GRANT[2..], &["--upstream", "https://me:hunter2@a.example"]].concat(),
            given,
            &["--upstream", "leave out the user"],
        ),
        (&[&GRANT[..], &["--ca-file", &missing]].concat(), given, &["--ca-file", "cannot be read"]),
        (&[&GRANT[..], &["--ca-file", &not_pem]].concat(), given, &["--ca-file", "no certificate"]),
        (
            &[&GRANT[..], &["--listen", "0.0.0.0:0"]].concat(),
            given,
            &["--listen", "--allow-remote-callers", "127.0.0.1"],
        ),
        (&[&GRANT[..], &["--listen", "[::]:0"]].concat(), given, &["--listen", "--allow-remote-callers"]),
        (&[&GRANT[..], &["--listen", "example.com:80"]].concat(), given, &["--listen", "127.0.0.1:8420"]),
        (&[&GRANT[..], &["--allow-host", "*"]].concat(), given, &["--allow-host", "wildcard"]),
        (&[&GRANT[..], &["--allow-origin", "null"]].concat(), given, &["--allow-origin", "https://"]),
        (&[&GRANT[..], &["--timeout", "0"]].concat(), given, &["--timeout", "whole seconds"]),
        (
            &[&GRANT[..4], &["--grant", "device-code", "--client-id", "me"]].concat(),
            &[],
            &["--device-authorization-url", "needs it"],
        ),
        (
            &[&GRANT[..4], &["--grant", "device-code", "--client-id", "me", "--refresh-token-file", "/no/where"]]
                .concat(),
            &[],
            &["--refresh-token-file", "/no/where cannot be kept", "may write"],
        ),
        (&[&GRANT[..], &["--device-authorization-url", "x"]].concat(), given, &["--device-authorization-url", "leave"]),
        (&["--preset", "meshydb"], &[], &["--account", "needs it"]),
        (&["--preset", "meshydb", "--account", "a", "--public-key", "k"], &[], &["--username", "refresh token"]),
        (&["--preset", "meshydb", "--grant", "password"], &[], &["--preset", "--grant"]),
        (&["--preset", "meshydb", "--token-file", "t"], &[], &["--preset", "--token-file"]),
        (&[&PLAIN[..], &GRANT[4..]].concat(), given, &["--token-url", "plain http://", "--allow-plain-http"]),
        (
            // The error is about the next option, so the address is accepted.
            &[&PLAIN[..], &GRANT[4..], &["--allow-plain-http", "--username", "me"]].concat(),
            given,
            &["--username", "does not use it"],
        ),
        (
            &["--upstream", "https://a.example", "--token-file", "f", "--allow-plain-http"],
            &[],
            &["--allow-plain-http", "does not use it"],
        ),
        (&["--token-file", "f", "--token-command", "c"], &[], &["--token-file", "--token-command"]),
        (&["--upstream", "https://a.example", "--token-command", " "], &[], &["--token-command", "name a program"]),
        (&["--token-command", "c", "--token-at", "accessToken"], &[], &["--token-at", "JSON pointer"]),
        (&[&GRANT[..], &["--expires-at", "/end"]].concat(), given, &["--expires-at", "does not use it"]),
        (&["--preset", "mesh-connect"], given, &["--client-id", "needs it"]),
    ];
    for (args, variables, words) in cases {
        let ended = fails(args, variables).await;
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.said);
        for words in *words {
            assert!(ended.said.contains(words), "{words} for {args:?}: {}", ended.said);
        }
        assert!(!ended.said.contains("listening"), "{}", ended.said);
        assert!(!ended.said.contains("hunter2") && !ended.said.contains(SECRET), "{}", ended.said);
    }
}

#[tokio::test]
async fn a_secret_file_that_this_user_may_not_read_is_an_error_before_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let file = write(&path, SECRET);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        eprintln!("SKIPPED: this user may read every file");
        return;
    }
    let ended = fails(&[&GRANT[..], &["--client-secret-file", &file]].concat(), &[]).await;
    assert!(ended.said.contains("Permission denied") && ended.said.contains("may read"), "{}", ended.said);
}

#[tokio::test]
async fn it_rejects_itself_as_its_upstream() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let own = format!("http://localhost:{}", free.port());
    let listen = free.to_string();
    let args = [&GRANT[2..], &["--upstream", &own, "--listen", &listen]].concat();
    let ended = fails(&args, &[("SIDECAR_CLIENT_SECRET", SECRET)]).await;
    assert!(ended.said.contains("sidecar's own address"), "{}", ended.said);
}

#[tokio::test]
async fn help_is_readable() {
    let mut help = tokio::process::Command::new(env!("CARGO_BIN_EXE_tower-bearer-sidecar"));
    help.arg("--help").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    // The help must not show the values of variables.
    help.env("SIDECAR_UPSTREAM", "https://private.example");
    let help = ended(help.spawn().unwrap()).await;
    assert!(help.status.success());
    for words in ["Where calls go:", "Where the token comes from:", "Who may call:", "Running it:", "Examples:"] {
        assert!(help.said.contains(words), "{words}");
    }
    assert!(
        help.said.matches("    tower-bearer-sidecar --").count()
            + help.said.matches("... tower-bearer-sidecar --").count()
            >= 3
    );
    assert!(!help.said.contains("private.example"));
    assert!(help.said.contains("[default: 127.0.0.1:8420]"), "loopback by default");
    let longest = help.said.lines().map(str::len).max().unwrap();
    assert!(longest <= 110, "{longest}");
}
