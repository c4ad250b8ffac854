//! google-cloud-auth: credentials that return headers. Its task fetches with its own reqwest.
//!
//! The caller adds the headers, matches origins and handles a 401, for which there is no function. The task fetches 4
//! minutes before the end. It fetches a token that lives for less every 10 s, so requests wait for that.

use benches::fixtures::Body;
use google_cloud_auth::credentials::user_account::Builder;
use google_cloud_auth::credentials::{CacheableResource, Credentials};
use http::{Extensions, Request};
use serde_json::json;
use tower::{BoxError, Service};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request};

#[derive(Clone)]
pub struct Google {
    credentials: Credentials,
    api: Wire,
}

impl Peer for Google {
    const NAME: &'static str = "google-cloud-auth";
    const CRATE: &'static str = "google-cloud-auth";
    const NOTE: &'static str = "no origin check, nothing about a 401; a token of less than 4 min is fetched every 10 s. Fed by a loopback endpoint (a user's credentials)";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let user = json!({
            "type": "authorized_user",
            "client_id": "my-app",
            "client_secret": "secret",
            "refresh_token": "refresh",
        });
        let credentials = Builder::new(user).with_token_uri(format!("http://{}/token", issuer.serve()?)).build()?;
        Ok(Self { credentials, api: Wire::to(issuer) })
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, mut request: Request<Body>) -> Result<(), BoxError> {
        // There is no entity tag, as its docs recommend to callers that compute nothing from the headers.
        match self.credentials.headers(Extensions::new()).await? {
            CacheableResource::New { data, .. } => request.headers_mut().extend(data),
            CacheableResource::NotModified => return Err("headers without a tag are new".into()),
        }
        self.api.call(request).await?;
        Ok(())
    }
}
