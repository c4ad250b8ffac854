//! The sources and the cache against real OAuth 2 servers; and what these have in common with the fakes.
//!
//! Tests of a real server are skipped, with a message, where it is not installed (`tests/issuers/install`,
//! `tests/issuers/install-authlib`). They run in real time, because it does.

mod assertions;
mod authentication;
mod authlib;
mod authorization_code;
mod conformance;
mod device_code;
mod load;
mod metadata;
mod resources;
mod revocation;
mod sessions;
mod subject;
