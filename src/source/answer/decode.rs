//! Reads the bytes of an answer: JSON as servers send it, or a form.
//!
//! | sent | read as |
//! |---|---|
//! | a byte order mark before the text (RFC 8259 section 8.1) | ignored; UTF-16 after it is decoded |
//! | bytes that are not UTF-8 | Latin-1 |
//! | control characters in a JSON string, such as a line break | part of the string |
//! | half of a surrogate pair (`"\ud83d"`) | U+FFFD |
//! | a JSON string that holds a JSON object | that object |
//! | `access_token=t&expires_in=3600` | an object of strings |

use std::borrow::Cow;

use serde_json::Value;

use crate::secret::Secret;

/// The text of these bytes, without a byte order mark.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |decode: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units: Vec<_> = bytes.chunks_exact(2).map(|pair| decode([pair[0], pair[1]])).collect();
        Cow::Owned(String::from_utf16_lossy(&units))
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => text(rest),
        [0xff, 0xfe, rest @ ..] => utf16(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => utf16(u16::from_be_bytes, rest),
        _ => match str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            // In Latin-1, each byte is the number of a Unicode character.
            Err(_) => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
        },
    }
}

/// The JSON value that these bytes hold.
pub(crate) fn json(bytes: &[u8]) -> Option<Value> {
    let text = text(bytes);
    serde_json::from_str(&text).ok().or_else(|| serde_json::from_str(&repaired(&text)).ok())
}

/// The answer that these bytes hold: JSON, a JSON string that holds JSON, or a form.
pub(crate) fn answer(bytes: &[u8]) -> Option<Value> {
    match json(bytes) {
        Some(Value::String(text)) if text.trim_start().starts_with('{') => {
            Some(json(text.as_bytes()).unwrap_or(Value::String(text)))
        }
        None => form(&text(bytes)),
        json => json,
    }
}

/// Finds the string of this member in an answer that cannot be parsed, such as an answer that is cut off after it.
pub(crate) fn find_member(bytes: &[u8], name: &str) -> Option<Secret> {
    let text = text(bytes);
    text.match_indices(name).find_map(|(start, _)| {
        let rest = &text[start + name.len()..];
        let value = match rest.strip_prefix('=') {
            Some(value) => {
                let pair = format!("v={}", value.split(['&', '\r', '\n', '<', '"', ' ']).next()?);
                form_urlencoded::parse(pair.as_bytes()).next()?.1.into_owned()
            }
            None => {
                let value = rest.strip_prefix('"')?.trim_start().strip_prefix(':')?.trim_start();
                // Reads one value and ignores the rest. A string that is cut off is an error.
                serde_json::Deserializer::from_str(value).into_iter::<String>().next()?.ok()?
            }
        };
        (!value.is_empty()).then(|| value.into())
    })
}

/// The same text with the control characters and the halves of surrogate pairs in its strings made valid JSON.
fn repaired(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len());
    let (mut in_string, mut rest) = (false, text);
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        match c {
            '"' => {
                in_string = !in_string;
                repaired.push(c);
            }
            '\\' if in_string => match (unit(rest), rest.get(6..).and_then(unit)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => {
                    length = 12;
                    repaired.push_str(&rest[..length]);
                }
                (Some(0xd800..=0xdfff), _) => {
                    length = 6;
                    repaired.push(char::REPLACEMENT_CHARACTER);
                }
                _ => {
                    // The next character belongs to the escape, so a quote there does not end the string.
                    let escaped = rest[1..].chars().next();
                    repaired.push(c);
                    repaired.extend(escaped);
                    length += escaped.map_or(0, char::len_utf8);
                }
            },
            '\0'..='\u{1f}' if in_string => repaired.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => repaired.push(c),
        }
        rest = &rest[length..];
    }
    repaired
}

/// The UTF-16 unit of the escape at the start of the text.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

/// Reads a body in `application/x-www-form-urlencoded`. Several servers send another content type, so it is not
/// checked.
fn form(text: &str) -> Option<Value> {
    let text = text.trim();
    let (name, _) = text.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if !is_name || text.contains(|c: char| c.is_whitespace() || c.is_control() || "<>{}\"".contains(c)) {
        return None;
    }
    let pairs = form_urlencoded::parse(text.as_bytes());
    Some(pairs.map(|(name, value)| (name.into_owned(), Value::from(value.into_owned()))).collect())
}

#[cfg(test)]
mod tests;
