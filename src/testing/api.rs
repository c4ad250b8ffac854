//! An API that accepts the live tokens of a ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use serde_json::json;
use tower::BoxError;

use crate::testing::answer::Answer;
use crate::testing::calls::Calls;
use crate::testing::helpers::pause;
use crate::testing::ledger::{Ledger, TokenState};
use crate::testing::recorded::Recorded;
use crate::testing::script::{Script, fake_service};

/// A protected API: 200 for a live token of its [`Ledger`], 401 for anything else.
///
/// A 401 carries `WWW-Authenticate: Bearer error="invalid_token"`, or the bare `Bearer` if the request had no
/// `Authorization` (RFC 6750, section 3.1). Two `Authorization` headers are rejected like a wrong token.
#[derive(Clone, Debug)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    script: Script,
    /// Makes the 401. The argument says whether the request had an `Authorization`.
    rejection: fn(bool) -> Answer,
    accepted: AtomicUsize,
    rejected: AtomicUsize,
    without_token: AtomicUsize,
    expired_seen: AtomicUsize,
    reject_all: AtomicBool,
}

impl Api {
    /// An API that accepts the live tokens of `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self::with_rejection(ledger, |token_sent| {
            let challenge = if token_sent { r#"Bearer error="invalid_token""# } else { "Bearer" };
            Answer::json(401, json!({ "accepted": false })).header("www-authenticate", challenge)
        })
    }

    pub(crate) fn with_rejection(ledger: Ledger, rejection: fn(bool) -> Answer) -> Self {
        let inner = Inner {
            script: Script::new(ledger),
            rejection,
            accepted: AtomicUsize::new(0),
            rejected: AtomicUsize::new(0),
            without_token: AtomicUsize::new(0),
            expired_seen: AtomicUsize::new(0),
            reject_all: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How long a request takes to arrive.
    ///
    /// The API then evaluates its token, and answers at once.
    pub fn delay(&self, delay: Duration) {
        self.inner.script.set_delay(delay);
    }

    /// Queues an answer.
    ///
    /// The API sends queued answers, in order, before it evaluates requests again.
    ///
    /// They count as neither accepted nor rejected.
    pub fn queue(&self, answer: Answer) {
        self.inner.script.queue(answer);
    }

    /// Whether the API rejects every request, also with a live token.
    pub fn reject_all(&self, reject: bool) {
        self.inner.reject_all.store(reject, Ordering::SeqCst);
    }

    /// Requests that the API answered 200 because their token was live.
    pub fn accepted(&self) -> usize {
        self.inner.accepted.load(Ordering::SeqCst)
    }

    /// Requests that the API answered 401 because they had no live token.
    pub fn rejected(&self) -> usize {
        self.inner.rejected.load(Ordering::SeqCst)
    }

    /// Rejected requests that had no `Authorization` header.
    pub fn without_token(&self) -> usize {
        self.inner.without_token.load(Ordering::SeqCst)
    }

    /// Rejected requests whose token had expired.
    pub fn expired_seen(&self) -> usize {
        self.inner.expired_seen.load(Ordering::SeqCst)
    }

    /// The calls so far.
    pub fn calls(&self) -> &Calls {
        &self.inner.script.calls
    }

    /// The last 1024 requests, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.inner.script.requests()
    }

    async fn serve(self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, BoxError> {
        self.answer(Recorded::read(request).await).await
    }

    pub(crate) async fn answer(&self, request: Recorded) -> Result<Response<Full<Bytes>>, BoxError> {
        let script = &self.inner.script;
        let _call = script.calls.enter();
        script.record(request.clone());
        if let Some(answer) = script.planned() {
            return answer.send(&script.ledger, script.delay()).await;
        }
        pause(script.delay()).await;
        script.answer_at_once(self.evaluate(&request.headers)).await
    }

    fn evaluate(&self, headers: &HeaderMap) -> Answer {
        let inner = &*self.inner;
        let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::SeqCst);
        let state = bearer(headers).map_or(TokenState::Unknown, |token| inner.script.ledger.state_of(token));
        if state == TokenState::Live && !inner.reject_all.load(Ordering::SeqCst) {
            count(&inner.accepted);
            return Answer::json(200, json!({ "accepted": true }));
        }
        count(&inner.rejected);
        if state == TokenState::Expired {
            count(&inner.expired_seen);
        }
        let token_sent = headers.contains_key(AUTHORIZATION);
        if !token_sent {
            count(&inner.without_token);
        }
        (inner.rejection)(token_sent)
    }
}

/// The token of the only `Authorization: Bearer` header, with the scheme in any case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fake_service!(Api);
