//! Draining a rejected response ends with every body.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use tokio::time::sleep;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::TokenCache;

use crate::common::{MINUTE, Script};
use crate::requests::{Body, get, layer, respond, token};

/// More polls than any sensible bound. Then the body ends, so that the test ends.
const ENDLESS: usize = 1_000_000;

/// A body of empty frames that is always ready.
struct EmptyFrames {
    polls: Arc<AtomicUsize>,
    size: SizeHint,
}

impl http_body::Body for EmptyFrames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polls = self.polls.fetch_add(1, Ordering::SeqCst);
        Poll::Ready((polls < ENDLESS).then(|| Ok(Frame::data(Bytes::new()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[tokio::test(start_paused = true)]
async fn draining_stops_at_a_body_of_endless_empty_frames() {
    // A body that says it is small may be held, and read afterwards.
    for size in [SizeHint::default(), SizeHint::with_exact(30)] {
        let script = Script::new();
        let cache = TokenCache::new(script);
        cache.get().await.expect("a token");
        sleep(MINUTE).await;
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let client = layer(&cache).layer(service_fn(move |request: Request<Body>| {
            let status = if token(request.headers()) == "t1" { 401 } else { 200 };
            let body = EmptyFrames { polls: Arc::clone(&counted), size };
            std::future::ready(Ok::<_, BoxError>(respond(status, body)))
        }));
        assert_eq!(client.oneshot(get("/")).await.expect("a response").status(), 200);
        let polls = polls.load(Ordering::SeqCst);
        assert!(polls < ENDLESS / 10, "{polls} polls");
    }
}
