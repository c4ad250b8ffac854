//! An upstream with a certificate of a private authority, which speaks HTTP/2 and HTTP/1.1.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http::Version;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Sidecar, issuer, json, patiently, write};
use crate::upstream::Upstream;

/// Serves over TLS. Returns the origin and the authority's certificate.
async fn serve(upstream: &Upstream) -> (String, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let upstream = upstream.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    upstream.connection(stream).await;
                }
            });
        }
    });
    (origin, authority.pem())
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_if_it_is_configured() {
    let (_, tokens) = issuer().await;
    let upstream = Upstream::default();
    let (origin, authority) = serve(&upstream).await;
    let untrusting = Sidecar::of(&tokens, &origin, &[]).await;
    let (status, body) = untrusting.get("/me").await;
    assert_eq!((status.as_u16(), json(&body)["code"].as_str()), (502, Some("unreachable")));
    assert!(body.contains("certificate"), "{body}");
    assert!(upstream.seen().is_empty());

    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory.path().join("ca.pem"), &authority);
    let sidecar = Sidecar::of(&tokens, &origin, &["--ca-file", &file]).await;
    assert!(sidecar.get("/me").await.1.contains("Bearer token-"));
    assert_eq!(upstream.only().version, Version::HTTP_2);
    // HTTP/2 has no upgrades, so a WebSocket uses HTTP/1.1.
    let (mut socket, _) = patiently(connect_async(format!("ws://{}/socket", sidecar.host()))).await.unwrap();
    socket.send(Message::text("one")).await.unwrap();
    assert_eq!(patiently(socket.next()).await.unwrap().unwrap(), Message::text("one"));
    assert_eq!(upstream.seen()[1].version, Version::HTTP_11);
}
