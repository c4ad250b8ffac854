//! A token expires by the operating system's clocks. This package does not enable tokio's `test-util`, so the layer
//! reads the coarse clock, as it does in a user's program and not in the tests of the crate itself.
#![expect(clippy::disallowed_methods, reason = "this test needs real time")]

use std::future::ready;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::replay::Never;
use tower_bearer::{BearerLayer, Error, FetchContext, Token, TokenCache};

const LIFE: Duration = Duration::from_secs(2);
/// The age from which on the token is not sent.
const EXPIRED: Duration = Duration::from_millis(1800);

fn get() -> Request<Full<Bytes>> {
    Request::get("https://api.example.com/").body(Full::default()).expect("a request")
}

#[tokio::test]
async fn an_expired_token_is_sent_neither_by_a_kept_service_nor_by_a_clone() {
    // The only token call that succeeds sets it. The cache counts the life of the token from this time or earlier.
    let born = Arc::new(OnceLock::new());
    let setting = Arc::clone(&born);
    let source = move |_: FetchContext| {
        let first = setting.set(Instant::now()).map_err(|_| Error::transient("the issuer is down"));
        ready(first.and_then(|()| Token::new("t")).map(|token| token.with_lifetime(LIFE)))
    };
    let layer = BearerLayer::new(TokenCache::new(source), ["https://api.example.com"]).expect("an origin");
    let answer = |_: Request<Full<Bytes>>| ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())));
    let api = layer.replay(Never).layer(service_fn(answer));
    let mut kept = api.clone();
    let mut age = Duration::ZERO;
    while age < EXPIRED {
        // The age is read before the requests, so that their duration does not matter.
        age = born.get().map_or(Duration::ZERO, Instant::elapsed);
        let by_kept = kept.ready().await.expect("it is ready").call(get()).await;
        let by_clone = api.clone().oneshot(get()).await;
        for answer in [by_kept, by_clone] {
            match answer {
                Ok(_) => assert!(age < EXPIRED, "sent when it was {age:?} old"),
                Err(error) => assert!(Error::find(&*error).expect("our error").is_transient(), "{error}"),
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}
