//! Requests, answers, rejections, fetches and the passing of time, in any order.
//!
//! A step is one event. Before the next step, all tasks run as far as they can without time passing, so proptest
//! chooses the order and not a scheduler. A step also says when an answer comes: late, after its token was replaced, or
//! never.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::testing::ManualClock;
use tower_bearer::{Bearer, BearerLayer, Error, Reason, RefreshPolicy, Token, TokenCache};

use crate::common::{HOUR, MINUTE, SECOND, paused_runtime, settle};

/// How many fetches rejections may cause in a minute. It is small, so that the steps exhaust it.
const BUDGET: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Send,
    /// Answers one of the requests in flight. The number, modulo their count, says which.
    Answer(usize, u16),
    /// Drops one of the callers.
    Drop(usize),
    /// Completes the fetch with a token of this lifetime, or with a failure. `true` is a denial.
    Fetched(Result<Duration, bool>),
    /// Advances time by tenths of a second.
    Pass(u32),
}

/// The API and the issuer, and what the test has seen of both.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    now: Duration,
    sent: Vec<Sent>,
    fetch: Option<Fetch>,
    /// The tokens that each request was sent with, by its number.
    sends: BTreeMap<usize, Vec<usize>>,
    /// When each token expires, by its number.
    expires: Vec<Duration>,
    /// The tokens that were rejected in a first send.
    rejected: BTreeSet<usize>,
    /// When each token was fetched, by its number.
    fetched: Vec<Duration>,
    /// The tokens that were rejected when they were no longer young, because an early rejection may be replication lag.
    rejected_late: BTreeSet<usize>,
    /// The tokens that were rejected in a second send, or more than once.
    rejected_twice: BTreeSet<usize>,
    /// When the fetches began that rejections caused.
    begun: Vec<Duration>,
    /// How many of them replaced a usable token.
    replacements: usize,
    answers: BTreeSet<Answer>,
    /// The violations that were seen in code whose panic would be lost.
    violations: Vec<String>,
}

/// A kind of answer: its status, whether the send was the second, and whether its token had been replaced before.
type Answer = (u16, bool, bool);

struct Sent {
    request: usize,
    token: usize,
    answer: oneshot::Sender<u16>,
}

struct Fetch {
    asked: Duration,
    reason: Reason,
    answer: oneshot::Sender<Result<Token, Error>>,
}

struct Harness {
    runtime: Runtime,
    clock: ManualClock,
    cache: TokenCache,
    client: Bearer<Api>,
    api: Api,
    callers: Vec<JoinHandle<Result<Response<String>, BoxError>>>,
}

// === the API and the issuer ===

impl Api {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("no panic")
    }

    async fn fetch(self, reason: Reason) -> Result<Token, Error> {
        let (answer, answered) = oneshot::channel();
        {
            let mut seen = self.seen();
            let now = seen.now;
            if seen.fetching().is_some() {
                seen.violations.push("two fetches at once".to_owned());
            }
            seen.fetch = Some(Fetch { asked: now, reason, answer });
            if reason == Reason::Rejected {
                seen.begun.push(now);
            }
        }
        answered.await.expect("the fetch is answered or dropped")
    }
}

impl Seen {
    /// The reason of the fetch in flight, if there is one.
    fn fetching(&self) -> Option<Reason> {
        self.fetch.as_ref().filter(|fetch| !fetch.answer.is_closed()).map(|fetch| fetch.reason)
    }
}

impl Service<Request<String>> for Api {
    type Response = Response<String>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let number = *request.extensions().get::<usize>().expect("a number");
        let token = request.headers()[AUTHORIZATION].to_str().expect("text");
        let token = token.strip_prefix("Bearer ").expect("a token").parse().expect("its number");
        let (answer, answered) = oneshot::channel();
        let mut guard = self.seen();
        let seen = &mut *guard;
        seen.sent.push(Sent { request: number, token, answer });
        if seen.now >= seen.expires[token] {
            seen.violations.push(format!("request {number} was sent with token {token}, which had expired"));
        }
        let sends = seen.sends.entry(number).or_default();
        sends.push(token);
        // A rejected token is sent again only if the next one was rejected twice.
        let is_former =
            sends[0] > token && seen.rejected_late.contains(&token) && !seen.rejected_twice.contains(&sends[0]);
        if sends.len() > 2 || is_former {
            seen.violations.push(format!("request {number} was sent with the tokens {sends:?}"));
        }
        Box::pin(async move { Ok(Response::builder().status(answered.await?).body(String::new())?) })
    }
}

// === the steps ===

