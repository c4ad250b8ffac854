//! The two fake servers on loopback sockets, and their common trait.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{BoxError, Service};
use tower_bearer::testing::{Answer, Calls, Collected, Ledger, MeshConnectServer, MeshyDbServer};

/// A fake server of the tour.
pub(crate) trait FakeServer: Send + Sync {
    /// Returns the server's own count of the calls of its token endpoint.
    fn token_calls(&self) -> &Calls;
    /// Returns the access tokens that the server issued.
    fn ledger(&self) -> Ledger;
    /// Answers all token calls with this, until `None` ends the outage.
    fn fail(&self, answer: Option<Answer>);
    /// Sets how long access tokens live, how long a token call takes, and how long a request takes to the API.
    fn set_times(&self, lifetime: Duration, token: Duration, api: Duration);
}

macro_rules! fake_server {
    ($server:ty) => {
        impl FakeServer for $server {
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
fake_server!(MeshyDbServer);
fake_server!(MeshConnectServer);

/// Serves a fake with hyper on a free port until the program ends. Returns its origin.
pub(crate) async fn serve<S>(fake: &S) -> io::Result<String>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let service = TowerToHyperService::new(Collected::new(fake.clone()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                // The client reports a broken connection.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(origin)
}
