//! What the grants share: the token endpoint, the client's authentication, the reading of answers.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::endpoint::Endpoint;
use crate::source::issuer::{Issuer, TOKEN_ENDPOINT};
use crate::source::oauth2::auth::ClientAuth;
use crate::source::secret::SecretProvider;
use crate::source::transport::TokenResponse;
use crate::source::{FetchContext, answer, filled};
use crate::token::{DEFAULT_LIFETIME, Token, TokenId};

/// A client of an issuer. Its settings are infallible; [`build`](Client::build) checks them.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(super) endpoint: Endpoint,
    id: Option<String>,
    auth: ClientAuth,
    scope: Option<String>,
    /// Sent with a refresh token.
    refresh_scope: Option<String>,
    /// Sent with every call, beside what the grant says: resources, audiences, what a server asks for. One may be a key.
    parameters: Vec<(String, Secret)>,
    default_lifetime: Duration,
    /// Whether a 400 denies the credentials whatever its body says (unless that is a page of some gateway): for
    /// providers that document the status and not the body.
    bad_request_denies: bool,
    /// What no error repeats, beside what a call carries and the token to be replaced.
    secrets: Vec<Secret>,
    /// Whether a denied refresh token is the end, for want of a login.
    has_no_login: bool,
    /// The first setting that is invalid.
    invalid: Option<Error>,
}

/// Parameters by name.
type Form<'a> = [(&'a str, &'a str)];

/// How much of the fetch deadline a refresh waits for an answer before it asks again.
const FIRST_ATTEMPT: f64 = 2.0 / 3.0;
const INVALID_CLIENT: &str = "invalid_client";
/// What the grants and settings send by themselves.
const RESERVED: [&str; 25] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "scope",
    "username",
    "password",
    "refresh_token",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "code",
    "code_verifier",
    "redirect_uri",
    "device_code",
    "audience",
    "resource",
    "response_type",
    "state",
    "code_challenge",
    "code_challenge_method",
];

// === impl Client ===

impl Client {
    /// A public client of this issuer.
    pub(crate) fn new(issuer: &Issuer, id: impl Into<String>) -> Self {
        Self::without_client_id(issuer).with_id(id)
    }

    /// A caller without a client id, for grants that say by themselves who asks.
    pub(super) fn without_client_id(issuer: &Issuer) -> Self {
        Self {
            endpoint: Endpoint::of(issuer, TOKEN_ENDPOINT),
            id: None,
            auth: ClientAuth::none(),
            scope: None,
            refresh_scope: None,
            parameters: Vec::new(),
            default_lifetime: DEFAULT_LIFETIME,
            bad_request_denies: false,
            secrets: Vec::new(),
            has_no_login: false,
            invalid: None,
        }
    }

    /// The client, if its settings are valid and its issuer has these endpoints.
    pub(super) fn build(self, endpoints: &[&'static str]) -> Result<Self, Error> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        if let Some(issuer) = self.endpoint.issuer() {
            issuer.check(endpoints)?;
        }
        match &self.id {
            Some(id) => filled("client_id", id)?,
            None if self.auth.needs_client_id() => {
                return Err(Error::invalid("client_id", "a client that authenticates needs one"));
            }
            None => {}
        }
        self.auth.check()?;
        Ok(self)
    }

    /// The value of a setting. Its error is kept until the client is built; the first one counts.
    fn accept<T>(&mut self, setting: Result<T, Error>) -> Option<T> {
        setting.map_err(|error| self.invalid.get_or_insert(error)).ok()
    }

    pub(super) fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    pub(super) fn with_auth(self, auth: impl Into<ClientAuth>) -> Self {
        Self { auth: auth.into(), ..self }
    }

    #[cfg(feature = "authorization-code")]
    pub(super) fn with_id_in_body(self) -> Self {
        Self { auth: self.auth.client_id_in_body(), ..self }
    }

    /// The scope to ask for.
    pub(super) fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    #[cfg(feature = "authorization-code")]
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// For a provider whose 400 denies whatever its body says.
    pub(crate) fn with_denying_bad_request(self) -> Self {
        Self { bad_request_denies: true, ..self }
    }

    /// For a session that begins with this secret.
    pub(super) fn redacting(mut self, provider: &SecretProvider) -> Self {
        self.secrets.extend(provider.value().cloned());
        self
    }

    /// For a login that shows this to a person.
    pub(super) fn redacting_text(mut self, text: &str) -> Self {
        self.secrets.push(text.into());
        self
    }

    /// For a session that nothing can begin anew.
    pub(super) fn without_login(self) -> Self {
        Self { has_no_login: true, ..self }
    }

    pub(crate) fn with_scope(self, scope: impl Into<String>) -> Self {
        Self { scope: Some(scope.into()), ..self }
    }

    pub(super) fn with_refresh_scope(self, scope: impl Into<String>) -> Self {
        Self { refresh_scope: Some(scope.into()), ..self }
    }

