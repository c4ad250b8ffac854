//! Invalid input is an error of the builder, which names the field and redacts secrets.

use std::time::Duration;

use serde_json::json;
use tower_bearer::Error;
use tower_bearer::file::TokenFile;
use tower_bearer::json::{JsonLogin, JsonLoginBuilder};
use tower_bearer::oauth2::{self, ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant};
use tower_bearer::providers::mesh_connect::{MeshConnect, MeshConnectBuilder};
use tower_bearer::providers::meshydb::{MeshyDb, MeshyDbBuilder};
use tower_bearer::testing::TokenServer;

use crate::sources::{TOKEN_URL, at, client_credentials, password, refresh_token, says};

const SECRET: &str = "hunter2-hunter2";

fn issuer() -> TokenServer {
    TokenServer::new()
}

fn meshy() -> MeshyDbBuilder {
    MeshyDb::builder(issuer(), "acme", "public-key")
}

fn mesh_connect() -> MeshConnectBuilder {
    MeshConnect::builder(issuer(), "id", SECRET)
}

fn json_login() -> JsonLoginBuilder {
    JsonLogin::builder(issuer(), TOKEN_URL, json!({ "key": SECRET }))
}

/// Checks that this is an error that names the field.
#[track_caller]
fn rejected<T: std::fmt::Debug>(field: &str, made: Result<T, Error>) {
    let error = made.unwrap_err();
    let said = says(&error);
    assert!(error.is_invalid() && !error.is_transient() && !error.is_denied(), "{said}");
    assert!(error.to_string().starts_with(&format!("invalid {field}: ")), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_invalid_or_unsafe_url_is_rejected() {
    let urls = [
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
        "http://auth.example.com/token?key=hunter2-hunter2",
        "http://10.0.0.1/token",
        "http://localhost.example.com/token",
        "https://ann:hunter2-hunter2@auth.example.com/token",
        "https://hunter2-hunter2@auth.example.com/token",
        "http://ann:hunter2-hunter2@auth.example.com/token",
        "https://ann:hunter2 hunter2@auth.example.com/token",
    ];
    for url in urls {
        rejected(
            "token_endpoint",
            ClientCredentialsGrant::builder(&oauth2::Issuer::new(issuer()).token_endpoint(url), "my-app", SECRET)
                .build(),
        );
        rejected(
            "token_endpoint",
            PasswordGrant::builder(&oauth2::Issuer::new(issuer()).token_endpoint(url), "my-app", "ann", SECRET).build(),
        );
        rejected(
            "token_endpoint",
            RefreshTokenGrant::builder(&oauth2::Issuer::new(issuer()).token_endpoint(url), "my-app", SECRET).build(),
        );
        rejected("url", JsonLogin::builder(issuer(), url, json!({ "key": SECRET })).build());
        rejected("url", JsonLogin::get(issuer(), url).build());
        rejected("auth_base", meshy().auth_base(url).build());
        rejected("base", mesh_connect().base(url).build());
    }
}

#[test]
fn a_base_with_a_query_or_a_fragment_is_rejected() {
    for base in ["https://auth.example.com?x=1", "https://auth.example.com/#x", "https://auth.example.com/?"] {
        rejected("auth_base", meshy().auth_base(base).build());
        rejected("base", mesh_connect().base(base).build());
    }
}

#[test]
fn plain_http_is_accepted_on_loopback() {
    for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST."] {
        let base = format!("http://{host}");
        ClientCredentialsGrant::builder(&oauth2::Issuer::new(issuer()).token_endpoint(&base), "my-app", SECRET)
            .build()
            .unwrap();
        meshy().auth_base(&base).build().unwrap();
        mesh_connect().base(&base).build().unwrap();
    }
}

#[test]
fn empty_credentials_are_rejected() {
    rejected("client_id", ClientCredentialsGrant::builder(&at(issuer()), "", SECRET).build());
    rejected("client_secret", ClientCredentialsGrant::builder(&at(issuer()), "my-app", "").build());
    rejected("client_id", PasswordGrant::builder(&at(issuer()), "", "ann", SECRET).build());
    rejected("username", PasswordGrant::builder(&at(issuer()), "my-app", "", SECRET).build());
    rejected("password", PasswordGrant::builder(&at(issuer()), "my-app", "ann", "").build());
    rejected("client_secret", password(&issuer()).client_auth("").build());
    rejected("client_id", RefreshTokenGrant::builder(&at(issuer()), "", SECRET).build());
    rejected("refresh_token", RefreshTokenGrant::builder(&at(issuer()), "my-app", "").build());
    rejected("client_secret", refresh_token(&issuer()).client_auth("").build());

    for nothing in ["", "  \t"] {
        rejected("account_name", MeshyDb::builder(issuer(), nothing, "public-key").build());
        rejected("public_key", MeshyDb::builder(issuer(), "acme", nothing).build());
    }
    for dots in [".", ".."] {
        rejected("account_name", MeshyDb::builder(issuer(), dots, "public-key").build());
    }
    rejected("username", meshy().build().unwrap().login_with_password("", SECRET).build());
    rejected("password", meshy().build().unwrap().login_with_password("ann", "").build());
    rejected("username", meshy().build().unwrap().login_anonymously("").build());
    rejected("refresh_token", meshy().build().unwrap().login_with_refresh_token("").build());

    rejected("client_id", MeshConnect::builder(issuer(), "", SECRET).build());
    rejected("client_secret", MeshConnect::builder(issuer(), "id", "").build());
    rejected("secret", json_login().secret_at("/key", "").build());
    rejected("secret_at", json_login().secret_at("/nowhere", SECRET).build());
    rejected("secret_at", JsonLogin::get(issuer(), TOKEN_URL).secret_at("/key", SECRET).build());
}

#[test]
fn an_invalid_header_is_rejected() {
    for value in ["hunter2\r\nx: y", "hunter2\n", "hunter2\0", "hunter2\u{7f}"] {
        rejected("tenant", meshy().tenant(&format!("a{value}b")).build());
        rejected("header", client_credentials(&issuer()).header("x-key", value).build());
        rejected("header", password(&issuer()).header("x-key", value).build());
        rejected("header", refresh_token(&issuer()).header("x-key", value).build());
        rejected("header", json_login().header("x-key", value).build());
    }
    for name in ["", "x key", "x:", "hunter2\r\n", "schlüssel"] {
        rejected("header", client_credentials(&issuer()).header(name, SECRET).build());
        rejected("header", json_login().header(name, SECRET).build());
    }
}

#[test]
fn a_default_lifetime_of_zero_is_rejected() {
    rejected("default_lifetime", client_credentials(&issuer()).default_lifetime(Duration::ZERO).build());
    rejected("default_lifetime", password(&issuer()).default_lifetime(Duration::ZERO).build());
    rejected("default_lifetime", refresh_token(&issuer()).default_lifetime(Duration::ZERO).build());
    rejected("default_lifetime", json_login().default_lifetime(Duration::ZERO).build());
    rejected("default_lifetime", TokenFile::builder("token").default_lifetime(Duration::ZERO).build());
}

#[test]
fn an_invalid_json_pointer_is_rejected() {
    for pointer in ["token", "data/token", "$.token", " /token", "~0", "/a~", "/a~2b", "/~/x"] {
        rejected("token_at", json_login().token_at(pointer).build());
        rejected("lifetime_at", json_login().lifetime_at(pointer).build());
        rejected("expires_at", json_login().expires_at(pointer).build());
        rejected("secret_at", json_login().secret_at(pointer, SECRET).build());
        rejected("token_at", TokenFile::builder("token").token_at(pointer).build());
        rejected("lifetime_at", TokenFile::builder("token").lifetime_at(pointer).build());
    }
    for pointer in ["", "/", "/a~0b~1c", "/0/ "] {
        json_login().token_at(pointer).lifetime_at(pointer).build().unwrap();
    }
}
