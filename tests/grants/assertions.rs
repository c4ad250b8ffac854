//! The JWT bearer grant (RFC 7523 section 2.1) and token exchange (RFC 8693).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::get_current_timestamp;
use serde_json::{Value, json};
use tower_bearer::TokenCache;
use tower_bearer::oauth2::{Assertion, ClientAuth, JwtBearerGrant, TokenExchangeGrant, TokenExchangeGrantBuilder};
use tower_bearer::testing::{Answer, ManualClock, TokenServer};

use crate::signed::{every, key, verified};
use crate::sources::{HOUR, TOKEN_URL, at, each, form, headers, pass};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

fn exchange(issuer: &TokenServer) -> TokenExchangeGrantBuilder {
    TokenExchangeGrant::builder(&at(issuer.clone()), "the subject")
}

// === the JWT bearer grant ===

#[tokio::test]
async fn a_service_account_signs_an_assertion_for_each_token() {
    for (algorithm, pem, read_as, public) in every() {
        let issuer = TokenServer::new();
        let assertion = Assertion::builder(key(algorithm, pem), "me@project").audience(TOKEN_URL);
        let assertion = assertion.subject("ann").claim("scope", "read").lifetime(HOUR).build().unwrap();
        let cache = TokenCache::new(JwtBearerGrant::builder(&at(issuer.clone()), assertion).build().unwrap());
        cache.get().await.unwrap();
        cache.refresh().await.unwrap();
        let mut jtis = Vec::new();
        for request in issuer.requests() {
            let mut sent = request.form();
            let (_, claims) = verified(&sent.remove("assertion").unwrap(), read_as, &public, TOKEN_URL);
            assert_eq!(sent, form([("grant_type", JWT_BEARER)]));
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("me@project"), &json!("ann")));
            assert_eq!((&claims["aud"], &claims["scope"]), (&json!(TOKEN_URL), &json!("read")));
            let issued = claims["iat"].as_u64().unwrap();
            assert!(issued <= get_current_timestamp() - 60);
            assert_eq!(claims["nbf"], issued);
            assert_eq!(claims["exp"], issued + 60 + 3600);
            jtis.push(claims["jti"].clone());
        }
        assert_ne!(jtis[0], jtis[1]);
    }
}

#[tokio::test]
async fn an_assertion_is_signed_for_the_time_of_the_caches_clock() {
    let (algorithm, pem, ..) = every().into_iter().last().unwrap();
    let (issuer, clock) = (TokenServer::new(), ManualClock::new());
    let assertion = Assertion::builder(key(algorithm, pem), "me").audience(TOKEN_URL).lifetime(HOUR).build().unwrap();
    let grant = JwtBearerGrant::builder(&at(issuer.clone()), assertion);
    // The client authenticates with an assertion, too, for the same time.
    let grant =
        grant.client_id("my-app").client_auth(ClientAuth::private_key_jwt(key(algorithm, pem))).build().unwrap();
    let cache = TokenCache::builder(grant).clock(clock.clone()).build().unwrap();
    cache.get().await.unwrap();
    clock.sleep(Duration::from_secs(50_000));
    cache.refresh().await.unwrap();
    let claims = |jwt: &str| {
        let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap())
    };
    for (request, now) in issuer.requests().iter().zip([1_700_000_000, 1_700_050_000]) {
        assert_eq!(claims(&request.form()["assertion"]), (now - 60, now + 3600));
        assert_eq!(claims(&request.form()["client_assertion"]), (now - 60, now + 60));
    }
}

#[tokio::test]
async fn an_assertion_may_be_a_text_and_the_client_may_authenticate() {
    let issuer = TokenServer::new();
    let source = JwtBearerGrant::builder(&at(issuer.clone()), "a.b.c").scope("read");
    TokenCache::new(source.client_id("my-app").client_auth("its secret").build().unwrap()).get().await.unwrap();
    let request = issuer.requests().remove(0);
    assert_eq!(request.form(), form([("grant_type", JWT_BEARER), ("assertion", "a.b.c"), ("scope", "read")]));
    assert_eq!(headers(&request)["authorization"], "Basic bXktYXBwOml0cyUyMHNlY3JldA==");
}

