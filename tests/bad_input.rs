//! Bad input is rejected where it is given, with an error that names the field and repeats no secret.

mod sources;

use std::time::Duration;

use serde_json::json;
use tower_bearer::Error;
use tower_bearer::json::JsonLogin;
use tower_bearer::mesh_connect::MeshConnect;
use tower_bearer::meshydb::MeshyDb;
use tower_bearer::oauth2::{ClientCredentials, Password, RefreshToken};
use tower_bearer::testing::Issuer;

use crate::sources::{TOKEN_URL, client_credentials, password, refresh_token, says};

const SECRET: &str = "hunter2-hunter2";

fn issuer() -> Issuer {
    Issuer::new()
}

fn meshy() -> MeshyDb {
    MeshyDb::new(issuer(), "acme", "public-key").unwrap()
}

fn mesh_connect() -> MeshConnect {
    MeshConnect::new(issuer(), "id", SECRET).unwrap()
}

fn json_login() -> JsonLogin {
    JsonLogin::new(issuer(), TOKEN_URL, json!({ "key": SECRET })).unwrap()
}

/// The error of a value that must not be accepted; it names this field.
#[track_caller]
fn rejected<T: std::fmt::Debug>(field: &str, made: Result<T, Error>) {
    let error = made.unwrap_err();
    let said = says(&error);
    assert!(error.is_invalid() && !error.is_transient() && !error.is_denied(), "{said}");
    assert!(error.to_string().starts_with(&format!("invalid {field}: ")), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_address_that_is_none_or_unsafe_is_rejected() {
    let addresses = [
        "",
        " ",
        "token",
        "/token",
        "auth.example.com",
        "auth.example.com/token",
        "//auth.example.com/token",
        "https://",
        "https:///token",
        "https://[::1/token",
        "https://auth.example.com:port/token",
        "https://auth example.com/token",
        "https://bücher.example/token",
        "https://auth.example.com/tökén",
        "ftp://auth.example.com/token",
        "http://auth.example.com/token",
        "http://10.0.0.1/token",
        "http://localhost.example.com/token",
        "https://ann:hunter2-hunter2@auth.example.com/token",
        "https://hunter2-hunter2@auth.example.com/token",
        "http://ann:hunter2-hunter2@auth.example.com/token",
        "https://ann:hunter2 hunter2@auth.example.com/token",
    ];
    for url in addresses {
        rejected("token_url", ClientCredentials::new(issuer(), url, "my-app", SECRET));
        rejected("token_url", Password::new(issuer(), url, "my-app", "ann", SECRET));
        rejected("token_url", RefreshToken::new(issuer(), url, "my-app", SECRET));
        rejected("url", JsonLogin::new(issuer(), url, json!({ "key": SECRET })));
        rejected("auth_base", meshy().auth_base(url));
        rejected("base", mesh_connect().base(url));
    }
}

#[test]
fn a_base_with_a_query_or_a_fragment_is_rejected() {
    for base in ["https://auth.example.com?x=1", "https://auth.example.com/#x", "https://auth.example.com/?"] {
        rejected("auth_base", meshy().auth_base(base));
        rejected("base", mesh_connect().base(base));
    }
}

#[test]
fn plain_http_is_accepted_on_loopback() {
    for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "issuer.localhost"] {
        let base = format!("http://{host}");
        ClientCredentials::new(issuer(), &base, "my-app", SECRET).unwrap();
        meshy().auth_base(&base).unwrap();
        mesh_connect().base(&base).unwrap();
    }
}

#[test]
fn empty_credentials_are_rejected() {
    rejected("client_id", ClientCredentials::new(issuer(), TOKEN_URL, "", SECRET));
    rejected("client_secret", ClientCredentials::new(issuer(), TOKEN_URL, "my-app", ""));
    rejected("client_id", Password::new(issuer(), TOKEN_URL, "", "ann", SECRET));
    rejected("username", Password::new(issuer(), TOKEN_URL, "my-app", "", SECRET));
    rejected("password", Password::new(issuer(), TOKEN_URL, "my-app", "ann", ""));
    rejected("client_secret", password(&issuer()).client_auth(""));
    rejected("client_id", RefreshToken::new(issuer(), TOKEN_URL, "", SECRET));
    rejected("refresh_token", RefreshToken::new(issuer(), TOKEN_URL, "my-app", ""));
    rejected("client_secret", refresh_token(&issuer()).client_auth(""));

    for nothing in ["", "  \t"] {
        rejected("account_name", MeshyDb::new(issuer(), nothing, "public-key"));
        rejected("public_key", MeshyDb::new(issuer(), "acme", nothing));
    }
    for dots in [".", ".."] {
        rejected("account_name", MeshyDb::new(issuer(), dots, "public-key"));
    }
    rejected("username", meshy().login_with_password("", SECRET));
    rejected("password", meshy().login_with_password("ann", ""));
    rejected("username", meshy().login_anonymously(""));
    rejected("refresh_token", meshy().login_with_refresh_token(""));

    rejected("client_id", MeshConnect::new(issuer(), "", SECRET));
    rejected("client_secret", MeshConnect::new(issuer(), "id", ""));
}

#[test]
fn a_header_that_no_request_may_carry_is_rejected() {
    for value in ["hunter2\r\nx: y", "hunter2\n", "hunter2\0", "hunter2\u{7f}"] {
        rejected("tenant", meshy().tenant(&format!("a{value}b")));
        rejected("header", client_credentials(&issuer()).header("x-key", value));
        rejected("header", password(&issuer()).header("x-key", value));
        rejected("header", refresh_token(&issuer()).header("x-key", value));
        rejected("header", json_login().header("x-key", value));
    }
    for name in ["", "x key", "x:", "hunter2\r\n", "schlüssel"] {
        rejected("header", client_credentials(&issuer()).header(name, SECRET));
        rejected("header", json_login().header(name, SECRET));
    }
}

#[test]
fn a_default_lifetime_of_zero_is_rejected() {
    rejected("default_lifetime", client_credentials(&issuer()).default_lifetime(Duration::ZERO));
    rejected("default_lifetime", password(&issuer()).default_lifetime(Duration::ZERO));
    rejected("default_lifetime", refresh_token(&issuer()).default_lifetime(Duration::ZERO));
    rejected("default_lifetime", json_login().default_lifetime(Duration::ZERO));
}

#[test]
fn what_is_no_json_pointer_is_rejected() {
    for pointer in ["token", "data/token", "$.token", " /token", "~0", "/a~", "/a~2b", "/~/x"] {
        rejected("token_at", json_login().token_at(pointer));
        rejected("lifetime_at", json_login().lifetime_at(pointer));
    }
    for pointer in ["", "/", "/a~0b~1c", "/0/ "] {
        json_login().token_at(pointer).unwrap().lifetime_at(pointer).unwrap();
    }
}
