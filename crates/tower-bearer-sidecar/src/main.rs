//! A sidecar: a local address that adds a live token to the calls of any program.
//!
//! ```text
//! program  →  http://127.0.0.1:8420  →  guard  →  tower-bearer  →  https://api.example.com
//! ```
//!
//! The sidecar is a reverse proxy to one upstream. [`guard`] decides which calls are allowed, [`headers`] changes the
//! headers, [`forward`] forwards the calls, and [`login`] makes the source of the token. The README says how to use it.
#![forbid(unsafe_code)]

mod cli;
mod cors;
mod device;
mod forward;
mod guard;
mod headers;
mod listen;
mod login;
mod outage;
mod problem;
mod secrets;
mod serve;
mod status;
mod store;
mod upstream;

use std::fmt;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::Args;

/// An error in the configuration: the option, the problem, and the next step.
#[derive(Debug)]
pub(crate) struct ConfigError(String);

#[tokio::main]
async fn main() -> ExitCode {
    // Runs before clap, because clap's messages repeat the arguments.
    if let Err(error) = secrets::reject_on_command_line(std::env::args_os()) {
        return error.exit();
    }
    let args = Args::parse();
    // Other libraries see headers and bodies, so they only log warnings at every level.
    let targets = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets([env!("CARGO_CRATE_NAME"), "tower_bearer", "tower_http"].map(|target| (target, args.log)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(targets).with(lines).init();
    match serve::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.exit(),
    }
}

// === impl ConfigError ===

impl ConfigError {
    pub(crate) fn new(option: &str, problem: impl fmt::Display) -> Self {
        Self(format!("{option}: {problem}"))
    }

    /// Exits as clap does after an error.
    fn exit(&self) -> ExitCode {
        eprintln!("error: {self}\n\nFor more information, try '--help'.");
        ExitCode::from(2)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
