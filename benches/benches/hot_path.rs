//! The time of one request on the cached path.
//!
//! `cargo bench -p benches --bench hot_path` first prints tables that compare the turns of one round. criterion's
//! report is in `target/criterion/report/index.html`.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use benches::fixtures::{Client, LARGE, SMALL, call, call_cloned, request};
use benches::layers::{added, anywhere, by_hand, never, retried, twice};
use benches::rounds::{Contender, compare};
use criterion::Criterion;

/// The number of requests that are built before the measured time.
const BATCH: u64 = 64;
const ROUNDS: usize = 60;
const CALLS: u64 = 100 * BATCH;

#[derive(Clone, Copy)]
enum Use {
    Kept,
    Cloned,
}

/// The duration of a number of calls, without building their requests.
fn timed<S: Client>(service: &mut S, how: Use, headers: usize, calls: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut requests = Vec::with_capacity(BATCH as usize);
    for _ in 0..calls.div_ceil(BATCH) {
        requests.extend((0..BATCH).map(|_| request(headers)));
        let begin = Instant::now();
        for request in requests.drain(..) {
            black_box(match how {
                Use::Kept => call(service, request),
                Use::Cloned => call_cloned(service, request),
            });
        }
        spent += begin.elapsed();
    }
    spent
}

/// The same on two threads at once, each with its own clone. Returns the mean of the two.
fn on_two_threads<S: Client + Send>(service: &S, how: Use, headers: usize, calls: u64) -> Duration {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            let mut service = service.clone();
            let start = &start;
            scope.spawn(move || {
                start.wait();
                timed(&mut service, how, headers, calls)
            })
        });
        threads.map(|thread| thread.join().expect("no panic")).iter().sum::<Duration>() / 2
    })
}

fn one<'a, S: Client + 'a>(name: &'static str, mut service: S, how: Use, headers: usize) -> Contender<'a> {
    Contender::new(name, move |calls| timed(&mut service, how, headers, calls))
}

fn two<'a, S: Client + Send + 'a>(name: &'static str, service: S, how: Use) -> Contender<'a> {
    // The turns are long, so that the two threads overlap.
    Contender::new(name, move |calls| on_two_threads(&service, how, 4, 20 * calls) / 20)
}

/// The cost of one reading of the monotonic clock on this machine.
fn clock(calls: u64) -> Duration {
    let begin = Instant::now();
    for _ in 0..calls {
        black_box(Instant::now());
    }
    begin.elapsed()
}

fn tables() {
    use Use::{Cloned, Kept};
    compare(
        "cached path, one-word inner future",
        ROUNDS,
        CALLS,
        vec![
            one("AddAuthorization", added(SMALL), Kept, 4),
            one("no layer", SMALL, Kept, 4),
            one("ours, Never", never(SMALL), Kept, 4),
            one("ours, Never, any origin", anywhere(SMALL), Kept, 4),
            one("ours", twice(SMALL), Kept, 4),
            one("tower::retry over AddAuthorization", retried(SMALL), Kept, 4),
            one("tokio::Mutex<String> by hand", by_hand(SMALL), Kept, 4),
            Contender::new("(Instant::now alone)", clock),
        ],
    );
    compare(
        "cached path, 136-byte inner future",
        ROUNDS,
        CALLS,
        vec![
            one("AddAuthorization", added(LARGE), Kept, 4),
            one("no layer", LARGE, Kept, 4),
            one("ours, Never", never(LARGE), Kept, 4),
            one("ours", twice(LARGE), Kept, 4),
        ],
    );
    compare(
        "service cloned per request",
        ROUNDS,
        CALLS,
        vec![
            one("AddAuthorization", added(SMALL), Cloned, 4),
            one("ours, Never", never(SMALL), Cloned, 4),
            one("ours", twice(SMALL), Cloned, 4),
        ],
    );
    compare(
        "second send kept ready, 6 headers",
        ROUNDS,
        CALLS,
        vec![one("tower::retry over AddAuthorization", retried(SMALL), Kept, 6), one("ours", twice(SMALL), Kept, 6)],
    );
    compare(
        "two threads, each with a clone of one service",
        ROUNDS,
        CALLS,
        vec![
            two("AddAuthorization", added(SMALL), Kept),
            two("no layer", SMALL, Kept),
            two("ours, Never", never(SMALL), Kept),
            two("ours", twice(SMALL), Kept),
        ],
    );
    compare(
        "two threads that clone the service per request",
        ROUNDS,
        CALLS,
        vec![
            two("AddAuthorization", added(SMALL), Cloned),
            two("ours, Never", never(SMALL), Cloned),
            two("ours", twice(SMALL), Cloned),
        ],
    );
}

fn report(criterion: &mut Criterion) {
    fn bench<S: Client>(criterion: &mut Criterion, name: &str, mut service: S) {
        criterion.benchmark_group("cached path").bench_function(name, |bencher| {
            bencher.iter_custom(|calls| timed(&mut service, Use::Kept, 4, calls.next_multiple_of(BATCH)));
        });
    }
    bench(criterion, "no layer", SMALL);
    bench(criterion, "AddAuthorization", added(SMALL));
    bench(criterion, "ours, Never", never(SMALL));
    bench(criterion, "ours", twice(SMALL));
    bench(criterion, "tower retry over AddAuthorization", retried(SMALL));
    bench(criterion, "tokio Mutex by hand", by_hand(SMALL));
}

fn main() {
    tables();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    report(&mut criterion);
    criterion.final_summary();
}
