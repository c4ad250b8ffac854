//! Runs the built binary as a child process, with fakes over loopback sockets.
#![expect(clippy::disallowed_methods, reason = "tests of a program: they spawn servers and look at the clock")]

mod browser;
mod configuration;
mod forwarding;
mod guarding;
mod harness;
mod load;
mod logging;
mod logins;
mod packaged;
mod programs;
mod sharing;
mod shutdown;
mod status;
mod tls;
mod upstream;
mod websocket;
