//! What an answer to a token call means (RFC 6749 section 5), by the settings of its client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::denial::{self, Denial};
use crate::source::answer::lifetime::{self, Expiry, Issued};
use crate::source::answer::{self, decode};
use crate::source::json::LoginOutcome;
use crate::source::transport::TokenResponse;
use crate::source::{FetchContext, require_non_empty};
use crate::token::{DEFAULT_LIFETIME, MAX_LIFETIME, Token};

/// Reads the answers of a token endpoint.
#[derive(Clone)]
pub(super) struct ResponseReader {
    /// Where in the answer the object of RFC 6749 section 5.1 lies.
    answer_at: Option<String>,
    token_at: String,
    expiry: Expiry,
    /// Other names for Bearer.
    token_types: Vec<String>,
    evaluate: Option<Arc<Evaluate>>,
    /// Whether a 400 denies the credentials whatever its body says (unless that is a page of some gateway): for
    /// providers that document the status and not the body.
    bad_request_denies: bool,
    /// Whether a denied refresh token is the end, for want of a login.
    has_no_login: bool,
}

type Evaluate = dyn Fn(StatusCode, &Value) -> Option<LoginOutcome> + Send + Sync;

/// Which call is answered.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    /// A login of a person, outside of a fetch.
    Login,
    Grant(&'a FetchContext),
    Refresh(&'a FetchContext),
}

/// The members of which the values are secrets, wherever they lie.
const SECRETS: [&str; 3] = ["access_token", "refresh_token", "id_token"];
/// The members of which [`Token`] tells by methods of its own.
const TAKEN: [&str; 4] = ["access_token", "token_type", "expires_in", "refresh_in"];
/// Types of tokens that are not sent as Bearer by any name (RFC 9449, and the draft that the MAC type comes from).
const NOT_BEARER: [&str; 2] = ["dpop", "mac"];

// === impl ResponseReader ===

impl ResponseReader {
    pub(super) fn new() -> Self {
        Self {
            answer_at: None,
            token_at: "/access_token".to_owned(),
            expiry: Expiry::new(),
            token_types: Vec::new(),
            evaluate: None,
            bad_request_denies: false,
            has_no_login: false,
        }
    }

    pub(super) fn answer_at(&mut self, pointer: impl Into<String>) -> Result<(), Error> {
        let pointer = self.answer_at.insert(pointer.into());
        answer::check_pointer("answer_at", pointer)
    }

    pub(super) fn token_at(&mut self, pointer: impl Into<String>) -> Result<(), Error> {
        self.token_at = pointer.into();
        answer::check_pointer("token_at", &self.token_at)
    }

    pub(super) fn expiry(&mut self, set: impl FnOnce(Expiry) -> Expiry) -> Result<(), Error> {
        self.expiry = set(self.expiry.clone());
        self.expiry.check()
    }

    pub(super) fn token_type(&mut self, name: &str) -> Result<(), Error> {
        require_non_empty("token_type", name)?;
        if NOT_BEARER.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return Err(Error::invalid("token_type", format!("a {name} token is not sent as a Bearer token")));
        }
        self.token_types.push(name.to_owned());
        Ok(())
    }

    pub(super) fn evaluate(
        &mut self,
        evaluate: impl Fn(StatusCode, &Value) -> Option<LoginOutcome> + Send + Sync + 'static,
    ) {
        self.evaluate = Some(Arc::new(evaluate));
    }

    pub(super) fn deny_bad_requests(&mut self) {
        self.bad_request_denies = true;
    }

    pub(super) fn expect_no_login(&mut self) {
        self.has_no_login = true;
    }

    /// RFC 6749 section 5. The error code counts whatever the status says: servers disagree about the status.
    pub(super) fn read(&self, mut answer: TokenResponse, call: Call<'_>) -> Result<Token, Error> {
        let body = decode::answer(&answer.body);
        let object = body.as_ref().map(|body| self.object(body));
        let text = object.and_then(|object| object.pointer(&self.token_at));
        // Also tokens that are not taken are secrets.
        match &body {
            Some(body) => answer::collect_members(body, &SECRETS, &mut answer.secrets),
            None => answer.secrets.extend(SECRETS.iter().filter_map(|name| decode::find_member(&answer.body, name))),
        }
        answer.secrets.extend(text.and_then(Value::as_str).map(Secret::from));
        let has_token = text.is_some_and(|text| text.as_str().is_none_or(|text| !text.is_empty()) && !text.is_null());
        match self.evaluate.as_ref().and_then(|evaluate| evaluate(answer.status, body.as_ref().unwrap_or(&Value::Null)))
        {
            Some(LoginOutcome::Granted) => {}
            Some(verdict) => return Err(self.evaluated(&answer, verdict)),
            None => {
                let denial = self.denial(&answer, body.as_ref());
                if !answer.status.is_success() || denial.is_explicit && !has_token {
                    return Err(self.denied(&answer, &denial, matches!(call, Call::Refresh(_))));
                }
            }
        }
        // Before anything else can fail: the one before it may be spent, also if the rest of the answer is of no use.
        let own = object.and_then(|object| object.get("refresh_token")?.as_str()).filter(|text| !text.is_empty());
        let anywhere = || match &body {
            Some(body) if !has_token => answer::find_string(body, "refresh_token").map(Secret::from),
            Some(_) => None,
            None => decode::find_member(&answer.body, "refresh_token"),
        };
        if let Call::Grant(context) | Call::Refresh(context) = call
            && let Some(rotated) = own.map(Secret::from).or_else(anywhere)
            && context.refresh_token().as_ref() != Some(&rotated)
        {
            context.rotated(rotated);
        }
        let Some(Value::Object(members)) = object else {
            return Err(answer.unreadable("it is not a JSON object"));
        };
        let token = self.token(&answer, members, text, matches!(call, Call::Login))?;
        Ok(with_details(token, members.clone()))
    }

    /// The error of an answer to another call of the client.
    pub(super) fn failure(&self, answer: &TokenResponse) -> Error {
        self.denied(answer, &self.denial(answer, decode::answer(&answer.body).as_ref()), false)
    }

    /// What the answer says of an error: around the envelope, or within it.
    fn denial(&self, answer: &TokenResponse, body: Option<&Value>) -> Denial {
        let around = Denial::read(body, &answer.body, answer.status);
        match body.map(|body| self.object(body)) {
            Some(object) if !around.is_explicit && self.answer_at.is_some() => {
                let within = Denial::read(Some(object), &answer.body, answer.status);
                if within.is_explicit { within } else { around }
            }
            _ => around,
        }
    }

    /// Servers that wrap the answer to a login do not always wrap that to a refresh.
    fn object<'a>(&self, body: &'a Value) -> &'a Value {
        self.answer_at
            .as_deref()
            .and_then(|pointer| body.pointer(pointer))
            .filter(|object| object.is_object())
            .unwrap_or(body)
    }

    fn token(
        &self,
        answer: &TokenResponse,
        members: &Map<String, Value>,
        text: Option<&Value>,
        is_login: bool,
    ) -> Result<Token, Error> {
        let kind = members.get("token_type").and_then(Value::as_str).unwrap_or_default().trim();
        let is_bearer = kind.is_empty() || kind.eq_ignore_ascii_case("bearer");
        if !is_bearer && !self.token_types.iter().any(|name| name.eq_ignore_ascii_case(kind)) {
            return Err(answer.unusable(format!("its token type is {}, not Bearer", answer.clean(kind))));
        }
        let token = answer::token(text).map_err(|problem| answer.unusable(problem))?;
        let object = Value::Object(members.clone());
        // A person who has logged in is not asked again until there is a reason.
        let refreshable = members.get("refresh_token").is_some_and(Value::is_string);
        let default = if is_login && !refreshable { MAX_LIFETIME } else { DEFAULT_LIFETIME };
        let (token_text, now) = (token.access_token(), answer.now);
        let issued = Issued { answer: &object, beside: &object, token: token_text, at: now, now };
        let lifetime = self
            .expiry
            .read(&issued, default)
            .map_err(|problem| answer.unusable(problem.describe("the server hands out an old one")))?;
        Ok(token.with_lifetime(lifetime))
    }

    /// The error that a user's evaluation is.
    fn evaluated(&self, answer: &TokenResponse, verdict: LoginOutcome) -> Error {
        let (is_denied, code, message) = match verdict {
            LoginOutcome::Denied { code, message } => (answer.status != StatusCode::TOO_MANY_REQUESTS, code, message),
            LoginOutcome::Failed { code, message } => (false, code, message),
            LoginOutcome::Granted => (false, None, None),
        };
        self.error(answer, &Denial::evaluated(code, message), is_denied)
    }

    /// The error that an answer is.
    fn denied(&self, answer: &TokenResponse, denial: &Denial, is_refresh: bool) -> Error {
        let is_bad_request = answer.status == StatusCode::BAD_REQUEST && !denial::is_page(&answer.body);
        let bad_request = self.bad_request_denies && is_bad_request;
        let own_words = is_refresh && answer.retry_after.is_none() && denial.denies_refresh(answer.status);
        let is_denied = denial.is_final() || bad_request || own_words;
        self.error(answer, denial, is_denied && answer.status != StatusCode::TOO_MANY_REQUESTS)
    }

    fn error(&self, answer: &TokenResponse, denial: &Denial, is_denied: bool) -> Error {
        let error = answer.error(is_denied, denial.code(), denial.words.as_deref());
        match () {
            () if denial.is_about_client() => error.of_client(),
            () if self.has_no_login => error.without_login(),
            () => error,
        }
    }
}

