//! The sources and the cache against a real OAuth 2 server; and what it has in common with the fakes.
//!
//! Tests of the real server are skipped, with a message, where it is not installed (`tests/issuers/install`). They run
//! in real time, because it does.

mod assertions;
mod authentication;
mod authorization_code;
mod conformance;
mod device_code;
mod load;
mod metadata;
mod resources;
mod revocation;
mod sessions;
mod subject;
