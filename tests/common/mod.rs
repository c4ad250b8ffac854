//! A scripted token source that counts its calls, and helpers for tests of the cache.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower_bearer::{Error, FetchContext, Token, TokenSource};

mod traces;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Answers calls from its queue. Then answers with the tokens `t1`, `t2`, ..., by the number of the call.
#[derive(Clone)]
pub(crate) struct Script(Arc<Mutex<State>>);

struct State {
    queue: VecDeque<Result<Token, Error>>,
    lifetime: Duration,
    rotating: bool,
    delay: Duration,
    gate: Option<Gate>,
    contexts: Vec<FetchContext>,
    live: usize,
    most_at_once: usize,
    finished: usize,
}

/// Holds back answers until it is opened.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

/// A call in flight. It also ends if its future is dropped.
struct Live(Script);

// === impl Script ===

impl Script {
    /// Answers at once, with tokens of an hour and without refresh tokens.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            queue: VecDeque::new(),
            lifetime: HOUR,
            rotating: false,
            delay: Duration::ZERO,
            gate: None,
            contexts: Vec::new(),
            live: 0,
            most_at_once: 0,
            finished: 0,
        })))
    }

    pub(crate) fn living(lifetime: Duration) -> Self {
        let script = Self::new();
        script.lifetime(lifetime);
        script
    }

    pub(crate) fn lifetime(&self, lifetime: Duration) {
        self.state().lifetime = lifetime;
    }

    /// Adds a refresh token to each token: `r1`, `r2`, ...
    pub(crate) fn rotating(self) -> Self {
        self.state().rotating = true;
        self
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Queues an answer.
    pub(crate) fn queue(&self, answer: Result<Token, Error>) {
        self.state().queue.push_back(answer);
    }

    /// Queues this many transient failures.
    pub(crate) fn fail(&self, times: usize) {
        (0..times).for_each(|_| self.queue(Err(Error::transient("the issuer is down"))));
    }

    /// Queues this many denials.
    pub(crate) fn deny(&self, times: usize) {
        (0..times).for_each(|_| self.queue(Err(Error::denied("wrong password"))));
    }

    /// Makes the following calls wait until the gate is opened.
    pub(crate) fn hold(&self) -> Gate {
        let gate = Gate(Arc::new(Semaphore::new(0)));
        self.state().gate = Some(gate.clone());
        gate
    }

    /// Answers the following calls at once. Calls that wait already go on waiting.
    pub(crate) fn stop_holding(&self) {
        self.state().gate = None;
    }

    pub(crate) fn calls(&self) -> usize {
        self.state().contexts.len()
    }

    /// How many calls were answered.
    pub(crate) fn finished(&self) -> usize {
        self.state().finished
    }

    /// The largest number of calls that were in flight at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state().most_at_once
    }

    /// The context of the last call.
    pub(crate) fn last_context(&self) -> FetchContext {
        self.state().contexts.last().expect("no call yet").clone()
    }

    /// The newest refresh token at the last call.
    pub(crate) fn last_refresh_token(&self) -> Option<String> {
        self.last_context().refresh_token().map(|secret| secret.expose().to_owned())
    }

    /// Waits until this many calls have arrived.
    pub(crate) async fn called(&self, times: usize) {
        until(|| self.calls() >= times).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl TokenSource for Script {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let (answer, delay, gate) = {
            let mut state = self.state();
            state.contexts.push(context);
            state.live += 1;
            state.most_at_once = state.most_at_once.max(state.live);
            let number = state.contexts.len();
            let answer = state.queue.pop_front().unwrap_or_else(|| {
                let token = Token::new(format!("t{number}"))?.with_lifetime(state.lifetime);
                Ok(if state.rotating { token.with_refresh_token(format!("r{number}")) } else { token })
            });
            (answer, state.delay, state.gate.clone())
        };
        let _live = Live(self.clone());
        if let Some(Gate(gate)) = gate {
            let _ = gate.acquire().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.state().finished += 1;
        answer
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.state().live -= 1;
    }
}

// === impl Gate ===

impl Gate {
    /// Answers all calls, those that wait and those to come.
    pub(crate) fn open(&self) {
        self.0.close();
    }
}

// === time and runtimes ===

/// Lets other tasks run until the condition is true. Panics if that takes a minute.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < MINUTE, "the condition never became true");
        tokio::task::yield_now().await;
    }
}

/// Lets other tasks run as far as they can without time passing.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A runtime on this thread with paused time. It makes no progress while it is not driven.
pub(crate) fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A runtime on this thread with real time, for answers from other threads.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn threaded_runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The text of the token in this answer.
pub(crate) fn text(answer: Result<Token, Error>) -> String {
    answer.expect("a token").access_token().to_owned()
}
