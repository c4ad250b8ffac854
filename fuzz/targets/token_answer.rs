//! Reads any answer to a token call, with any status, by any source.
#![no_main]

use bytes::Bytes;
use fuzz::{SECRET, check, check_error, client, run};
use http::Response;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use tower_bearer::TokenCache;
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{ClientCredentialsGrant, DeviceCodeLogin, Issuer, RefreshTokenGrant};
use tower_bearer::providers::mesh_connect::MeshConnect;
use tower_bearer::providers::meshydb::{MeshyDb, Problem};

const URL: &str = "https://auth.example.com/token";

fuzz_target!(|data: &[u8]| {
    // The first line is the source and the status, such as `M 400`. The rest is the body.
    let (first, body) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => return,
    };
    let first = String::from_utf8_lossy(first);
    let (source, status) = first.split_once(' ').unwrap_or(("C", "200"));
    let status = status.parse().ok().filter(|status| (200..600).contains(status)).unwrap_or(200);
    let answer = Response::builder().status(status).body(Bytes::copy_from_slice(body)).expect("a status");
    let http = client(answer);
    let cache = match source {
        "R" => TokenCache::new(
            RefreshTokenGrant::builder(&Issuer::new(http).token_endpoint(URL), "my-app", SECRET)
                .build()
                .expect("valid"),
        ),
        "J" => TokenCache::new(JsonLogin::builder(http, URL, json!({ "key": SECRET })).build().expect("valid")),
        "M" => TokenCache::new(MeshConnect::builder(http, "id", SECRET).build().expect("valid")),
        "Y" => {
            let meshy = MeshyDb::builder(http, "acme", "key").build().expect("valid");
            TokenCache::new(meshy.login_with_password("ann", SECRET).build().expect("valid"))
        }
        "D" => {
            let login = DeviceCodeLogin::builder(
                &Issuer::new(http).token_endpoint(URL).device_authorization_endpoint(URL),
                "my-app",
            )
            .client_auth(SECRET)
            .build()
            .expect("valid");
            match run(login.begin()) {
                Ok(code) => {
                    assert!(!format!("{}{}", code.user_code(), code.verification_uri()).contains(char::is_control))
                }
                Err(error) => check_error(&error),
            }
            return;
        }
        _ => TokenCache::new(
            ClientCredentialsGrant::builder(&Issuer::new(http).token_endpoint(URL), "my-app", SECRET)
                .build()
                .expect("valid"),
        ),
    };
    let outcome = run(cache.get());
    if let Err(error) = &outcome {
        let _ = Problem::of(error);
    }
    check(outcome);
});
