//! What the grants share: the token endpoint, the client's authentication, the reading of answers.

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
    reader: ResponseReader,
    /// What no error repeats, beside what a call carries and the token to be replaced.
    secrets: Vec<Secret>,
    /// The first setting that is invalid.
    invalid: Option<Error>,
}

/// Parameters by name.
type Form<'a> = [(&'a str, &'a str)];

/// How much of the fetch deadline a refresh waits for an answer before it asks again.
const FIRST_ATTEMPT: f64 = 2.0 / 3.0;
/// After so many failed fetches in a row a refresh that fails once more is followed by the login, whatever its failure.
const MOST_FAILED_REFRESHES: u32 = 3;
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
            reader: ResponseReader::new(),
            secrets: Vec::new(),
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
            Some(id) => require_non_empty("client_id", id)?,
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
    pub(crate) fn with_denying_bad_request(mut self) -> Self {
        self.reader.deny_bad_requests();
        self
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

    /// A header that is no secret.
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
        // Shorter ones are no keys, and would take single letters out of an error.
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

    /// What shapes the tokens of this client: the endpoint, the client, the scope and the parameters, and the login.
    pub(super) fn identity(&self, login: &[String]) -> Vec<String> {
        let mut parts = self.endpoint.identity();
        parts.extend([self.id.clone(), self.scope.clone()].map(Option::unwrap_or_default));
        parts.extend(self.parameters.iter().map(|(name, value)| format!("{name}={}", value.expose())));
        parts.extend_from_slice(login);
        parts
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
        let token = self.reader.read(answer?, Call::Refresh(context))?;
        Ok(if token.refresh_token().is_some() { token } else { token.with_refresh_token(refresh_token.clone()) })
    }

    /// Asks with the refresh token if there is one; logs in if there is none, if it was denied, or if refreshes have failed
    /// for long. The refresh token is kept until the login has succeeded, because the login may fail, too.
    pub(super) async fn renew(
        &self,
        context: &FetchContext,
        refresh_token: Option<Secret>,
        login: impl Future<Output = Result<Token, Error>>,
    ) -> Result<Token, Error> {
        if let Some(refresh_token) = refresh_token {
            let has_failed_for_long = context.failed_fetches() >= MOST_FAILED_REFRESHES;
            // The login needs its part of the time.
            let deadline = context.deadline() / if has_failed_for_long { 2 } else { 1 };
            match self.refresh(&context.clone().with_deadline(deadline), &refresh_token).await {
                Err(error) if ends_session(&error) || has_failed_for_long && !is_of_client(&error) => {}
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
        let answer = self.call(&self.endpoint, form, secret_params, None).await?;
        let token = self.reader.read(answer, Call::Login)?;
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

    /// The error that an answer to another call is.
    pub(crate) fn failure(&self, answer: &TokenResponse) -> Error {
        self.reader.failure(answer)
    }
}

/// Asks once more at once if the connection broke before an answer: one that was kept may have been closed by the server
/// in the same moment.
pub(super) async fn again_if_broken<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    match ask().await {
        Err(error) if error.is_unreachable() => ask().await,
        other => other,
    }
}

/// Whether this failure of a refresh ends its session, so that the login is asked in the same fetch: a denial in whatever
/// words, and each 400. Not an outage or a limit, and not a gateway's page, which holds no words of the issuer.
fn ends_session(error: &Error) -> bool {
    let has_words = error.code().is_some() || error.description().is_some();
    let is_no = match error.status() {
        Some(StatusCode::BAD_REQUEST) => true,
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => has_words,
        // Some servers say no with a 200.
        Some(status) => status.is_success() && has_words,
        None => false,
    };
    let may_pass = matches!(error.code(), Some("temporarily_unavailable" | "slow_down" | "server_error"));
    (error.is_denied() || is_no && !may_pass) && !is_of_client(error)
}

/// Whether the client itself was denied, as its login would be too.
fn is_of_client(error: &Error) -> bool {
    error.code() == Some(INVALID_CLIENT)
}

#[cfg(test)]
mod tests;
