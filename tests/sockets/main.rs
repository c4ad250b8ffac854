//! The layer over real sockets: hyper's servers and clients on loopback, connections that are counted, bodies that
//! stream, redirects that lead elsewhere, servers that hang up.
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

/// No test takes this long: what does is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Runs a test on a runtime and a thread of its own, so that whatever hangs, a busy loop too, is a failure.
fn run(test: impl AsyncFnOnce() + Send + 'static) {
    let (ending, ended) = channel();
    let test = thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test());
        ending.send(())
    });
    match ended.recv_timeout(STUCK) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            panic::resume_unwind(test.join().expect_err("what ends without saying so panicked"))
        }
    }
}

/// Lets other tasks run until it is so; [`run`] ends what never comes.
async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::task::yield_now().await;
    }
}

/// An error with all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}
