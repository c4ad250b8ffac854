//! A waiting request belongs to the session in which it started: it is never sent with the token of another person.

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use tokio::time::{sleep, timeout};
use tokio_test::{assert_pending, task};
use tower::limit::ConcurrencyLimit;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::{Error, Token, TokenCache};

use crate::common::{MINUTE, Script, settle};
use crate::requests::{API, Body, layer, respond, token};

/// What Ann's request waits for while the session changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A token. Its future has not been polled yet.
    Unpolled,
    /// A token.
    ForToken,
    /// Its inner service. The cache has a token of Ann's.
    ForService,
    /// The token after one that was rejected.
    Rejected,
    /// Its inner service, for the retry.
    RejectedForService,
}

/// The result of the request, and the tokens that it was sent with.
#[derive(Debug)]
pub(crate) struct Outcome {
    result: Result<Response<Body>, BoxError>,
    sent: Vec<String>,
}

// === impl Waits ===

impl Waits {
    pub(crate) const ALL: [Self; 5] =
        [Self::Unpolled, Self::ForToken, Self::ForService, Self::Rejected, Self::RejectedForService];

    /// Makes Ann's request wait, changes the session, and lets the request continue.
    pub(crate) async fn during(self, change: impl AsyncFnOnce(&TokenCache)) -> Outcome {
        let ann = person("ann");
        let cache = TokenCache::new(ann.clone());
        let rejected = matches!(self, Self::Rejected | Self::RejectedForService);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        let inner = ConcurrencyLimit::new(
            service_fn(move |request: Request<Body>| {
                let mut log = log.lock().expect("no panic");
                log.push(token(request.headers()));
                let status = if rejected && log.len() == 1 { 401 } else { 200 };
                std::future::ready(Ok::<_, BoxError>(respond(status, Body::default())))
            }),
            1,
        );
        if rejected {
            cache.get().await.expect("a token");
            sleep(MINUTE).await;
        }
        let gate = ann.hold();
        let mut client = layer(&cache).layer(inner.clone());
        client.ready().await.expect("a permit");
        let mut request = task::spawn(client.call(delete_account()));
        if self != Self::Unpolled {
            assert_pending!(request.poll());
            ann.called(1 + usize::from(rejected)).await;
        }
        let mut other = inner;
        if matches!(self, Self::ForService | Self::RejectedForService) {
            other.ready().await.expect("the permit");
            gate.open();
            settle().await;
            assert_pending!(request.poll(), "the permit is taken");
        }
        change(&cache).await;
        gate.open();
        drop(other);
        let result = timeout(MINUTE, request).await.expect("the request ends");
        let sent = sent.lock().expect("no panic").clone();
        Outcome { result, sent }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Checks that the request failed because its session ended, and that it was not sent with another person's token.
    #[track_caller]
    pub(crate) fn assert_signed_out(&self, waits: Waits) {
        assert!(self.sent.iter().all(|token| token.starts_with("ann-")), "{waits:?}: {:?}", self.sent);
        let error = match &self.result {
            Ok(response) => response.extensions().get::<Error>(),
            Err(error) => Error::find(&**error),
        };
        assert!(error.is_some_and(Error::is_signed_out), "{waits:?}: {:?}", self.result);
    }

    /// Checks that the request was sent, the last time with this token.
    #[track_caller]
    pub(crate) fn assert_sent_with(&self, token: &str, waits: Waits) {
        let response = self.result.as_ref().expect("a response");
        assert_eq!((response.status().as_u16(), self.sent.last().map(String::as_str)), (200, Some(token)), "{waits:?}");
    }
}

/// A source whose tokens are `name-1`, `name-2` and so on.
pub(crate) fn person(name: &str) -> Script {
    let script = Script::new();
    for number in 1..10 {
        script.queue(Token::new(format!("{name}-{number}")));
    }
    script
}

fn delete_account() -> Request<Body> {
    Request::delete(format!("{API}/my-account")).body(Body::default()).expect("a request")
}

/// Ends a session that has nothing to revoke.
pub(crate) async fn sign_out(cache: &TokenCache) {
    cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("nothing to revoke");
}

async fn is_not_sent_as_bob(waits: Waits) {
    let outcome = waits.during(async |cache: &TokenCache| {
        sign_out(cache).await;
        cache.set_source(person("bob"));
        cache.get().await.expect("a token of Bob's");
    });
    outcome.await.assert_signed_out(waits);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_token_is_not_sent_as_the_next_person() {
    is_not_sent_as_bob(Waits::ForToken).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_polled_yet_is_not_sent_as_the_next_person() {
    is_not_sent_as_bob(Waits::Unpolled).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_service_is_not_sent_as_the_next_person() {
    is_not_sent_as_bob(Waits::ForService).await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_request_is_not_sent_as_the_next_person() {
    is_not_sent_as_bob(Waits::Rejected).await;
    is_not_sent_as_bob(Waits::RejectedForService).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_fails_if_its_person_signs_out() {
    for waits in Waits::ALL {
        waits.during(async |cache: &TokenCache| sign_out(cache).await).await.assert_signed_out(waits);
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_uses_a_token_of_the_rotated_secret() {
    for waits in Waits::ALL {
        let rotate = async |cache: &TokenCache| cache.set_source(person("ann-rotated"));
        waits.during(rotate).await.assert_sent_with("ann-rotated-1", waits);
    }
}
