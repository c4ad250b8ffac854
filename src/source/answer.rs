//! What a JSON answer says: the token's text and how long it lives. Shared by every source that reads JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::FetchContext;
use crate::source::transport::TokenResponse;
use crate::token::{MAX_LIFETIME, Token};

/// A token from the answer's member, with a lifetime from another.
pub(crate) fn token(
    answer: &TokenResponse,
    text: Option<&Value>,
    expires_in: Option<&Value>,
    default_lifetime: Duration,
) -> Result<Token, Error> {
    let text = match text {
        Some(Value::String(text)) => text,
        Some(Value::Null) | None => return Err(answer.unusable("it holds no access token")),
        Some(_) => return Err(answer.unusable("its access token is not a string")),
    };
    let token = Token::parse(text).map_err(|problem| answer.unusable(problem))?;
    Ok(token.with_lifetime(lifetime(expires_in, default_lifetime)))
}

/// What is secret in the token to be replaced: an issuer may know it.
pub(crate) fn replaced_secrets(context: &FetchContext) -> impl Iterator<Item = Secret> {
    context.replaced().into_iter().flat_map(|token| {
        [Some(token.access_token().into()), token.refresh_token(), token.id_token().cloned()].into_iter().flatten()
    })
}

/// What `expires_in` means, in whatever form it comes.
///
/// | sent | taken as |
/// |---|---|
/// | a number, whole or fractional; the same as a string | that many seconds |
/// | zero, negative | no life at all: the token is dead on arrival |
/// | more than 100 years | 100 years |
/// | missing, null, or nothing that is a number | the default lifetime |
pub(crate) fn lifetime(expires_in: Option<&Value>, default: Duration) -> Duration {
    expires_in.and_then(seconds).unwrap_or(default)
}

/// A number of seconds, in whatever form it comes.
pub(crate) fn seconds(value: &Value) -> Option<Duration> {
    let seconds: f64 = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }?;
    // Cut first: a `Duration` cannot hold every number.
    seconds.is_finite().then(|| Duration::from_secs_f64(seconds.clamp(0.0, MAX_LIFETIME.as_secs_f64())))
}

/// How long a token lives that ends at this time, counted from 1970; if it has ended, how long ago.
pub(crate) fn until(end: Duration, now: SystemTime) -> Result<Duration, Duration> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if end > now { Ok(end - now) } else { Err(now - end) }
}

/// A setting of the sources: what is taken where the issuer names no lifetime.
pub(crate) fn default_lifetime(lifetime: Duration) -> Result<Duration, Error> {
    if lifetime.is_zero() {
        return Err(Error::invalid("default_lifetime", "a token without a life cannot be used"));
    }
    Ok(lifetime)
}

/// A setting of the sources: a JSON pointer. RFC 6901 section 3: empty, or each step behind a slash, where `~0` is a tilde
/// and `~1` a slash.
pub(crate) fn pointer(field: &'static str, pointer: impl Into<String>) -> Result<String, Error> {
    let pointer = pointer.into();
    let stray_tilde = pointer.split('~').skip(1).any(|after| !after.starts_with(['0', '1']));
    if !pointer.is_empty() && !pointer.starts_with('/') || stray_tilde {
        return Err(Error::invalid(field, "not a JSON pointer; write it as /content/token"));
    }
    Ok(pointer)
}

/// Every text, and every number long enough for a PIN.
pub(crate) fn collect_strings(value: &Value, found: &mut Vec<Secret>) {
    match value {
        Value::Number(number) => {
            found.extend(Some(number.to_string()).filter(|text| text.len() >= 4).map(Secret::from))
        }
        Value::String(text) => found.push(text.as_str().into()),
        Value::Array(items) => items.iter().for_each(|item| collect_strings(item, found)),
        Value::Object(members) => members.values().for_each(|member| collect_strings(member, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
