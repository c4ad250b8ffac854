//! Logins on another device (RFC 8628). A route of the server simulates the person, and approves or denies.
//!
//! The provider names no interval, so five seconds pass before each poll. It never asks the client to slow down.

use std::time::Duration;

use issuers::{OidcProvider, http, post};
use tokio::time::sleep;
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{Algorithm, ClientAuth, DeviceCodeLogin, Issuer};

/// Decides on this user code as the person does: an empty `decision` approves, and `&deny=1` denies.
async fn person(provider: &OidcProvider, user_code: &str, decision: &str) {
    let url = provider.url(&format!("/test/device?user_code={user_code}{decision}"));
    assert_eq!(post(&http(), &url, &[]).await.status, 200);
}

#[tokio::test]
async fn a_device_waits_for_approval_and_its_session_rotates() {
    let Some(provider) = OidcProvider::start() else { return };
    let login =
        DeviceCodeLogin::builder(&provider.issuer(), "public").scope("read offline_access").build().expect("a login");
    let code = login.begin().await.expect("a code");
    assert_eq!(code.verification_uri(), provider.url("/device"));
    assert!(code.verification_uri_complete().is_some_and(|uri| uri.contains(code.user_code())));
    assert!(code.expires_in() <= Duration::from_secs(60));

    let user_code = code.user_code().to_owned();
    let agrees_late = async {
        // The first poll comes too early.
        while provider.count("denied").await == 0 {
            sleep(Duration::from_millis(50)).await;
        }
        person(&provider, &user_code, "").await;
        Ok(())
    };
    let (token, ()) = tokio::try_join!(code.finish(), agrees_late).expect("a login");
    assert_eq!((token.scope(), provider.count("token_calls").await), (Some("read offline_access"), 2));

    let cache = TokenCache::new(login.session(token.clone()));
    let mut newest = cache.get().await.expect("the token of the login");
    assert_eq!((newest.access_token(), provider.count("token_calls").await), (token.access_token(), 2));
    for _ in 0..3 {
        let next = cache.refresh().await.expect("a refresh");
        assert_ne!(next.refresh_token(), newest.refresh_token());
        assert_eq!(provider.call(&next).await.status, 200);
        newest = next;
    }
    assert_eq!((provider.count("granted").await, provider.count("reuses").await), (4, 0));
}

#[tokio::test]
async fn a_person_that_denies_ends_the_login() {
    let Some(provider) = OidcProvider::start() else { return };
    let (device, token) = (provider.url("/device/auth"), provider.url("/token"));
    let auth = ClientAuth::private_key_jwt(provider.signing_key(Algorithm::ES256).await);
    let login = DeviceCodeLogin::builder(
        &Issuer::new(http()).token_endpoint(&token).device_authorization_endpoint(&device),
        "es256",
    )
    .client_auth(auth)
    .build()
    .expect("a key");
    let code = login.begin().await.expect("a code");
    person(&provider, code.user_code(), "&deny=1").await;
    let error = code.finish().await.expect_err("a denial");
    assert!(error.is_denied() && error.code() == Some("access_denied"), "{error}");
    assert!(error.to_string().contains("the user said no"), "{error}");
    assert_eq!((provider.count("token_calls").await, provider.count("for_endpoint").await), (1, 2));
}

#[tokio::test]
async fn a_client_that_is_unknown_or_does_not_authenticate_gets_no_code() {
    let Some(provider) = OidcProvider::start() else { return };
    for id in ["nobody", "es256"] {
        let login = DeviceCodeLogin::builder(&provider.issuer(), id).build().expect("a login");
        let error = login.begin().await.expect_err("a denial");
        assert!(error.is_denied() && error.code() == Some("invalid_client"), "{id}: {error}");
    }
}
