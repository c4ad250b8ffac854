//! What an error answer says: which members hold its code and its words, and whether it denies for good.
//!
//! An error is looked for in the answer itself, in its member `error`, `fault` or `data` if that is an object, and in the
//! first item of `errors`, of `error` or of the answer if that is a list.
//!
//! | | members |
//! |---|---|
//! | code | `error`, `errorCode`, `error_code`, `errorcode`, `errcode`, `errorType`, `error_type`, `code`, `__type`, and of an inner object other than `data` `type`, `status`: the first with a code of the RFCs, else the first text, else the first number other than the status |
//! | words | `error_description`, `errorSummary`, `title`, `detail`, `message`, `errorMessage`, `error_message`, `error_msg`, `errmsg`, `msg`, `description`, `reason`, `faultstring`: all of them; else the first text in `errors`; else a body that is a sentence |
//!
//! | answer | taken as |
//! |---|---|
//! | 429 | passing |
//! | a code with which the same call can never succeed, such as `invalid_grant`, whatever the status says | denied |
//! | to a refresh: 2xx, 400 or 401 with another code | denied |
//! | to a refresh: 403, or words only, if they speak of a token, a session, a login or credentials | denied |
//! | to a refresh: the same with `Retry-After`, or with a code or words that speak of limits, outages or patience | passing |
//! | anything else: 404, 5xx, a page of HTML, a code that is not known | passing |

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Map, Value};

use crate::source::answer::decode;

/// What an answer says of an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) code: Option<String>,
    pub(crate) words: Option<String>,
    /// Whether the answer says by itself that it is an error, also with a status that says otherwise.
    pub(crate) is_explicit: bool,
    /// Whether the code is a text. A number is as much the number of a line as of a problem.
    has_named_code: bool,
}

pub(crate) const INVALID_CLIENT: &str = "invalid_client";

/// The codes with which the same call can never succeed: of RFC 6749 sections 5.2 and 4.1.2.1, RFC 8707 section 2, RFC 8628
/// section 3.5, and OpenID Connect Core section 3.1.2.6, which want a person.
const FINAL: [&str; 13] = [
    "invalid_request",
    INVALID_CLIENT,
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
    "expired_token",
    "interaction_required",
    "login_required",
    "consent_required",
    "account_selection_required",
];
/// The codes that pass, and those that belong to other calls: known, so that no redaction changes them.
const OTHER: [&str; 8] = [
    "authorization_pending",
    "slow_down",
    "temporarily_unavailable",
    "server_error",
    "invalid_token",
    "insufficient_scope",
    "unsupported_token_type",
    "unsupported_response_type",
];

const CODES: [&str; 9] =
    ["error", "errorCode", "error_code", "errorcode", "errcode", "errorType", "error_type", "code", "__type"];
const INNER_CODES: [&str; 2] = ["type", "status"];
const WORDS: [&str; 13] = [
    "error_description",
    "errorSummary",
    "title",
    "detail",
    "message",
    "errorMessage",
    "error_message",
    "error_msg",
    "errmsg",
    "msg",
    "description",
    "reason",
    "faultstring",
];
/// What speaks of something that passes.
const PASSING: [&str; 21] = [
    "limit",
    "quota",
    "throttl",
    "too many",
    "too_many",
    "slow down",
    "slow_down",
    "later",
    "temporar",
    "unavailable",
    "timeout",
    "timed out",
    "maintenance",
    "overload",
    "busy",
    "internal",
    "server error",
    "server_error",
    "fatal",
    "unknown_error",
    "pending",
];
/// What speaks of credentials.
const CREDENTIALS: [&str; 11] = [
    "token",
    "grant",
    "session",
    "expired",
    "revoked",
    "credential",
    "login",
    "log in",
    "sign in",
    "authenticat",
    "consent",
];

/// What speaks of the client.
const CLIENT: [&str; 6] =
    ["client id", "client_id", "clientid", "client secret", "client authentication", "public key"];

// === impl Denial ===

impl Denial {
    /// What this answer says; `body` is what its bytes hold.
    pub(crate) fn read(body: Option<&Value>, bytes: &[u8], status: StatusCode) -> Self {
        let body = body.unwrap_or(&Value::Null);
        let errors = errors(body);
        let root = first(body);
        let around = root.as_object().into_iter();
        let objects: Vec<_> =
            around.chain(errors.iter().copied()).chain(root.get("data").and_then(Value::as_object)).collect();
        let codes = texts(&objects, &CODES).into_iter().chain(texts(&errors, &INNER_CODES)).collect::<Vec<_>>();
        let named: Vec<_> = codes.iter().filter_map(code_text).collect();
        let number = || codes.iter().filter_map(Value::as_u64).find(|number| *number != u64::from(status.as_u16()));
        let code = named.iter().find(|code| known(code).is_some()).or(named.first()).map(|code| (*code).to_owned());
        Self {
            has_named_code: code.is_some(),
            code: code.or_else(|| number().map(|number| number.to_string())),
            words: words(body, &texts(&objects, &WORDS)).or_else(|| sentence(bytes)),
            is_explicit: objects.iter().any(|object| is_explicit(object)),
        }
    }

