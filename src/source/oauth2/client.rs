//! What the grants share: the token endpoint, the client's authentication, the reading of answers.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::source::endpoint::{Answer, Endpoint};
use crate::source::{FetchContext, answer, filled};
use crate::token::{DEFAULT_LIFETIME, Secret, Token};

/// How the client shows its secret to the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// In the `Authorization: Basic` header, form-urlencoded first: what every server must support
    /// (`client_secret_basic`).
    #[default]
    Basic,
    /// In the body, for servers that do not (`client_secret_post`).
    Body,
}

/// A client of a token endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(super) endpoint: Endpoint,
    client_id: String,
    pub(super) client_secret: Option<Secret>,
    pub(super) auth: ClientAuth,
    pub(super) scope: Option<String>,
    pub(super) default_lifetime: Duration,
    /// Whether a 400 denies the credentials whatever its body says (unless that is a page of some gateway): for
    /// providers that document the status and not the body.
    bad_request_denies: bool,
    /// What no error repeats, beside the client's secret and the token to be replaced.
    secrets: Vec<Secret>,
    /// Whether a denied refresh token is the end, for want of a login.
    has_no_login: bool,
}

/// Parameters by name.
type Form<'a> = [(&'a str, &'a str)];

const INVALID_CLIENT: &str = "invalid_client";

// === impl Client ===

impl Client {
    pub(crate) fn new(endpoint: Endpoint, client_id: impl Into<String>) -> Result<Self, Error> {
        let client_id = client_id.into();
        filled("client_id", &client_id)?;
        Ok(Self {
            endpoint,
            client_id,
            client_secret: None,
            auth: ClientAuth::Basic,
            scope: None,
            default_lifetime: DEFAULT_LIFETIME,
            bad_request_denies: false,
            secrets: Vec::new(),
            has_no_login: false,
        })
    }

    /// For a provider whose 400 denies whatever its body says.
    pub(crate) fn with_denying_bad_request(self) -> Self {
        Self { bad_request_denies: true, ..self }
    }

    /// For a session that begins with this secret.
    pub(super) fn knowing(mut self, secret: &Secret) -> Self {
        self.secrets.push(secret.clone());
        self
    }

    /// For a session that nothing can begin anew.
    pub(super) fn without_login(self) -> Self {
        Self { has_no_login: true, ..self }
    }

    pub(crate) fn with_scope(self, scope: String) -> Self {
        Self { scope: Some(scope), ..self }
    }

