//! A cache of answers belongs outside the layer, one for each user.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_bearer::testing::Answer;
use tower_bearer::{BearerLayer, TokenCache};

use crate::harness::{API, Body, Harness, get};

/// Returns the first answer of each URL to every caller.
#[derive(Clone)]
struct AnswerCache<S> {
    inner: S,
    answers: Arc<Mutex<Answers>>,
}

type Answers = HashMap<Uri, Response<Body>>;

fn locked(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> AnswerCache<S> {
    fn new(inner: S) -> Self {
        Self { inner, answers: Arc::default() }
    }
}

impl<S, A> Service<Request<Body>> for AnswerCache<S>
where
    S: Service<Request<Body>, Response = Response<A>, Error = BoxError, Future: Send + 'static>,
    A: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answers, uri) = (Arc::clone(&self.answers), request.uri().clone());
        if let Some(kept) = locked(&answers).get(&uri).cloned() {
            return Box::pin(std::future::ready(Ok(kept)));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let answer = Response::from_parts(head, Body::new(body));
            locked(&answers).insert(uri, answer.clone());
            Ok(answer)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_cache_returns_the_answer_for_one_users_token_to_another_user() {
    let harness = Harness::over_requests(AnswerCache::new);
    harness.api.queue(Answer::raw(200, "what ann may see"));
    harness.client().oneshot(get()).await.expect("an answer");
    let bob = BearerLayer::new(TokenCache::fixed("token-of-bob").expect("a token"), [API]).expect("an origin");
    let answer = bob.layer(harness.inner()).oneshot(get()).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "what ann may see");
    assert_eq!(harness.sent("authorization"), ["Bearer token-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_inner_cache_returns_the_rejected_answer_to_the_second_send() {
    let harness = Harness::over_requests(AnswerCache::new);
    harness.with_revoked_token().await;
    assert_eq!(harness.client().oneshot(get()).await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.api.calls().total(), 1);
    assert_eq!(harness.cache.status().generation, 2, "there is a new token, but it was not sent");
}

#[tokio::test(start_paused = true)]
async fn an_outer_cache_keeps_the_final_answers() {
    let harness = Harness::new();
    harness.with_revoked_token().await;
    let client = AnswerCache::new(harness.client());
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(get()).await.expect("an answer").status(), StatusCode::OK);
    }
    assert_eq!(harness.sent("authorization"), ["Bearer token-1", "Bearer token-2"], "the first call was sent twice");
}
