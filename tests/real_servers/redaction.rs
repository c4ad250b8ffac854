//! Texts of an issuer that make redaction slow.

use serde_json::json;
use tower_bearer::TokenCache;
use tower_bearer::testing::{Answer, TokenServer};

use crate::sources::{client_credentials, refresh_token};

/// Ends in reasonable time only if redaction does little work, which the unit tests count.
#[tokio::test]
async fn a_quarter_of_a_mebibyte_of_backslashes_is_an_error_like_any_other() {
    let backslashes = "\\".repeat(128 * 1024);
    for body in [
        json!({ "error": "odd", "error_description": backslashes, "access_token": backslashes }),
        json!({ "error": backslashes, "refresh_token": backslashes }),
        json!({ "message": "\\u005c".repeat(40 * 1024), "id_token": backslashes }),
    ] {
        let issuer = TokenServer::new();
        issuer.fail(Some(Answer::json(400, body)));
        for cache in [
            TokenCache::new(client_credentials(&issuer).build().unwrap()),
            TokenCache::new(refresh_token(&issuer).build().unwrap()),
        ] {
            let said = cache.get().await.unwrap_err().to_string();
            assert!(said.len() < 1000 && !said.contains("\\\\\\\\"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_not_repeated_in_other_encodings_either() {
    for words in ["aXRzIHNlY3JldA==", "697473207365637265740a", "ITS SECRET", "its&#32;secret", "its\\u0020secret"] {
        let issuer = TokenServer::new();
        issuer.queue(Answer::json(401, json!({ "error": "invalid_client", "error_description": words })));
        let error = TokenCache::new(client_credentials(&issuer).build().unwrap()).get().await.unwrap_err();
        assert!(error.description().unwrap().starts_with("[redacted]"), "{words}: {error}");
    }
}
