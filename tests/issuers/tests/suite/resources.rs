//! Tokens for one resource (RFC 8707).

use issuers::{ODD_SECRET, OidcProvider, RESOURCE, http};
use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, ClientCredentialsGrantBuilder, Issuer};
use tower_bearer::{Token, TokenCache};

use crate::authorization_code::{browse, login};

/// The resource and the scope of the token at the server.
async fn seen(provider: &OidcProvider, token: &Token) -> (String, String) {
    let got = provider.call(token).await;
    (got.text("aud"), got.text("scope"))
}

fn expected() -> (String, String) {
    (RESOURCE.to_owned(), "read".to_owned())
}

fn client_credentials(provider: &OidcProvider) -> ClientCredentialsGrantBuilder {
    ClientCredentialsGrant::builder(
        &Issuer::new(http()).token_endpoint(&provider.url("/token")),
        "post",
        ClientAuth::post(ODD_SECRET),
    )
    .scope("read")
}

#[tokio::test]
async fn a_token_for_a_resource_is_only_for_that() {
    let Some(provider) = OidcProvider::start() else { return };
    let source = client_credentials(&provider).resource(RESOURCE).build().expect("a resource");
    let token = TokenCache::new(source).get().await.expect("a token");
    assert_eq!(seen(&provider, &token).await, expected());
}

#[tokio::test]
async fn an_unknown_resource_is_denied() {
    let Some(provider) = OidcProvider::start() else { return };
    let source = client_credentials(&provider).resource("https://elsewhere.example.com/").build().expect("a resource");
    let error = TokenCache::new(source).get().await.expect_err("a denial");
    assert!(error.is_denied() && error.code() == Some("invalid_target"), "{error}");
}

#[tokio::test]
async fn the_tokens_of_a_session_are_for_its_resource() {
    let Some(provider) = OidcProvider::start() else { return };
    let login = login(&provider.issuer()).resource(RESOURCE).build().expect("a resource");
    let request = login.begin().await.expect("an address");
    let back = browse(&provider, &request).await;
    let cache = TokenCache::new(login.session(request.finish(&back).await.expect("a token")));
    for token in [cache.get().await, cache.refresh().await, cache.refresh().await] {
        assert_eq!(seen(&provider, &token.expect("a token")).await, expected());
    }
    assert_eq!(provider.count("granted").await, 3);
}
