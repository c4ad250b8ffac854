//! A session from its start to its end, with a tenant and without one, as both generations of the documentation
//! describe.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_bearer::providers::meshydb::{MeshyDb, Problem};
use tower_bearer::testing::{MeshyDbServer, TokenState};
use tower_bearer::{BearerLayer, Error, TokenCache};

use crate::sources::{hyper_client, serve};

/// Registers, logs in, calls the API, refreshes, resumes from the saved refresh token, and signs out, over a socket.
async fn run_session(tenant: Option<&str>) -> Result<(), BoxError> {
    let server = MeshyDbServer::new("acme", "public-key");
    let base = serve(server.clone()).await;
    let http = hyper_client();
    let mut account = MeshyDb::builder(http.clone(), "acme", "public-key").auth_base(&base).api_base(&base);
    if let Some(tenant) = tenant {
        account = account.tenant(tenant);
    }
    let account = account.build()?;
    let call = |cache: &TokenCache| {
        let api = BearerLayer::new(cache.clone(), [&*base])
            .map(|bearer| ServiceBuilder::new().layer(bearer).layer(account.tenant_layer()).service(http.clone()));
        let request = Request::get(format!("{base}/acme/meshes/things")).body(Full::<Bytes>::default());
        async move { Ok::<_, BoxError>(api?.oneshot(request?).await?.status().as_u16()) }
    };

    account.register_anonymous("device-7").await?;
    let saved = Arc::new(Mutex::new(Vec::new()));
    let saving = Arc::clone(&saved);
    let cache = TokenCache::builder(account.login_anonymously("device-7").build()?)
        .on_rotation(move |rotated| {
            saving.lock().unwrap().push(rotated.refresh_token().clone());
            async { Ok::<_, Error>(()) }
        })
        .build()
        .unwrap();
    assert_eq!(call(&cache).await?, 200);
    cache.refresh().await?;
    let [first, second] = saved.lock().unwrap().clone().try_into().expect("each new refresh token is saved");
    assert!(first != second && cache.get().await?.refresh_token() == Some(second.clone()));

    let cache = TokenCache::new(account.login_with_refresh_token(second).build()?);
    assert_eq!(call(&cache).await?, 200);
    let last = cache.get().await?;
    account.sign_out(&cache).await?;
    assert_eq!(server.ledger().state_of(last.access_token()), TokenState::Revoked);
    let error = call(&cache).await.unwrap_err();
    assert!(Error::find(&*error).is_some_and(Error::is_signed_out), "{error}");

    cache.set_source(account.login_with_refresh_token(last.refresh_token().expect("it was revoked")).build()?);
    let error = cache.get().await.unwrap_err();
    assert_eq!((error.is_denied(), Problem::of(&error)), (true, Some(Problem::Token)));
    cache.set_source(account.login_anonymously("device-7").build()?);
    assert_eq!(call(&cache).await?, 200);

    assert_eq!((server.registrations(), server.revocations(), server.reuses()), (1, 1, 0));
    let requests = server.requests();
    assert_eq!(requests.len(), 10);
    for request in requests {
        let sent = request.headers.get("tenant").map(|value| value.to_str().unwrap());
        assert_eq!(sent, tenant, "{}", request.uri);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_without_a_tenant_works() -> Result<(), BoxError> {
    run_session(None).await
}

#[tokio::test]
async fn a_session_with_a_tenant_works() -> Result<(), BoxError> {
    run_session(Some("east")).await
}
