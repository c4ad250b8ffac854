//! Clients that authenticate with an assertion (RFC 7523 section 2.2): signed by their key, their secret, or elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use issuers::{LONG_SECRET, OidcProvider, get, http};
use tower_bearer::oauth2::{Algorithm, ClientAuth, ClientCredentialsGrant, Issuer, PasswordGrant};
use tower_bearer::{Error, TokenCache, TokenSource};

/// Each way to sign an assertion, with the client that is registered for it.
pub(crate) async fn signed(provider: &OidcProvider) -> [(&'static str, ClientAuth); 3] {
    [
        ("es256", ClientAuth::private_key_jwt(provider.signing_key(Algorithm::ES256).await)),
        ("rs256", ClientAuth::private_key_jwt(provider.signing_key(Algorithm::RS256).await)),
        ("secret-jwt", ClientAuth::secret_jwt(LONG_SECRET)),
    ]
}

/// Fetches three tokens in a row, all of which the API accepts.
async fn thrice(provider: &OidcProvider, source: impl TokenSource) {
    let cache = TokenCache::new(source);
    for _ in 0..3 {
        let token = cache.refresh().await.expect("a token");
        assert_eq!(provider.call(&token).await.status, 200);
    }
}

fn client_credentials(provider: &OidcProvider, id: &str, auth: ClientAuth) -> ClientCredentialsGrant {
    ClientCredentialsGrant::builder(&Issuer::new(http()).token_endpoint(&provider.url("/token")), id, auth)
        .build()
        .expect("a source")
}

fn is_invalid_client(error: &Error) -> bool {
    error.is_denied() && error.code() == Some("invalid_client") && error.status().is_some_and(|status| status == 401)
}

#[tokio::test]
async fn a_key_and_a_secret_sign_for_a_token_url() {
    let Some(provider) = OidcProvider::start() else { return };
    for (id, auth) in signed(&provider).await {
        thrice(&provider, client_credentials(&provider, id, auth)).await;
    }
    assert_eq!((provider.count("for_issuer").await, provider.count("for_endpoint").await), (0, 9));
    assert_eq!(provider.count("denied").await, 0);
}

#[tokio::test]
async fn a_key_and_a_secret_sign_for_an_issuer() {
    let Some(provider) = OidcProvider::start() else { return };
    let issuer = provider.issuer();
    for (id, auth) in signed(&provider).await {
        thrice(&provider, ClientCredentialsGrant::builder(&issuer, id, auth.clone()).build().expect("a source")).await;
        let login = PasswordGrant::builder(&issuer, id, "bob b+%", "other").scope("read offline_access");
        thrice(&provider, login.client_auth(auth).build().expect("a key")).await;
    }
    assert_eq!((provider.count("for_issuer").await, provider.count("for_endpoint").await), (18, 0));
    assert_eq!((provider.count("denied").await, provider.count("metadata_reads").await), (0, 1));
}

#[tokio::test]
async fn the_wrong_key_or_secret_is_denied_and_not_repeated() {
    let Some(provider) = OidcProvider::start() else { return };
    let [(_, es256), (_, rs256), (_, right)] = signed(&provider).await;
    let wrong = LONG_SECRET.to_uppercase();
    // The key of another client, another algorithm, another secret, and a method for which the client is not
    // registered.
    let cases = [
        ("rs256", es256),
        ("es256", rs256),
        ("secret-jwt", ClientAuth::secret_jwt(&*wrong)),
        ("public", right),
        ("secret-jwt", ClientAuth::basic(LONG_SECRET)),
    ];
    for (id, auth) in cases {
        let cache = TokenCache::new(client_credentials(&provider, id, auth));
        for _ in 0..2 {
            let error = cache.get().await.expect_err("a denial");
            assert!(is_invalid_client(&error), "{id}: {error}");
            assert!(!format!("{error} {error:?} {cache:?}").contains(LONG_SECRET));
        }
    }
    assert_eq!(provider.count("token_calls").await, 5, "a denial is remembered");
}

#[tokio::test]
async fn each_call_gets_a_new_assertion_from_elsewhere() {
    let Some(provider) = OidcProvider::start() else { return };
    for (id, algorithm) in [("es256", "ES256"), ("secret-jwt", "HS256")] {
        let url = provider.url(&format!("/test/assertion?client_id={id}&alg={algorithm}"));
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let made = move || {
            let (url, count) = (url.clone(), Arc::clone(&count));
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Error>(get(&http(), &url).await.text("assertion"))
            }
        };
        thrice(&provider, client_credentials(&provider, id, ClientAuth::assertion(made))).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }
    assert_eq!(provider.count("denied").await, 0);
}

/// The reason why each call needs a new assertion.
#[tokio::test]
async fn an_assertion_works_once() {
    let Some(provider) = OidcProvider::start() else { return };
    let made = provider.url("/test/assertion?client_id=rs256&alg=RS256");
    let auth = ClientAuth::assertion(get(&http(), &made).await.text("assertion"));
    let cache = TokenCache::new(client_credentials(&provider, "rs256", auth));
    let token = cache.get().await.expect("a token");
    assert!(is_invalid_client(&cache.refresh().await.expect_err("a denial")));
    assert_eq!(provider.call(&token).await.status, 200);
    assert_eq!(cache.get().await.expect("the token there is").access_token(), token.access_token());
}
