//! kube: a client whose service stack contains the layer. The token is in a file that another process rewrites, as the
//! kubelet does for a service account.
//!
//! ```text
//! cargo run -p stack-kube
//! ```

use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::client::{Body, ConfigExt};
use kube::{Api, Client, Config};
use tower::{BoxError, ServiceBuilder};
use tower_bearer::file::TokenFile;
use tower_bearer::{BearerLayer, TokenCache};

mod fake;

fn client(config: &Config, origin: &str, token: TokenCache) -> Result<Client, BoxError> {
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build_http();
    let stack = ServiceBuilder::new()
        // kube's requests are paths. This layer outside the bearer layer makes them whole URLs.
        .layer(config.base_uri_layer())
        .layer(BearerLayer::new(token, [origin])?.replay(|body: &Body| body.try_clone()))
        .service(http);
    Ok(Client::new(stack, config.default_namespace.clone()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: `Config::infer()`, and /var/run/secrets/kubernetes.io/serviceaccount/token.
    let file = std::env::temp_dir().join(format!("stack-kube-{}", std::process::id()));
    tokio::fs::write(&file, "first\n").await?;
    let server = fake::api_server(file.clone()).await;
    let config = Config::new(server.origin().parse()?);

    // The cache reads the file every minute, and at once after a 401.
    let token = TokenCache::new(TokenFile::new(&file));
    let pods: Api<Pod> = Api::default_namespaced(client(&config, server.origin(), token)?);
    println!("{} pod", pods.list(&Default::default()).await?.items.len());

    // A 401 counts once the token is old enough to have reached every server of the API.
    tokio::time::sleep(Duration::from_secs(2)).await;
    tokio::fs::write(&file, "second\n").await?;
    let pods = pods.list(&Default::default()).await?.items;
    println!("{} pod after the token in the file was replaced", pods.len());
    assert_eq!(pods[0].metadata.name.as_deref(), Some("web-0"));
    assert_eq!(server.tokens(), ["Bearer first", "Bearer first", "Bearer second"]);
    tokio::fs::remove_file(file).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
