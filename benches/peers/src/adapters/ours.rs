//! tower-bearer, with a closure as its source; the floor; and the bare call.

use benches::fixtures::{Body, ORIGIN};
use benches::layers::named;
use http::Request;
use tower::{BoxError, Layer};
use tower_bearer::replay::{CloneBody, Never};
use tower_bearer::{Bearer, Token, TokenCache};
use tower_http::auth::{AddAuthorization, AddAuthorizationLayer};

use crate::issuer::Issuer;
use crate::peer::{Peer, Wire, request, through};

/// The README's configuration: one origin, a second send kept ready.
#[derive(Clone)]
pub struct Ours(Bearer<Wire, CloneBody>);

/// The same without a second send: the caller gets a 401, and the next request has a new token.
#[derive(Clone)]
pub struct OursNever(Bearer<Wire, Never>);

/// tower-http's static header.
#[derive(Clone)]
pub struct Floor(AddAuthorization<Wire>);

/// The API without a layer. What a peer adds is counted from its cost.
#[derive(Clone)]
pub struct Bare(Wire);

fn cache(issuer: Issuer) -> TokenCache {
    TokenCache::new(move |_| async move {
        let grant = issuer.answer().await;
        Ok::<_, tower_bearer::Error>(Token::new(grant.access_token)?.with_lifetime(grant.lifetime))
    })
}

impl Peer for Ours {
    const NAME: &'static str = "tower-bearer";
    const CRATE: &'static str = "tower-bearer";
    const NOTE: &'static str =
        "the README's configuration: one origin named, a second send kept ready. Fed by a closure";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        Ok(Self(named(&cache(issuer), ORIGIN).layer(Wire::to(issuer))))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        through(&mut self.0, request).await
    }
}

impl Peer for OursNever {
    const NAME: &'static str = "tower-bearer, `Never`";
    const CRATE: &'static str = "tower-bearer";
    const NOTE: &'static str = "as above, but a 401 is handed back and only the next request has a new token";
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        Ok(Self(named(&cache(issuer), ORIGIN).replay(Never).layer(Wire::to(issuer))))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        through(&mut self.0, request).await
    }
}

impl Peer for Floor {
    const NAME: &'static str = "(floor: tower-http's static header)";
    const CRATE: &'static str = "tower-http";
    const NOTE: &'static str = "`AddAuthorizationLayer`: a token that never changes, for every origin";
    const STATIC: bool = true;
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        let layer = AddAuthorizationLayer::bearer(&issuer.answer().await.access_token);
        Ok(Self(layer.layer(Wire::to(issuer))))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        through(&mut self.0, request).await
    }
}

impl Peer for Bare {
    const NAME: &'static str = "(bare: no token)";
    const CRATE: &'static str = "tower-bearer";
    const NOTE: &'static str = "the call of the API without a layer";
    const STATIC: bool = true;
    const SENDS_TOKEN: bool = false;
    type Request = Request<Body>;

    async fn start(issuer: Issuer) -> Result<Self, BoxError> {
        Ok(Self(Wire::to(issuer)))
    }

    fn request() -> Request<Body> {
        request()
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(), BoxError> {
        through(&mut self.0, request).await
    }
}
