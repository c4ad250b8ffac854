//! A fake server of MeshyDB on a port of loopback, to try the sidecar without an account:
//! `cargo run -p tower-bearer-sidecar --example fake`. Its tokens live for ten seconds.
#![expect(clippy::disallowed_methods, reason = "this is a program, which may spawn tasks")]

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower_bearer::testing::{Collected, MeshyDbServer};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let server = MeshyDbServer::new("acme", "public-key").user("ann", "secret");
    server.lifetime(Duration::from_secs(10));
    let listener = TcpListener::bind("127.0.0.1:8499").await?;
    let base = format!("http://{}", listener.local_addr()?);
    println!("In a second terminal:");
    println!(
        "  SIDECAR_PASSWORD=secret cargo run -p tower-bearer-sidecar -- --preset meshydb --account acme --public-key public-key \\"
    );
    println!("      --username ann --issuer {base} --upstream {base} --log debug");
    println!("In a third:");
    println!("  curl -i {base}/acme/meshes/person                    # 401: without a token");
    println!("  curl -i http://127.0.0.1:8420/acme/meshes/person     # 200: through the sidecar");
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(Collected::new(server.clone()));
        let connection = auto::Builder::new(TokioExecutor::new());
        tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
    }
}
