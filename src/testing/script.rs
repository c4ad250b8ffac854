//! The common part of all fakes: planned answers, recorded requests, counted calls.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::BoxError;

use crate::testing::answer::Answer;
use crate::testing::calls::Calls;
use crate::testing::helpers::lock;
use crate::testing::ledger::Ledger;
use crate::testing::recorded::Recorded;

/// Bounded, so that a long test does not fill the memory.
const LOGGED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Script {
    plan: Mutex<Plan>,
    log: Mutex<VecDeque<Recorded>>,
    pub(crate) calls: Calls,
    pub(crate) ledger: Ledger,
}

#[derive(Debug, Default)]
struct Plan {
    queue: VecDeque<Answer>,
    outage: Option<Answer>,
    delay: Duration,
}

impl Script {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, ..Self::default() }
    }

    pub(crate) fn queue(&self, answer: Answer) {
        lock(&self.plan).queue.push_back(answer);
    }

    pub(crate) fn fail(&self, answer: Option<Answer>) {
        lock(&self.plan).outage = answer;
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        lock(&self.plan).delay = delay;
    }

    pub(crate) fn delay(&self) -> Duration {
        lock(&self.plan).delay
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        lock(&self.log).iter().cloned().collect()
    }

    pub(crate) fn record(&self, request: Recorded) {
        let mut log = lock(&self.log);
        if log.len() == LOGGED {
            log.pop_front();
        }
        log.push_back(request);
    }

    /// The answer that the test planned for this call: the next in the queue, else that of the outage.
    pub(crate) fn planned(&self) -> Option<Answer> {
        let mut plan = lock(&self.plan);
        plan.queue.pop_front().or_else(|| plan.outage.clone())
    }

    /// Counts and answers one call: as planned, or else as `decide` says. The answer is chosen before the delay.
    pub(crate) async fn answer(&self, decide: impl FnOnce() -> Answer) -> Result<Response<Full<Bytes>>, BoxError> {
        let _call = self.calls.enter();
        let answer = self.planned().unwrap_or_else(decide);
        answer.send(&self.ledger, self.delay()).await
    }

    /// Returns an answer that is neither counted nor delayed.
    pub(crate) async fn answer_at_once(&self, answer: Answer) -> Result<Response<Full<Bytes>>, BoxError> {
        answer.send(&self.ledger, Duration::ZERO).await
    }

    /// Reads a request and records it.
    pub(crate) async fn receive(&self, request: Request<Full<Bytes>>) -> Recorded {
        let request = Recorded::read(request).await;
        self.record(request.clone());
        request
    }
}

/// Implements `Service` for a fake with its `async fn serve(self, request)`.
macro_rules! fake_service {
    ($fake:ty) => {
        impl tower::Service<http::Request<http_body_util::Full<bytes::Bytes>>> for $fake {
            type Response = http::Response<http_body_util::Full<bytes::Bytes>>;
            type Error = tower::BoxError;
            type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

            fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
                std::task::Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<http_body_util::Full<bytes::Bytes>>) -> Self::Future {
                Box::pin(self.clone().serve(request))
            }
        }
    };
}
pub(crate) use fake_service;
