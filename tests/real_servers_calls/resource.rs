//! From an API to its authorization server: protected resource metadata (RFC 9728).

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};
use tower_bearer::oauth2::{ClientCredentialsGrant, Issuer, ProtectedResource, ResourceMetadata};
use tower_bearer::testing::{Answer, Api, TokenServer};
use tower_bearer::{BearerLayer, Challenge, Error, HttpClient, TokenCache};

const API: &str = "https://mcp.example.com/mcp";
const AT_PATH: &str = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp";
const AT_ROOT: &str = "https://mcp.example.com/.well-known/oauth-protected-resource";
const ISSUER: &str = "https://auth.example.com/tenant1";

fn document() -> Value {
    json!({ "resource": API, "authorization_servers": [ISSUER], "scopes_supported": ["read", "write"] })
}

/// A server with this answer at each path, and the URLs that were read.
fn serving(place: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> (impl HttpClient<Full<Bytes>>, Reads) {
    let (reads, place) = (Reads::default(), Arc::new(place));
    let seen = Arc::clone(&reads);
    let http = service_fn(move |request: Request<Full<Bytes>>| {
        assert_eq!(request.method(), Method::GET);
        let uri = request.uri().to_string();
        let server = TokenServer::new();
        server.queue(place(&uri).unwrap_or(Answer::raw(404, "<html>Not found</html>")));
        seen.lock().unwrap().push(uri);
        server.oneshot(request)
    });
    (http, reads)
}

type Reads = Arc<Mutex<Vec<String>>>;

/// The result of this document for the API with this identifier.
async fn read(identifier: &str, document: Answer) -> Result<ResourceMetadata, Error> {
    let (http, _) = serving(move |_| Some(document.clone()));
    ProtectedResource::discover(http, identifier).metadata().await
}

/// The challenges of a response with this header.
fn challenges(header: &str) -> Vec<Challenge> {
    Challenge::all(&HeaderMap::from_iter([(http::header::WWW_AUTHENTICATE, header.parse().unwrap())]))
}

fn servers(metadata: &ResourceMetadata) -> Vec<&str> {
    metadata.authorization_servers().collect()
}

// === the walk ===

#[tokio::test]
async fn a_401_leads_to_the_metadata_the_issuer_and_a_token_for_this_api() {
    let tokens = TokenServer::new();
    let api = Api::new(tokens.ledger());
    let challenge = format!(r#"Bearer resource_metadata="{AT_PATH}", scope="read""#);
    api.queue(Answer::json(401, json!({})).header("www-authenticate", &challenge));
    let network = service_fn({
        let (api, tokens) = (api.clone(), tokens.clone());
        move |request: Request<Full<Bytes>>| {
            let (api, tokens) = (api.clone(), tokens.clone());
            async move {
                let found = |body: Value| Ok(http::Response::new(Full::from(body.to_string())));
                match &*request.uri().to_string() {
                    AT_PATH => found(document()),
                    "https://auth.example.com/.well-known/oauth-authorization-server/tenant1" => {
                        found(json!({ "issuer": ISSUER, "token_endpoint": "https://auth.example.com/token" }))
                    }
                    "https://auth.example.com/token" => tokens.oneshot(request).await,
                    API => api.oneshot(request).await,
                    _ => Ok(http::Response::builder().status(404).body(Full::default())?),
                }
            }
        }
    });
    let call = || Request::post(API).body(Full::<Bytes>::default()).unwrap();

    let response = network.clone().oneshot(call()).await.unwrap();
    assert_eq!(response.status(), 401);
    let challenges = Challenge::all(response.headers());
    let resource = ProtectedResource::discover(network.clone(), API).challenged_by(&challenges);
    let metadata = resource.metadata().await.unwrap();
    assert_eq!((metadata.resource(), servers(&metadata)), (API, vec![ISSUER]));
    assert_eq!(metadata.scopes_supported().collect::<Vec<_>>(), ["read", "write"]);
    let issuer = Issuer::discover(network.clone(), servers(&metadata)[0]);
    let scope = challenges.iter().find_map(|challenge| challenge.param("scope")).unwrap();
    let grant = ClientCredentialsGrant::builder(&issuer, "my-app", "its secret");
    let grant = grant.scope(scope).resource(metadata.resource()).build().unwrap();
    let client = BearerLayer::new(TokenCache::new(grant), ["https://mcp.example.com"]).unwrap().layer(network);
    assert_eq!(client.oneshot(call()).await.unwrap().status(), 200);
    let form = tokens.requests()[0].form();
    assert_eq!((&*form["resource"], &*form["scope"]), (API, "read"));
}

// === where the document is ===

#[tokio::test]
async fn the_document_is_where_the_rfc_has_it_else_at_the_root_of_the_host() {
    let host = "https://mcp.example.com";
    for (identifier, places) in [
        (API, vec![AT_PATH, AT_ROOT]),
        (host, vec![AT_ROOT]),
        ("https://mcp.example.com/", vec![AT_ROOT]),
        ("https://mcp.example.com/mcp/", vec![&format!("{AT_PATH}/"), AT_ROOT]),
        ("https://mcp.example.com?tenant=1", vec![&format!("{AT_ROOT}?tenant=1"), AT_ROOT]),
        ("https://mcp.example.com/mcp?tenant=1", vec![&format!("{AT_PATH}?tenant=1"), AT_ROOT]),
    ] {
        let (http, reads) = serving(|_| None);
        let error = ProtectedResource::discover(http, identifier).metadata().await.unwrap_err();
        assert_eq!(error.status().map(|status| status.as_u16()), Some(404), "{error}");
        assert_eq!(*reads.lock().unwrap(), places);
        for place in places {
            let (place, document) = (place.to_owned(), json!({ "resource": identifier }));
            let (http, _) = serving(move |url| (url == place).then(|| Answer::json(200, document.clone())));
            let metadata = ProtectedResource::discover(http, identifier).metadata().await.unwrap();
            assert_eq!(metadata.resource(), identifier);
            assert_eq!(servers(&metadata), [""; 0]);
        }
    }
    // The second place does not hide an error at the first.
    let (http, _) = serving(|url| (url == AT_PATH).then(|| Answer::raw(403, "your address is not allowed")));
    let error = ProtectedResource::discover(http, API).metadata().await.unwrap_err();
    assert_eq!(error.status().map(|status| status.as_u16()), Some(403), "{error}");
}

#[tokio::test]
async fn a_challenge_names_an_address_of_the_apis_origin_and_the_caller_any() {
    let elsewhere = "https://documents.example.com/mcp.json";
    let discover = |reads: &mut Reads| {
        let (http, seen) = serving(|_| Some(Answer::json(200, document())));
        *reads = seen;
        ProtectedResource::discover(http, API)
    };
    let mut reads = Reads::default();
    for url in ["https://mcp.example.com/meta", "https://MCP.example.com:443/meta"] {
        for scheme in ["Bearer", "DPoP"] {
            let header = format!(r#"{scheme} error="invalid_token", resource_metadata="{url}""#);
            discover(&mut reads).challenged_by(&challenges(&header)).metadata().await.unwrap();
            assert_eq!(reads.lock().unwrap().len(), 1);
        }
    }
    for url in [
        elsewhere,
        "https://mcp.example.com:8443/meta",
        "https://169.254.169.254/latest",
        "https://mcp.example.com.evil.test/",
        "http://mcp.example.com/meta",
        "http://127.0.0.1/meta",
        "https://mcp.example.com@evil.test/",
        "/meta",
        "file:///etc/passwd",
    ] {
        let header = format!(r#"Bearer resource_metadata="{url}""#);
        let error = discover(&mut reads).challenged_by(&challenges(&header)).metadata().await.unwrap_err();
        assert_eq!(error.field(), Some("resource_metadata"), "{url}: {error}");
        assert_eq!(*reads.lock().unwrap(), [""; 0], "{url} is not asked");
    }
    discover(&mut reads).metadata_url(elsewhere).metadata().await.unwrap();
    assert_eq!(*reads.lock().unwrap(), [elsewhere]);
    // A challenge without a URL changes nothing.
    discover(&mut reads).challenged_by(&challenges("Bearer, Basic realm=x")).metadata().await.unwrap();
    assert_eq!(*reads.lock().unwrap(), [AT_PATH]);
}

// === what it says ===

#[tokio::test]
async fn the_document_of_another_resource_is_not_used() {
    for resource in [
        json!("https://mcp.example.com"),
        json!("https://mcp.example.com/mcp/"),
        json!("https://mcp.example.com/MCP"),
        json!("https://MCP.example.com/mcp"),
        json!("https://bank.example.com/mcp"),
        json!([API]),
        Value::Null,
    ] {
        let document = json!({ "resource": resource, "authorization_servers": [ISSUER] });
        let error = read(API, Answer::json(200, document)).await.unwrap_err();
        assert!(error.to_string().contains("resource"), "{error}");
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn an_authorization_server_is_https_or_as_local_as_the_api() {
    let named =
        json!([ISSUER, "http://auth.example.com", "http://127.0.0.1:9000", "not a URL", 7, "https://b.example"]);
    let document = |resource: &str| Answer::json(200, json!({ "resource": resource, "authorization_servers": named }));
    let metadata = read(API, document(API)).await.unwrap();
    assert_eq!(servers(&metadata), [ISSUER, "https://b.example"]);
    assert_eq!(metadata.members()["authorization_servers"], named);
    let local = "http://127.0.0.1:8000/mcp";
    let metadata = read(local, document(local)).await.unwrap();
    assert_eq!(servers(&metadata), [ISSUER, "http://127.0.0.1:9000", "https://b.example"]);
    // Servers that cannot be used are another error than no servers.
    let plain = json!({ "resource": API, "authorization_servers": ["http://auth.example.com"] });
    let error = read(API, Answer::json(200, plain.clone())).await.unwrap_err();
    assert!(error.to_string().contains("https://"), "{error}");
    let (http, _) = serving(move |_| Some(Answer::json(200, plain.clone())));
    let metadata = ProtectedResource::discover(http, API).allow_insecure().metadata().await.unwrap();
    assert_eq!(servers(&metadata), ["http://auth.example.com"]);
}

#[tokio::test]
async fn an_invalid_identifier_is_named() {
    for identifier in ["http://mcp.example.com/", "https://mcp.example.com/#part", "mcp.example.com", "https://"] {
        let error = read(identifier, Answer::json(200, document())).await.unwrap_err();
        assert_eq!(error.field(), Some("resource"), "{identifier}: {error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_a_document_is_an_error() {
    for (answer, says) in [
        (Answer::raw(200, "<html>sign in</html>"), "JSON object"),
        (Answer::raw(200, "[]"), "JSON object"),
        (Answer::raw(302, "").header("location", "https://elsewhere.test/"), "redirects"),
        (Answer::raw(200, vec![b' '; 1024 * 1024 + 1]), "longer than 1 MiB"),
        (Answer::raw(204, ""), "204"),
    ] {
        let error = read(API, answer).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_silent_is_waited_for_thirty_seconds() {
    let began = crate::sources::now();
    let error = read(API, Answer::hangs()).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(began.elapsed().as_secs(), 30);
}
