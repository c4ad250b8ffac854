//! aliri_tokens and aliri_reqwest: a watcher whose task fetches, and a middleware of reqwest-middleware 0.4.
//!
//! The middleware requires `https://` unless another predicate is set, and keeps a caller's own header. It does nothing
//! about a 401. No request waits, so requests may carry an expired token. Times are whole seconds. With the default
//! settings a token counts as fresh for at least 30 s, also if it lives for less.

use std::convert::Infallible;

use aliri_clock::DurationSecs;
use aliri_reqwest::{AccessTokenMiddleware, ExactHostMatch};
use aliri_tokens::backoff::ErrorBackoffConfig;
use aliri_tokens::jitter::RandomEarlyJitter;
use aliri_tokens::sources::AsyncTokenSource;
use aliri_tokens::{AccessToken, IdToken, TokenLifetimeConfig, TokenWatcher, TokenWithLifetime};
use async_trait::async_trait;
use http::Extensions;
use http::header::AUTHORIZATION;
use reqwest_012::{Client, Request, Response};
use reqwest_middleware_04::{ClientBuilder, ClientWithMiddleware, Middleware, Next, Result};
use tower::BoxError;

use crate::issuer::Issuer;
use crate::peer::{self, Peer};

#[derive(Clone)]
pub struct Aliri(ClientWithMiddleware);

struct Source(Issuer);

struct Api(Issuer);

#[async_trait]
impl AsyncTokenSource for Source {
    type Error = Infallible;

    async fn request_token(&mut self) -> std::result::Result<TokenWithLifetime, Infallible> {
        let grant = self.0.answer().await;
        let token = AccessToken::from(grant.access_token);
        Ok(TokenLifetimeConfig::default().create_token(token, None::<IdToken>, DurationSecs(grant.lifetime.as_secs())))
    }
}

#[async_trait]
impl Middleware for Api {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        self.0.evaluate(|| request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()));
        self.0.finish(request);
        Ok(http::Response::<&[u8]>::default().into())
    }
}

impl Peer for Aliri {
    const NAME: &'static str = "aliri_tokens, aliri_reqwest";
    const CRATE: &'static str = "aliri_reqwest";
    const NOTE: &'static str = "nothing about a 401, no wait on expiry: the expired token is sent. Over reqwest-middleware 0.4; fed by its `AsyncTokenSource` trait";
    const FETCHES_AT_START: bool = true;
    type Request = Request;

    async fn start(issuer: Issuer) -> std::result::Result<Self, BoxError> {
        let jitter = RandomEarlyJitter::new(DurationSecs(1));
        let watcher =
            TokenWatcher::spawn_from_token_source(Source(issuer), jitter, ErrorBackoffConfig::default()).await?;
        let tokens = AccessTokenMiddleware::new(watcher).with_predicate(ExactHostMatch::new("api.example.com"));
        Ok(Self(ClientBuilder::new(Client::new()).with(tokens).with(Api(issuer)).build()))
    }

    fn request() -> Request {
        peer::request().map(reqwest_012::Body::wrap).try_into().expect("a request")
    }

    async fn send(&mut self, request: Request) -> std::result::Result<(), BoxError> {
        self.0.execute(request).await?;
        Ok(())
    }
}
