//! kube-client: its auth layer, with an exec plugin as cloud clusters use them. The plugin is this program.
//!
//! It matches no origin (the client has one), replaces a caller's own header, and does nothing about a 401. A minute
//! before the end it runs the plugin under the lock.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use benches::fixtures::{Body, ORIGIN};
use http::Request;
use kube_client::Config;
use kube_client::client::ConfigExt;
use kube_client::client::middleware::AuthLayer;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tower::{BoxError, Layer};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request, through};

#[derive(Clone)]
pub struct Kube(<AuthLayer as Layer<Wire>>::Service);

impl Peer for Kube {
    const NAME: &'static str = "kube-client, `AuthLayer` with an exec plugin";
    const CRATE: &'static str = "kube-client";
    const NOTE: &'static str = "nothing about a 401; margin fixed at 1 min, fetches under the lock. Fed by an exec plugin: a process, over a loopback endpoint";
    const FETCHES_AT_START: bool = true;
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let address = issuer.serve()?;
        let mut config = Config::new(ORIGIN.parse()?);
        config.auth_info.exec = Some(serde_json::from_value(json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": std::env::current_exe()?,
            "args": ["--exec-credential", address.to_string()],
            "interactiveMode": "Never",
        }))?);
        let layer = spawn_blocking(move || config.auth_layer()).await??.ok_or("no token in the credential")?;
        Ok(Self(layer.layer(Wire::to(issuer))))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        through(&mut self.0, request).await
    }
}

/// The exec plugin: it calls the endpoint, and prints the answer in the form of Kubernetes.
///
/// # Errors
/// Returns the errors of the socket, and an error if the answer is not a token.
pub fn exec_credential(address: &str) -> Result<(), BoxError> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"POST /token HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    let answer: Value = serde_json::from_str(body)?;
    let lifetime = Duration::from_secs(answer["expires_in"].as_u64().ok_or("no lifetime")?);
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": answer["access_token"], "expirationTimestamp": crate::timestamp(lifetime) },
    });
    println!("{credential}");
    Ok(())
}
