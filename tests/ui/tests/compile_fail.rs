//! A body that cannot be kept is an error that names the remedies, and each remedy compiles.

use std::env;
use std::io::Write;
use std::process::Command;

use trybuild::TestCases;

/// The compiler that the pinned errors were taken with: the wording of others differs. To take them anew, run this
/// test with `TRYBUILD=overwrite`.
const TAKEN_WITH: &str = "rustc 1.95.";

/// What the compiler of this test run calls itself.
fn rustc() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("a compiler");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_body_that_is_not_clone_is_told_its_remedies_and_each_compiles() {
    let cases = TestCases::new();
    for remedy in ["buffered", "if_empty", "closure", "never"] {
        cases.pass(format!("tests/cases/{remedy}.rs"));
    }
    let rustc = rustc();
    if rustc.starts_with(TAKEN_WITH) {
        cases.compile_fail("tests/cases/not_clone.rs");
    } else {
        // Not `println!`, which nobody sees of a test that passes.
        let note = format!("not compared: the errors were taken with {TAKEN_WITH}*, and this is {rustc}");
        std::io::stderr().write_all(note.as_bytes()).expect("stderr");
    }
}
