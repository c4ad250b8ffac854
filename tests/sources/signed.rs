//! Verifies assertions as a server does.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::LazyLock;

use jsonwebtoken::crypto::{CryptoProvider, KeyUtils, aws_lc};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::Value;
use tower_bearer::oauth2::{self, SigningKey};

pub(crate) const RSA: &str = include_str!("../keys/rsa.pem");
pub(crate) const P256: &str = include_str!("../keys/p256.pem");
pub(crate) const P384: &str = include_str!("../keys/p384.pem");
pub(crate) const ED25519: &str = include_str!("../keys/ed25519.pem");

/// Each algorithm, with its private key and the public key of the server.
pub(crate) fn every() -> [(oauth2::Algorithm, &'static str, Algorithm, DecodingKey); 9] {
    let rsa = DecodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pub.pem")).unwrap();
    let p256 = DecodingKey::from_ec_pem(include_bytes!("../keys/p256.pub.pem")).unwrap();
    let p384 = DecodingKey::from_ec_pem(include_bytes!("../keys/p384.pub.pem")).unwrap();
    let ed25519 = DecodingKey::from_ed_pem(include_bytes!("../keys/ed25519.pub.pem")).unwrap();
    [
        (oauth2::Algorithm::RS256, RSA, Algorithm::RS256, rsa.clone()),
        (oauth2::Algorithm::RS384, RSA, Algorithm::RS384, rsa.clone()),
        (oauth2::Algorithm::RS512, RSA, Algorithm::RS512, rsa.clone()),
        (oauth2::Algorithm::PS256, RSA, Algorithm::PS256, rsa.clone()),
        (oauth2::Algorithm::PS384, RSA, Algorithm::PS384, rsa.clone()),
        (oauth2::Algorithm::PS512, RSA, Algorithm::PS512, rsa),
        (oauth2::Algorithm::ES256, P256, Algorithm::ES256, p256),
        (oauth2::Algorithm::ES384, P384, Algorithm::ES384, p384),
        (oauth2::Algorithm::EdDSA, ED25519, Algorithm::EdDSA, ed25519),
    ]
}

pub(crate) fn key(algorithm: oauth2::Algorithm, pem: &str) -> SigningKey {
    LazyLock::force(&PROVIDER);
    SigningKey::from_pem(algorithm, pem).unwrap()
}

/// Checks the signature, audience and end of an assertion. Returns its header and claims.
pub(crate) fn verified(jwt: &str, algorithm: Algorithm, key: &DecodingKey, audience: &str) -> (Header, Value) {
    LazyLock::force(&PROVIDER);
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    validation.leeway = 0;
    let read = jsonwebtoken::decode::<Value>(jwt, key, &validation).unwrap();
    (read.header, read.claims)
}

/// Installs a provider of the process that panics when it signs, as if another crate had enabled the library's second
/// provider.
static PROVIDER: LazyLock<()> = LazyLock::new(|| {
    static VERIFIES_ONLY: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| panic!("asked the process for a signer"),
        verifier_factory: |algorithm, key| (aws_lc::DEFAULT_PROVIDER.verifier_factory)(algorithm, key),
        key_utils: KeyUtils::new_unimplemented(),
    };
    VERIFIES_ONLY.install_default().expect("installed once");
});
