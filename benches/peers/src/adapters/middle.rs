//! middle: an authorizer that returns a prepared header value. Its own task fetches.
//!
//! The adapter does what its `HttpClient::execute` does around reqwest. It matches no origin, and does nothing about a
//! 401. No request waits: without a valid token it fails.

use std::sync::Arc;

use benches::fixtures::Body;
use http::Request;
use http::header::AUTHORIZATION;
use middle::{Authorizer, BasicClientCredentialAuthorizer};
use tower::{BoxError, Service};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request};

#[derive(Clone)]
pub struct Middle {
    authorizer: BasicClientCredentialAuthorizer,
    api: Wire,
}

impl Peer for Middle {
    const NAME: &'static str = "middle";
    const CRATE: &'static str = "middle";
    const NOTE: &'static str =
        "no origin check, nothing about a 401, no wait on expiry: requests fail. Fed by a loopback endpoint";
    const FETCHES_AT_START: bool = true;
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let url = format!("http://{}/token", issuer.serve()?).parse()?;
        let authorizer = BasicClientCredentialAuthorizer::basic_builder("my-app", "secret", url).build().await?;
        Ok(Self { authorizer, api: Wire::to(issuer) })
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, mut request: Request<Body>) -> Result<(), BoxError> {
        let header = self.authorizer.authorization_header()?;
        if !request.headers().contains_key(AUTHORIZATION) {
            request.headers_mut().insert(AUTHORIZATION, Arc::unwrap_or_clone(header));
        }
        self.api.call(request).await?;
        Ok(())
    }
}
