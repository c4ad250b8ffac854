//! Tenants of MeshyDB. Each has its own login, session and header.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_bearer::providers::meshydb::{MeshyDb, MeshyDbBuilder};
use tower_bearer::testing::MeshyDbServer;
use tower_bearer::{BearerLayer, Error, KeyedTokenCache, TokenCache};

const TENANTS: [&str; 3] = ["blue", "red", "green"];

fn tenants(account: &MeshyDbBuilder) -> KeyedTokenCache<String> {
    let account = account.clone();
    KeyedTokenCache::new(move |tenant: &String| {
        let login =
            account.clone().tenant(tenant).build()?.login_with_password("me", format!("{tenant}-password")).build()?;
        Ok::<_, Error>(TokenCache::new(login))
    })
}

#[tokio::test]
async fn one_client_serves_all_tenants_and_each_logs_in_for_itself() {
    let server = TENANTS.iter().fold(MeshyDbServer::new("acme", "public-key"), |server, tenant| {
        server.tenant_user(tenant, "me", &format!("{tenant}-password"))
    });
    let account = MeshyDb::builder(server.clone(), "acme", "public-key");
    let tenants = tenants(&account);
    // Without the header, the host names the tenant.
    let choice = tenants.by_key(|head| match head.headers.get("tenant") {
        Some(tenant) => Some(tenant.to_str().ok()?.to_owned()),
        None => Some(head.uri.host()?.strip_suffix(".api.example.com")?.to_owned()),
    });
    let hosts = TENANTS.iter().map(|tenant| format!("https://{tenant}.api.example.com"));
    let origins = hosts.chain(["https://api.meshydb.com".to_owned()]);
    let mut api = BearerLayer::new(choice, origins.collect::<Vec<_>>()).unwrap().layer(server.clone());
    let mut ask = async |uri: &str, tenant: Option<&str>| {
        let mut request = Request::get(format!("{uri}/acme/meshes/thing")).body(Full::<Bytes>::default()).unwrap();
        tenant.map(|tenant| request.headers_mut().insert("tenant", tenant.parse().unwrap()));
        api.ready().await.unwrap().call(request).await
    };
    for tenant in [TENANTS, TENANTS].concat() {
        let by_header = ask("https://api.meshydb.com", Some(tenant)).await.unwrap();
        let by_host = ask(&format!("https://{tenant}.api.example.com"), None).await.unwrap();
        assert_eq!((by_header.status(), by_host.status()), (StatusCode::OK, StatusCode::OK), "{tenant}");
    }
    assert!(ask("https://api.meshydb.com", None).await.is_err());

    let requests = server.requests();
    let logins: Vec<_> = requests.iter().filter(|request| request.uri.path().ends_with("/connect/token")).collect();
    let headers: Vec<_> = logins.iter().map(|login| login.headers["tenant"].to_str().unwrap()).collect();
    let passwords: Vec<_> = logins.iter().map(|login| login.form()["password"].clone()).collect();
    assert_eq!((headers, passwords), (TENANTS.to_vec(), TENANTS.map(|tenant| format!("{tenant}-password")).to_vec()));
}

#[tokio::test]
async fn one_tenant_is_signed_out_and_the_others_stay() {
    let server = TENANTS.iter().fold(MeshyDbServer::new("acme", "public-key"), |server, tenant| {
        server.tenant_user(tenant, "me", &format!("{tenant}-password"))
    });
    let account = MeshyDb::builder(server.clone(), "acme", "public-key");
    let tenants = tenants(&account);
    for tenant in TENANTS {
        tenants.cache(tenant).unwrap().get().await.unwrap();
    }
    let revocation = account.tenant("red").build().unwrap().revocation().unwrap();
    tenants.remove("red", async |secret| revocation.revoke_refresh_token(&secret).await).await.unwrap();

    assert_eq!(tenants.status().usable, 2);
    let revoked = server.requests().pop().unwrap();
    assert!(revoked.uri.path().ends_with("/connect/revocation"), "{}", revoked.uri);
    assert_eq!(revoked.headers["tenant"], "red");
    // The next request logs in again.
    assert_eq!(tenants.cache("red").unwrap().get().await.unwrap().generation(), 1);
}
