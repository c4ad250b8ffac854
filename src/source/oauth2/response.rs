//! Turns the answer to a token call into a token or an error (RFC 6749 section 5), by the settings of the client.

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
    /// The pointer to the object of RFC 6749 section 5.1.
    answer_at: Option<String>,
    token_at: String,
    expiry: Expiry,
    /// Further names of the Bearer type.
    token_types: Vec<String>,
    evaluate: Option<Arc<Evaluate>>,
    /// Whether each 400 denies the credentials, unless its body is a gateway's page. It is for providers that document
    /// the status and not the body.
    bad_request_denies: bool,
    /// Whether the session cannot log in again by itself.
    has_no_login: bool,
}

type Evaluate = dyn Fn(StatusCode, &Value) -> Option<LoginOutcome> + Send + Sync;

/// The call that an answer belongs to.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    /// A person's login, outside a fetch.
    Login,
    Grant(&'a FetchContext),
    Refresh(&'a FetchContext),
}

/// The members whose values are secrets, at any depth.
const SECRETS: [&str; 3] = ["access_token", "refresh_token", "id_token"];
/// The members that [`Token::extra`] leaves out, because [`Token`] has methods for them.
const KNOWN_MEMBERS: [&str; 4] = ["access_token", "token_type", "expires_in", "refresh_in"];
/// The token types that cannot be sent as Bearer tokens (RFC 9449, and the draft that defined the MAC type).
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

    /// Reads an answer (RFC 6749 section 5). An error code counts with any status, because servers disagree about the
    /// status.
    pub(super) fn read(&self, mut answer: TokenResponse, call: Call<'_>) -> Result<Token, Error> {
        let body = decode::answer(&answer.body);
        let object = body.as_ref().map(|body| self.object(body));
        let text = object.and_then(|object| object.pointer(&self.token_at));
        // Tokens that the reader does not use are secrets, too.
        match &body {
            Some(body) => answer::collect_members(body, &SECRETS, &mut answer.secrets),
            None => answer.secrets.extend(SECRETS.iter().filter_map(|name| decode::find_member(&answer.body, name))),
        }
        answer.secrets.extend(text.and_then(Value::as_str).map(Secret::from));
        let has_token = text.is_some_and(|text| text.as_str().is_none_or(|text| !text.is_empty()) && !text.is_null());
        match self.evaluate.as_ref().and_then(|evaluate| evaluate(answer.status, body.as_ref().unwrap_or(&Value::Null)))
        {
            Some(LoginOutcome::Granted) => {}
            Some(outcome) => return Err(self.evaluated(&answer, outcome)),
            None => {
                let denial = self.denial(&answer, body.as_ref());
                if !answer.status.is_success() || denial.is_explicit && !has_token {
                    return Err(self.denied(&answer, &denial, matches!(call, Call::Refresh(_))));
                }
            }
        }
        // Report the new refresh token before anything can fail: even if the answer is unusable, the old one may be
        // consumed.
        let in_object = object.and_then(|object| object.get("refresh_token")?.as_str()).filter(|text| !text.is_empty());
        let at_any_depth = || match &body {
            Some(body) if !has_token => answer::find_string(body, "refresh_token").map(Secret::from),
            Some(_) => None,
            None => decode::find_member(&answer.body, "refresh_token"),
        };
        if let Call::Grant(context) | Call::Refresh(context) = call
            && let Some(rotated) = in_object.map(Secret::from).or_else(at_any_depth)
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

    /// Returns the error of an answer to a call that asks for no token.
    pub(super) fn failure(&self, answer: &TokenResponse) -> Error {
        self.denied(answer, &self.denial(answer, decode::answer(&answer.body).as_ref()), false)
    }

    /// Reads the error in the answer, outside the wrapped object or within it.
    fn denial(&self, answer: &TokenResponse, body: Option<&Value>) -> Denial {
        let outer = Denial::read(body, &answer.body, answer.status);
        match body.map(|body| self.object(body)) {
            Some(object) if !outer.is_explicit && self.answer_at.is_some() => {
                let inner = Denial::read(Some(object), &answer.body, answer.status);
                if inner.is_explicit { inner } else { outer }
            }
            _ => outer,
        }
    }

    /// Returns the wrapped object, or the body: a server that wraps the answer to a login may not wrap that to a
    /// refresh.
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
        // Without a refresh token only the person can log in again: keep the token until an API rejects it.
        let refreshable = members.get("refresh_token").is_some_and(Value::is_string);
        let default = if is_login && !refreshable { MAX_LIFETIME } else { DEFAULT_LIFETIME };
        let (token_text, now) = (token.access_token(), answer.now);
        let issued = Issued { answer: &object, parent: &object, token: token_text, at: now, now };
        let lifetime = self
            .expiry
            .read(&issued, default)
            .map_err(|problem| answer.unusable(problem.describe("the server returned an old token")))?;
        Ok(token.with_lifetime(lifetime))
    }

    /// Returns the error of an answer that the user's closure evaluated.
    fn evaluated(&self, answer: &TokenResponse, outcome: LoginOutcome) -> Error {
        let (is_denied, code, message) = match outcome {
            LoginOutcome::Denied { code, message } => (answer.status != StatusCode::TOO_MANY_REQUESTS, code, message),
            LoginOutcome::Failed { code, message } => (false, code, message),
            LoginOutcome::Granted => (false, None, None),
        };
        self.error(answer, &Denial::evaluated(code, message), is_denied)
    }

    /// Returns the error of an answer that holds no token.
    fn denied(&self, answer: &TokenResponse, denial: &Denial, is_refresh: bool) -> Error {
        let is_bad_request = answer.status == StatusCode::BAD_REQUEST && !denial::is_page(&answer.body);
        let bad_request = self.bad_request_denies && is_bad_request;
        let refresh_denied = is_refresh && answer.retry_after.is_none() && denial.denies_refresh(answer.status);
        let is_denied = denial.is_final() || bad_request || refresh_denied;
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

/// Leaves out the closure.
impl fmt::Debug for ResponseReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseReader")
            .field("answer_at", &self.answer_at)
            .field("token_at", &self.token_at)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

/// Adds the other members of the answer to the token. A known member of an unexpected type goes to [`Token::extra`].
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
    members.retain(|name, _| !KNOWN_MEMBERS.contains(&&**name));
    token.with_extra(members)
}

/// Reads scopes that are separated by spaces (RFC 6749 section 3.3), or a list of them.
fn scope(value: &Value) -> Option<String> {
    match value {
        Value::Array(words) => Some(words.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?.join(" ")),
        other => other.as_str().map(str::to_owned),
    }
}
