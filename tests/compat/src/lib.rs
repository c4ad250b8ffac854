//! The layer over common client stacks, with each replay choice. This code is only compiled; `tests/grpc.rs` runs.
//!
//! The layered service of every stack has to be a `Service` and `Clone`, and its futures have to be `Send`, also if the
//! stack itself is not `Sync`.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use tower::util::{BoxCloneService, BoxCloneSyncService};
use tower::{BoxError, Service, ServiceBuilder};
use tower_bearer::replay::{Buffered, CloneBody, IfEmpty, Never, ReplayBody};
use tower_bearer::{BearerLayer, TokenCache};

/// Checks the bounds of a layered stack.
fn is_client<S, B, A>(
    service: S,
) -> impl Service<Request<B>, Response = Response<A>, Error = BoxError, Future: Send> + Clone + Send
where
    S: Service<Request<B>, Response = Response<A>, Error = BoxError, Future: Send + 'static> + Clone + Send,
{
    service
}

fn layer<R>(replay: R) -> BearerLayer<R> {
    let cache = TokenCache::fixed("t").expect("a token");
    BearerLayer::new(cache, ["https://api.example.com"]).expect("an origin").replay(replay)
}

/// The limit of a recorded body.
const LIMIT: usize = 64 * 1024;

/// hyper-util's legacy client, and tower's own middleware around it.
pub mod over_hyper {
    use super::*;
    use hyper_util::client::legacy::Client;
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::TokioExecutor;

    type Http = Client<HttpConnector, Full<Bytes>>;

    /// hyper-util.
    pub fn fits() {
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(CloneBody)).service(http.clone()));
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(IfEmpty)).service(http.clone()));
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(Never)).service(http.clone()));
        is_client::<_, Full<Bytes>, _>(
            ServiceBuilder::new().layer(layer(|body: &Full<Bytes>| Some(body.clone()))).service(http.clone()),
        );
        // A client that takes the replay body, and one whose body type was chosen before.
        let recorded: Client<HttpConnector, ReplayBody<Full<Bytes>>> =
            Client::builder(TokioExecutor::new()).build_http();
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(Buffered::new(LIMIT))).service(recorded));
        let boxed: Client<HttpConnector, UnsyncBoxBody<Bytes, BoxError>> =
            Client::builder(TokioExecutor::new()).build_http();
        let record = Buffered::new(LIMIT).wrap(UnsyncBoxBody::new);
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(record)).service(boxed));

        // A boxed client. `BoxCloneService` is `Send` and not `Sync`.
        let boxed = BoxCloneService::new(http.clone());
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(CloneBody)).service(boxed));
        let boxed = BoxCloneSyncService::new(http.clone());
        is_client::<_, Full<Bytes>, _>(ServiceBuilder::new().layer(layer(CloneBody)).service(boxed));
        // A buffered client with a limit inside the buffer.
        let buffered =
            ServiceBuilder::new().layer(layer(CloneBody)).buffer::<Request<Full<Bytes>>>(8).service(http.clone());
        is_client::<_, Full<Bytes>, _>(buffered);
        let limited = ServiceBuilder::new().layer(layer(CloneBody)).concurrency_limit(1).service(http.clone());
        is_client::<_, Full<Bytes>, _>(limited);
        // The layered service itself can be boxed and buffered.
        let above = ServiceBuilder::new().buffer::<Request<Full<Bytes>>>(8).layer(layer(CloneBody)).service(http);
        let _: BoxCloneService<Request<Full<Bytes>>, Response<::hyper::body::Incoming>, BoxError> =
            BoxCloneService::new(above);
    }
}

/// reqwest: a `Service<reqwest::Request>`, so an adapter converts requests and responses.
pub mod over_reqwest {
    use super::*;

    use tower_bearer_reqwest::{Reqwest, TryClone};

    /// Its body is not `Clone`, and has no method that copies it.
    pub fn fits() -> reqwest::Result<()> {
        let http = Reqwest::build(reqwest::Client::builder())?;
        is_client::<_, reqwest::Body, _>(ServiceBuilder::new().layer(layer(TryClone)).service(http.clone()));
        is_client::<_, reqwest::Body, _>(ServiceBuilder::new().layer(layer(IfEmpty)).service(http.clone()));
        is_client::<_, reqwest::Body, _>(ServiceBuilder::new().layer(layer(Never)).service(http.clone()));
        is_client::<_, Full<Bytes>, _>(
            ServiceBuilder::new().layer(layer(Buffered::new(LIMIT).wrap(reqwest::Body::wrap))).service(http.clone()),
        );
        is_client::<_, reqwest::Body, _>(
            ServiceBuilder::new().layer(layer(Buffered::new(LIMIT).wrap(reqwest::Body::wrap))).service(http),
        );
        Ok(())
    }
}

/// tonic: one body type only, and URIs that are paths.
pub mod over_tonic {
    use super::*;
    use tonic::body::Body;
    use tonic::client::Grpc;
    use tonic::transport::{Channel, Endpoint};

    /// A generated client takes any `GrpcService`.
    pub fn fits(endpoint: Endpoint) {
        let channel: Channel = endpoint.connect_lazy();
        is_client::<_, Body, _>(ServiceBuilder::new().layer(layer(IfEmpty)).service(channel.clone()));
        is_client::<_, Body, _>(ServiceBuilder::new().layer(layer(Never)).service(channel.clone()));
        is_client::<_, Body, _>(
            ServiceBuilder::new().layer(layer(Buffered::new(LIMIT).wrap(Body::new))).service(channel.clone()),
        );
        is_client::<_, Body, _>(ServiceBuilder::new().layer(layer(|_: &Body| None::<Body>)).service(channel.clone()));
        let layer = layer(Buffered::new(LIMIT).wrap(Body::new)).allow_relative_uris();
        is_grpc(ServiceBuilder::new().layer(layer).service(channel));
    }

    fn is_grpc<S: tonic::client::GrpcService<Body>>(service: S) -> Grpc<S> {
        Grpc::new(service)
    }
}

/// kube: its client takes a whole stack, and calls it with kube's body.
pub mod over_kube {
    use super::*;
    use http_body::Body as _;
    use hyper_util::client::legacy;
    use hyper_util::rt::TokioExecutor;
    use kube::Client;
    use kube::client::Body;

    /// The stack's client is boxed and buffered by kube.
    pub fn fits() -> Client {
        let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build_http();
        is_client::<_, Body, _>(ServiceBuilder::new().layer(layer(Never)).service(http.clone()));
        is_client::<_, Body, _>(
            ServiceBuilder::new().layer(layer(|body: &Body| body.try_clone())).service(http.clone()),
        );
        // Its body cannot be made from another, so the inner client takes the replay body.
        let recorded: legacy::Client<_, ReplayBody<Body>> = legacy::Client::builder(TokioExecutor::new()).build_http();
        let recorded = ServiceBuilder::new().layer(layer(Buffered::new(LIMIT))).service(recorded);
        is_client::<_, Body, _>(recorded.clone());
        let _ = Client::new(recorded, "default");
        let boxed: legacy::Client<_, UnsyncBoxBody<Bytes, BoxError>> =
            legacy::Client::builder(TokioExecutor::new()).build_http();
        let record = Buffered::new(LIMIT).wrap(UnsyncBoxBody::new);
        is_client::<_, Body, _>(ServiceBuilder::new().layer(layer(record)).service(boxed));
        // The same as `IfEmpty`, for a body without `Default`.
        let if_empty = |body: &Body| body.is_end_stream().then(Body::empty);
        Client::new(ServiceBuilder::new().layer(layer(if_empty)).service(http), "default")
    }
}
