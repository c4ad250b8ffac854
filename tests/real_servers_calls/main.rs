//! The content of token calls to real servers, and the URLs of their endpoints.

#[path = "../sources/signed.rs"]
mod signed;
#[path = "../sources/mod.rs"]
mod sources;

mod discovery;
mod insecure;
mod parameters;
mod pushed;
mod resource;
mod resume;
mod settings;
