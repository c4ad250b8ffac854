//! Texts that cannot be guessed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::Secret;

/// 32 bytes from the operating system, base64url: a `jti`, a state, a code verifier (RFC 7636 section 4.1).
pub(crate) fn random() -> Secret {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    URL_SAFE_NO_PAD.encode(bytes).into()
}
