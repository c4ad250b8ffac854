//! Logins in a browser: authorization code with PKCE (RFC 6749 section 4.1, RFC 7636, RFC 9207).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use issuers::{Http, OidcProvider, encoded, http, send};
use serde_json::Value;
use tower::{ServiceExt, service_fn};
use tower_bearer::oauth2::{
    Algorithm, AuthorizationCodeLogin, AuthorizationCodeLoginBuilder, AuthorizationRequest, ClientAuth, Issuer,
};
use tower_bearer::{Error, Token, TokenCache};

/// Any port of loopback (RFC 8252 section 7.3).
const REDIRECT: &str = "http://127.0.0.1:9/callback";

/// A public client that asks for consent, without which the provider returns no refresh token.
pub(crate) fn login(issuer: &Issuer) -> AuthorizationCodeLoginBuilder {
    let login = AuthorizationCodeLogin::builder(issuer, "public", REDIRECT);
    login.scope("openid read offline_access").parameter("prompt", "consent")
}

/// A browser whose user agrees to everything. It follows redirects until one leaves the provider.
pub(crate) async fn browse(provider: &OidcProvider, request: &AuthorizationRequest) -> String {
    let mut url = request.url().to_owned();
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
    assert!(url.starts_with(REDIRECT), "{url}");
    url
}

