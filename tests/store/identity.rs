//! Nobody gets another's token, although they share a key by mistake (promise 24).

use serde_json::json;
use tower_bearer::json::JsonLogin;
use tower_bearer::meshydb::MeshyDb;
use tower_bearer::oauth2::{ClientCredentials, Password, RefreshToken};
use tower_bearer::testing::{Issuer, MemoryStore};
use tower_bearer::{RefreshPolicy, TokenCache, TokenSource};

use crate::harness::session;

const URL: &str = "https://issuer.test/token";

/// Whether the second of two processes takes the token that the first fetched; else it gets an error that says why.
async fn share(first: impl TokenSource, second: impl TokenSource) -> bool {
    let store = MemoryStore::new();
    let first = TokenCache::with_store(first, RefreshPolicy::new(), session(&store));
    let second = TokenCache::with_store(second, RefreshPolicy::new(), session(&store));
    let first = first.get().await.unwrap();
    match second.get().await {
        Ok(token) => {
            assert_eq!(token.access_token(), first.access_token());
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("belongs to another"), "{error}");
            false
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_shapes_the_token_tells_sessions_apart_and_a_secret_does_not() {
    let issuer = Issuer::new();
    issuer.rotate_refresh_tokens(true);
    let client = |url, id: &str, secret: &str| ClientCredentials::new(issuer.clone(), url, id, secret).unwrap();
    let app = || client(URL, "app", "secret");
    assert!(share(app(), app()).await);
    assert!(share(app(), client(URL, "app", "rotated")).await);
    assert!(!share(app(), client(URL, "other", "secret")).await);
    assert!(!share(app(), client("https://other.test/token", "app", "secret")).await);
    assert!(!share(app(), app().scope("admin")).await);
    assert!(!share(app(), app().resource("https://api.test").unwrap()).await);
    assert!(!share(app(), app().audience("api")).await);

    let refresh = |seed: &str| RefreshToken::new(issuer.clone(), URL, "app", seed).unwrap();
    assert!(share(refresh("seed"), refresh("seed")).await);
    assert!(!share(app(), refresh("seed")).await);
    let password = |user: &str, password: &str| Password::new(issuer.clone(), URL, "app", user, password).unwrap();
    assert!(share(password("ada", "1"), password("ada", "2")).await);
    assert!(!share(password("ada", "1"), password("grace", "1")).await);

    let json = |url| JsonLogin::new(issuer.clone(), url, json!({ "user": "ada" })).unwrap();
    assert!(share(json(URL), json(URL)).await);
    assert!(!share(json(URL), json("https://other.test/token")).await);
    assert!(!share(json(URL), app()).await);

    let tenant = |name: &str| {
        let meshy = MeshyDb::new(issuer.clone(), "account", "key").unwrap().tenant(name).unwrap();
        meshy.login_with_password("ada", "password").unwrap()
    };
    assert!(share(tenant("acme"), tenant("acme")).await);
    assert!(!share(tenant("acme"), tenant("other")).await);
}
