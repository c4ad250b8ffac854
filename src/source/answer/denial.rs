//! Reads an error answer: its code, its message, and whether it denies the credentials.
//!
//! The error may be in the answer itself, in an object `error`, `fault` or `data`, or in the first item of a list. The
//! list is `errors`, `error` or the answer itself.
//!
//! | | members |
//! |---|---|
//! | code | `error`, `errorCode`, `error_code`, `errorcode`, `errcode`, `errorType`, `error_type`, `code`, `__type`, and of an inner object other than `data` `type`, `status`: the first with a code of the RFCs, else the first text, else the first number other than the status |
//! | words | `error_description`, `errorSummary`, `title`, `detail`, `message`, `errorMessage`, `error_message`, `error_msg`, `errmsg`, `msg`, `description`, `reason`, `faultstring`: all of them; else the first text in `errors`; else a body that is a sentence |
//!
//! | answer | taken as |
//! |---|---|
//! | 429 | temporary |
//! | a code with which the same call can never succeed, such as `invalid_grant`, whatever the status says | denied |
//! | to a refresh: 2xx, 400 or 401 with another code | denied |
//! | to a refresh: 403, or words without a code, if they name a token, a session, a login or credentials | denied |
//! | to a refresh: the same with `Retry-After`, or with a code or words that name limits, outages or a later attempt | temporary |
//! | anything else: 404, 5xx, a page of HTML, an unknown code | temporary |

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Map, Value};

use crate::source::answer::decode;

/// The error in an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) code: Option<String>,
    pub(crate) words: Option<String>,
    /// Whether the body says that it is an error, whatever the status says.
    pub(crate) is_explicit: bool,
    /// Whether the code is a text. A number may be the number of a line instead of that of a problem.
    has_named_code: bool,
}

pub(crate) const INVALID_CLIENT: &str = "invalid_client";

/// The codes after which the same call can never succeed. They are those of RFC 6749 sections 5.2 and 4.1.2.1, RFC 8707
/// section 2 and RFC 8628 section 3.5, and those of OpenID Connect Core section 3.1.2.6 that need a person.
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
/// Temporary codes, and codes of other calls. They are listed so that redaction does not change them.
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
/// Words that name a temporary problem.
const TEMPORARY: [&str; 21] = [
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
/// Words that name credentials.
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

/// Words that name the client.
const CLIENT: [&str; 6] =
    ["client id", "client_id", "clientid", "client secret", "client authentication", "public key"];

// === impl Denial ===

impl Denial {
    /// Reads this answer. `body` is the JSON value of its bytes.
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

    /// The result of the user's own evaluation.
    pub(crate) fn evaluated(code: Option<String>, words: Option<String>) -> Self {
        Self { code, words, ..Self::default() }
    }

    /// The code, if this crate knows it. A known code needs no redaction.
    pub(crate) fn known(&self) -> Option<&'static str> {
        known(self.code.as_deref()?)
    }

    /// The code in the type that an error takes.
    pub(crate) fn code(&self) -> Option<Cow<'static, str>> {
        self.known().map(Cow::Borrowed).or_else(|| self.code.clone().map(Cow::Owned))
    }

    /// Whether the same call can never succeed.
    pub(crate) fn is_final(&self) -> bool {
        self.known().is_some_and(|code| FINAL.contains(&code))
    }

    /// Whether this answer to a refresh denies the refresh token, in a code or words outside the RFCs.
    pub(crate) fn denies_refresh(&self, status: StatusCode) -> bool {
        let text =
            format!("{} {}", self.code.as_deref().unwrap_or_default(), self.words.as_deref().unwrap_or_default());
        let text = text.to_ascii_lowercase();
        let mentions = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let is_about_credentials = match status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => self.has_named_code || mentions(&CREDENTIALS),
            StatusCode::FORBIDDEN => mentions(&CREDENTIALS),
            status => status.is_success() && self.is_explicit && (self.has_named_code || mentions(&CREDENTIALS)),
        };
        is_about_credentials && !mentions(&TEMPORARY)
    }

    /// Whether the issuer denies the client, so that a login of a person would not help.
    pub(crate) fn is_about_client(&self) -> bool {
        let words = self.words.as_deref().unwrap_or_default().to_ascii_lowercase();
        let mentions = |names: &[&str]| names.iter().any(|name| words.contains(name));
        // "Token was issued to another client" is about the token.
        self.known() == Some(INVALID_CLIENT) || mentions(&CLIENT) && !mentions(&["token", "code"])
    }
}

// === reading ===

/// The objects that only an error has.
fn errors(body: &Value) -> Vec<&Map<String, Value>> {
    let members = ["error", "fault", "errors"].iter().filter_map(|name| first(body).get(*name));
    members.filter_map(|member| first(member).as_object()).collect()
}

/// The first item of a list, and any other value itself.
fn first(value: &Value) -> &Value {
    value.as_array().and_then(|items| items.first()).unwrap_or(value)
}

/// The members with these names.
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
        // Envelopes report success with these numbers.
        || number.is_some_and(|number| ![0, 200].contains(&number))
}

/// A text that can be a code. The URL of a problem type (RFC 9457) is not a code.
fn code_text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty() && !text.contains("://") && *text != "about:blank")
}

fn known(code: &str) -> Option<&'static str> {
    FINAL.into_iter().chain(OTHER).find(|known| *known == code)
}

/// Joins the texts, each of them once.
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

/// The body, if it is a sentence and neither JSON nor a page.
fn sentence(bytes: &[u8]) -> Option<String> {
    let text = decode::text(bytes);
    text.trim_start().starts_with(char::is_alphabetic).then(|| text.into_owned())
}

/// Whether the body is a page of HTML or XML, such as that of a gateway.
pub(crate) fn is_page(bytes: &[u8]) -> bool {
    decode::text(bytes).trim_start().starts_with('<')
}

#[cfg(test)]
mod tests;
