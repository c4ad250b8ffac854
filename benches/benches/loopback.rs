//! The time of one request over a loopback socket, with HTTP/1.1 and HTTP/2. It compares the turns of one round.
//!
//! `cargo bench -p benches --bench loopback`
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::Instant;

use benches::layers::{added, never_at, twice_at};
use benches::loopback::Loopback;
use benches::rounds::{Contender, compare};
use http::{Request, Response};
use hyper::body::Incoming;
use tower::Service;

fn contender<'a, S>(name: &'static str, loopback: &'a Loopback, mut service: S) -> Contender<'a>
where
    S: Service<Request<benches::fixtures::Body>, Response = Response<Incoming>, Error: std::fmt::Debug> + 'a,
{
    Contender::new(name, move |calls| {
        let begin = Instant::now();
        loopback.ask(&mut service, calls);
        begin.elapsed()
    })
}

fn main() {
    for (title, http2) in [("loopback, HTTP/1.1", false), ("loopback, HTTP/2", true)] {
        let loopback = Loopback::new(http2);
        let origin = loopback.origin();
        compare(
            title,
            60,
            300,
            vec![
                contender("AddAuthorization", &loopback, added(loopback.client())),
                contender("no layer", &loopback, loopback.client()),
                contender("ours, Never", &loopback, never_at(&origin, loopback.client())),
                contender("ours", &loopback, twice_at(&origin, loopback.client())),
            ],
        );
    }
}