#[tokio::test]
async fn a_huge_lifetime_does_not_panic_and_an_empty_issuer_or_audience_is_an_error() {
    let (algorithm, pem, ..) = every().into_iter().last().unwrap();
    let issuer = TokenServer::new();
    let assertion = Assertion::builder(key(algorithm, pem), "me").lifetime(Duration::MAX).build().unwrap();
    TokenCache::new(JwtBearerGrant::builder(&at(issuer), assertion).build().unwrap()).get().await.unwrap();
    for (iss, aud) in [("", TOKEN_URL), ("me", "")] {
        let error = Assertion::builder(key(algorithm, pem), iss).audience(aud).build().unwrap_err();
        assert!(error.is_invalid(), "{error}");
    }
}

// === token exchange ===

#[tokio::test]
async fn an_exchange_sends_its_tokens_and_their_types() {
    let issuer = TokenServer::new();
    TokenCache::new(exchange(&issuer).build().unwrap()).get().await.unwrap();
    let minimal =
        [("grant_type", TOKEN_EXCHANGE), ("subject_token", "the subject"), ("subject_token_type", ACCESS_TOKEN)];
    assert_eq!(issuer.requests()[0].form(), form(minimal));

    let all = exchange(&issuer).subject_token_type(ID_TOKEN).actor_token("the actor", ACCESS_TOKEN);
    let all = all.requested_token_type(ACCESS_TOKEN).client_id("my-app");
    let all = all.audience("billing").resource("https://api.example.com").scope("read").build().unwrap();
    TokenCache::new(all).get().await.unwrap();
    let expected = [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", "the subject"),
        ("subject_token_type", ID_TOKEN),
        ("actor_token", "the actor"),
        ("actor_token_type", ACCESS_TOKEN),
        ("requested_token_type", ACCESS_TOKEN),
        ("client_id", "my-app"),
        ("audience", "billing"),
        ("resource", "https://api.example.com"),
        ("scope", "read"),
    ];
    assert_eq!(issuer.requests()[1].form(), form(expected));
}

#[tokio::test]
async fn a_token_of_another_cache_is_exchanged_at_each_fetch() {
    let (users, issuer) = (TokenServer::new(), TokenServer::new());
    let user = TokenCache::new(crate::sources::client_credentials(&users).build().unwrap());
    let user_cache = user.clone();
    let subject = move || {
        let user = user.clone();
        async move { user.get().await.map(|token| token.access_token().to_owned()) }
    };
    let cache = TokenCache::new(TokenExchangeGrant::builder(&at(issuer.clone()), subject).build().unwrap());
    cache.get().await.unwrap();
    user_cache.refresh().await.unwrap();
    cache.refresh().await.unwrap();
    assert_eq!(each(&issuer.requests(), "subject_token"), ["token-1", "token-2"]);
}

#[tokio::test]
async fn an_exchange_for_a_token_that_is_not_a_bearer_token_is_an_error() {
    let issuer = TokenServer::new();
    issuer.queue(Answer::json(200, json!({ "access_token": "saml", "token_type": "N_A", "issued_token_type": "x" })));
    let error = TokenCache::new(exchange(&issuer).build().unwrap()).get().await.unwrap_err();
    assert!(error.to_string().contains("its token type is N_A"), "{error}");
}

#[test]
fn an_empty_token_type_is_an_error() {
    let issuer = TokenServer::new();
    exchange(&issuer).subject_token_type("").build().unwrap_err();
    exchange(&issuer).requested_token_type("").build().unwrap_err();
    exchange(&issuer).actor_token("the actor", "").build().unwrap_err();
}

// === both grants ===

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_used_until_it_is_denied_and_then_the_grant() {
    for exchanges in [true, false] {
        let issuer = TokenServer::new();
        issuer.rotate_refresh_tokens(true);
        let cache = match exchanges {
            true => TokenCache::new(exchange(&issuer).build().unwrap()),
            false => TokenCache::new(JwtBearerGrant::builder(&at(issuer.clone()), "a.b.c").build().unwrap()),
        };
        cache.get().await.unwrap();
        pass(HOUR).await;
        cache.get().await.unwrap();
        pass(HOUR).await;
        issuer.queue(Answer::oauth_error(400, "invalid_grant"));
        cache.get().await.unwrap();
        let grant = if exchanges { TOKEN_EXCHANGE } else { JWT_BEARER };
        assert_eq!(each(&issuer.requests(), "grant_type"), [grant, "refresh_token", "refresh_token", grant]);
    }
}
