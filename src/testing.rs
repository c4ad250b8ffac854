//! Fakes for tests: token endpoints and APIs that need no socket.
//!
//! [This page](crate::guide::testing) has a complete test of a client.
//!
//! Every fake is a [`tower::Service`] of `http::Request<Full<Bytes>>`, a cheap handle to clone, and always ready. Each
//! reads time from tokio, so a test with paused time decides when tokens end and answers arrive. Settings take `&self`
//! and apply to the calls that arrive afterwards, so a test can change them while requests are in flight.
//!
//! | fake | simulates |
//! |---|---|
//! | [`TokenServer`] | an OAuth 2 token endpoint that follows a script of [`Answer`]s |
//! | [`Api`] | an API that accepts the live access tokens of a [`Ledger`] and rejects all others |
//! | [`MeshyDbServer`] | MeshyDB: login, anonymous users, tenants, rotated refresh tokens, sign-out |
//! | [`MeshConnectServer`] | Mesh Connect: a JSON login whose token comes in an envelope |
//!
//! An issuer processes a call when it arrives, and sends the answer after its `delay`. So a call that is dropped during
//! the delay loses its answer, and the life of a token begins before the delay. An API evaluates a token after its
//! `delay`, so a token may expire during the delay.
//!
//! ```
//! use std::time::Duration;
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::ServiceExt;
//! use tower_bearer::testing::{Answer, Api, TokenServer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let issuer = TokenServer::new();
//! issuer.queue(Answer::raw(503, "<h1>Bad gateway</h1>"));
//! let ask = || Request::post("https://auth.example.com/token").body(Full::<Bytes>::default());
//! assert_eq!(issuer.clone().oneshot(ask()?).await?.status(), 503);
//! assert_eq!(issuer.clone().oneshot(ask()?).await?.status(), 200);
//!
//! let api = Api::new(issuer.ledger());
//! let call = Request::get("https://api.example.com/").header("authorization", "Bearer token-1");
//! assert_eq!(api.clone().oneshot(call.body(Full::default())?).await?.status(), 200);
//! assert_eq!((issuer.calls().total(), api.accepted()), (2, 1));
//! # Ok(())
//! # }
//! ```

mod answer;
mod api;
mod calls;
mod collected;
mod helpers;
mod ledger;
#[cfg(feature = "store")]
mod memory_store;
mod mesh_connect;
mod meshydb;
mod recorded;
mod script;
mod sessions;
#[cfg(feature = "store")]
mod store_conformance;
#[cfg(test)]
mod tests;
mod token_server;

pub use crate::clock::ManualClock;
pub use answer::Answer;
pub use api::Api;
pub use calls::Calls;
pub use collected::Collected;
pub use ledger::{Ledger, TokenState};
#[cfg(feature = "store")]
pub use memory_store::{MemoryStore, StoreCall, StoreFault};
pub use mesh_connect::MeshConnectServer;
pub use meshydb::{ErrorBodies, MeshyDbServer};
pub use recorded::Recorded;
#[cfg(feature = "store")]
pub use store_conformance::store_conformance;
pub use token_server::TokenServer;
