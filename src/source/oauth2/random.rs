//! Unguessable texts.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::Secret;

/// Returns 32 random bytes of the operating system in base64url, for a `jti`, a state or a code verifier (RFC 7636
/// section 4.1).
pub(crate) fn random() -> Secret {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    URL_SAFE_NO_PAD.encode(bytes).into()
}
