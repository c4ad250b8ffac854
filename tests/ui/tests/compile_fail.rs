//! The error of a body that cannot be saved names the remedies, and each remedy compiles.

use std::env;
use std::io::Write;
use std::process::Command;

use trybuild::TestCases;

/// The compiler that wrote the expected errors. The text of other versions differs. To update them, run this test with
/// `TRYBUILD=overwrite`.
const EXPECTED_BY: &str = "rustc 1.95.";

/// The version of the compiler of this test run.
fn rustc() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("a compiler");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_error_of_a_body_that_is_not_clone_names_remedies_that_compile() {
    let cases = TestCases::new();
    for remedy in ["buffered", "if_empty", "closure", "never"] {
        cases.pass(format!("tests/cases/{remedy}.rs"));
    }
    let rustc = rustc();
    if rustc.starts_with(EXPECTED_BY) {
        cases.compile_fail("tests/cases/not_clone.rs");
    } else {
        // The test harness hides `println!` of a passing test.
        let note = format!("not compared: {EXPECTED_BY}* wrote the expected errors, and this is {rustc}");
        std::io::stderr().write_all(note.as_bytes()).expect("stderr");
    }
}
