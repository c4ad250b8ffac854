//! A fleet: many processes share one session, and none of them is logged out.
//!
//! ```text
//! cargo run --release -p fleet -- --processes 50 --expiries 10
//! ```
//!
//! The issuer and its API are behind a socket on loopback. Each refresh uses up a refresh token and returns the next. A
//! used refresh token that a process sends again ends the session. The processes run this program. Each has its own
//! token cache and sends requests, and all share one record in a directory or in Redis. `--kill` kills processes at
//! random with SIGKILL and starts others.
//!
//! The exit status is 1 if a promise did not hold.
//!
//! # What a kill may cost
//! A process that dies after the issuer got its call and before it saved the answer leaves a used refresh token in the
//! record. The next process sends that token again. With `--kill` the issuer answers it with the same pair for ten
//! seconds, as many issuers do. Without this grace the session would be lost. So a kill may cost one repeated token
//! call, which the issuer may receive before it notices that the previous caller has died.
#![expect(clippy::disallowed_methods, reason = "a separate program may read the clock and spawn tasks")]

mod arguments;
mod issuer;
mod processes;
mod redis;
mod report;
mod run;
#[path = "../../tour/src/serve.rs"]
mod serve;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use tower::BoxError;

use crate::arguments::{Arguments, USAGE};

/// How long an access token lives.
const LIFETIME: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [worker::SUBCOMMAND, origin, store] => return worker::run(origin, store).await.map(|()| ExitCode::SUCCESS),
        [redis::SUBCOMMAND, port, directory] => return redis::guard(port, directory).map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    match Arguments::parse(words) {
        Ok(Some(arguments)) => run::run(arguments).await,
        Ok(None) => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
