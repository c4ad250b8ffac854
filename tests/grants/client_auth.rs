//! A client authenticates with an assertion that is signed with its key or its secret (RFC 7523 section 2.2).

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, DecodingKey, get_current_timestamp};
use serde_json::{Value, json};
use tower_bearer::oauth2::{self, Assertion, ClientAuth, ClientCredentialsGrant, RefreshTokenGrant, SigningKey};
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{Error, TokenCache};

use crate::signed::{P256, RSA, every, key, verified};
use crate::sources::{TOKEN_URL, at, by_method, each, form, says};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const SECRET: &str = "its secret of more than thirty-two characters";

fn source(issuer: &TokenServer, auth: ClientAuth) -> ClientCredentialsGrant {
    ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", auth).build().unwrap()
}

/// The assertion that a fetch sends. Checks that the fetch sends no other secret.
async fn sent(auth: ClientAuth) -> String {
    let issuer = TokenServer::new();
    TokenCache::new(source(&issuer, auth)).get().await.unwrap();
    let request = issuer.requests().remove(0);
    assert!(!request.headers.contains_key("authorization"));
    let mut sent = request.form();
    let assertion = sent.remove("client_assertion").unwrap();
    let rest =
        [("grant_type", "client_credentials"), ("client_id", "my-app"), ("client_assertion_type", ASSERTION_TYPE)];
    assert_eq!(sent, form(rest));
    assertion
}

fn assert_claims(claims: &Value, audience: &str) {
    let names: BTreeSet<_> = claims.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"].into());
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&json!("my-app"), &json!("my-app"), &json!(audience))
    );
    let (issued, now) = (claims["iat"].as_u64().unwrap(), get_current_timestamp());
    assert!((now - 120..=now - 60).contains(&issued), "{issued} of {now}");
    assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(issued), &json!(issued + 120)));
    assert!(claims["jti"].as_str().unwrap().len() >= 22);
}

// === assertions as a server verifies them ===

#[tokio::test]
async fn a_server_verifies_each_algorithm_with_its_public_key() {
    for (algorithm, pem, read_as, public) in every() {
        let jwt = sent(ClientAuth::private_key_jwt(key(algorithm, pem))).await;
        let (header, claims) = verified(&jwt, read_as, &public, TOKEN_URL);
        assert_eq!((header.alg, header.typ.as_deref(), header.kid), (read_as, Some("JWT"), None));
        assert_claims(&claims, TOKEN_URL);
    }
}

#[tokio::test]
async fn a_client_secret_signs_with_hs256_and_is_not_sent() {
    let jwt = sent(ClientAuth::secret_jwt(SECRET)).await;
    let (_, claims) = verified(&jwt, Algorithm::HS256, &DecodingKey::from_secret(SECRET.as_bytes()), TOKEN_URL);
    assert_claims(&claims, TOKEN_URL);
}

#[tokio::test]
async fn an_assertion_of_another_party_is_sent_unchanged() {
    assert_eq!(sent(ClientAuth::assertion("a.workload.token")).await, "a.workload.token");
}

#[tokio::test]
async fn a_header_has_the_key_id_and_the_certificate_thumbprint() {
    let (algorithm, pem, read_as, public) = every().into_iter().next().unwrap();
    let key = key(algorithm, pem).key_id("2026-11").certificate_thumbprint("dGh1bWI");
    let (header, _) = verified(&sent(ClientAuth::private_key_jwt(key)).await, read_as, &public, TOKEN_URL);
    assert_eq!((header.kid.as_deref(), header.x5t_s256.as_deref()), (Some("2026-11"), Some("dGh1bWI")));
}

#[tokio::test]
async fn the_audience_is_the_issuer_if_that_is_known() {
    let (documents, tokens) = (TokenServer::new(), TokenServer::new());
    documents.queue(Answer::json(200, json!({ "issuer": "https://auth.example.com", "token_endpoint": TOKEN_URL })));
    let issuer = oauth2::Issuer::discover(by_method(&documents, &tokens), "https://auth.example.com");
    let (algorithm, pem, read_as, public) = every().into_iter().next().unwrap();
    let auth = ClientAuth::private_key_jwt(key(algorithm, pem));
    TokenCache::new(ClientCredentialsGrant::builder(&issuer, "my-app", auth).build().unwrap()).get().await.unwrap();
    let jwt = tokens.requests()[0].form()["client_assertion"].clone();
    assert_claims(&verified(&jwt, read_as, &public, "https://auth.example.com").1, "https://auth.example.com");
}

