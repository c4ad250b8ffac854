//! The hot path: there is a token, and a request carries it.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use benches::allocations;
use benches::rounds::Contender;
use tokio::runtime::Handle;
use tower::BoxError;

use crate::counting;
use crate::issuer::{AN_HOUR, Issuer, Terms};
use crate::now;
use crate::peer::{Peer, call};

/// The number of requests that are built before the measured time.
pub const BATCH: u64 = 64;

/// A peer that is measured in one process with the others: see [`contenders`].
pub struct Warm {
    /// The allocations of one call.
    pub allocations: usize,
    pub one: Contender<'static>,
    pub two: Contender<'static>,
}

/// A peer that has a token, and was seen to put it on requests.
///
/// # Errors
/// Returns the errors of the peer.
pub async fn warmed<P: Peer>(leaks: bool) -> Result<P, BoxError> {
    if P::SENDS_TOKEN {
        let issuer = Issuer::new(Terms { evaluates: true, ..AN_HOUR });
        let mut peer = P::start(issuer).await?;
        peer.send(P::request()).await?;
        peer.send(P::request()).await?;
        if issuer.sent() != 2 || issuer.expired() != 0 || issuer.calls() != 1 {
            return Err("two requests should have gone out, with one token".into());
        }
    }
    let mut peer = P::start(Issuer::new(Terms { leaks, ..AN_HOUR })).await?;
    peer.send(P::request()).await?;
    for _ in 0..3 {
        peer.send(P::request()).await?;
    }
    Ok(peer)
}

/// # Errors
/// Returns the errors of the peer.
pub fn contenders<P: Peer>(name: &'static str, runtime: &Handle) -> Result<Warm, BoxError> {
    let mut peer: P =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), warmed(false)).await? })?;
    let _guard = runtime.enter();
    let request = P::request();
    let (count, outcome) = allocations::of(|| call(&mut peer, request));
    outcome?;
    let handle = runtime.clone();
    let both = peer.clone();
    let one = Contender::new(name, {
        let handle = handle.clone();
        move |calls| {
            let _guard = handle.enter();
            timed(&mut peer, calls)
        }
    });
    let two = Contender::new(name, move |calls| on_two_threads(&both, &handle, calls));
    Ok(Warm { allocations: count.times, one, two })
}

/// The duration of a number of calls, without building their requests.
fn timed<P: Peer>(peer: &mut P, calls: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut requests = Vec::with_capacity(BATCH as usize);
    for _ in 0..calls.div_ceil(BATCH) {
        requests.extend((0..BATCH).map(|_| P::request()));
        let began = now();
        for request in requests.drain(..) {
            black_box(call(peer, request)).expect("it did before");
        }
        spent += began.elapsed();
    }
    spent
}

/// The same on two threads at once, each with its own clone. Returns the mean of the two.
fn on_two_threads<P: Peer>(peer: &P, handle: &Handle, calls: u64) -> Duration {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            let mut peer = peer.clone();
            let start = &start;
            scope.spawn(move || {
                let _guard = handle.enter();
                start.wait();
                timed(&mut peer, calls)
            })
        });
        threads.map(|thread| thread.join().expect("no panic")).iter().sum::<Duration>() / 2
    })
}

/// Makes this number of calls, which callgrind counts.
///
/// # Errors
/// Returns the errors of the peer.
pub fn counted<P: Peer>(calls: u64) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut peer: P = runtime.block_on(warmed(true))?;
    let _guard = runtime.enter();
    let requests: Vec<_> = (0..calls).map(|_| P::request()).collect();
    let mut requests = requests.into_iter();
    counting::the_counted_section(&mut || requests.try_for_each(|request| call(&mut peer, request)))
}
