//! A token that ends during a call: tonic's server says `UNAUTHENTICATED` in the trailers, after messages that were sent.
#![expect(clippy::disallowed_methods, reason = "the server is a task")]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, iter};
use tonic::body::Body;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::ServiceBuilder;
use tower::util::MapResponseLayer;
use tower_bearer::replay::Buffered;
use tower_bearer::testing::{ManualClock, TokenServer};
use tower_bearer::{BearerLayer, RejectionPolicy, TokenCache, WatchTrailers, oauth2};

/// gRPC's own health service. A stream of `token-1` breaks after its first message, others end.
#[derive(Clone, Default)]
struct Guarded(Arc<Mutex<Vec<String>>>);

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

impl Guarded {
    /// Serves on a free port for as long as the test's runtime lives.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Server::builder().add_service(HealthServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        origin
    }

    fn tokens(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }
}

#[tonic::async_trait]
impl Health for Guarded {
    type WatchStream = Answers;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        let token = request.metadata().get("authorization").expect("a token").to_str().expect("text").to_owned();
        let first = Ok(HealthCheckResponse { status: 1 });
        let end = (token == "Bearer token-1").then(|| Err(Status::unauthenticated("the token has ended")));
        self.0.lock().expect("no panic").push(token);
        Ok(Response::new(Box::pin(iter([first].into_iter().chain(end)))))
    }

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }
}

/// Makes two calls, the second when the token was replaced or `replaced` is not expected. Returns how each ended, and the
/// tokens that the server saw.
async fn two_calls(rejection: RejectionPolicy, replaced: bool) -> ([Option<Code>; 2], Vec<String>) {
    let api = Guarded::default();
    let origin = api.serve().await;
    let issuer = oauth2::Issuer::new(TokenServer::new()).token_endpoint("https://auth.example.com/token");
    let login = oauth2::ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build().expect("a grant");
    let clock = ManualClock::new();
    let cache = TokenCache::builder(login).clock(clock.clone()).build().expect("a cache");
    cache.get().await.expect("a token");
    // A rejection counts once the token is old enough to have reached every server of the API.
    clock.advance(Duration::from_secs(3));

    let channel = Endpoint::from_shared(origin.clone()).expect("a URL").connect().await.expect("a connection");
    let layer = BearerLayer::new(cache.clone(), [&*origin]).expect("an origin").rejection_policy(rejection);
    let layer = layer.allow_relative_uris().replay(Buffered::new(64 * 1024).wrap(Body::new));
    let watched = ServiceBuilder::new().layer(MapResponseLayer::new(WatchTrailers::of)).layer(layer).service(channel);
    let mut health = HealthClient::with_origin(watched, origin.parse::<Uri>().expect("a URL"));

    let mut ends = [None; 2];
    for end in &mut ends {
        let ask = HealthCheckRequest { service: String::new() };
        let mut answers = health.watch(ask).await.expect("the call begins").into_inner();
        assert_eq!(answers.message().await.expect("a message").expect("one").status, 1);
        *end = answers.message().await.err().map(|status| status.code());
        let is_replaced = async {
            while replaced && cache.status().generation == 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_replaced).await.expect("the token is replaced");
    }
    (ends, api.tokens())
}

#[tokio::test]
async fn a_token_that_the_trailers_reject_is_replaced_and_the_call_is_not_sent_again() {
    let (ends, tokens) = two_calls(RejectionPolicy::new().grpc(), true).await;
    assert_eq!(ends, [Some(Code::Unauthenticated), None]);
    assert_eq!(tokens, ["Bearer token-1", "Bearer token-2"]);
}

#[tokio::test]
async fn without_the_setting_for_grpc_the_trailers_mean_nothing() {
    let (ends, tokens) = two_calls(RejectionPolicy::new(), false).await;
    assert_eq!(ends, [Some(Code::Unauthenticated); 2]);
    assert_eq!(tokens, ["Bearer token-1"; 2]);
}