#[tokio::test]
async fn a_custom_assertion_may_have_another_audience() {
    let (algorithm, pem, read_as, public) = every().into_iter().next().unwrap();
    let own = Assertion::builder(key(algorithm, pem), "my-app").audience("https://another.example").subject("my-app");
    let jwt = sent(ClientAuth::assertion(own.build().unwrap())).await;
    assert_claims(&verified(&jwt, read_as, &public, "https://another.example").1, "https://another.example");
}

// === each attempt has its own assertion ===

#[tokio::test(start_paused = true)]
async fn the_two_attempts_of_one_refresh_send_two_assertions() {
    for lost in [Answer::fails("connection reset"), Answer::hangs()] {
        let issuer = TokenServer::new();
        issuer.queue(lost);
        let (algorithm, pem, read_as, public) = every().into_iter().last().unwrap();
        let source = RefreshTokenGrant::builder(&at(issuer.clone()), "my-app", "saved");
        let source = source.client_auth(ClientAuth::private_key_jwt(key(algorithm, pem))).build().unwrap();
        TokenCache::new(source).get().await.unwrap();
        assert_eq!(each(&issuer.requests(), "refresh_token"), ["saved", "saved"]);
        let jtis: BTreeSet<_> = each(&issuer.requests(), "client_assertion")
            .iter()
            .map(|jwt| verified(jwt, read_as, &public, TOKEN_URL).1["jti"].to_string())
            .collect();
        assert_eq!(jtis.len(), 2);
    }
}

#[tokio::test]
async fn two_fetches_send_two_assertions() {
    let issuer = TokenServer::new();
    let cache = TokenCache::new(source(&issuer, ClientAuth::secret_jwt(SECRET)));
    cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    let sent = each(&issuer.requests(), "client_assertion");
    assert_ne!(sent[0], sent[1]);
}

// === keys ===

/// The second line of a PEM text, which is part of the key.
fn material(pem: &str) -> &str {
    pem.lines().nth(1).unwrap()
}

#[test]
fn a_key_of_another_kind_is_an_error_that_names_the_algorithm_and_hides_the_key() {
    let others = [
        (oauth2::Algorithm::RS256, P256),
        (oauth2::Algorithm::PS256, P256),
        (oauth2::Algorithm::ES256, RSA),
        (oauth2::Algorithm::ES256, include_str!("../keys/p384.pem")),
        (oauth2::Algorithm::ES384, P256),
        (oauth2::Algorithm::PS512, P256),
        (oauth2::Algorithm::ES256, include_str!("../keys/p256_sec1.pem")),
        (oauth2::Algorithm::ES256, include_str!("../keys/p256.pub.pem")),
        (oauth2::Algorithm::EdDSA, P256),
        (oauth2::Algorithm::RS256, include_str!("../keys/rsa.pub.pem")),
        (oauth2::Algorithm::RS256, "bm90IGEga2V5\nbm90IGEga2V5"),
    ];
    for (algorithm, pem) in others {
        let error = SigningKey::from_pem(algorithm, pem).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(&format!("{algorithm:?}")), "{error}");
        assert!(error.to_string().contains("private_key"), "{error}");
        assert!(!says(&error).contains(&material(pem)[..8]), "{error:?}");
    }
}

#[test]
fn an_rsa_key_may_be_pkcs1() {
    SigningKey::from_pem(oauth2::Algorithm::RS256, include_str!("../keys/rsa_pkcs1.pem")).unwrap();
}

#[test]
fn debug_output_hides_the_key() {
    let key = key(oauth2::Algorithm::ES256, P256);
    let assertion = Assertion::builder(key.clone(), "me").audience(TOKEN_URL).claim("otp", "Cl4im").build().unwrap();
    let auth = ClientAuth::private_key_jwt(key.clone());
    let source = source(&TokenServer::new(), auth.clone());
    let shown = format!("{key:?} {key:#?} {assertion:?} {assertion:#?} {auth:?} {source:?} {source:#?}");
    assert!(shown.contains("ES256") && shown.contains("otp"), "{shown}");
    assert!(!shown.contains("Cl4im"), "{shown}");
    for line in P256.lines().filter(|line| !line.starts_with('-')) {
        assert!(!shown.contains(&line[..8]), "{shown}");
    }
    // Its bytes are not shown either.
    assert!(!shown.contains("48, 129"), "{shown}");
}

#[tokio::test]
async fn an_assertion_is_redacted_if_the_issuer_repeats_it() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::oauth_error(401, "invalid_client"));
    let own = "eyJhbGciOiJub25lIn0.an-assertion.x";
    issuer.fail(Some(Answer::json(401, json!({ "error": "invalid_client", "error_description": own }))));
    let cache = TokenCache::new(source(&issuer, ClientAuth::assertion(own)));
    cache.get().await.unwrap_err();
    let error: Error = cache.refresh().await.unwrap_err();
    assert_eq!(error.description(), Some("[redacted]"));
}
