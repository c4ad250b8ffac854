//! The sources and the cache against a real OAuth 2 server, and the common behaviour of that server and the fakes.
//!
//! Tests of the real server are skipped, with a message, if it is not installed (`tests/issuers/install`). They run in
//! real time, as the server does.

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
