#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod cache;
mod challenge;
mod clock;
mod error;
mod flight;
mod future;
mod layer;
pub mod meshydb;
mod origin;
mod refusal;
pub mod resend;
mod schedule;
mod secret;
mod service;
mod source;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use cache::{Status, TokenCache};
pub use challenge::Challenge;
pub use error::Error;
pub use future::ResponseFuture;
pub use layer::BearerLayer;
pub use origin::Origin;
pub use refusal::Refusal;
pub use resend::Resend;
pub use schedule::{Phase, Refresh};
pub use secret::Secret;
pub use service::{Bearer, NoToken};
pub use source::endpoint::HttpClient;
#[cfg(feature = "exec")]
pub use source::exec;
pub use source::secret::SecretSource;
pub use source::{FetchContext, Reason, TokenSource, file, json, mesh_connect, oauth2};
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
pub use token::{DEFAULT_LIFETIME, MAX_LIFETIME, Token};

/// Recipes, each of them compiled.
#[doc = include_str!("../docs/cookbook.md")]
pub mod cookbook {}

/// On which side of the layer other layers belong, and why; what a service beneath must be.
#[doc = include_str!("../docs/composition.md")]
pub mod composition {}

/// Every error, with its cause and its remedy.
#[doc = include_str!("../docs/errors.md")]
pub mod errors {}

/// From other ways of sending a token.
#[doc = include_str!("../docs/moving.md")]
pub mod moving {}

/// Why things are as they are: the decisions, and what was rejected for them.
#[doc = include_str!("../DESIGN.md")]
pub mod design {}