    /// What a user's evaluation says.
    pub(crate) fn evaluated(code: Option<String>, words: Option<String>) -> Self {
        Self { code, words, ..Self::default() }
    }

    /// The code, if it is one that this crate knows: such a one may be shown as it is.
    pub(crate) fn known(&self) -> Option<&'static str> {
        known(self.code.as_deref()?)
    }

    /// The code, as an error takes it.
    pub(crate) fn code(&self) -> Option<Cow<'static, str>> {
        self.known().map(Cow::Borrowed).or_else(|| self.code.clone().map(Cow::Owned))
    }

    /// Whether the same call can never succeed.
    pub(crate) fn is_final(&self) -> bool {
        self.known().is_some_and(|code| FINAL.contains(&code))
    }

    /// Whether this answer to a refresh denies the refresh token, in words of the server's own.
    pub(crate) fn denies_refresh(&self, status: StatusCode) -> bool {
        let said =
            format!("{} {}", self.code.as_deref().unwrap_or_default(), self.words.as_deref().unwrap_or_default());
        let said = said.to_ascii_lowercase();
        let speaks_of = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let is_of_credentials = match status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => self.has_named_code || speaks_of(&CREDENTIALS),
            StatusCode::FORBIDDEN => speaks_of(&CREDENTIALS),
            status => status.is_success() && self.is_explicit && (self.has_named_code || speaks_of(&CREDENTIALS)),
        };
        is_of_credentials && !speaks_of(&PASSING)
    }

    /// Whether it is the client that is denied: no login of a person would help.
    pub(crate) fn is_about_client(&self) -> bool {
        let words = self.words.as_deref().unwrap_or_default().to_ascii_lowercase();
        let speaks_of = |names: &[&str]| names.iter().any(|name| words.contains(name));
        // A token or a code may belong to another client, which is about the token.
        self.known() == Some(INVALID_CLIENT) || speaks_of(&CLIENT) && !speaks_of(&["token", "code"])
    }
}

// === reading ===

/// The objects that are there for an error only.
fn errors(body: &Value) -> Vec<&Map<String, Value>> {
    let members = ["error", "fault", "errors"].iter().filter_map(|name| first(body).get(*name));
    members.filter_map(|member| first(member).as_object()).collect()
}

/// The first item of a list, and any other value itself.
fn first(value: &Value) -> &Value {
    value.as_array().and_then(|items| items.first()).unwrap_or(value)
}

/// The members of these names.
fn texts(objects: &[&Map<String, Value>], names: &[&str]) -> Vec<Value> {
    let members = objects.iter().flat_map(|object| names.iter().filter_map(|name| object.get(*name)));
    members.cloned().collect()
}

fn is_explicit(object: &Map<String, Value>) -> bool {
    let is_error = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(true) => true,
    };
    let names = ["error", "errors", "fault", "errorCode", "error_code", "errorcode", "errcode"];
    let number = object.get("code").and_then(Value::as_i64);
    names.iter().any(|name| object.get(*name).is_some_and(is_error))
        || ["ok", "success"].iter().any(|name| object.get(*name) == Some(&Value::Bool(false)))
        // The numbers with which envelopes say that all is well.
        || number.is_some_and(|number| ![0, 200].contains(&number))
}

/// A text that can be a code: no address, as RFC 9457 has for types of problems.
fn code_text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty() && !text.contains("://") && *text != "about:blank")
}

fn known(code: &str) -> Option<&'static str> {
    FINAL.into_iter().chain(OTHER).find(|known| *known == code)
}

/// Each text once.
fn words(body: &Value, texts: &[Value]) -> Option<String> {
    let mut words: Vec<&str> = Vec::new();
    for text in texts.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()) {
        if !words.contains(&text) {
            words.push(text);
        }
    }
    if words.is_empty() {
        words.extend(body.as_str().or_else(|| first_string(body.get("errors")?)));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

fn first_string(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(items) => items.iter().find_map(first_string),
        Value::Object(members) => members.values().find_map(first_string),
        _ => None,
    }
}

/// A body that is a sentence: neither JSON nor a page.
fn sentence(bytes: &[u8]) -> Option<String> {
    let text = decode::text(bytes);
    text.trim_start().starts_with(char::is_alphabetic).then(|| text.into_owned())
}

/// Whether the body is a page of some gateway.
pub(crate) fn is_page(bytes: &[u8]) -> bool {
    decode::text(bytes).trim_start().starts_with('<')
}

#[cfg(test)]
mod tests;
