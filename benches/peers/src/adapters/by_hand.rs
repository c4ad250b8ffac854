//! A hand-written client around reqwest: a token and its end are behind an async lock, and it fetches under the lock.
//!
//! It matches no origin, and does nothing about a 401. While it fetches, all requests wait, even if the token is
//! usable.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderValue};
use reqwest::{Client, Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result};
use tokio::sync::Mutex;
use tower::BoxError;

use crate::issuer::Issuer;
use crate::now;
use crate::peer::{self, Peer};

#[derive(Clone)]
pub struct ByHand(ClientWithMiddleware);

struct Tokens {
    issuer: Issuer,
    token: Mutex<Option<(String, Instant)>>,
}

struct Api(Issuer);

impl Tokens {
    async fn header(&self) -> Result<HeaderValue> {
        let mut token = self.token.lock().await;
        let text = match &*token {
            Some((text, ends)) if *ends > now() => text,
            _ => {
                let began = now();
                let grant = self.issuer.answer().await;
                &token.insert((grant.access_token, began + grant.lifetime)).0
            }
        };
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(Error::middleware)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[async_trait]
impl Middleware for Tokens {
    async fn handle(&self, mut request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        let value = self.header().await?;
        request.headers_mut().insert(AUTHORIZATION, value);
        next.run(request, extensions).await
    }
}

#[async_trait]
impl Middleware for Api {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        self.0.evaluate(|| request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes));
        self.0.finish(request);
        Ok(http::Response::<&[u8]>::default().into())
    }
}

impl Peer for ByHand {
    const NAME: &'static str = "reqwest-middleware, written by hand";
    const CRATE: &'static str = "reqwest-middleware";
    const NOTE: &'static str = "no origin check, nothing about a 401, fetches under the lock. Fed by a function";
    type Request = Request;

    async fn start(issuer: Issuer) -> std::result::Result<Self, BoxError> {
        let tokens = Tokens { issuer, token: Mutex::new(None) };
        let client = ClientBuilder::new(Client::new()).with_arc(Arc::new(tokens)).with(Api(issuer)).build();
        Ok(Self(client))
    }

    fn request() -> Request {
        peer::request().map(reqwest::Body::wrap).try_into().expect("a request")
    }

    async fn send(&mut self, request: Request) -> std::result::Result<(), BoxError> {
        self.0.execute(request).await?;
        Ok(())
    }
}
