//! A tower layer that keeps a bearer token fresh and puts it on the requests of any HTTP client.
//!
//! It takes the token from a source (an OAuth 2 grant, a JSON login, your own async closure), refreshes it shortly before it
//! expires, once for all callers, and sends a request that is answered 401 once more with a new token.
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
//! Any client that is a `Clone` tower service of `http::Request`s will do; [`composition`] says what else it must be, and
//! `tower-bearer-reqwest` makes one of reqwest's.
//!
//! # A token's life
//!
//! Of an hour, here; [`Refresh`] says when a token is due.
//!
//! ```text
//! fetched                                  due                      expired       end, as the
//!  0:00                                    55:00                    59:55  60:00  issuer said
//!    |--------------- fresh ---------------|--------- due ----------|------|
//!    requests carry the token              they still carry it,     they wait for
//!    ^                                     one fetch runs beside    the next token
//!    |                                     |                        |
//!    +------------ the next token ---------+------------------------+
//!
//! 401: the refused request waits for the next token and goes again, once; others go on
//! ```
//!
//! # Where to go
//!
//! | for | see |
//! |---|---|
//! | every source of tokens: OAuth 2, JSON logins, files, programs, closures | [`sources`] |
//! | the handle: to ask for the token, watch it, save what is rotated, sign out | [`TokenCache`] |
//! | a recipe, complete and compiled | [`cookbook`] |
//! | what a 401 means, and bodies that are not `Clone`; every error and its remedy | [`refusals`], [`errors`] |
//! | what can be seen: events, metrics, health, a dashboard and alerts | [`seeing`] |
//! | other layers beside this one, and what a client must be | [`composition`] |
//! | moving from `AddAuthorizationLayer`, `oauth2`, reqwest or a middleware of your own | [`moving`] |
//! | tests of your own client: fakes, and a clock moved by hand | [`testing::guide`] |
//! | what it promises, and what it does not do; why, and at what cost | [`promises`], [`design`] |
//!
//! Features: `follow-redirect` (the default: redirects beneath the layer), `jwt` (signed assertions), `authorization-code`
//! (logins in a browser), `exec` (programs that print a token), `metrics` (counters and histograms), `testing`.
//!
#![cfg_attr(
    not(feature = "testing"),
    doc = "[`testing::guide`]: https://docs.rs/tower-bearer/latest/tower_bearer/testing/guide/index.html"
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod cache;
mod challenge;
mod clock;
mod error;
mod future;
mod layer;
mod origin;
pub mod providers;
mod refusal;
pub mod resend;
mod schedule;
mod secret;
mod service;
mod singleflight;
/// Not in the module, because `tests/models` includes its file.
#[cfg(test)]
#[path = "singleflight/tests.rs"]
mod singleflight_tests;
mod source;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use cache::{Status, TokenCache};
pub use challenge::Challenge;
pub use error::Error;
pub use future::{InnerService, ResponseFuture};
pub use layer::BearerLayer;
pub use origin::Origin;
pub use refusal::Refusal;
pub use resend::Resend;
pub use schedule::{Phase, Refresh};
pub use secret::Secret;
pub use service::{Bearer, NoToken};
#[cfg(feature = "exec")]
pub use source::exec;
pub use source::secret::SecretSource;
pub use source::transport::HttpClient;
pub use source::{FetchContext, Reason, TokenSource, file, json, oauth2};
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
pub use token::{DEFAULT_LIFETIME, MAX_LIFETIME, Token};

// The pages. Read as files, their links lead to docs.rs; here each leads to the item, since the first definition counts.

/// Every source of tokens, and the handle on what they fetch.
///
#[cfg_attr(feature = "exec", doc = "[`exec::TokenCommand`]: crate::exec::TokenCommand")]
/// [oauth2]: crate::oauth2
/// [`json::JsonLogin`]: crate::json::JsonLogin
/// [`providers::meshydb::MeshyDb`]: crate::providers::meshydb::MeshyDb
/// [`providers::mesh_connect::MeshConnect`]: crate::providers::mesh_connect::MeshConnect
/// [`file::TokenFile`]: crate::file::TokenFile
/// [fixed]: crate::TokenCache::fixed
/// [`oauth2::Issuer`]: crate::oauth2::Issuer
/// [`oauth2::ClientAuth`]: crate::oauth2::ClientAuth
/// [`TokenCache`]: crate::TokenCache
/// [`oauth2::Revocation`]: crate::oauth2::Revocation
#[doc = include_str!("../docs/sources.md")]
pub mod sources {}

/// Recipes, each of them compiled.
///
/// [`oauth2::Revocation`]: crate::oauth2::Revocation
#[doc = include_str!("../docs/cookbook.md")]
pub mod cookbook {}

/// What a 401 means, and how a request is sent again.
///
/// [`Refusal`]: crate::Refusal
/// [`Challenge`]: crate::Challenge
/// [`Refresh::refusal_budget`]: crate::Refresh::refusal_budget
/// [`Error`]: crate::Error
/// [`Error::rejected_response`]: crate::Error::rejected_response
/// [check]: crate::resend::check
/// [resend]: crate::resend
#[doc = include_str!("../docs/refusals.md")]
pub mod refusals {}

/// On which side of the layer other layers belong, and why; what a service beneath must be.
#[doc = include_str!("../docs/composition.md")]
pub mod composition {}

/// Every error, with its cause and its remedy.
///
/// [`Error::find`]: crate::Error::find
/// [`Error::rejected_response`]: crate::Error::rejected_response
/// [`meshydb::Problem`]: crate::providers::meshydb::Problem
#[doc = include_str!("../docs/errors.md")]
pub mod errors {}

/// Every event, span and metric; health checks, a dashboard and alerts.
///
/// [`TokenCache::named`]: crate::TokenCache::named
/// [`TokenCache::status`]: crate::TokenCache::status
#[cfg_attr(feature = "metrics", doc = "[`describe_metrics`]: crate::describe_metrics")]
#[doc = include_str!("../docs/seeing.md")]
pub mod seeing {}

/// From other ways of sending a token.
///
/// [`Error::denied`]: crate::Error::denied
/// [`Token`]: crate::Token
#[doc = include_str!("../docs/moving.md")]
pub mod moving {}

/// What it promises, and what it does not do.
#[doc = include_str!("../docs/promises.md")]
pub mod promises {}

/// Why things are as they are: the decisions, and what was rejected for them.
#[doc = include_str!("../DESIGN.md")]
pub mod design {}

/// README.md is no page of the docs; its example is compiled all the same.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
