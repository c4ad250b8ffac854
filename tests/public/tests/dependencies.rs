//! The foreign crates in the public API are those of `docs/public-dependencies.md`, each with its reason, because a new
//! major version of one of them requires a new major version of this crate.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use public::{foreign, here, nightly};
use serde_json::Value;

/// rustdoc's JSON for a package, with all its features; `None` without a nightly toolchain.
fn rustdoc(package: &str) -> Option<Value> {
    let mut cargo = nightly("the public dependencies of the API")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rustdoc");
    let status = cargo
        .args(["rustdoc", "--lib", "--all-features", "-p", package, "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .status()
        .expect("cargo");
    assert!(status.success());
    let json =
        fs::read(target.join("doc").join(format!("{}.json", package.replace('-', "_")))).expect("rustdoc's JSON");
    Some(serde_json::from_slice(&json).expect("JSON"))
}

/// The crates of a package in the table: `| package | crate | where | why |`.
fn listed(package: &str) -> BTreeSet<String> {
    let table = fs::read_to_string(here().join("docs/public-dependencies.md")).expect("the list");
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).skip(1);
        let (of, krate) = (cells.next()?, cells.next()?);
        let reasons: Vec<_> = cells.take(2).collect();
        assert!(
            of != package || reasons.len() == 2 && reasons.iter().all(|cell| !cell.is_empty()),
            "no reason: {line}"
        );
        (of == package).then_some(krate)
    });
    rows.collect()
}

fn check(package: &str) {
    let Some(json) = rustdoc(package) else { return };
    let found = foreign(&json);
    let names: BTreeSet<_> = found.keys().cloned().collect();
    assert_eq!(
        names,
        listed(package),
        "docs/public-dependencies.md differs from the crates that the API of {package} names: {found:#?}"
    );
}

#[test]
fn the_api_names_exactly_the_listed_foreign_crates() {
    check("tower-bearer");
    check("tower-bearer-redis");
    check("tower-bearer-reqwest");
}