/// The parameters of the browser's last redirect.
fn query(url: &str) -> BTreeMap<String, String> {
    let (_, query) = url.split_once('?').expect("a query");
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The URL with another value for a parameter, or without it.
fn with(url: &str, name: &str, value: Option<&str>) -> String {
    let mut query = query(url);
    query.remove(name).expect("a parameter of the address");
    query.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    let pairs: Vec<_> = query.iter().map(|(name, value)| (&**name, &**value)).collect();
    format!("{REDIRECT}?{}", encoded(&pairs))
}

fn is_invalid_grant(error: &Error) -> bool {
    error.is_denied() && error.code() == Some("invalid_grant")
}

#[tokio::test]
async fn a_browser_returns_a_code_and_its_session_rotates() {
    let Some(provider) = OidcProvider::start() else { return };
    let login = login(&provider.issuer()).build().expect("a login");
    let request = login.begin().await.expect("an address");
    let back = browse(&provider, &request).await;
    let token = request.finish(&back).await.expect("a token");
    assert!(token.id_token().is_some() && token.refresh_token().is_some());
    let cache = TokenCache::new(login.session(token.clone()));
    let mut newest = cache.get().await.expect("the token of the login");
    assert_eq!((newest.access_token(), provider.count("token_calls").await), (token.access_token(), 1));
    for _ in 0..3 {
        let next = cache.refresh().await.expect("a refresh");
        assert_ne!(next.refresh_token(), newest.refresh_token());
        assert_eq!(provider.call(&next).await.status, 200);
        newest = next;
    }
    assert_eq!((provider.count("denied").await, provider.count("metadata_reads").await), (0, 1));
}

#[tokio::test]
async fn a_request_is_pushed_and_the_browser_refers_to_it() {
    let Some(provider) = OidcProvider::start() else { return };
    let issuer = provider.issuer().pushed_authorization_request_endpoint(&provider.url("/request"));
    let login = login(&issuer).build().expect("a login");
    let request = login.begin().await.expect("an address");
    let mut sent = query(request.url());
    assert!(sent.remove("request_uri").is_some_and(|uri| uri.starts_with("urn:")), "{}", request.url());
    assert_eq!(sent, [("client_id".to_owned(), "public".to_owned())].into());
    let back = browse(&provider, &request).await;
    let token = request.finish(&back).await.expect("a token");
    assert_eq!(provider.call(&token).await.status, 200);
}

#[tokio::test]
async fn a_confidential_client_authenticates_for_the_code_and_for_each_refresh() {
    let Some(provider) = OidcProvider::start() else { return };
    let (authorization, token) = (provider.url("/auth"), provider.url("/token"));
    let auth = ClientAuth::private_key_jwt(provider.signing_key(Algorithm::RS256).await);
    let login = AuthorizationCodeLogin::builder(
        &Issuer::new(http()).token_endpoint(&token).authorization_endpoint(&authorization),
        "rs256",
        REDIRECT,
    );
    let login = login.client_auth(auth).scope("openid read offline_access");
    let login = login.parameter("prompt", "consent").build().expect("a login");
    let request = login.begin().await.expect("an address");
    let back = browse(&provider, &request).await;
    let cache = TokenCache::new(login.session(request.finish(&back).await.expect("a token")));
    for token in [cache.get().await, cache.refresh().await, cache.refresh().await] {
        assert_eq!(provider.call(&token.expect("a token")).await.status, 200);
    }
    assert_eq!((provider.count("for_endpoint").await, provider.count("denied").await), (3, 0));
}

#[tokio::test]
async fn a_code_that_comes_with_another_state_or_issuer_is_not_sent() {
    let Some(provider) = OidcProvider::start() else { return };
    let cases =
        [("state", Some("another")), ("state", None), ("iss", Some("https://elsewhere.example.com")), ("iss", None)];
    for (name, value) in cases {
        let request = login(&provider.issuer()).build().expect("a login").begin().await.expect("an address");
        let back = browse(&provider, &request).await;
        assert!(back.contains(&encoded(&[("iss", provider.base())])), "{back}");
        let error = request.finish(&with(&back, name, value)).await.expect_err("a rejection");
        assert!(!error.is_transient() && error.code().is_none(), "{error}");
        assert!(error.to_string().contains(if name == "state" { "state" } else { provider.base() }), "{error}");
    }
    assert_eq!(provider.count("token_calls").await, 0);
}

#[tokio::test]
async fn a_code_works_only_with_the_verifier_of_its_request() {
    let Some(provider) = OidcProvider::start() else { return };
    let login = login(&provider.issuer()).build().expect("a login");
    let first = login.begin().await.expect("an address");
    let back = browse(&provider, &first).await;
    let second = login.begin().await.expect("an address");
    // A redirect of the second request, with the code of the first.
    let stolen = with(&browse(&provider, &second).await, "code", Some(&query(&back)["code"]));
    assert!(is_invalid_grant(&second.finish(&stolen).await.expect_err("a denial")));
    let token = first.finish(&back).await.expect("a token");
    assert_eq!(provider.call(&token).await.status, 200);
}

/// "If an authorization code is used more than once, the authorization server MUST deny the request and SHOULD revoke
/// (when possible) all tokens previously issued" (RFC 6749 section 4.1.2). So an inner service must not retry a login.
#[tokio::test]
async fn a_code_that_is_sent_twice_is_denied_and_ends_its_tokens() {
    let Some(provider) = OidcProvider::start() else { return };
    let (through, brought) = (http(), Arc::new(Mutex::new(None)));
    let seen = Arc::clone(&brought);
    let twice = service_fn(move |request: Request<Full<Bytes>>| {
        let (through, seen) = (through.clone(), Arc::clone(&seen));
        async move {
            if request.uri().path() == "/token" {
                let Ok(body) = through.clone().oneshot(request.clone()).await?.into_body().collect().await;
                let answer: Value = serde_json::from_slice(&body.to_bytes())?;
                *seen.lock().expect("a token") = answer["access_token"].as_str().map(str::to_owned);
            }
            through.oneshot(request).await
        }
    });
    let login = login(&Issuer::discover(Http::new(twice), provider.base())).build().expect("a login");
    let request = login.begin().await.expect("an address");
    let back = browse(&provider, &request).await;
    assert!(is_invalid_grant(&request.finish(&back).await.expect_err("a denial")));
    let brought = brought.lock().expect("a token").take().expect("the first time it worked");
    assert_eq!(provider.call(&Token::new(brought).expect("a token")).await.status, 401);
    assert_eq!((provider.count("granted").await, provider.count("revoked_grants").await), (1, 1));
}

#[tokio::test]
async fn a_person_that_denies_ends_the_login() {
    let Some(provider) = OidcProvider::start() else { return };
    let login = login(&provider.issuer()).parameter("login_hint", "nobody").build().expect("a login");
    let request = login.begin().await.expect("an address");
    let back = browse(&provider, &request).await;
    let error = request.finish(&back).await.expect_err("no code").to_string();
    assert!(error.contains("access_denied") && error.contains("the user said no"), "{error}");
    assert_eq!(provider.count("token_calls").await, 0);
}
