//! Helpers for tests of the token sources.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod any;
#[path = "../common/traces.rs"]
mod traces;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_bearer::oauth2::{
    self, ClientCredentialsGrant, ClientCredentialsGrantBuilder, PasswordGrant, PasswordGrantBuilder,
    RefreshTokenGrant, RefreshTokenGrantBuilder,
};
use tower_bearer::testing::{Answer, Collected, Recorded, TokenServer};
use tower_bearer::{BearerLayer, Error, HttpClient, Token, TokenCache};

pub(crate) const TOKEN_URL: &str = "https://auth.example.com/token";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The issuer with this token endpoint.
pub(crate) fn at<B: 'static>(http: impl HttpClient<B>) -> oauth2::Issuer {
    oauth2::Issuer::new(http).token_endpoint(TOKEN_URL)
}

pub(crate) fn client_credentials(issuer: &TokenServer) -> ClientCredentialsGrantBuilder {
    ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", "its secret")
}

pub(crate) fn password(issuer: &TokenServer) -> PasswordGrantBuilder {
    PasswordGrant::builder(&at(issuer.clone()), "my-app", "ann", "her password")
}

pub(crate) fn refresh_token(issuer: &TokenServer) -> RefreshTokenGrantBuilder {
    RefreshTokenGrant::builder(&at(issuer.clone()), "my-app", "saved")
}

/// A client that sends GETs to one fake, such as one with an issuer's metadata, and POSTs to another.
pub(crate) fn by_method(documents: &TokenServer, tokens: &TokenServer) -> impl HttpClient<Full<Bytes>> {
    let (documents, tokens) = (documents.clone(), tokens.clone());
    service_fn(move |request: Request<Full<Bytes>>| {
        let to = if request.method() == Method::GET { &documents } else { &tokens };
        to.clone().oneshot(request)
    })
}

/// The result of a token call with this answer.
pub(crate) async fn ask(answer: Answer) -> Result<Token, Error> {
    let issuer = TokenServer::new();
    issuer.queue(answer);
    TokenCache::new(client_credentials(&issuer).build().unwrap()).get().await
}

/// Advances paused time.
pub(crate) async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

/// The paused time of a test.
#[expect(clippy::disallowed_methods, reason = "a test reads the clock that it has paused")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long until the next fetch, in whole seconds, because the wall clock moves in tests, too.
pub(crate) fn next_attempt(cache: &TokenCache) -> Option<f64> {
    cache.status().next_attempt_in.map(|wait| wait.as_secs_f64().ceil())
}

/// All headers of a request by name, without `accept-encoding`, which is the same in each call. The values of a repeated
/// header are joined.
pub(crate) fn headers(request: &Recorded) -> BTreeMap<&str, String> {
    let mut headers = BTreeMap::<_, String>::new();
    for (name, value) in request.headers.iter().filter(|(name, _)| name.as_str() != "accept-encoding") {
        headers.entry(name.as_str()).or_default().push_str(value.to_str().unwrap());
    }
    headers
}

/// A map of names and values, to compare headers and forms with.
pub(crate) fn map<K: Ord, V: From<&'static str>>(
    entries: impl IntoIterator<Item = (K, &'static str)>,
) -> BTreeMap<K, V> {
    entries.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// The expected parameters of a form.
pub(crate) fn form<const N: usize>(entries: [(&str, &'static str); N]) -> BTreeMap<String, String> {
    map(entries.map(|(name, value)| (name.to_owned(), value)))
}

/// The parameter of this name in each request, or `-` if there is none.
pub(crate) fn each(requests: &[Recorded], name: &str) -> Vec<String> {
    requests.iter().map(|request| request.form().remove(name).unwrap_or("-".to_owned())).collect()
}

/// All texts of an error: its `Display` and `Debug`, and those of its sources.
pub(crate) fn says(error: &Error) -> String {
    let mut said = format!("{error} {error:?} {error:#?} {:?}", error.code());
    let mut next = error.source();
    while let Some(error) = next {
        said += &format!(" {error} {error:?}");
        next = error.source();
    }
    said
}

/// Sends a request through the layer to an API on a socket. Returns the status.
pub(crate) async fn call_api(cache: &TokenCache, base: &str, path: &str) -> StatusCode {
    let layer = BearerLayer::new(cache.clone(), [base]).unwrap();
    let request = Request::get(format!("{base}{path}")).body(Full::default()).unwrap();
    layer.layer(hyper_client()).oneshot(request).await.unwrap().status()
}

/// Serves a fake on a port of loopback. Returns its base URL.
pub(crate) async fn serve<S>(fake: S) -> String
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(Collected::new(fake.clone()));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            spawn(async move { server.serve_connection(TokioIo::new(stream), service).await.unwrap_or_default() });
        }
    });
    base
}

#[expect(clippy::disallowed_methods, reason = "the server of a test")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

pub(crate) fn hyper_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A body whose data come from a closure, until it returns `None`.
pub(crate) struct Streamed<F>(pub(crate) F);

impl<F: FnMut() -> Option<Result<Bytes, BoxError>> + Unpin> Body for Streamed<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready((self.0)().map(|data| data.map(Frame::data)))
    }
}
