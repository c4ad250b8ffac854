//! The files of the installation.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tower_bearer::testing::Api;

use crate::harness::{SECRET, Sidecar, issuer, serve, there_is, write};

const UNIT: &str = include_str!("../../packaging/tower-bearer-sidecar@.service");

/// The unit's settings of this name, for the user `app` and the directories of the test.
fn settings(name: &str, root: &str) -> Vec<String> {
    let values = UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let specifiers = [("%t", format!("{root}/run")), ("%d", format!("{root}/credentials")), ("%i", "app".to_owned())];
    let known = |value: &str| specifiers.iter().fold(value.to_owned(), |text, (name, is)| text.replace(name, is));
    values.map(known).collect()
}

#[tokio::test]
async fn the_units_variables_and_credential_start_it_at_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let run = settings("RuntimeDirectory", root).remove(0);
    std::fs::create_dir_all(format!("{root}/run/{run}")).unwrap();
    std::fs::create_dir(format!("{root}/credentials")).unwrap();
    let credentials = settings("LoadCredential", root);
    let (credential, _) = credentials[0].split_once(':').unwrap();
    write(&directory.path().join("credentials").join(credential), SECRET);
    let (issuer, tokens) = issuer().await;
    let api = Api::new(issuer.ledger());
    let (upstream, token_url) = (serve(api.clone()).await, format!("{tokens}/token"));

    let environment = settings("Environment", root);
    let mut variables: Vec<_> = environment.iter().map(|line| line.split_once('=').unwrap()).collect();
    // The environment file sets these.
    variables.extend([("SIDECAR_UPSTREAM", &*upstream), ("SIDECAR_TOKEN_URL", &token_url)]);
    variables.extend([("SIDECAR_GRANT", "client-credentials"), ("SIDECAR_CLIENT_ID", "my-app")]);
    let sidecar = Sidecar::start_by_variables(&variables).await;
    assert_eq!(sidecar.base, format!("unix:{root}/run/tower-bearer-sidecar/app/api.sock"));
    let path = sidecar.base.strip_prefix("unix:").unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(sidecar.get_by_socket("/me").await, "200");
    assert_eq!(api.accepted(), 1);
}

#[test]
fn systemd_takes_the_unit() {
    if !there_is("systemd-analyze", &["--version"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tower-bearer-sidecar");
    let unit = UNIT.replace("/usr/local/bin/tower-bearer-sidecar", program);
    // `root` is a user that exists.
    let path = write(&directory.path().join("tower-bearer-sidecar@root.service"), &unit);
    let verified = Command::new("systemd-analyze").args(["verify", &path]).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("tower-bearer-sidecar"), "{said}");
}
