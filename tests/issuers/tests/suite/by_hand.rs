//! What oidc-provider offers beyond the grants above, asked for with plain calls made by hand.
//!
//! These show what the server takes and how it answers. Where the crate has an API for one of them, a test of that API
//! belongs beside it, against the same routes.

use std::collections::BTreeMap;

use http::Request;
use issuers::{Got, ODD_SECRET, OidcProvider, RESOURCE, form_to, get, http, post, send};

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

async fn ask(provider: &OidcProvider, path: &str, form: &[(&str, &str)]) -> Got {
    post(&http(), &provider.url(path), form).await
}

async fn is_live(provider: &OidcProvider, access_token: &str) -> bool {
    let call = Request::get(provider.url("/test/api")).header("authorization", format!("Bearer {access_token}"));
    send(&http(), call, "").await.status == 200
}

// === device authorization (RFC 8628) ===

/// `POST /test/device?user_code=..` approves, with `&deny=1` it denies.
#[tokio::test]
async fn a_device_waits_for_a_person_who_approves_or_denies() {
    let Some(provider) = OidcProvider::start() else { return };
    let scope = ("scope", "read offline_access");
    for (verdict, outcome) in [("", 200), ("&deny=1", 400)] {
        let begun = ask(&provider, "/device/auth", &[("client_id", "public"), scope]).await;
        for member in ["user_code", "verification_uri", "verification_uri_complete"] {
            assert!(!begun.text(member).is_empty());
        }
        assert!(begun.json()["expires_in"].is_u64());
        let device_code = begun.text("device_code");
        let form = [("client_id", "public"), ("grant_type", DEVICE_CODE), ("device_code", &*device_code)];
        assert_eq!(ask(&provider, "/token", &form).await.denial(), (400, "authorization_pending".to_owned()));

        let person = provider.url(&format!("/test/device?user_code={}{verdict}", begun.text("user_code")));
        assert_eq!(post(&http(), &person, &[]).await.status, 200);
        let got = ask(&provider, "/token", &form).await;
        assert_eq!(got.status, outcome);
        if outcome == 200 {
            assert!(is_live(&provider, &got.text("access_token")).await && !got.text("refresh_token").is_empty());
        } else {
            assert_eq!(got.text("error"), "access_denied");
        }
        let again = ask(&provider, "/token", &form).await.denial();
        assert_eq!(again, (400, "invalid_grant".to_owned()), "a device code works once");
    }
}

// === authorization code with PKCE (RFC 6749 section 4.1, RFC 7636, RFC 9207) ===

/// A browser whose person logs in and consents wherever it is led: follows redirects until one leaves the provider.
async fn browse(provider: &OidcProvider, path: &str) -> String {
    let mut url = provider.url(path);
    let mut cookies = BTreeMap::new();
    while url.starts_with(provider.base()) {
        let jar: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let got = send(&http(), Request::get(&url).header("cookie", jar.join("; ")), "").await;
        for cookie in got.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().expect("text").split(';').next().expect("a pair").to_owned();
            let (name, value) = cookie.split_once('=').expect("a pair");
            cookies.insert(name.to_owned(), value.to_owned());
        }
        assert!(got.status.is_redirection(), "{url}: {got:?}");
        let location = got.header("location");
        url = if location.starts_with('/') { provider.url(location) } else { location.to_owned() };
    }
    url
}

/// The example of RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// Any port of loopback (RFC 8252 section 7.3).
const REDIRECT: &str = "http://127.0.0.1:9/callback";

