//! The two lookalikes on loopback sockets, and what they have in common.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{BoxError, Service};
use tower_bearer::testing::{Answer, Calls, Collected, Ledger, MeshConnectServer, MeshyDbServer};

/// What the tour needs of a lookalike.
pub(crate) trait Lookalike: Send + Sync {
    /// Its own count of the calls of its token endpoint.
    fn token_calls(&self) -> &Calls;
    /// Its own knowledge of the access tokens it issued.
    fn ledger(&self) -> Ledger;
    /// What its token endpoint answers in an outage; `None` ends it.
    fn fail(&self, answer: Option<Answer>);
    /// How long access tokens live, how long its token answers take, and how long a request takes to its API.
    fn set_times(&self, lifetime: Duration, token: Duration, api: Duration);
}

macro_rules! lookalike {
    ($server:ty) => {
        impl Lookalike for $server {
            fn token_calls(&self) -> &Calls {
                self.token_calls()
            }

            fn ledger(&self) -> Ledger {
                self.ledger()
            }

            fn fail(&self, answer: Option<Answer>) {
                self.fail(answer);
            }

            fn set_times(&self, lifetime: Duration, token: Duration, api: Duration) {
                self.lifetime(lifetime);
                self.delay(token);
                self.api().delay(api);
            }
        }
    };
}
lookalike!(MeshyDbServer);
lookalike!(MeshConnectServer);

/// Serves a lookalike with hyper on a free port, until the program ends; returns its origin.
pub(crate) async fn serve<S>(lookalike: &S) -> io::Result<String>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let service = TowerToHyperService::new(Collected::new(lookalike.clone()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                // A connection that breaks is the client's to report.
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(origin)
}
