//! A sidecar: a local address where the calls of any program leave with a live token.
//!
//! ```text
//! program  →  http://127.0.0.1:8420  →  guard  →  tower-bearer  →  https://api.example.com
//! ```
//!
//! A reverse proxy to one upstream. Who may call it is in [`guard`], what it changes on the way in [`headers`], the way
//! itself in [`forward`], where the token comes from in [`login`]. The README beside says how it is used.
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

/// What is wrong with the configuration: which option, why, and what to do.
#[derive(Debug)]
pub(crate) struct Wrong(String);

#[tokio::main]
async fn main() -> ExitCode {
    // Before clap, whose messages repeat what was given.
    if let Err(wrong) = secrets::none_on_the_command_line(std::env::args_os()) {
        return wrong.exit();
    }
    let args = Args::parse();
    // Libraries beneath see headers and bodies: at the finest level too they only warn.
    let targets = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets([env!("CARGO_CRATE_NAME"), "tower_bearer", "tower_http"].map(|target| (target, args.log)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(targets).with(lines).init();
    match serve::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => wrong.exit(),
    }
}

// === impl Wrong ===

impl Wrong {
    pub(crate) fn new(option: &str, problem: impl fmt::Display) -> Self {
        Self(format!("{option}: {problem}"))
    }

    /// As clap ends where it finds something wrong.
    fn exit(&self) -> ExitCode {
        eprintln!("error: {self}\n\nFor more information, try '--help'.");
        ExitCode::from(2)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
