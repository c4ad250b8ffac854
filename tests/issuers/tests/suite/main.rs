//! Tests of the sources and the cache with real OAuth 2 servers, and of the behaviour that these share with the fakes.
//!
//! If a real server is not installed, its tests are skipped with a message (`tests/issuers/install`,
//! `tests/issuers/install-authlib`). They run in real time, because the servers do.

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
