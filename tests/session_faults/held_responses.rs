//! How much of its rejected response a waiting request may hold.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::{Error, TokenCache};

use crate::common::{MINUTE, Script, settle, until};
use crate::requests::{Body, get, layer, respond};

/// A body that knows its size, and counts the unread bytes of all such bodies.
pub(crate) struct Held {
    unread: usize,
    held: Arc<AtomicUsize>,
}

/// A thousand requests that were rejected at the same time, and whose refresh failed.
pub(crate) struct Rejected {
    /// How many unread bytes were held during the refresh.
    pub(crate) held: usize,
    pub(crate) outcomes: Vec<Result<Response<Held>, BoxError>>,
}

// === impl Held ===

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let size = std::mem::take(&mut self.unread);
        self.held.fetch_sub(size, Ordering::SeqCst);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(vec![b'x'; size].into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.unread == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unread as u64)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.unread, Ordering::SeqCst);
    }
}

// === impl Rejected ===

impl Rejected {
    pub(crate) async fn with_bodies_of(size: usize) -> Self {
        let script = Script::new();
        let cache = TokenCache::new(script.clone());
        cache.get().await.expect("a token");
        sleep(MINUTE).await;
        script.fail(1);
        let gate = script.hold();
        let (held, rejected) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, calls) = (Arc::clone(&held), Arc::clone(&rejected));
        let client = layer(&cache).layer(service_fn(move |request: Request<Body>| {
            calls.fetch_add(1, Ordering::SeqCst);
            counted.fetch_add(size, Ordering::SeqCst);
            let mut response = respond(401, Held { unread: size, held: Arc::clone(&counted) });
            response.headers_mut().insert("x-path", request.uri().path().parse().expect("a header value"));
            async { Ok::<_, BoxError>(response) }
        }));
        let calls: JoinSet<_> = (0..1000).map(|number| client.clone().oneshot(get(&format!("/{number}")))).collect();
        until(|| rejected.load(Ordering::SeqCst) == 1000).await;
        settle().await;
        let held = held.load(Ordering::SeqCst);
        gate.open();
        Self { held, outcomes: calls.join_all().await }
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_responses_without_a_body_are_returned_to_a_thousand_requests() {
    let rejected = Rejected::with_bodies_of(0).await;
    assert_eq!(rejected.outcomes.len(), 1000);
    for outcome in rejected.outcomes {
        let response = outcome.expect("the original response");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.extensions().get::<Error>().expect("the reason").is_transient());
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiting_requests_hold_less_than_the_smallest_window_of_http_2() {
    for size in [100, 1000, 4000] {
        let held = Rejected::with_bodies_of(size).await.held;
        assert!(held < 65_535, "{held} bytes in bodies of {size}");
    }
}
