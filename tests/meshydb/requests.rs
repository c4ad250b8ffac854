//! Every request, as it is documented.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tower::{ServiceBuilder, ServiceExt};
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, MeshyDbServer, Recorded};
use tower_bearer::{BearerLayer, TokenCache};

use crate::sources::{HOUR, form, headers, map, pass};
use crate::{builder, server, session};

#[tokio::test]
async fn a_login_is_the_documented_request_with_and_without_a_tenant() {
    // Each case is a tenant and its header, which is trimmed, or missing for an empty tenant.
    for (tenant, sent) in
        [(None, None), (Some("east"), Some("east")), (Some(" east "), Some("east")), (Some(" "), None)]
    {
        let server = server();
        let mut account = MeshyDb::builder(server.clone(), " acme ", " public-key ");
        if let Some(tenant) = tenant {
            account = account.tenant(tenant);
        }
        let account = account.build().unwrap();
        TokenCache::new(account.login_with_password("ann", "her password").build().unwrap()).get().await.unwrap();

        let [request] = server.requests().try_into().unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(request.uri, "https://auth.meshydb.com/acme/connect/token");
        let mut expected = map([("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")]);
        expected.extend(sent.map(|tenant| ("tenant", tenant.to_owned())));
        assert_eq!(headers(&request), expected);
        let expected = [
            ("client_id", "public-key"),
            ("grant_type", "password"),
            ("username", "ann"),
            ("password", "her password"),
            ("scope", "meshy.api offline_access"),
        ];
        assert_eq!(request.form(), form(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_the_documented_request_with_and_without_a_tenant() {
    for tenant in ["", "east"] {
        let server = server();
        let account = builder(&server).tenant(tenant).build().unwrap();
        let cache = TokenCache::new(account.login_with_password("ann", "her password").build().unwrap());
        let saved = cache.get().await.unwrap().refresh_token().unwrap();
        pass(HOUR).await;
        cache.get().await.unwrap();

        let [login, refresh] = server.requests().try_into().unwrap();
        assert_eq!((&refresh.method, &refresh.uri), (&login.method, &login.uri));
        assert_eq!(headers(&refresh), headers(&login));
        assert_eq!(refresh.headers.get("tenant").is_some(), !tenant.is_empty());
        let mut expected = form([("client_id", "public-key"), ("grant_type", "refresh_token")]);
        expected.insert("refresh_token".into(), saved.expose().into());
        assert_eq!(refresh.form(), expected);
    }
}

#[tokio::test]
async fn an_empty_tenant_removes_an_earlier_one() {
    let server = server();
    let account = builder(&server).tenant("west").tenant("").build().unwrap();
    TokenCache::new(account.login_with_password("ann", "her password").build().unwrap()).get().await.unwrap();
    assert!(!server.requests()[0].headers.contains_key("tenant"));
}

#[tokio::test]
async fn the_base_url_and_the_scope_are_settings_and_keep_the_tenant() {
    let server = server();
    let account = builder(&server).tenant("east").auth_base("https://id.corp.example/");
    let account = account.scope("meshy.api offline_access openid").build().unwrap();
    TokenCache::new(account.login_with_password("ann", "her password").build().unwrap()).get().await.unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.uri, "https://id.corp.example/acme/connect/token");
    assert_eq!(request.headers["tenant"], "east");
    assert_eq!(request.form()["scope"], "meshy.api offline_access openid");
}

#[tokio::test]
async fn an_account_name_is_one_segment_of_the_path() {
    let server = server();
    let account = MeshyDb::builder(server.clone(), "a/../b c?", "public-key").build().unwrap();
    TokenCache::new(account.login_with_password("ann", "x").build().unwrap()).get().await.unwrap_err();
    assert_eq!(server.requests()[0].uri, "https://auth.meshydb.com/a%2F..%2Fb%20c%3F/connect/token");
}

/// Tenants, and the header `tenant` of each.
const TENANTS: [(&str, Option<&str>); 3] = [("", None), ("east", Some("east")), (" east ", Some("east"))];

#[tokio::test]
async fn a_registration_is_the_documented_request_with_and_without_a_tenant() {
    for (tenant, sent) in TENANTS {
        let server = server();
        let account = builder(&server).tenant(tenant).build().unwrap();
        account.register_anonymous("device \"7\"").await.unwrap();

        let [request] = server.requests().try_into().unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(request.uri, "https://api.meshydb.com/acme/users/register/anonymous");
        let mut expected = map([("accept", "application/json"), ("content-type", "application/json")]);
        expected.extend(sent.map(|tenant| ("tenant", tenant.to_owned())));
        assert_eq!(headers(&request), expected, "no Authorization");
        assert_eq!(request.json(), json!({ "username": "device \"7\"" }));

        TokenCache::new(account.login_anonymously("device \"7\"").build().unwrap()).get().await.unwrap();
        let login = server.requests().remove(1).form();
        assert_eq!((&*login["username"], &*login["password"]), ("device \"7\"", "nopassword"));
    }
}

#[tokio::test]
async fn a_revocation_is_the_documented_request_with_and_without_a_tenant() {
    for (tenant, sent) in TENANTS {
        let server = server();
        let account = builder(&server).tenant(tenant).build().unwrap();
        let cache = TokenCache::new(account.login_with_password("ann", "her password").build().unwrap());
        cache.get().await.unwrap();
        let newest = cache.refresh().await.unwrap().refresh_token().unwrap();
        account.sign_out(&cache).await.unwrap();

        let request = server.requests().remove(2);
        assert_eq!(request.method, "POST");
        assert_eq!(request.uri, "https://auth.meshydb.com/acme/connect/revocation");
        let content_type = ("content-type", "application/x-www-form-urlencoded");
        let mut expected = map([("accept", "application/json"), content_type]);
        expected.extend(sent.map(|tenant| ("tenant", tenant.to_owned())));
        assert_eq!(headers(&request), expected);
        let mut expected = form([("token_type_hint", "refresh_token"), ("client_id", "public-key")]);
        expected.insert("token".into(), newest.expose().into());
        assert_eq!(request.form(), expected);
    }
}

#[tokio::test]
async fn the_base_urls_of_registration_and_revocation_are_settings_and_keep_the_tenant() {
    let server = server();
    let account = builder(&server).tenant("east").auth_base("https://id.corp.example/");
    let account = account.api_base("https://db.corp.example").build().unwrap();
    account.register_anonymous("device-7").await.unwrap();
    let cache = TokenCache::new(account.login_anonymously("device-7").build().unwrap());
    cache.get().await.unwrap();
    account.sign_out(&cache).await.unwrap();
    let requests = server.requests();
    let uris: Vec<_> = requests.iter().map(|request| request.uri.to_string()).collect();
    let expected = [
        "https://db.corp.example/acme/users/register/anonymous",
        "https://id.corp.example/acme/connect/token",
        "https://id.corp.example/acme/connect/revocation",
    ];
    assert_eq!(uris, expected);
    assert!(requests.iter().all(|request| request.headers["tenant"] == "east"));
}

#[test]
fn invalid_settings_are_errors_of_the_builders() {
    let server = server();
    let account = builder(&server);
    assert!(account.clone().tenant("east\nwest").build().unwrap_err().is_invalid());
    for base in ["", "db.example.com", "http://db.example.com", "https://db.example.com?x"] {
        assert!(account.clone().api_base(base).build().unwrap_err().is_invalid(), "{base}");
        assert!(account.clone().auth_base(base).build().unwrap_err().is_invalid(), "{base}");
    }
    for (name, key) in [(" ", "key"), ("..", "key"), ("acme", " "), ("acme", "")] {
        assert!(MeshyDb::builder(server.clone(), name, key).build().unwrap_err().is_invalid(), "{name:?} {key:?}");
    }
    let account = account.build().unwrap();
    assert!(account.login_with_password("", "x").build().unwrap_err().is_invalid());
    assert!(account.login_with_refresh_token("").build().unwrap_err().is_invalid());
}

// === calls of the API ===

/// Calls the API in a session with this tenant. Returns the requests that the API got.
async fn call_api(server: &MeshyDbServer, tenant: &str, own: Option<&'static str>) -> Vec<Recorded> {
    let http = ServiceBuilder::new()
        .layer(BearerLayer::new(session(server), ["https://api.meshydb.com"]).unwrap())
        .layer(builder(server).tenant(tenant).build().unwrap().tenant_layer())
        .service(server.clone());
    let mut request =
        Request::get("https://api.meshydb.com/acme/meshes/things").body(Full::<Bytes>::default()).unwrap();
    if let Some(own) = own {
        request.headers_mut().insert("tenant", own.parse().unwrap());
    }
    assert_eq!(http.oneshot(request).await.unwrap().status(), 200);
    server.requests().into_iter().filter(|request| request.method == "GET").collect()
}

#[tokio::test]
async fn a_call_of_the_api_has_the_tenant_and_the_token() {
    for (tenant, sent) in TENANTS {
        let server = server();
        let [request] = call_api(&server, tenant, None).await.try_into().unwrap();
        let mut expected = map([]);
        expected.insert("authorization", format!("Bearer {}", server.ledger().newest().unwrap()));
        expected.extend(sent.map(|tenant| ("tenant", tenant.to_owned())));
        assert_eq!(headers(&request), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retried_call_has_the_tenant_again() {
    let server = server();
    server.api().queue(Answer::raw(401, ""));
    let requests = call_api(&server, "east", None).await;
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.headers["tenant"] == "east"));
}

#[tokio::test]
async fn the_callers_tenant_is_kept() {
    for tenant in ["", "east"] {
        let [request] = call_api(&server(), tenant, Some("west")).await.try_into().unwrap();
        assert_eq!(headers(&request)["tenant"], "west");
    }
}