    /// Asks with the refresh token. An answer that was lost is asked for again at once, with the same refresh token:
    /// the server may have rotated it already, and most give the pair once more. An answer without a refresh token
    /// leaves the old one valid (RFC 6749 section 6).
    pub(super) async fn refresh(&self, context: &FetchContext, refresh_token: &Secret) -> Result<Token, Error> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
        let mut answer = self.ask(context, &form, false).await;
        if answer.as_ref().is_err_and(Error::is_ambiguous) {
            answer = self.ask(context, &form, false).await;
        }
        let token = self.read(answer?)?;
        Ok(if token.refresh_token().is_some() { token } else { token.with_refresh_token(refresh_token.clone()) })
    }

    /// Asks with a grant of its own.
    pub(super) async fn grant(&self, context: &FetchContext, form: &Form<'_>) -> Result<Token, Error> {
        self.read(self.ask(context, form, true).await?)
    }

    async fn ask(&self, context: &FetchContext, form: &Form<'_>, scoped: bool) -> Result<Answer, Error> {
        let (authorization, body) = self.request(form, scoped);
        let known = self.secrets.iter().chain(&self.client_secret).cloned();
        let secrets = known.chain(answer::replaced_secrets(context)).collect();
        self.endpoint.post("application/x-www-form-urlencoded", authorization, body.into(), secrets).await
    }

    /// The form, and the header where the client authenticates there.
    fn request(&self, form: &Form<'_>, scoped: bool) -> (Option<HeaderValue>, String) {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        if let Some(scope) = self.scope.as_ref().filter(|scope| scoped && !scope.is_empty()) {
            body.append_pair("scope", scope);
        }
        let authorization = match (&self.client_secret, self.auth) {
            (Some(secret), ClientAuth::Basic) => Some(basic(&self.client_id, secret)),
            (secret, _) => {
                body.append_pair("client_id", &self.client_id);
                body.extend_pairs(secret.iter().map(|secret| ("client_secret", secret.expose())));
                None
            }
        };
        (authorization, body.finish())
    }

    /// RFC 6749 section 5. The error code counts whatever the status says: servers disagree about the status.
    fn read(&self, mut answer: Answer) -> Result<Token, Error> {
        let body = serde_json::from_slice::<Map<String, Value>>(&answer.body);
        let text = |name| body.as_ref().ok().and_then(|body| body.get(name)).and_then(Value::as_str);
        // Also tokens that are not taken are secrets.
        answer
            .secrets
            .extend(["access_token", "refresh_token", "id_token"].into_iter().filter_map(text).map(Secret::from));
        if !answer.status.is_success() || (text("error").is_some() && text("access_token").is_none()) {
            let words = text("error_description").or(text("message")).or_else(|| plain_text(&answer.body));
            return Err(self.error(&answer, text("error"), words));
        }
        let mut body = body.map_err(|_| answer.unusable("it is not a JSON object"))?;
        let kind = body.get("token_type").and_then(Value::as_str).unwrap_or_default();
        if !kind.is_empty() && !kind.eq_ignore_ascii_case("bearer") {
            return Err(answer.unusable(format!("its token type is {}, not Bearer", answer.clean(kind))));
        }
        let mut token =
            answer::token(&answer, body.get("access_token"), body.get("expires_in"), self.default_lifetime)?;
        let mut take = |name| match body.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        if let Some(refresh_token) = take("refresh_token") {
            token = token.with_refresh_token(refresh_token);
        }
        if let Some(scope) = take("scope") {
            token = token.with_scope(scope);
        }
        if let Some(id_token) = take("id_token") {
            token = token.with_id_token(id_token);
        }
        body.retain(|name, _| !matches!(&**name, "access_token" | "token_type" | "expires_in"));
        Ok(token.with_extra(body))
    }

    /// The error of an answer with this code and this text.
    fn error(&self, answer: &Answer, code: Option<&str>, text: Option<&str>) -> Error {
        let known = code.and_then(known);
        let page = answer.body.trim_ascii_start().starts_with(b"<");
        let bad_request = self.bad_request_denies && answer.status == StatusCode::BAD_REQUEST && !page;
        let denied = (known.is_some() || bad_request) && answer.status != StatusCode::TOO_MANY_REQUESTS;
        let end = "the session began from a refresh token, and there is no login to fall back to";
        let text = match text {
            text if !self.has_no_login || !denied || known == Some(INVALID_CLIENT) => text.map(str::to_owned),
            Some(text) => Some(format!("{end}; {text}")),
            None => Some(end.to_owned()),
        };
        let code = known.map(Cow::Borrowed).or_else(|| code.map(|code| Cow::Owned(code.to_owned())));
        answer.error(denied, code, text.as_deref())
    }
}

/// RFC 6749 section 2.3.1: both are form-urlencoded before they go into the Basic scheme (RFC 7617).
fn basic(client_id: &str, secret: &Secret) -> HeaderValue {
    // A space as `%20`: servers that decode URLs but not forms take no `+` for one, and all take this.
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let pair = STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret.expose())));
    HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is a header value")
}

/// The codes of RFC 6749 sections 5.2 and 4.1.2.1 with which the same call can never succeed.
fn known(code: &str) -> Option<&'static str> {
    const FINAL: [&str; 7] = [
        "invalid_request",
        INVALID_CLIENT,
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "access_denied",
    ];
    FINAL.into_iter().find(|known| *known == code)
}

/// Whether the login is asked again after a refused refresh: after every denial and every 400, but not where the client
/// itself was denied, as its login would be too.
pub(super) fn ends_session(error: &Error) -> bool {
    let refused = error.is_denied() || error.status() == Some(StatusCode::BAD_REQUEST);
    refused && error.code() != Some(INVALID_CLIENT)
}

/// A body that is a sentence: neither JSON nor a page.
fn plain_text(body: &[u8]) -> Option<&str> {
    str::from_utf8(body).ok().filter(|text| text.trim_start().starts_with(|c: char| c.is_alphabetic()))
}

#[cfg(test)]
mod tests;
