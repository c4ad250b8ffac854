//! The guide: sources, recipes, errors, observability, design and decisions.
//!
//! The pages are files of the repository, in `docs`. In the files, links lead to docs.rs. Here each link leads to the
//! item, because the first definition of a link counts.

/// Every source of tokens, and the cache that holds them.
///
#[cfg_attr(feature = "exec", doc = "[`exec::TokenCommand`]: crate::exec::TokenCommand")]
/// [oauth2]: crate::oauth2
/// [`json::JsonLogin`]: crate::json::JsonLogin
/// [`providers::meshydb::MeshyDb`]: crate::providers::meshydb::MeshyDb
/// [`providers::mesh_connect::MeshConnect`]: crate::providers::mesh_connect::MeshConnect
/// [`file::TokenFile`]: crate::file::TokenFile
/// [`chain::TokenSourceChain`]: crate::chain::TokenSourceChain
/// [fixed]: crate::TokenCache::fixed
/// [`oauth2::Issuer`]: crate::oauth2::Issuer
/// [`oauth2::ProtectedResource`]: crate::oauth2::ProtectedResource
/// [`oauth2::ClientAuth`]: crate::oauth2::ClientAuth
/// [`TokenCache`]: crate::TokenCache
/// [`oauth2::Revocation`]: crate::oauth2::Revocation
#[doc = include_str!("../docs/sources.md")]
pub mod sources {}

/// Recipes, each of them compiled.
///
/// [`oauth2::Revocation`]: crate::oauth2::Revocation
/// [`file::TokenFile`]: crate::file::TokenFile
#[doc = include_str!("../docs/cookbook.md")]
pub mod cookbook {}

/// What a 401 means, and how a request is retried.
///
/// [`RejectionPolicy`]: crate::RejectionPolicy
/// [`any_scheme`]: crate::RejectionPolicy::any_scheme
/// [`status`]: crate::RejectionPolicy::status
/// [`when`]: crate::RejectionPolicy::when
/// [`grpc`]: crate::RejectionPolicy::grpc
/// [`SentMethod`]: crate::SentMethod
/// [`WatchTrailers`]: crate::WatchTrailers
/// [`FetchContext::challenges`]: crate::FetchContext::challenges
/// [`Challenge`]: crate::Challenge
/// [`RefreshPolicy::rejection_budget`]: crate::RefreshPolicy::rejection_budget
/// [`Error`]: crate::Error
/// [`Error::rejected_response`]: crate::Error::rejected_response
/// [check]: crate::replay::check
/// [replay]: crate::replay
#[doc = include_str!("../docs/rejections.md")]
pub mod rejections {}

/// Where other layers belong, and what an inner service must do.
#[doc = include_str!("../docs/composition.md")]
pub mod composition {}

/// Every error, with its cause and its remedy.
///
/// [`Error::find`]: crate::Error::find
/// [`Error::rejected_response`]: crate::Error::rejected_response
/// [`meshydb::Problem`]: crate::providers::meshydb::Problem
/// [sources]: crate::guide::sources
#[doc = include_str!("../docs/errors.md")]
pub mod errors {}

/// Every event, span and metric; health checks, a dashboard and alerts.
///
/// [`TokenCacheBuilder::name`]: crate::TokenCacheBuilder::name
/// [`TokenCache::status`]: crate::TokenCache::status
#[cfg_attr(feature = "metrics", doc = "[`describe_metrics`]: crate::describe_metrics")]
#[doc = include_str!("../docs/observability.md")]
pub mod observability {}

/// How to migrate from other ways of sending a token.
///
/// [`Error::denied`]: crate::Error::denied
/// [`Token`]: crate::Token
#[doc = include_str!("../docs/migrating.md")]
pub mod migrating {}

/// A session that several processes share: stores, refreshes, failures, and events.
#[doc = include_str!("../docs/shared-sessions.md")]
pub mod shared_sessions {}

/// What the crate promises, and what it does not do.
#[doc = include_str!("../docs/promises.md")]
pub mod promises {}

/// The design: modules, state, locks, and the steps of a refresh and a rejection.
///
/// [decisions]: crate::guide::decisions
/// [promises]: crate::guide::promises
#[doc = include_str!("../DESIGN.md")]
pub mod design {}

/// The design decisions, and the rejected alternatives.
///
/// [design]: crate::guide::design
/// [composition]: crate::guide::composition
#[doc = include_str!("../docs/decisions.md")]
pub mod decisions {}

/// A complete test of a client, and the fakes for it.
///
/// [`TokenServer`]: crate::testing::TokenServer
/// [`Api`]: crate::testing::Api
/// [`ManualClock`]: crate::testing::ManualClock
/// [`Collected`]: crate::testing::Collected
#[cfg(feature = "testing")]
#[doc = include_str!("../docs/testing.md")]
pub mod testing {}