/// The authorization code of a visit, and what came back beside it.
async fn code(provider: &OidcProvider) -> BTreeMap<String, String> {
    let query = issuers::encoded(&[
        ("client_id", "public"),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("scope", "openid read offline_access"),
        ("prompt", "consent"),
        ("state", "st&te"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]);
    let back = browse(provider, &format!("/auth?{query}")).await;
    let (callback, query) = back.split_once('?').expect("a query");
    assert_eq!(callback, REDIRECT);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

#[tokio::test]
async fn an_authorization_code_works_once_and_with_its_verifier_alone() {
    let Some(provider) = OidcProvider::start() else { return };
    let came = code(&provider).await;
    assert_eq!((&*came["state"], &*came["iss"]), ("st&te", provider.base()));
    let form = |code, verifier| {
        [
            ("client_id", "public"),
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", verifier),
        ]
    };
    let another = VERIFIER.replace('d', "e");
    let wrong = ask(&provider, "/token", &form(&came["code"], &another)).await;
    assert_eq!(wrong.denial(), (400, "invalid_grant".to_owned()));
    let form = form(&came["code"], VERIFIER);
    let got = ask(&provider, "/token", &form).await;
    assert!(is_live(&provider, &got.text("access_token")).await);
    assert!(!got.text("refresh_token").is_empty() && !got.text("id_token").is_empty());
    // "If an authorization code is used more than once, the authorization server MUST deny the request and SHOULD revoke
    // (when possible) all tokens previously issued" (RFC 6749 section 4.1.2).
    assert_eq!(ask(&provider, "/token", &form).await.denial(), (400, "invalid_grant".to_owned()));
    assert!(!is_live(&provider, &got.text("access_token")).await);
}

// === resource indicators (RFC 8707) ===

#[tokio::test]
async fn a_token_for_a_resource_is_for_that_alone() {
    let Some(provider) = OidcProvider::start() else { return };
    let form = |resource| {
        [
            ("grant_type", "client_credentials"),
            ("client_id", "post"),
            ("client_secret", ODD_SECRET),
            ("scope", "read"),
            ("resource", resource),
        ]
    };
    let token = ask(&provider, "/token", &form(RESOURCE)).await.text("access_token");
    let call = Request::get(provider.url("/test/api")).header("authorization", format!("Bearer {token}"));
    let seen = send(&http(), call, "").await;
    assert_eq!((seen.text("aud"), seen.text("scope")), (RESOURCE.to_owned(), "read".to_owned()));
    let unknown = ask(&provider, "/token", &form("https://elsewhere.example.com/")).await;
    assert_eq!(unknown.denial(), (400, "invalid_target".to_owned()));
}

// === discovery (RFC 8414) ===

#[tokio::test]
async fn the_metadata_name_the_endpoints() {
    let Some(provider) = OidcProvider::start() else { return };
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let metadata = get(&http(), &provider.url(path)).await;
        assert_eq!(metadata.text("issuer"), provider.base());
        for (member, path) in [
            ("token_endpoint", "/token"),
            ("authorization_endpoint", "/auth"),
            ("device_authorization_endpoint", "/device/auth"),
            ("revocation_endpoint", "/token/revocation"),
            ("introspection_endpoint", "/token/introspection"),
            ("jwks_uri", "/jwks"),
        ] {
            assert_eq!(metadata.text(member), provider.url(path));
        }
    }
}

// === revocation and introspection of access tokens (RFC 7009, RFC 7662) ===

#[tokio::test]
async fn a_revoked_access_token_is_inactive() {
    let Some(provider) = OidcProvider::start() else { return };
    let client = [("client_id", "post"), ("client_secret", ODD_SECRET)];
    let form: Vec<_> = [("grant_type", "client_credentials")].into_iter().chain(client).collect();
    let token = ask(&provider, "/token", &form).await.text("access_token");
    let of_token: Vec<_> = [("token", &*token)].into_iter().chain(client).collect();
    let active = async || ask(&provider, "/token/introspection", &of_token).await.json()["active"].clone();
    assert_eq!(active().await, true);
    assert_eq!(ask(&provider, "/token/revocation", &of_token).await.status, 200);
    assert_eq!(active().await, false);
    // A stranger may not even ask.
    let stranger = send(&http(), form_to(&provider.url("/token/introspection")), format!("token={token}")).await;
    assert!(stranger.status.is_client_error());
}
