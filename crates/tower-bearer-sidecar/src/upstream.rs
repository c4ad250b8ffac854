//! The clients for the upstream and the issuer, and their TLS settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tower_bearer::replay::ReplayBody;

use crate::ConfigError;
use crate::login::TokenClient;

pub(crate) type Connector = HttpsConnector<HttpConnector>;

/// The client that sends the calls to the upstream.
pub(crate) type CallClient = Client<Connector, ReplayBody<Incoming>>;

/// A client for each kind of traffic, with the same TLS settings.
pub(crate) struct Clients {
    pub(crate) tokens: TokenClient,
    /// Uses HTTP/2 if the upstream supports it over TLS.
    pub(crate) calls: CallClient,
    /// Uses HTTP/1.1 only, because a WebSocket begins as an upgrade, which HTTP/2 does not have.
    pub(crate) upgrades: CallClient,
}

/// How long connecting may take, without TLS.
const CONNECT: Duration = Duration::from_secs(10);

// === impl Clients ===

impl Clients {
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, ConfigError> {
        let tls = tls(ca_file)?;
        let builder = || HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http1();
        let both = builder().enable_http2().wrap_connector(tcp());
        let http1 = builder().wrap_connector(tcp());
        Ok(Self { tokens: client::<Full<_>>(both.clone()), calls: client(both), upgrades: client(http1) })
    }
}

fn client<B: Body<Data: Send> + Send>(connector: Connector) -> Client<Connector, B> {
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector)
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp
}

/// Trusts the public certificate authorities and those of the file. The public ones are compiled in, so that they are
/// the same everywhere.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca_file {
        let invalid = |problem: String| {
            let path = path.display();
            ConfigError::new("--ca-file", format_args!("{path} {problem}; name a PEM file of certificate authorities"))
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| invalid(format!("cannot be read ({error})")))?;
        if certificates.is_empty() {
            return Err(invalid("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| invalid(format!("holds an invalid certificate ({error})")))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(versions.expect("ring has the default versions").with_root_certificates(roots).with_no_client_auth())
}
