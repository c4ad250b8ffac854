//! What `cargo bench` runs at the root: the benchmarks, which are a package of their own (`benches/Cargo.toml` says
//! why). The benchmark of instructions needs valgrind, and `.ci/budgets` runs it.

use std::process::{Command, exit};

fn main() {
    // `cargo test --benches` asks for none.
    if std::env::args().all(|argument| argument != "--bench") {
        return;
    }
    let all = ["hot_path", "stampede", "rotation", "loopback"].map(|name| format!("--bench={name}"));
    let status = Command::new(env!("CARGO")).args(["bench", "-p", "benches"]).args(all).status();
    exit(status.expect("cargo, which started this").code().unwrap_or(1));
}
