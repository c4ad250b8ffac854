//! Processes of other users get no token, even if they share a key by mistake (promise 24).

use serde_json::json;
use tower_bearer::chain::TokenSourceChain;
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer, PasswordGrant, RefreshTokenGrant};
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{MemoryStore, TokenServer};
use tower_bearer::{Token, TokenCache, TokenSource};

use crate::harness::session;

const URL: &str = "https://issuer.test/token";

/// Whether the second of two processes adopts the token of the first. Otherwise it gets an error that says why.
async fn share(first: impl TokenSource, second: impl TokenSource) -> bool {
    let store = MemoryStore::new();
    let first = TokenCache::builder(first).shared_session(session(&store)).build().unwrap();
    let second = TokenCache::builder(second).shared_session(session(&store)).build().unwrap();
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
async fn settings_of_the_token_separate_sessions_and_secrets_do_not() {
    let issuer = TokenServer::new();
    let at = |url: &str| Issuer::new(issuer.clone()).token_endpoint(url);
    issuer.rotate_refresh_tokens(true);
    let set = |url: &str, id: &str, secret: &str| ClientCredentialsGrant::builder(&at(url), id, secret);
    let client = |url: &str, id: &str, secret: &str| set(url, id, secret).build().unwrap();
    let with = || set(URL, "app", "secret");
    let app = || with().build().unwrap();
    assert!(share(app(), app()).await);
    assert!(share(app(), client(URL, "app", "rotated")).await);
    assert!(!share(app(), client(URL, "other", "secret")).await);
    assert!(!share(app(), client("https://other.test/token", "app", "secret")).await);
    assert!(!share(app(), with().scope("admin").build().unwrap()).await);
    assert!(!share(app(), with().resource("https://api.test").build().unwrap()).await);
    assert!(!share(app(), with().audience("api").build().unwrap()).await);

    let refresh = |seed: &str| RefreshTokenGrant::builder(&at(URL), "app", seed).build().unwrap();
    assert!(share(refresh("seed"), refresh("seed")).await);
    assert!(!share(app(), refresh("seed")).await);
    let password =
        |user: &str, password: &str| PasswordGrant::builder(&at(URL), "app", user, password).build().unwrap();
    assert!(share(password("ada", "1"), password("ada", "2")).await);
    assert!(!share(password("ada", "1"), password("grace", "1")).await);

    let json = |url| JsonLogin::builder(issuer.clone(), url, json!({ "user": "ada" })).build().unwrap();
    assert!(share(json(URL), json(URL)).await);
    assert!(!share(json(URL), json("https://other.test/token")).await);
    assert!(!share(json(URL), app()).await);

    let chain = |last| TokenSourceChain::first_try("none", async |_| Err::<Token, _>("no")).or_else("login", last);
    assert!(share(chain(app()), chain(app())).await);
    assert!(!share(chain(app()), app()).await);
    assert!(!share(chain(app()), chain(client(URL, "other", "secret"))).await);

    let tenant = |name: &str| {
        let meshy = MeshyDb::builder(issuer.clone(), "account", "key").tenant(name).build().unwrap();
        meshy.login_with_password("ada", "password").build().unwrap()
    };
    assert!(share(tenant("acme"), tenant("acme")).await);
    assert!(!share(tenant("acme"), tenant("other")).await);
}

#[tokio::test(start_paused = true)]
async fn a_chain_goes_on_with_the_refresh_token_of_another_process() {
    let (store, issuer) = (MemoryStore::new(), TokenServer::new());
    issuer.rotate_refresh_tokens(true);
    let at = Issuer::new(issuer.clone()).token_endpoint(URL);
    let process = || {
        let grant = RefreshTokenGrant::builder(&at, "app", "seed").build().unwrap();
        let chain = TokenSourceChain::first_try("none", async |_| Err::<Token, _>("no")).or_else("login", grant);
        TokenCache::builder(chain).shared_session(session(&store)).build().unwrap()
    };
    let (first, second) = (process(), process());
    first.get().await.expect("a token");
    second.get().await.expect("the same");
    for cache in [&second, &first, &process()] {
        // The first source may find the record of another process.
        cache.refresh().await.expect("a token");
        cache.refresh().await.expect("a token");
    }
    let sent: Vec<_> = issuer.requests().iter().map(|request| request.form()["refresh_token"].clone()).collect();
    assert_eq!(sent, ["seed", "refresh-1", "refresh-2", "refresh-3", "refresh-4"]);
}
