//! The layer over real sockets, with hyper's servers and clients on loopback: connections, streamed bodies, redirects,
//! and servers that close their connection.
#![expect(clippy::disallowed_methods, reason = "servers are tasks")]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use std::{panic, thread};

use tokio::runtime::Builder;

mod bodies;
mod connections;
mod early;
mod hang_ups;
mod harness;
mod methods;
mod raw;
mod redirects;
mod rejections;
mod servers;
#[path = "../common/traces.rs"]
mod traces;

/// A test that takes this long is deadlocked.
const DEADLOCKED: Duration = Duration::from_secs(60);

/// Runs a test on its own runtime and thread, so that a test that hangs, even in a busy loop, fails.
fn run(test: impl AsyncFnOnce() + Send + 'static) {
    let (ending, ended) = channel();
    let test = thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test());
        ending.send(())
    });
    match ended.recv_timeout(DEADLOCKED) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            panic::resume_unwind(test.join().expect_err("a test that ends without a message has panicked"))
        }
    }
}

/// Lets other tasks run until the condition is true. [`run`] fails if it never is.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// An error with all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}