impl Harness {
    fn new() -> Self {
        // The jitter depends on this seed.
        fastrand::seed(1);
        let (api, clock) = (Api::default(), ManualClock::new());
        let issuer = api.clone();
        let source = move |context: tower_bearer::FetchContext| issuer.clone().fetch(context.reason());
        let cache = TokenCache::builder(source)
            .refresh_policy(RefreshPolicy::new().rejection_budget(BUDGET, MINUTE))
            .clock(clock.clone())
            .build()
            .unwrap();
        let client =
            BearerLayer::new(cache.clone(), ["https://api.example.com"]).expect("an origin").layer(api.clone());
        Self { runtime: paused_runtime(), clock, cache, client, api, callers: Vec::new() }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Send => {
                let request = Request::get("https://api.example.com/").extension(self.callers.len());
                let request = request.body(String::new()).expect("a request");
                self.callers.push(self.runtime.spawn(self.client.clone().oneshot(request)));
            }
            Step::Answer(which, status) => self.answer(which, status),
            Step::Drop(which) => {
                let fetching = self.api.seen().fetching();
                self.callers.iter().skip(which).take(1).for_each(JoinHandle::abort);
                self.runtime.block_on(settle());
                prop_assert_eq!(self.api.seen().fetching(), fetching, "dropping a caller ended the fetch");
            }
            Step::Fetched(outcome) => self.fetched(outcome),
            Step::Pass(tenths) => {
                // Advance in parts, so that a fetch times out before it counts as overdue, a second later.
                for part in (0..tenths).step_by(10).map(|passed| SECOND / 10 * 10.min(tenths - passed)) {
                    self.clock.advance(part);
                    self.api.seen().now += part;
                    self.runtime.block_on(async { (tokio::time::advance(part).await, settle().await) });
                }
            }
        }
        self.runtime.block_on(settle());
        self.check()
    }

    fn answer(&self, which: usize, status: u16) {
        let newest = self.usable();
        let mut seen = self.api.seen();
        seen.sent.retain(|sent| !sent.answer.is_closed());
        let Some(which) = which.checked_rem(seen.sent.len()) else { return };
        let Sent { request, token, answer } = seen.sent.remove(which);
        let second = seen.sends[&request].len() == 2;
        seen.answers.insert((status, second, newest > Some(token)));
        let again = second || seen.rejected.contains(&token);
        seen.rejected_twice.extend((status == 401 && again).then_some(token));
        seen.rejected.extend((status == 401 && !second).then_some(token));
        let is_late = seen.now - seen.fetched[token] >= 30 * SECOND;
        seen.rejected_late.extend((status == 401 && !second && is_late).then_some(token));
        answer.send(status).expect("the caller waits");
    }

    fn fetched(&self, outcome: Result<Duration, bool>) {
        let usable = self.usable();
        let mut seen = self.api.seen();
        let live = seen.fetch.take_if(|fetch| !fetch.answer.is_closed());
        let Some(Fetch { asked, reason, answer }) = live else { return };
        let outcome = match outcome {
            Ok(lifetime) => {
                let number = seen.expires.len().to_string();
                // A token expires 10 % of its life before its end, but at most 5 s.
                let expires = asked + lifetime - (lifetime / 10).min(5 * SECOND);
                seen.expires.push(expires);
                let now = seen.now;
                seen.fetched.push(now);
                seen.replacements += usize::from(reason == Reason::Rejected && usable.is_some() && seen.now < expires);
                Ok(Token::new(number).expect("a token").with_lifetime(lifetime))
            }
            Err(false) => Err(Error::transient("the issuer is down")),
            Err(true) => Err(Error::denied("wrong password")),
        };
        assert!(answer.send(outcome).is_ok(), "the fetch waits");
    }

    /// The number of the usable token.
    fn usable(&self) -> Option<usize> {
        self.cache.peek().map(|token| token.access_token().parse().expect("its number"))
    }

    /// Checks the invariants.
    fn check(&self) -> Result<(), TestCaseError> {
        let (usable, seen) = (self.usable(), self.api.seen());
        prop_assert!(seen.violations.is_empty(), "{:?}", seen.violations);
        if let Some(usable) = usable.filter(|_| seen.fetching() == Some(Reason::Rejected)) {
            prop_assert!(seen.rejected.contains(&usable), "token {usable} is being replaced, and was not rejected");
        }
        prop_assert!(seen.replacements <= seen.rejected.len(), "more refreshes than rejected tokens");
        let exceeds_budget = seen.begun.windows(BUDGET + 1).any(|begun| begun[BUDGET] - begun[0] < MINUTE);
        prop_assert!(!exceeds_budget, "rejections have used more than their budget: {:?}", seen.begun);
        Ok(())
    }

    /// Answers everything, and checks that every request ends.
    fn finish(mut self) -> Result<(usize, BTreeSet<Answer>), TestCaseError> {
        for _ in 0..5 {
            self.step(&Step::Fetched(Ok(HOUR)))?;
            while self.api.seen().sent.iter().any(|sent| !sent.answer.is_closed()) {
                self.step(&Step::Answer(0, 200))?;
            }
            self.step(&Step::Pass(10))?;
        }
        for (number, caller) in self.callers.into_iter().enumerate() {
            prop_assert!(caller.is_finished(), "request {number} does not end");
            match self.runtime.block_on(caller) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => prop_assert!(Error::find(&*error).is_some(), "not a token error: {error}"),
                Err(end) => prop_assert!(end.is_cancelled(), "{end}"),
            }
        }
        let mut seen = self.api.seen();
        Ok((seen.replacements, std::mem::take(&mut seen.answers)))
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lifetime = prop::sample::select(vec![Duration::ZERO, SECOND, 10 * SECOND, MINUTE, HOUR, HOUR, HOUR]);
    let pause = prop::sample::select(vec![1, 10, 20, 20, 50, 310]);
    let step = prop_oneof![
        4 => Just(Step::Send),
        6 => (0..8_usize, prop::sample::select(vec![200, 401, 401])).prop_map(|(n, status)| Step::Answer(n, status)),
        1 => (0..16_usize).prop_map(Step::Drop),
        3 => lifetime.prop_map(|lifetime| Step::Fetched(Ok(lifetime))),
        1 => any::<bool>().prop_map(|denied| Step::Fetched(Err(denied))),
        3 => pause.prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..100)
}

#[test]
fn the_promises_about_rejections_hold_for_every_interleaving() {
    let seen = RefCell::new((0, BTreeSet::new()));
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let mut harness = Harness::new();
        steps.iter().try_for_each(|step| harness.step(step))?;
        let (replacements, mut answers) = harness.finish()?;
        let mut seen = seen.borrow_mut();
        seen.0 += replacements;
        seen.1.append(&mut answers);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // The steps cover enough cases.
    let (replacements, answers) = seen.into_inner();
    assert!(replacements > 10, "{replacements}");
    assert_eq!(answers.len(), 8, "every kind of answer: {answers:?}");
}