    pub(super) fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.parameters.push(("audience".to_owned(), audience.into().into()));
        self
    }

    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        let set = self.endpoint.header("header", name, value);
        self.accept(set);
        self
    }

    /// A header that is no secret.
    pub(crate) fn with_plain_header(mut self, name: &'static str, value: Option<HeaderValue>) -> Self {
        self.endpoint.plain_header(name, value);
        self
    }

    pub(super) fn with_default_lifetime(mut self, lifetime: Duration) -> Self {
        if let Some(lifetime) = self.accept(answer::default_lifetime(lifetime)) {
            self.default_lifetime = lifetime;
        }
        self
    }

    pub(super) fn with_parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.accept(match RESERVED.contains(&name) {
            true => Err(Error::invalid("parameter", format!("{name} is sent by the grant or by a setting of its own"))),
            false => filled("parameter", name),
        });
        let value = Secret::from(value.into());
        // Shorter ones are no keys, and would take single letters out of an error.
        self.secrets.extend(Some(&value).filter(|value| value.expose().len() >= 8).cloned());
        self.parameters.push((name.to_owned(), value));
        self
    }

    pub(super) fn with_resource(mut self, resource: impl Into<String>) -> Self {
        let resource = resource.into();
        self.accept(filled("resource", &resource));
        self.parameters.push(("resource".to_owned(), resource.into()));
        self
    }

    /// Asks with the refresh token. An answer that was lost, or is long in coming, is asked for again at once, with the
    /// same refresh token: the server may have rotated it already, and most give the pair once more. An answer without a
    /// refresh token leaves the old one valid (RFC 6749 section 6).
    pub(super) async fn refresh(&self, context: &FetchContext, refresh_token: &Secret) -> Result<Token, Error> {
        let (form, secret_params) = ([("grant_type", "refresh_token")], [("refresh_token", refresh_token.clone())]);
        let first_attempt = context.deadline().mul_f64(FIRST_ATTEMPT);
        let ask = || self.ask(context, &form, &secret_params, self.refresh_scope.as_deref());
        let mut answer = self.endpoint.within(first_attempt, ask()).await;
        if answer.as_ref().is_err_and(Error::is_ambiguous) {
            answer = self.endpoint.within(context.response_timeout() - first_attempt, ask()).await;
        }
        let token = self.read(answer?, Some(context))?;
        Ok(if token.refresh_token().is_some() { token } else { token.with_refresh_token(refresh_token.clone()) })
    }

    /// Asks with the refresh token where there is one; logs in where there is none, or where it ended.
    pub(super) async fn renew(
        &self,
        context: &FetchContext,
        refresh_token: Option<Secret>,
        login: impl Future<Output = Result<Token, Error>>,
    ) -> Result<Token, Error> {
        if let Some(refresh_token) = refresh_token {
            match self.refresh(context, &refresh_token).await {
                Err(error) if ends_session(&error) => {}
                other => return other,
            }
        }
        login.await
    }

    /// Asks with a grant of its own, of which the last part is secret.
    pub(super) async fn grant(
        &self,
        context: &FetchContext,
        form: &Form<'_>,
        secrets: &[(&str, Secret)],
    ) -> Result<Token, Error> {
        let ask = self.ask(context, form, secrets, self.scope.as_deref());
        self.read(self.endpoint.within(context.response_timeout(), ask).await?, Some(context))
    }

    async fn ask(
        &self,
        context: &FetchContext,
        form: &Form<'_>,
        secret_params: &[(&str, Secret)],
        scope: Option<&str>,
    ) -> Result<TokenResponse, Error> {
        let mut secrets = self.secrets.clone();
        secrets.extend(answer::replaced_secrets(context));
        self.send(&self.endpoint, context.clock(), form, secret_params, scope, secrets).await
    }

    /// One call outside a fetch, with a deadline of its own.
    pub(super) async fn call(
        &self,
        endpoint: &Endpoint,
        form: &Form<'_>,
        secret_params: &[(&str, Secret)],
        scope: Option<&str>,
    ) -> Result<TokenResponse, Error> {
        endpoint.in_time(self.send(endpoint, &Clock::System, form, secret_params, scope, self.secrets.clone())).await
    }

    /// Asks for a token outside a fetch.
    pub(super) async fn login(&self, form: &Form<'_>, secret_params: &[(&str, Secret)]) -> Result<Token, Error> {
        let asked = Clock::System.now();
        let token = self.read(self.call(&self.endpoint, form, secret_params, None).await?, None)?;
        let expires_at = asked.after(token.lifetime()).system_time();
        Ok(token.published(TokenId::default(), expires_at))
    }

    /// One call of this client, to its token endpoint or another.
    async fn send(
        &self,
        endpoint: &Endpoint,
        clock: &Clock,
        form: &Form<'_>,
        secret_params: &[(&str, Secret)],
        scope: Option<&str>,
        mut secrets: Vec<Secret>,
    ) -> Result<TokenResponse, Error> {
        secrets.extend(secret_params.iter().map(|(_, secret)| secret.clone()));
        let now = clock.now().system_time();
        let audience = self.endpoint.issuer().map(Issuer::name).unwrap_or_default();
        let proof = self.auth.authenticate(self.id.as_deref(), audience, now, &mut secrets).await?;
        let body = {
            let mut body = form_urlencoded::Serializer::new(String::new());
            body.extend_pairs(form);
            body.extend_pairs(secret_params.iter().chain(&proof.form).map(|(name, secret)| (name, secret.expose())));
            self.settings(&mut body, scope);
            body.finish()
        };
        endpoint.post(clock, "application/x-www-form-urlencoded", proof.header, body.into(), secrets).await
    }

    /// What settings add to a form, or to the query of an authorization request.
    pub(super) fn settings<T: form_urlencoded::Target>(
        &self,
        form: &mut form_urlencoded::Serializer<'_, T>,
        scope: Option<&str>,
    ) {
        if let Some(scope) = scope.filter(|scope| !scope.is_empty()) {
            form.append_pair("scope", scope);
        }
        form.extend_pairs(self.parameters.iter().map(|(name, value)| (name, value.expose())));
    }

    /// RFC 6749 section 5. The error code counts whatever the status says: servers disagree about the status.
    ///
    /// A login outside a fetch has no context.
    fn read(&self, mut answer: TokenResponse, context: Option<&FetchContext>) -> Result<Token, Error> {
        let body = serde_json::from_slice::<Map<String, Value>>(&answer.body);
        let text = |name| body.as_ref().ok().and_then(|body| body.get(name)).and_then(Value::as_str);
        // Also tokens that are not taken are secrets.
        answer
            .secrets
            .extend(["access_token", "refresh_token", "id_token"].into_iter().filter_map(text).map(Secret::from));
        if !answer.status.is_success() || (text("error").is_some() && text("access_token").is_none()) {
            return Err(self.failure(&answer));
        }
        // Before anything else can fail: the one before it may be spent, also if the rest of the answer is of no use.
        if let Some(context) = context
            && let Some(rotated) = text("refresh_token").filter(|text| !text.is_empty()).map(Secret::from)
            && context.refresh_token().as_ref() != Some(&rotated)
        {
            context.rotated(rotated);
        }
        let mut body = body.map_err(|_| answer.unusable("it is not a JSON object"))?;
        let mut token = self.token(&answer, &body)?;
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
        if let Some(refresh_in) = body.get("refresh_in").and_then(answer::seconds).filter(|time| !time.is_zero()) {
            token = token.with_refresh_in(refresh_in);
        }
        body.retain(|name, _| !matches!(&**name, "access_token" | "token_type" | "expires_in" | "refresh_in"));
        Ok(token.with_extra(body))
    }

    /// The error that an answer is.
    pub(crate) fn failure(&self, answer: &TokenResponse) -> Error {
        let body = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        let text = |name| body.get(name).and_then(Value::as_str);
        let words = text("error_description").or(text("message")).or(body.as_str());
        let words = words.or_else(|| plain_text(&answer.body));
        self.error(answer, text("error"), words)
    }

    fn token(&self, answer: &TokenResponse, body: &Map<String, Value>) -> Result<Token, Error> {
        let kind = body.get("token_type").and_then(Value::as_str).unwrap_or_default();
        if !kind.is_empty() && !kind.eq_ignore_ascii_case("bearer") {
            return Err(answer.unusable(format!("its token type is {}, not Bearer", answer.clean(kind))));
        }
        answer::token(answer, body.get("access_token"), body.get("expires_in"), self.default_lifetime)
    }

    /// The error of an answer with this code and this text.
    fn error(&self, answer: &TokenResponse, code: Option<&str>, text: Option<&str>) -> Error {
        let known = code.and_then(known);
        let page = answer.body.trim_ascii_start().starts_with(b"<");
        let bad_request = self.bad_request_denies && answer.status == StatusCode::BAD_REQUEST && !page;
        let denied = (known.is_some() || bad_request) && answer.status != StatusCode::TOO_MANY_REQUESTS;
        let is_end = self.has_no_login && known != Some(INVALID_CLIENT);
        let code = known.map(Cow::Borrowed).or_else(|| code.map(|code| Cow::Owned(code.to_owned())));
        let error = answer.error(denied, code, text);
        if is_end { error.without_login() } else { error }
    }
}

/// The codes of RFC 6749 sections 5.2 and 4.1.2.1, RFC 8707 section 2 and RFC 8628 section 3.5 with which the same call can
/// never succeed.
fn known(code: &str) -> Option<&'static str> {
    const FINAL: [&str; 9] = [
        "invalid_request",
        INVALID_CLIENT,
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
        "access_denied",
        "expired_token",
    ];
    FINAL.into_iter().find(|known| *known == code)
}

/// Whether the login is asked again after a refused refresh: after every denial and every 400, but not where the client
/// itself was denied, as its login would be too.
fn ends_session(error: &Error) -> bool {
    let refused = error.is_denied() || error.status() == Some(StatusCode::BAD_REQUEST);
    refused && error.code() != Some(INVALID_CLIENT)
}

/// A body that is a sentence: neither JSON nor a page.
fn plain_text(body: &[u8]) -> Option<&str> {
    str::from_utf8(body).ok().filter(|text| text.trim_start().starts_with(|c: char| c.is_alphabetic()))
}

#[cfg(test)]
mod tests;
