//! The token sources, each with a fake issuer, JSON API, program or file.
#![allow(clippy::disallowed_methods, reason = "tests compare with the time of the wall clock")]
#![allow(clippy::duplicate_mod, reason = "both helpers turn on traces")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sources/signed.rs"]
mod signed;
#[path = "../sources/mod.rs"]
mod sources;

mod assertions;
mod authorization_code;
mod bad_input;
mod client_auth;
mod device_code;
mod exec;
mod file;
mod hostile_issuer;
mod json_login;
mod lost_answers;
mod mesh_connect;
mod metadata;
mod oauth2;
mod parameters;
mod revocation;
mod secret_sources;
mod sessions;
