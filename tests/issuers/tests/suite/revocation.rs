//! The end of tokens and sessions (RFC 7009), for oidc-provider and the fake MeshyDB server.

use issuers::{ODD_PASSWORD, ODD_SECRET, OidcProvider, http, post};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer, Revocation};
use tower_bearer::{Error, Secret, Token, TokenCache};

use crate::assertions::signed;
use crate::subject::{Subject, held};

held! {
    revocation
    authlib:
        a_signed_out_session_has_ended_at_the_server,
        a_saved_session_that_was_never_used_is_signed_out_too,
        a_session_whose_revocation_failed_is_live_at_the_server,
        a_revoked_refresh_token_is_invalid_and_can_be_revoked_again;
    meshydb:
        a_signed_out_session_has_ended_at_the_server,
        a_saved_session_that_was_never_used_is_signed_out_too,
        a_session_whose_revocation_failed_is_live_at_the_server,
        a_revoked_refresh_token_is_invalid_and_can_be_revoked_again;
    oidc_provider:
        a_signed_out_session_has_ended_at_the_server,
        a_saved_session_that_was_never_used_is_signed_out_too,
        a_session_whose_revocation_failed_is_live_at_the_server,
        a_revoked_refresh_token_is_invalid_and_can_be_revoked_again;
}

async fn is_dead(server: &Subject, refresh_token: &Secret) -> bool {
    let got = server.refresh(refresh_token.expose()).await;
    got.status != 200 && got.denial() == (400, "invalid_grant".to_owned())
}

async fn sign_out(cache: &TokenCache, revocation: Revocation) -> Result<(), Error> {
    cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await
}

async fn a_signed_out_session_has_ended_at_the_server(server: &Subject) {
    let cache = TokenCache::new(server.password(ODD_PASSWORD));
    cache.get().await.expect("a login");
    let token = cache.refresh().await.expect("a refresh");
    sign_out(&cache, server.revocation()).await.expect("signed out");
    assert!(is_dead(server, &token.refresh_token().expect("a refresh token")).await);
    assert_eq!(server.call(token.access_token()).await.status, 401);
    // The login of its source is not used again.
    for error in [cache.get().await, cache.refresh().await] {
        assert!(error.expect_err("signed out").is_signed_out());
    }
    assert!(cache.status().signed_out && cache.peek().is_none());
    cache.set_source(server.password(ODD_PASSWORD));
    let token = cache.get().await.expect("another login");
    assert_eq!(server.call(token.access_token()).await.status, 200);
}

async fn a_saved_session_that_was_never_used_is_signed_out_too(server: &Subject) {
    let saved = server.login().await.text("refresh_token");
    let cache = TokenCache::new(server.refresh_token(&saved));
    sign_out(&cache, server.revocation()).await.expect("signed out");
    assert!(cache.get().await.expect_err("signed out").is_signed_out());
    assert!(is_dead(server, &saved.into()).await);
}

async fn a_session_whose_revocation_failed_is_live_at_the_server(server: &Subject) {
    let saved = server.login().await.text("refresh_token");
    let cache = TokenCache::new(server.refresh_token(&saved));
    let newest = cache.get().await.expect("a session").refresh_token().expect("a refresh token");
    let unknown_client =
        Revocation::builder(&Issuer::new(server.http.clone()).revocation_endpoint(&server.revocation_url), "nobody")
            .build()
            .expect("a client");
    let error = sign_out(&cache, unknown_client).await.expect_err("a denial");
    assert_eq!(error.code(), Some("invalid_client"), "{error}");
    assert!(cache.get().await.expect_err("signed out").is_signed_out());
    assert!(!is_dead(server, &newest).await);
}

async fn a_revoked_refresh_token_is_invalid_and_can_be_revoked_again(server: &Subject) {
    let saved = Secret::from(server.login().await.text("refresh_token"));
    let revocation = server.revocation();
    revocation.revoke_refresh_token(&saved).await.expect("revoked");
    assert!(is_dead(server, &saved).await);
    // "invalid tokens do not cause an error response" (RFC 7009 section 2.2).
    revocation.revoke_refresh_token(&saved).await.expect("nothing to revoke");
}

/// Whether the token is active at the server (RFC 7662). The test makes this call itself, because APIs make it, and not
/// clients.
async fn is_active(provider: &OidcProvider, token: &Token) -> bool {
    let form = [("token", token.access_token()), ("client_id", "post"), ("client_secret", ODD_SECRET)];
    post(&http(), &provider.url("/token/introspection"), &form).await.json()["active"] == true
}

#[tokio::test]
async fn a_client_revokes_its_access_token_with_an_assertion() {
    let Some(provider) = OidcProvider::start() else { return };
    let issuer = provider.issuer();
    for (id, auth) in signed(&provider).await {
        let cache =
            TokenCache::new(ClientCredentialsGrant::builder(&issuer, id, auth.clone()).build().expect("a source"));
        let at_url =
            Revocation::builder(&Issuer::new(http()).revocation_endpoint(&provider.url("/token/revocation")), id);
        for revocation in [at_url, Revocation::builder(&issuer, id)] {
            let revocation = revocation.client_auth(auth.clone()).build().expect("a key");
            let token = cache.refresh().await.expect("a token");
            assert!(is_active(&provider, &token).await);
            revocation.revoke_access_token(&token).await.expect("revoked");
            assert!(!is_active(&provider, &token).await);
        }
    }
    assert_eq!((provider.count("for_issuer").await, provider.count("for_endpoint").await), (9, 3));
}
