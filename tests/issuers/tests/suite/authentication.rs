//! Clients that authenticate with a secret (RFC 6749 section 2.3.1), with ids, secrets and passwords of odd characters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use issuers::{Got, ODD_PASSWORD, ODD_SECRET, OidcProvider, encoded, form_to, http, send};
use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, Issuer, PasswordGrant, PasswordGrantBuilder};
use tower_bearer::{Error, Token, TokenCache};

const ODD_ID: &str = "we ird:id+%";

fn client_credentials(provider: &OidcProvider, id: &str, auth: ClientAuth) -> ClientCredentialsGrant {
    ClientCredentialsGrant::builder(&Issuer::new(http()).token_endpoint(&provider.url("/token")), id, auth)
        .build()
        .expect("a source")
}

fn password(provider: &OidcProvider, id: &str) -> PasswordGrantBuilder {
    PasswordGrant::builder(&Issuer::new(http()).token_endpoint(&provider.url("/token")), id, "ann", ODD_PASSWORD)
        .scope("read offline_access")
}

/// Checks that the API accepts the token.
async fn works(provider: &OidcProvider, token: Result<Token, Error>) {
    assert_eq!(provider.call(&token.expect("a token")).await.status, 200);
}

#[tokio::test]
async fn an_odd_id_and_secret_log_in_in_the_header_and_in_the_body() {
    let Some(provider) = OidcProvider::start() else { return };
    for (id, auth) in [(ODD_ID, ClientAuth::basic(ODD_SECRET)), ("post", ClientAuth::post(ODD_SECRET))] {
        let source = client_credentials(&provider, id, auth);
        works(&provider, TokenCache::new(source).get().await).await;
    }
    assert_eq!(provider.count("denied").await, 0);
}

#[tokio::test]
async fn an_odd_password_logs_in_and_refreshes_for_confidential_and_public_clients() {
    let Some(provider) = OidcProvider::start() else { return };
    let confidential = password(&provider, ODD_ID).client_auth(ODD_SECRET);
    for source in [confidential, password(&provider, "public")] {
        let cache = TokenCache::new(source.build().expect("a source"));
        works(&provider, cache.get().await).await;
        works(&provider, cache.refresh().await).await;
    }
    assert_eq!((provider.count("granted").await, provider.count("denied").await), (4, 0));
}

#[tokio::test]
async fn a_wrong_secret_or_client_is_denied_with_its_code() {
    let Some(provider) = OidcProvider::start() else { return };
    for (id, secret) in [(ODD_ID, "wrong"), ("nobody", ODD_SECRET), ("public", ODD_SECRET)] {
        for auth in [ClientAuth::basic(secret), ClientAuth::post(secret)] {
            let cache = TokenCache::new(client_credentials(&provider, id, auth));
            let error = cache.get().await.expect_err("a denial");
            assert!(error.is_denied() && !error.is_transient(), "{error}");
            assert_eq!(
                (error.code(), error.status().map(|status| status.as_u16())),
                (Some("invalid_client"), Some(401))
            );
            assert!(!format!("{error} {error:?}").contains(secret));
        }
    }
    assert_eq!(provider.count("token_calls").await, 6, "a denial is remembered");
}

/// How the server reads two encodings of a Basic pair, without this crate's client. In RFC 6749 section 2.3.1 both
/// parts are form-urlencoded; many clients send them raw.
#[tokio::test]
async fn a_basic_pair_is_read_form_urlencoded_and_a_raw_one_only_if_it_is_equal() {
    let Some(provider) = OidcProvider::start() else { return };
    let form = encoded(&[("grant_type", "client_credentials")]);
    let ask = async |pair: &str| -> Got {
        let basic = format!("Basic {}", STANDARD.encode(pair));
        send(&http(), form_to(&provider.url("/token")).header("authorization", basic), form.clone()).await
    };
    let spaces_as_plus = encoded(&[(ODD_ID, ODD_SECRET)]).replace('=', ":");
    let spaces_as_percent = spaces_as_plus.replace('+', "%20");
    for pair in ["plain:secret", &spaces_as_plus, &spaces_as_percent] {
        assert_eq!(ask(pair).await.status, 200, "{pair}");
    }
    // The raw id ends at its own colon, and its percent sign is not an escape.
    assert_eq!(ask(&format!("{ODD_ID}:{ODD_SECRET}")).await.denial(), (400, "invalid_request".to_owned()));
    // "the authorization server MUST respond with an HTTP 401 (Unauthorized) status code and include the
    // "WWW-Authenticate" response header field matching the authentication scheme used by the client" (section 5.2).
    let wrong = ask("plain:wrong").await;
    assert_eq!(wrong.denial(), (401, "invalid_client".to_owned()));
    assert!(wrong.header("www-authenticate").starts_with("Basic "), "{wrong:?}");
}
