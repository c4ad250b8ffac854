//! hyper-util's client and hyper-rustls: TLS, with HTTP/1.1 or HTTP/2 as negotiated.
//!
//! ```text
//! cargo run -p stack-hyper
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopback::Server;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
use tower_bearer::testing::{Api, TokenServer};
use tower_bearer::{BearerLayer, TokenCache};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        // In your program: the addresses of your token endpoint and of your API.
        let issuer = TokenServer::new();
        let accepting = Api::new(issuer.ledger());
        let (server, tls) = Server::fake_over_tls(loopback::site(&issuer, &accepting)).await;

        // In your program: `.with_webpki_roots()` or `.with_native_roots()?`, and `.enable_all_versions()`.
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let https = match version {
            Version::HTTP_11 => https.enable_http1().build(),
            _ => https.enable_http2().build(),
        };
        let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(https);

        let auth_server = Issuer::new(http.clone()).token_endpoint(&server.url("/token"));
        let login = ClientCredentialsGrant::builder(&auth_server, "my-app", "its secret").build()?;
        let api = BearerLayer::new(TokenCache::new(login), [server.origin()])?.layer(http);

        let get = || Request::get(server.url("/me")).body(Full::default()).expect("a request");
        let answer = api.clone().oneshot(get()).await?;
        println!("{:?}: {}", answer.version(), answer.status());
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));

        // A 401 counts once the token is old enough to have reached every server of the API.
        tokio::time::sleep(Duration::from_secs(2)).await;
        issuer.ledger().revoke_all();
        let answer = api.oneshot(get()).await?;
        println!("{:?}: {} after the token was revoked", answer.version(), answer.status());
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!((accepting.accepted(), accepting.rejected(), issuer.calls().total()), (2, 1, 2));
    }
    Ok(())
}
