//! A tower layer that keeps a bearer token fresh and puts it on the requests of any HTTP client.
//!
//! It gets the token from a source (an OAuth 2 grant, a JSON login, your own async closure). It refreshes the token
//! shortly before it expires, once for all callers. A request that is answered 401 is retried once with a new token.
//!
//! ```no_run
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_rustls::HttpsConnectorBuilder;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{BoxError, Layer, ServiceExt};
//! use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer};
//! use tower_bearer::{BearerLayer, TokenCache};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     // Your client. It carries the requests and the token calls alike.
//!     let https = HttpsConnectorBuilder::new().with_webpki_roots();
//!     let https = https.https_or_http().enable_http1().build();
//!     let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(https);
//!     // Where tokens come from.
//!     let issuer = Issuer::discover(http.clone(), "https://auth.example.com");
//!     let secret = std::env::var("SECRET")?;
//!     let grant = ClientCredentialsGrant::builder(&issuer, "my-app", secret).build()?;
//!     let cache = TokenCache::new(grant);
//!     // Where they may go.
//!     let api = BearerLayer::new(cache, ["https://api.example.com"])?.layer(http);
//!
//!     let request = http::Request::get("https://api.example.com/me").body(Full::default())?;
//!     println!("{}", api.oneshot(request).await?.status());
//!     Ok(())
//! }
//! ```
//!
//! <details><summary>Its Cargo.toml</summary>
//!
//! ```toml
//! [dependencies]
//! tower-bearer = "0.1"
//! bytes = "1"
//! http = "1"
//! http-body-util = "0.1"
//! hyper-rustls = { version = "0.27", default-features = false, features = ["http1", "ring", "webpki-roots"] }
//! hyper-util = { version = "0.1", features = ["client-legacy", "http1", "tokio"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! tower = { version = "0.5", features = ["util"] }
//! ```
//!
//! </details>
//!
//! ```text
//! a request ---> Bearer -----------------------> http ---> the API       with the token
//!                  | is a usable token there?     ^
//!              TokenCache                         |
//!                  | one fetch for all callers    |
//!              a source of tokens ----------------+------> the issuer    with the credentials
//! ```
//!
//! The client is any tower service of `http::Request`s that is `Clone`. [`guide::composition`] lists the other
//! requirements. `tower-bearer-reqwest` adapts reqwest's client.
//!
//! # A token's life
//!
//! This token lives for an hour. [`RefreshPolicy`] says when a token is due.
//!
//! ```text
//! fetched                                  due                      expired       end, as the
//!  0:00                                    55:00                    59:55  60:00  issuer said
//!    |--------------- fresh ---------------|--------- due ----------|------|
//!    requests carry the token              they still carry it,     they wait for
//!    ^                                     one fetch runs           the next token
//!    |                                     |                        |
//!    +------------ the next token ---------+------------------------+
//!
//! 401: the rejected request waits for the next token, and is retried once; other requests go on
//! ```
//!
//! # Where to go
//!
//! | for | see |
//! |---|---|
//! | every source of tokens: OAuth 2, JSON logins, files, programs, closures | [`guide::sources`] |
//! | the handle: get the token, watch it, save a rotated refresh token, sign out | [`TokenCache`] |
//! | a token for each tenant, user or scope, in one client | [`CacheChoice`], and [`guide::cookbook`] |
//! | one session for several processes | [`guide::shared_sessions`] |
//! | complete recipes | [`guide::cookbook`] |
//! | what a 401 means, and bodies that are not `Clone`; every error and its remedy | [`guide::rejections`], [`guide::errors`] |
//! | events, metrics, health checks, a dashboard and alerts | [`guide::observability`] |
//! | other layers around and inside this one, and the requirements for a client | [`guide::composition`] |
//! | migration from `AddAuthorizationLayer`, `oauth2`, reqwest or your own middleware | [`guide::migrating`] |
//! | tests of your own client: fakes, and a manual clock | [`guide::testing`] |
//! | what it promises, and what it does not do | [`guide::promises`] |
//! | how it works, and why | [`guide::design`], [`guide::decisions`] |
//!
//! Features: `follow-redirect` (default; recognises redirects by inner services), `jwt` (signed assertions),
//! `authorization-code` (logins in a browser), `exec` (programs that print a token), `keyed` (a token per tenant or
//! user), `metrics` (counters and histograms), `store` (a session that processes share, in a directory or your own
//! [store]), `sealed` (encrypts the record of that session), `testing`.
//!
#![cfg_attr(
    not(feature = "testing"),
    doc = "[`guide::testing`]: https://docs.rs/tower-bearer/latest/tower_bearer/guide/testing/index.html"
)]
#![cfg_attr(
    not(feature = "store"),
    doc = "[store]: https://docs.rs/tower-bearer/latest/tower_bearer/store/trait.TokenStore.html"
)]
#![cfg_attr(feature = "store", doc = "[store]: store::TokenStore")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

// Without this error the crate would compile, and panic when it first reads a clock.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
compile_error!(
    "tower-bearer needs a clock and tokio's timers, which wasm32-unknown-unknown does not have; in a browser, use a client \
     whose session the browser keeps"
);

mod cache;
mod cache_choice;
mod challenge;
mod clock;
mod error;
mod future;
pub mod guide;
#[cfg(feature = "keyed")]
mod keyed;
mod layer;
mod no_token;
mod origin;
pub mod providers;
mod rejection;
pub mod replay;
mod schedule;
mod secret;
mod service;
mod singleflight;
/// The tests are not in the module, because `tests/models` includes its file.
#[cfg(test)]
#[path = "singleflight/tests.rs"]
mod singleflight_tests;
mod source;
#[cfg(feature = "store")]
pub mod store;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod trailers;

#[cfg(feature = "store")]
pub use cache::StoreStatus;
pub use cache::{RotatedToken, Status, TokenCache, TokenCacheBuilder};
pub use cache_choice::CacheChoice;
pub use challenge::Challenge;
pub use error::{Error, ErrorKind};
pub use future::{InnerService, ResponseFuture};
#[cfg(feature = "keyed")]
pub use keyed::{KeyedStatus, KeyedTokenCache};
pub use layer::BearerLayer;
pub use no_token::NoToken;
pub use origin::Origin;
pub use rejection::{RejectionPolicy, SentMethod};
pub use replay::Replay;
pub use schedule::{Phase, RefreshPolicy};
pub use secret::Secret;
pub use service::Bearer;
#[cfg(feature = "exec")]
pub use source::exec;
pub use source::secret::SecretSource;
pub use source::transport::HttpClient;
pub use source::{FetchContext, Reason, TokenSource, chain, file, json, oauth2};
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
pub use token::{DEFAULT_LIFETIME, MAX_LIFETIME, Token};
pub use trailers::WatchTrailers;

/// Compiles the examples of README.md, which is not a page of the docs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
