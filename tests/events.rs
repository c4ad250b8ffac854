//! Everything that happens can be seen, and a request that finds a usable token is silent.
//!
//! Alone in its process: tracing decides once for all threads whether anybody listens to an event, and a test beside this
//! one that does not listen could decide it first.

use std::io;
use std::sync::{Arc, Mutex};

use http::Request;
use tower::ServiceExt;
use tower_bearer::resend::Never;
use tower_bearer::testing::Answer;
use tower_bearer::{Error, Token};
use tracing_subscriber::fmt::MakeWriter;

use crate::stack::{Body, World, get};

#[path = "middleware/stack.rs"]
mod stack;

/// The lines of the events, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    /// What was seen since the last time, each line without what differs from run to run.
    fn take(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().expect("no panic"))).expect("text");
        text.lines().map(|line| line.trim().split(" took_ms=").next().expect("a line").to_owned()).collect()
    }
}

impl io::Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Seen {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn each_thing_that_happens_is_one_event_and_a_cached_token_is_none() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(seen.clone())
        .with_max_level(tracing::Level::TRACE)
        .without_time()
        .with_ansi(false)
        .finish();
    // The fetch runs on a task of its own, so the subscriber is that of the thread.
    let _listening = tracing::subscriber::set_default(subscriber);
    let world = World::new();
    let client = world.client();

    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(seen.take(), ["DEBUG tower_bearer: token fetched reason=first generation=1 lifetime_s=3600.0"]);

    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(seen.take(), [""; 0], "the hot path says nothing");

    world.settled().await;
    world.api.queue(Answer::raw(401, ""));
    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "INFO tower_bearer: token refused generation=1",
            "DEBUG tower_bearer: token fetched reason=refused generation=2 lifetime_s=3600.0",
            "DEBUG tower_bearer: request sent again refused=1 generation=2",
        ]
    );

    world.settled().await;
    world.api.queue(Answer::raw(401, ""));
    world.api.queue(Answer::fails("cut off"));
    client.clone().oneshot(get("/")).await.expect_err("the second send failed");
    assert_eq!(seen.take()[2..], ["DEBUG tower_bearer: request sent again refused=2 generation=3"]);

    world.settled().await;
    world.issuer.fail(Some(Answer::raw(503, "")));
    world.api.queue(Answer::raw(401, ""));
    client.clone().oneshot(get("/")).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "INFO tower_bearer: token refused generation=3",
            "WARN tower_bearer: token fetch failed reason=refused error=https://auth.example.com/token answered 503; \
             this may pass: try again after a pause denied=false",
            "DEBUG tower_bearer: refused response handed back refused=3 why=\"there is no new token\"",
        ]
    );

    let once = tower::Layer::layer(&world.layer().resend(Never), world.network.clone());
    world.api.queue(Answer::raw(401, ""));
    once.oneshot(get("/")).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "DEBUG tower_bearer: refused response handed back refused=3 why=\"its body cannot be sent twice\"",
            "INFO tower_bearer: token refused generation=3",
        ]
    );

    let elsewhere = Request::get("https://elsewhere.test:8443/secret?path").body(Body::default()).expect("a request");
    client.oneshot(elsewhere).await.expect("an answer");
    assert_eq!(
        seen.take(),
        [
            "DEBUG tower_bearer: request to another origin passes without a token scheme=\"https\" host=\"elsewhere.test\" \
          port=8443"
        ]
    );

    world.cache.sign_out(async |_| Ok::<_, Error>(())).await.expect("there is nothing to revoke");
    assert_eq!(seen.take(), ["INFO tower_bearer: signed out"]);
    world.cache.set_source(async |_| Token::new("t").map(|token| token.with_refresh_token("r")));
    world.cache.get().await.expect("a token");
    world.cache.sign_out(async |_| Err(io::Error::other("no route"))).await.expect_err("it was not revoked");
    assert_eq!(
        seen.take()[1..],
        ["WARN tower_bearer: signed out, refresh token not revoked error=the session was signed out, and its refresh \
             token could not be revoked (the cause is this error's source): it may still work"]
    );
}
