//! Settings are checked once, when a grant or a login is built.

use std::time::Duration;

use tower_bearer::Error;
use tower_bearer::oauth2::{
    AuthorizationCodeLogin, ClientCredentialsGrant, DeviceCodeLogin, Issuer, JwtBearerGrant, PasswordGrant, Revocation,
    TokenExchangeGrant,
};
use tower_bearer::testing::TokenServer;

use crate::sources::{TOKEN_URL, at};

fn server() -> TokenServer {
    TokenServer::new()
}

/// Checks that the error names this field.
#[track_caller]
fn invalid<T: std::fmt::Debug>(field: &str, built: Result<T, Error>) {
    let error = built.unwrap_err();
    assert!(error.is_invalid() && error.to_string().starts_with(&format!("invalid {field}: ")), "{error}");
}

#[test]
fn each_endpoint_that_is_needed_and_not_named_is_an_error_that_names_it() {
    let issuer = at(server());
    invalid("device_authorization_endpoint", DeviceCodeLogin::builder(&issuer, "my-app").build());
    invalid("authorization_endpoint", AuthorizationCodeLogin::builder(&issuer, "my-app", "http://[::1]/").build());
    invalid("revocation_endpoint", Revocation::builder(&issuer, "my-app").build());
    let issuer = Issuer::new(server()).revocation_endpoint("https://auth.example.com/revoke");
    Revocation::builder(&issuer, "my-app").build().unwrap();
    invalid("token_endpoint", PasswordGrant::builder(&issuer, "my-app", "ann", "p").build());
}

#[test]
fn each_url_of_an_issuer_is_checked_also_one_that_the_grant_does_not_use() {
    let url = "http://auth.example.com/x";
    let grant = |issuer: Issuer| ClientCredentialsGrant::builder(&issuer, "my-app", "its secret").build();
    invalid("token_endpoint", grant(Issuer::new(server()).token_endpoint(url)));
    invalid("revocation_endpoint", grant(at(server()).revocation_endpoint(url)));
    invalid("authorization_endpoint", grant(at(server()).authorization_endpoint(url)));
    invalid("device_authorization_endpoint", grant(at(server()).device_authorization_endpoint(url)));
    let par = "pushed_authorization_request_endpoint";
    invalid(par, grant(at(server()).pushed_authorization_request_endpoint(url)));
    invalid("issuer", grant(Issuer::discover(server(), url)));
    invalid("metadata_url", grant(Issuer::discover(server(), "https://auth.example.com").metadata_url(url)));
    invalid("metadata_url", grant(at(server()).metadata_url("https://auth.example.com/metadata")));
}

#[test]
fn the_first_invalid_setting_is_the_error() {
    let grant = || ClientCredentialsGrant::builder(&at(server()), "my-app", "its secret");
    invalid("header", grant().header("x y", "z").default_lifetime(Duration::ZERO).scope("read").build());
    invalid("default_lifetime", grant().default_lifetime(Duration::ZERO).header("x y", "z").build());
    invalid("parameter", grant().parameter("scope", "x").resource("").build());
    invalid("resource", grant().resource("").parameter("scope", "x").build());
    grant().header("x-y", "z").default_lifetime(Duration::from_secs(1)).build().unwrap();
}

#[test]
fn a_client_that_authenticates_has_an_id() {
    invalid("client_id", TokenExchangeGrant::builder(&at(server()), "t").client_auth("its secret").build());
    invalid("client_id", JwtBearerGrant::builder(&at(server()), "a.b.c").client_auth("its secret").build());
    JwtBearerGrant::builder(&at(server()), "a.b.c").client_id("my-app").client_auth("s").build().unwrap();
}

#[test]
fn an_endpoint_that_is_named_twice_is_the_last_one() {
    let issuer = Issuer::new(server()).token_endpoint("http://auth.example.com/x").token_endpoint(TOKEN_URL);
    PasswordGrant::builder(&issuer, "my-app", "ann", "p").build().unwrap();
}
