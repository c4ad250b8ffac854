//! The OAuth 2 client that all grants share: its token endpoint, its authentication, and how it reads answers.

use http::{HeaderValue, StatusCode};
use serde_json::Value;

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::denial::INVALID_CLIENT;
use crate::source::endpoint::Endpoint;
use crate::source::issuer::{Issuer, TOKEN_ENDPOINT};
use crate::source::json::LoginOutcome;
use crate::source::oauth2::auth::ClientAuth;
use crate::source::oauth2::response::{Call, ResponseReader};
use crate::source::secret::SecretProvider;
use crate::source::transport::TokenResponse;
use crate::source::{FetchContext, answer, require_non_empty};
use crate::token::{Token, TokenId};

/// An OAuth 2 client of an issuer. [`build`](Client::build) checks its settings.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(super) endpoint: Endpoint,
    id: Option<String>,
    auth: ClientAuth,
    scope: Option<String>,
    /// The scope to send with a refresh token.
    refresh_scope: Option<String>,
    /// The parameters to send with every call, in addition to those of the grant. A value may be an API key.
    parameters: Vec<(String, Secret)>,
    reader: ResponseReader,
    /// The secrets to redact from errors, in addition to those of a call and of the token to be replaced.
    secrets: Vec<Secret>,
    /// The first setting that is invalid.
    invalid: Option<Error>,
}

/// Parameters by name.
type Form<'a> = [(&'a str, &'a str)];