/// Closures show nothing.
impl fmt::Debug for ResponseReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseReader")
            .field("answer_at", &self.answer_at)
            .field("token_at", &self.token_at)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

/// What else the answer says of the token. An odd member of a known name is one of the others.
fn with_details(mut token: Token, mut members: Map<String, Value>) -> Token {
    let mut take = |name, text: fn(&Value) -> Option<String>| {
        let text = members.get(name).and_then(text).filter(|text| !text.is_empty());
        text.inspect(|_| drop(members.remove(name)))
    };
    let string = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(refresh_token) = take("refresh_token", string) {
        token = token.with_refresh_token(refresh_token);
    }
    if let Some(scope) = take("scope", scope) {
        token = token.with_scope(scope);
    }
    if let Some(id_token) = take("id_token", string) {
        token = token.with_id_token(id_token);
    }
    let refresh_in = members.get("refresh_in").and_then(lifetime::seconds);
    if let Some(refresh_in) = refresh_in.filter(|time: &Duration| !time.is_zero()) {
        token = token.with_refresh_in(refresh_in);
    }
    members.retain(|name, _| !TAKEN.contains(&&**name));
    token.with_extra(members)
}

/// Words separated by spaces (RFC 6749 section 3.3), or a list of them.
fn scope(value: &Value) -> Option<String> {
    match value {
        Value::Array(words) => Some(words.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?.join(" ")),
        other => other.as_str().map(str::to_owned),
    }
}
