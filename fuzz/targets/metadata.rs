//! Reads any metadata document of an issuer.
#![no_main]

use bytes::Bytes;
use fuzz::{SECRET, check, check_error, client, run};
use http::Response;
use libfuzzer_sys::fuzz_target;
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{ClientCredentialsGrant, DeviceCodeLogin, Issuer};

const ID: &str = "https://auth.example.com/tenant";

fuzz_target!(|data: &[u8]| {
    // The client answers the token call with the document too, which must be an error and never a panic.
    let issuer = Issuer::discover(client(Response::new(Bytes::copy_from_slice(data))), ID);
    match run(issuer.metadata()) {
        Ok(metadata) => assert_eq!(metadata["issuer"], ID),
        Err(error) => check_error(&error),
    }
    check(run(
        TokenCache::new(ClientCredentialsGrant::builder(&issuer, "my-app", SECRET).build().expect("valid")).get()
    ));
    if let Err(error) = run(DeviceCodeLogin::builder(&issuer, "my-app").build().expect("valid").begin()) {
        check_error(&error);
    }
});
