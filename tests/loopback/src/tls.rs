//! The same over TLS, with a self-signed certificate.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use rcgen::CertifiedKey;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tower::{BoxError, Service};

use crate::{Server, whole};

impl Server {
    /// Serves a fake over TLS, with HTTP/2 or HTTP/1.1 by the client's ALPN. Returns the settings of a client that
    /// trusts it.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn fake_over_tls<S>(fake: S) -> (Self, ClientConfig)
    where
        S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send>,
        S: Clone + Send + 'static,
    {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let mut settings = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate and its key");
        settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(settings));
        let server = Self::accept("https", whole(fake), move |socket| acceptor.accept(socket)).await;
        (server, client)
    }
}
