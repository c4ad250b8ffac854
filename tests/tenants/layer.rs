//! The layer takes the cache from the request.

use tower::ServiceExt;
use tower_bearer::{BearerLayer, CacheChoice, Error, TokenCache};

use crate::common::SECOND;
use crate::harness::{API, Api, Issuer, ask, request};

#[tokio::test]
async fn each_tenant_has_its_own_token() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let client = api.client(&issuer.clients());
    for tenant in [1, 2, 1, 2] {
        assert_eq!(ask(&client, tenant).await.unwrap(), format!("{tenant}.1"));
    }
    assert_eq!((issuer.calls_of(1), issuer.calls_of(2), api.wrong_token()), (1, 1, 0));
}

#[tokio::test]
async fn without_a_key_there_is_an_error_and_no_request() {
    let (issuer, api) = (Issuer::new(), Api::new());
    // An existing token of another key must not be used either.
    let tenants = issuer.clients();
    tenants.cache(&1).unwrap().get().await.unwrap();
    let layer = BearerLayer::new(tenants.by_key(|_| None), [API]).unwrap();
    let error = api.behind(layer).oneshot(request(1)).await.unwrap_err();
    let error = Error::find(&*error).expect("an error of this crate");
    assert!(error.is_invalid() && !error.is_transient(), "{error}");
    assert!(error.to_string().contains("by_key"), "what to do: {error}");
    assert_eq!(api.requests(), []);
}

#[tokio::test]
async fn without_a_cache_there_is_an_error_and_no_request() {
    let api = Api::new();
    let choice = CacheChoice::per_request(|head| head.extensions.get::<TokenCache>().cloned());
    let client = api.behind(BearerLayer::new(choice, [API]).unwrap());
    let error = client.clone().oneshot(request(1)).await.unwrap_err();
    assert!(Error::find(&*error).is_some_and(Error::is_invalid), "{error}");
    let mut with_cache = request(1);
    with_cache.extensions_mut().insert(Issuer::new().cache(1, false));
    assert_eq!(client.oneshot(with_cache).await.unwrap().into_body(), "1.1");
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test]
async fn the_error_of_the_function_that_makes_a_cache_reaches_the_request_and_is_not_remembered() {
    let api = Api::new();
    let issuer = Issuer::new();
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let logins = issuer.clone();
    let tenants = tower_bearer::KeyedTokenCache::new(move |key: &u32| {
        match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Err(Error::denied("an unknown tenant")),
            _ => Ok(logins.cache(*key, false)),
        }
    });
    let client = api.client(&tenants);
    let error = ask(&client, 1).await.unwrap_err();
    assert!(Error::find(&*error).is_some_and(Error::is_denied), "{error}");
    assert_eq!(ask(&client, 1).await.unwrap(), "1.1");
}

#[tokio::test]
async fn a_request_to_another_origin_needs_no_key() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let layer = BearerLayer::new(issuer.clients().by_key(|_| panic!("it was asked")), ["https://other.example.com"]);
    let response = api.behind(layer.unwrap()).oneshot(request(1)).await.unwrap();
    assert_eq!((response.status().as_u16(), api.without_token()), (401, 1));
}

#[tokio::test]
async fn a_callers_own_authorization_wins() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let client = api.client(&issuer.clients());
    let mut own = request(1);
    own.headers_mut().insert("authorization", "Bearer 1.own".parse().unwrap());
    assert_eq!(client.oneshot(own).await.unwrap().into_body(), "1.own");
    assert_eq!(issuer.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_request_goes_again_with_the_next_token_of_its_own_tenant() {
    let (issuer, api) = (Issuer::new(), Api::new());
    let client = api.client(&issuer.clients());
    for tenant in [1, 2] {
        ask(&client, tenant).await.unwrap();
    }
    // The cache does not act on a rejection of a younger token, which may not have reached every server.
    tokio::time::advance(5 * SECOND).await;
    api.reject("1.1");
    assert_eq!(ask(&client, 1).await.unwrap(), "1.2");
    assert_eq!(ask(&client, 2).await.unwrap(), "2.1");
    assert_eq!((issuer.calls_of(1), issuer.calls_of(2), api.wrong_token()), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_due_token_is_sent_while_the_next_one_is_fetched() {
    let (issuer, api) = (Issuer::new(), Api::new());
    issuer.lifetime(100 * SECOND);
    let client = api.client(&issuer.clients());
    ask(&client, 1).await.unwrap();
    tokio::time::advance(90 * SECOND).await;
    let gate = issuer.hold();
    assert_eq!(ask(&client, 1).await.unwrap(), "1.1");
    gate.close();
    crate::common::until(|| issuer.calls_of(1) == 2 && issuer.in_progress() == 0).await;
    crate::common::settle().await;
    assert_eq!(ask(&client, 1).await.unwrap(), "1.2");
}
