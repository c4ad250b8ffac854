//! Endpoints looked up in the server's metadata (RFC 8414, OpenID Connect Discovery).

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use issuers::{Http, OidcProvider, http};
use tokio::task::JoinSet;
use tower::{BoxError, ServiceExt, service_fn};
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{ClientCredentialsGrant, DeviceCodeLogin, Issuer, Revocation};

#[tokio::test]
async fn the_metadata_name_the_endpoints() {
    let Some(provider) = OidcProvider::start() else { return };
    let issuer = provider.issuer();
    let metadata = issuer.metadata().await.expect("metadata");
    for (member, path) in [
        ("token_endpoint", "/token"),
        ("authorization_endpoint", "/auth"),
        ("device_authorization_endpoint", "/device/auth"),
        ("revocation_endpoint", "/token/revocation"),
        ("introspection_endpoint", "/token/introspection"),
        ("jwks_uri", "/jwks"),
    ] {
        assert_eq!(metadata[member], provider.url(path));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_are_read_once_for_all_sources_of_an_issuer() {
    let Some(provider) = OidcProvider::start() else { return };
    let issuer = provider.issuer();
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let cache =
            TokenCache::new(ClientCredentialsGrant::builder(&issuer, "plain", "secret").build().expect("a source"));
        tasks.spawn(async move { cache.get().await.expect("a token") });
    }
    let revocation = Revocation::builder(&issuer, "plain").client_auth("secret").build().expect("a secret");
    for token in tasks.join_all().await {
        revocation.revoke_access_token(&token).await.expect("revoked");
        assert_eq!(provider.call(&token).await.status, 401);
    }
    assert!(DeviceCodeLogin::builder(&issuer, "public").build().expect("a login").begin().await.is_ok());
    assert_eq!((provider.count("granted").await, provider.count("metadata_reads").await), (16, 1));
}

#[tokio::test]
async fn the_metadata_of_an_issuer_with_another_name_are_rejected() {
    let Some(provider) = OidcProvider::start() else { return };
    // All are the same server. The issuer tries both locations.
    let others = [format!("{}/", provider.base()), provider.base().replace("127.0.0.1", "localhost")];
    for other in others {
        let issuer = Issuer::discover(http(), &other);
        let cache =
            TokenCache::new(ClientCredentialsGrant::builder(&issuer, "plain", "secret").build().expect("a source"));
        let error = cache.get().await.expect_err("a rejection").to_string();
        assert!(error.contains(&format!("of the issuer {}, and {other} was asked for", provider.base())), "{error}");
    }
    assert_eq!((provider.count("metadata_reads").await, provider.count("token_calls").await), (4, 0));
}

#[tokio::test]
async fn metadata_only_at_the_location_of_rfc_8414_are_found() {
    let Some(provider) = OidcProvider::start() else { return };
    let through = http();
    let without_openid = service_fn(move |request: Request<Full<Bytes>>| {
        let through = through.clone();
        async move {
            if request.uri().path().ends_with("/openid-configuration") {
                let mut missing = Response::new(Full::default());
                *missing.status_mut() = StatusCode::NOT_FOUND;
                return Ok::<_, BoxError>(missing);
            }
            through.oneshot(request).await
        }
    });
    let issuer = Issuer::discover(Http::new(without_openid), provider.base());
    let cache = TokenCache::new(ClientCredentialsGrant::builder(&issuer, "plain", "secret").build().expect("a source"));
    assert_eq!(provider.call(&cache.get().await.expect("a token")).await.status, 200);
    assert_eq!(provider.count("metadata_reads").await, 1);
}
