//! An API and another server that redirect, and the events of a test.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use loopback::Server;
use tower::service_fn;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// An API and another server, with names that resolve to loopback.
pub(crate) struct Net {
    pub(crate) api: Server,
    pub(crate) other: Server,
}

/// The answer at a path: a redirect, or a status and a text.
#[derive(Clone)]
pub(crate) enum Answer {
    To(u16, String),
    Says(u16, &'static str),
}

pub(crate) async fn server(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Server {
    let answers: Arc<HashMap<_, _>> = Arc::new(answers.into_iter().collect());
    Server::start(service_fn(move |request: Request<_>| {
        let answer = match answers[request.uri().path()].clone() {
            Answer::To(status, there) => {
                Response::builder().status(status).header("location", there).body(Full::default())
            }
            Answer::Says(status, words) => Response::builder().status(status).body(Full::new(Bytes::from(words))),
        };
        async move { Ok::<_, Infallible>(answer.expect("an answer")) }
    }))
    .await
}

/// The same server under another name.
pub(crate) fn named(name: &str, server: &Server, path: &str) -> String {
    server.url(path).replace("127.0.0.1", name)
}

impl Net {
    /// The API redirects to `/there` of the other server, under this name.
    pub(crate) async fn one_hop(status: u16, name: &str, there: Answer) -> Self {
        let other = server([("/there", there)]).await;
        let api = server([("/", Answer::To(status, named(name, &other, "/there")))]).await;
        Self { api, other }
    }

    /// The API redirects to the other server, which redirects to itself.
    pub(crate) async fn two_hops() -> Self {
        let answers = [("/", Answer::To(302, "/there".into())), ("/there", Answer::Says(200, "welcome"))];
        let other = server(answers).await;
        let api = server([("/", Answer::To(302, named("other.test", &other, "/")))]).await;
        Self { api, other }
    }

    /// The origin of the API, under its name.
    pub(crate) fn origin(&self) -> String {
        named("api.test", &self.api, "")
    }
}

/// An event of this crate: its level, its name, and the values of its fields without the message.
pub(crate) type Seen = (Level, &'static str, Vec<String>);

/// Collects the events of this thread until the guard is dropped.
pub(crate) fn events() -> (Arc<Mutex<Vec<Seen>>>, tracing::subscriber::DefaultGuard) {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let collected = tracing_subscriber::registry().with(Collect(Arc::clone(&seen)));
    (seen, tracing::subscriber::set_default(collected))
}

struct Collect(Arc<Mutex<Vec<Seen>>>);

impl<S: Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // The library's own events have lower levels.
        if metadata.target() == "tower_bearer" && *metadata.level() == Level::ERROR {
            let mut values = Values(Vec::new());
            event.record(&mut values);
            self.0.lock().expect("no panic").push((*metadata.level(), metadata.name(), values.0));
        }
    }
}

struct Values(Vec<String>);

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            self.0.push(format!("{value:?}"));
        }
    }

    fn record_str(&mut self, _: &Field, value: &str) {
        self.0.push(value.to_owned());
    }
}
