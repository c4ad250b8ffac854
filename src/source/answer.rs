//! Reads answers for all sources: bytes, tokens, lifetimes and denials.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::FetchContext;
use crate::token::Token;

pub(crate) mod decode;
pub(crate) mod denial;
pub(crate) mod lifetime;
pub(crate) mod settings;

/// The token in a member of an answer.
pub(crate) fn token(text: Option<&Value>) -> Result<Token, Cow<'static, str>> {
    match text {
        Some(Value::String(text)) => Token::parse(text).map_err(Cow::Borrowed),
        Some(Value::Null) | None => Err("it holds no access token".into()),
        Some(_) => Err("its access token is not a string".into()),
    }
}

/// The token in bytes that hold nothing else apart from white space around it.
pub(crate) fn bare_token(bytes: &[u8]) -> Result<Token, &'static str> {
    let text = decode::text(bytes);
    let text = text.trim();
    // JSON without a space would otherwise be taken as a token.
    if text.starts_with(['{', '[', '<', '"']) {
        return Err("it holds JSON, or a page, and not a bare token");
    }
    Token::parse(text)
}

/// The secrets in the token to replace. The issuer knows them and may repeat them.
pub(crate) fn replaced_secrets(context: &FetchContext) -> impl Iterator<Item = Secret> {
    context.replaced().into_iter().flat_map(|token| {
        [Some(token.access_token().into()), token.refresh_token(), token.id_token().cloned()].into_iter().flatten()
    })
}

/// Checks a setting that is a JSON pointer.
///
/// RFC 6901 section 3: it is empty, or a slash precedes each step. `~0` is a tilde and `~1` a slash.
pub(crate) fn check_pointer(field: &'static str, pointer: &str) -> Result<(), Error> {
    let stray_tilde = pointer.split('~').skip(1).any(|after| !after.starts_with(['0', '1']));
    if !pointer.is_empty() && !pointer.starts_with('/') || stray_tilde {
        return Err(Error::invalid(field, "not a JSON pointer; write it as /content/token"));
    }
    Ok(())
}

/// The object that has the member at this pointer.
pub(crate) fn parent<'a>(answer: &'a Value, pointer: &str) -> &'a Value {
    pointer.rsplit_once('/').and_then(|(parent, _)| answer.pointer(parent)).unwrap_or(answer)
}

/// The first string member of this name, at any depth.
pub(crate) fn find_string<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match value {
        Value::Array(items) => items.iter().find_map(|item| find_string(item, name)),
        Value::Object(members) => {
            let own = members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            own.or_else(|| members.values().find_map(|member| find_string(member, name)))
        }
        _ => None,
    }
}

/// Collects every string member of these names, at any depth.
pub(crate) fn collect_members(value: &Value, names: &[&str], found: &mut Vec<Secret>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_members(item, names, found)),
        Value::Object(members) => members.iter().for_each(|(name, member)| match member {
            Value::String(text) if names.contains(&&**name) => found.push(text.as_str().into()),
            other => collect_members(other, names, found),
        }),
        _ => {}
    }
}

/// Collects every string, and every number that is long enough for a PIN.
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
