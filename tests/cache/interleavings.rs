//! Requests, answers, rejections, fetches and time in any order.
//!
//! A step is one thing that happens; whatever can run then without time passing has run before the next: so the order is
//! proptest's, not a scheduler's. Answers come when a step says so: late, for a token replaced long ago, or never.

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

/// How many fetches rejections may cause in a minute: so few that the steps reach it.
const BUDGET: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Send,
    /// One of the requests under way is answered; the number says which, counting round.
    Answer(usize, u16),
    /// One of the callers goes away.
    Drop(usize),
    /// The fetch ends: with a token of this lifetime, or with a failure that is a denial or not.
    Fetched(Result<Duration, bool>),
    /// Tenths of a second.
    Pass(u32),
}

/// The API and the issuer, and what the test knows of both.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    now: Duration,
    sent: Vec<Sent>,
    fetch: Option<Fetch>,
    /// The tokens each request was sent with, by its number.
    sends: BTreeMap<usize, Vec<usize>>,
    /// When each token is not to be sent any more, by its number.
    expires: Vec<Duration>,
    /// The tokens with which a first send was rejected.
    rejected: BTreeSet<usize>,
    /// When each token was fetched, by its number.
    fetched: Vec<Duration>,
    /// The tokens that were rejected when they were not young any more: an early rejection says little.
    rejected_late: BTreeSet<usize>,
    /// The tokens that were rejected with a second send, or more than once.
    rejected_twice: BTreeSet<usize>,
    /// When the fetches that rejections caused began.
    begun: Vec<Duration>,
    /// How many of them replaced a token that could still be sent.
    replacements: usize,
    answers: BTreeSet<Answer>,
    /// What may not be, seen where a panic would be lost.
    wrong: Vec<String>,
}

/// A kind of answer: its status, whether the send was the second, and whether its token had been replaced by then.
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

struct World {
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
                seen.wrong.push("two fetches at once".to_owned());
            }
            seen.fetch = Some(Fetch { asked: now, reason, answer });
            if reason == Reason::Rejected {
                seen.begun.push(now);
            }
        }
        answered.await.expect("an answer comes, or the fetch is dropped")
    }
}

impl Seen {
    /// Why a token is being fetched, where one is.
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
            seen.wrong.push(format!("request {number} left with token {token}, which had expired"));
        }
        let sends = seen.sends.entry(number).or_default();
        sends.push(token);
        // A token that was rejected is only sent again if the one after it was rejected twice.
        let is_former =
            sends[0] > token && seen.rejected_late.contains(&token) && !seen.rejected_twice.contains(&sends[0]);
        if sends.len() > 2 || is_former {
            seen.wrong.push(format!("request {number} was sent with the tokens {sends:?}"));
        }
        Box::pin(async move { Ok(Response::builder().status(answered.await?).body(String::new())?) })
    }
}

// === the steps ===

impl World {
    fn new() -> Self {
        // Which token is due when is drawn from this.
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
                prop_assert_eq!(self.api.seen().fetching(), fetching, "a caller took the fetch along");
            }
            Step::Fetched(outcome) => self.fetched(outcome),
            Step::Pass(tenths) => {
                // In parts, so that a fetch that takes too long ends before it counts as overdue, a second later.
                for part in (0..tenths).step_by(10).map(|gone| SECOND / 10 * 10.min(tenths - gone)) {
                    self.clock.advance(part);
                    self.api.seen().now += part;
                    self.runtime.block_on(async { (tokio::time::advance(part).await, settle().await) });
                }
            }
        }
        self.runtime.block_on(settle());
        self.look()
    }

    fn answer(&self, which: usize, status: u16) {
        let newest = self.held();
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
        let held = self.held();
        let mut seen = self.api.seen();
        let live = seen.fetch.take_if(|fetch| !fetch.answer.is_closed());
        let Some(Fetch { asked, reason, answer }) = live else { return };
        let outcome = match outcome {
            Ok(lifetime) => {
                let number = seen.expires.len().to_string();
                // As promised: 10 % of the life before its end, 5 s at most.
                let expires = asked + lifetime - (lifetime / 10).min(5 * SECOND);
                seen.expires.push(expires);
                let now = seen.now;
                seen.fetched.push(now);
                seen.replacements += usize::from(reason == Reason::Rejected && held.is_some() && seen.now < expires);
                Ok(Token::new(number).expect("a token").with_lifetime(lifetime))
            }
            Err(false) => Err(Error::transient("the issuer is down")),
            Err(true) => Err(Error::denied("wrong password")),
        };
        assert!(answer.send(outcome).is_ok(), "the fetch waits");
    }

    /// The number of the token that can be sent.
    fn held(&self) -> Option<usize> {
        self.cache.peek().map(|token| token.access_token().parse().expect("its number"))
    }

    /// What must hold, whatever happened.
    fn look(&self) -> Result<(), TestCaseError> {
        let (held, seen) = (self.held(), self.api.seen());
        prop_assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
        if let Some(held) = held.filter(|_| seen.fetching() == Some(Reason::Rejected)) {
            prop_assert!(seen.rejected.contains(&held), "nobody rejected token {held}, and it is being replaced");
        }
        prop_assert!(seen.replacements <= seen.rejected.len(), "more refreshes than rejected tokens");
        let hurried = seen.begun.windows(BUDGET + 1).any(|begun| begun[BUDGET] - begun[0] < MINUTE);
        prop_assert!(!hurried, "rejections have used more than their budget: {:?}", seen.begun);
        Ok(())
    }

    /// Answers everything, and sees every request end.
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
                Ok(Err(error)) => prop_assert!(Error::find(&*error).is_some(), "not for want of a token: {error}"),
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
fn no_interleaving_breaks_what_is_promised_of_rejections() {
    let met = RefCell::new((0, BTreeSet::new()));
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let mut world = World::new();
        steps.iter().try_for_each(|step| world.step(step))?;
        let (replacements, mut answers) = world.finish()?;
        let mut met = met.borrow_mut();
        met.0 += replacements;
        met.1.append(&mut answers);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // So much was met that the test tests something.
    let (replacements, answers) = met.into_inner();
    assert!(replacements > 10, "{replacements}");
    assert_eq!(answers.len(), 8, "every kind of answer: {answers:?}");
}