/// The fraction of the fetch deadline after which a refresh without an answer is sent again.
const FIRST_ATTEMPT: f64 = 2.0 / 3.0;
/// After this many failed fetches in a row, a login follows each failed refresh, unless the client itself was denied.
const MOST_FAILED_REFRESHES: u32 = 3;
/// The parameters that only the grants and their settings may set.
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

    /// A client without an id, for grants whose parameters identify the caller.
    pub(super) fn without_client_id(issuer: &Issuer) -> Self {
        Self {
            endpoint: Endpoint::of(issuer, TOKEN_ENDPOINT),
            id: None,
            auth: ClientAuth::none(),
            scope: None,
            refresh_scope: None,
            parameters: Vec::new(),
            reader: ResponseReader::new(),
            secrets: Vec::new(),
            invalid: None,
        }
    }

    /// Returns the client if its settings are valid and its issuer has these endpoints.
    pub(super) fn build(self, endpoints: &[&'static str]) -> Result<Self, Error> {
        if let Some(error) = self.invalid {
            return Err(error);
        }
        if let Some(issuer) = self.endpoint.issuer() {
            issuer.check(endpoints)?;
        }
        match &self.id {
            Some(id) => require_non_empty("client_id", id)?,
            None if self.auth.needs_client_id() => {
                return Err(Error::invalid("client_id", "a client that authenticates needs one"));
            }
            None => {}
        }
        self.auth.check()?;
        Ok(self)
    }

    /// Returns the value of a setting, or keeps its error for [`build`](Client::build), which returns the first one.
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

    /// Treats each 400 as a denial, for providers that document the status and not the body.
    pub(crate) fn with_denying_bad_request(mut self) -> Self {
        self.reader.deny_bad_requests();
        self
    }

    /// Redacts this secret from errors, if its value is known.
    pub(super) fn redacting(mut self, provider: &SecretProvider) -> Self {
        self.secrets.extend(provider.value().cloned());
        self
    }

    /// Redacts this text from errors.
    pub(super) fn redacting_text(mut self, text: &str) -> Self {
        self.secrets.push(text.into());
        self
    }

    /// Makes errors say that the session cannot log in again by itself.
    pub(super) fn without_login(mut self) -> Self {
        self.reader.expect_no_login();
        self
    }

    /// Changes how answers are read.
    pub(super) fn with_reader(mut self, set: impl FnOnce(&mut ResponseReader) -> Result<(), Error>) -> Self {
        let set = set(&mut self.reader);
        self.accept(set);
        self
    }

    pub(super) fn with_evaluation(
        mut self,
        evaluate: impl Fn(StatusCode, &Value) -> Option<LoginOutcome> + Send + Sync + 'static,
    ) -> Self {
        self.reader.evaluate(evaluate);
        self
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

    /// Adds a header that is not a secret.
    pub(crate) fn with_plain_header(mut self, name: &'static str, value: Option<HeaderValue>) -> Self {
        self.endpoint.plain_header(name, value);
        self
    }

    pub(super) fn with_parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.accept(match RESERVED.contains(&name) {
            true => Err(Error::invalid("parameter", format!("{name} is sent by the grant or by a setting of its own"))),
            false => require_non_empty("parameter", name),
        });
        let value = Secret::from(value.into());
        // A shorter value is hardly a key, and redacting it would remove single letters from errors.
        self.secrets.extend(Some(&value).filter(|value| value.expose().len() >= 8).cloned());
        self.parameters.push((name.to_owned(), value));
        self
    }

    pub(super) fn with_resource(mut self, resource: impl Into<String>) -> Self {
        let resource = resource.into();
        self.accept(require_non_empty("resource", &resource));
        self.parameters.push(("resource".to_owned(), resource.into()));
        self
    }

    /// What determines the tokens of this client: the endpoint, the client id, the scope, the parameters, and the
    /// login.
    pub(super) fn identity(&self, login: &[String]) -> Vec<String> {
        let mut parts = self.endpoint.identity();
        parts.extend([self.id.clone(), self.scope.clone()].map(Option::unwrap_or_default));
        parts.extend(self.parameters.iter().map(|(name, value)| format!("{name}={}", value.expose())));
        parts.extend_from_slice(login);
        parts
    }

    /// Gets a token with the refresh token.
    ///
    /// If the answer is lost or late, sends the same refresh token again at once. The server may have rotated it
    /// already, and most servers then return the same pair again. An answer without a refresh token leaves the old one
    /// valid (RFC 6749 section 6).
    pub(super) async fn refresh(&self, context: &FetchContext, refresh_token: &Secret) -> Result<Token, Error> {
        let (form, secret_params) = ([("grant_type", "refresh_token")], [("refresh_token", refresh_token.clone())]);
        let first_attempt = context.deadline().mul_f64(FIRST_ATTEMPT);
        let ask = || self.ask(context, &form, &secret_params, self.refresh_scope.as_deref());
        let mut answer = self.endpoint.within(first_attempt, ask()).await;
        if answer.as_ref().is_err_and(Error::is_ambiguous) {
            answer = self.endpoint.within(context.response_timeout() - first_attempt, ask()).await;
        }
        let token = self.reader.read(answer?, Call::Refresh(context))?;
        Ok(if token.refresh_token().is_some() { token } else { token.with_refresh_token(refresh_token.clone()) })
    }

    /// Uses the refresh token if there is one. Logs in if there is none, if it is denied, or if fetches keep failing.
    ///
    /// The refresh token is kept until the login succeeds, because the login may fail, too.
    pub(super) async fn renew(
        &self,
        context: &FetchContext,
        refresh_token: Option<Secret>,
        login: impl Future<Output = Result<Token, Error>>,
    ) -> Result<Token, Error> {
        if let Some(refresh_token) = refresh_token {
            let has_failed_for_long = context.failed_fetches() >= MOST_FAILED_REFRESHES;
            // Leaves time for the login.
            let deadline = context.deadline() / if has_failed_for_long { 2 } else { 1 };
            match self.refresh(&context.clone().with_deadline(deadline), &refresh_token).await {
                Err(error) if ends_session(&error) || has_failed_for_long && !is_of_client(&error) => {}
                other => return other,
            }
        }
        login.await
    }

    /// Gets a token with these parameters and secrets.
    pub(super) async fn grant(
        &self,
        context: &FetchContext,
        form: &Form<'_>,
        secrets: &[(&str, Secret)],
    ) -> Result<Token, Error> {
        let ask = self.ask(context, form, secrets, self.scope.as_deref());
        self.reader.read(self.endpoint.within(context.response_timeout(), ask).await?, Call::Grant(context))
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

    /// Sends one call outside a fetch, with the deadline of such calls.
    pub(super) async fn call(
        &self,
        endpoint: &Endpoint,
        form: &Form<'_>,
        secret_params: &[(&str, Secret)],
        scope: Option<&str>,
    ) -> Result<TokenResponse, Error> {
        endpoint.in_time(self.send(endpoint, &Clock::System, form, secret_params, scope, self.secrets.clone())).await
    }

    /// Gets a token outside a fetch.
    pub(super) async fn login(&self, form: &Form<'_>, secret_params: &[(&str, Secret)]) -> Result<Token, Error> {
        let asked = Clock::System.now();
        let answer = self.call(&self.endpoint, form, secret_params, None).await?;
        let token = self.reader.read(answer, Call::Login)?;
        let expires_at = asked.after(token.lifetime()).system_time();
        Ok(token.published(TokenId::default(), expires_at))
    }

    /// Sends one call to the token endpoint, or to another endpoint of the issuer.
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

    /// Adds the scope and the parameters to a form, or to the query of an authorization request.
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

    /// Returns the error of an answer to a call that asks for no token.
    pub(crate) fn failure(&self, answer: &TokenResponse) -> Error {
        self.reader.failure(answer)
    }
}

/// Calls `ask` once more, at once, if the connection breaks before an answer.
///
/// A pooled connection may be closed by the server just when the request is sent.
pub(super) async fn again_if_broken<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    match ask().await {
        Err(error) if error.is_unreachable() => ask().await,
        other => other,
    }
}

/// Whether this failure of a refresh ends its session, so that the same fetch logs in.
///
/// A denial ends it, and so does each 400. An outage, a rate limit or a gateway's page, which holds no error of the
/// issuer, does not.
fn ends_session(error: &Error) -> bool {
    let has_words = error.code().is_some() || error.description().is_some();
    let rejects = match error.status() {
        Some(StatusCode::BAD_REQUEST) => true,
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => has_words,
        // Some servers return errors with a 200.
        Some(status) => status.is_success() && has_words,
        None => false,
    };
    let may_pass = matches!(error.code(), Some("temporarily_unavailable" | "slow_down" | "server_error"));
    (error.is_denied() || rejects && !may_pass) && !is_of_client(error)
}

/// Whether the issuer denied the client itself, so that a login would be denied, too.
fn is_of_client(error: &Error) -> bool {
    error.code() == Some(INVALID_CLIENT)
}

#[cfg(test)]
mod tests;
