//! What token calls to real servers carry, and where their endpoints are.

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
