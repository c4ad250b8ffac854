//! What the grants share: the token endpoint, the client's authentication, the reading of answers.

use http::StatusCode;
use serde_json::Value;

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::denial::INVALID_CLIENT;
use crate::source::endpoint::Endpoint;
use crate::source::json::LoginOutcome;
use crate::source::oauth2::auth::ClientAuth;
use crate::source::oauth2::response::{Call, ResponseReader};
use crate::source::secret::SecretProvider;
use crate::source::transport::TokenResponse;
use crate::source::{FetchContext, answer, require_non_empty};
use crate::token::{Token, TokenId};

/// A client of a token endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(super) endpoint: Endpoint,
    id: Option<String>,
    auth: ClientAuth,
    scope: Option<String>,
    /// Sent with every call, beside what the grant says: resources, audiences, what a server asks for. One may be a key.
    parameters: Vec<(String, Secret)>,
    reader: ResponseReader,
    /// What no error repeats, beside what a call carries and the token to be replaced.
    secrets: Vec<Secret>,
}

/// Parameters by name.
type Form<'a> = [(&'a str, &'a str)];

/// How much of the fetch deadline a refresh waits for an answer before it asks again.
const FIRST_ATTEMPT: f64 = 2.0 / 3.0;
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
    /// A public client.
    pub(crate) fn new(endpoint: Endpoint, id: impl Into<String>) -> Result<Self, Error> {
        Self::without_client_id(endpoint).with_id(id, ClientAuth::none())
    }

    /// A caller without a client id, for grants that say by themselves who asks.
    pub(super) fn without_client_id(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            id: None,
            auth: ClientAuth::none(),
            scope: None,
            parameters: Vec::new(),
            reader: ResponseReader::new(),
            secrets: Vec::new(),
        }
    }

    pub(super) fn with_id(self, id: impl Into<String>, auth: impl Into<ClientAuth>) -> Result<Self, Error> {
        let id = id.into();
        require_non_empty("client_id", &id)?;
        Self { id: Some(id), ..self }.with_auth(auth)
    }

    pub(super) fn with_auth(self, auth: impl Into<ClientAuth>) -> Result<Self, Error> {
        let auth = auth.into();
        auth.check()?;
        Ok(Self { auth, ..self })
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
    pub(super) fn with_reader(
        mut self,
        set: impl FnOnce(&mut ResponseReader) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        set(&mut self.reader)?;
        Ok(self)
    }

    pub(super) fn with_judge(
        mut self,
        evaluate: impl Fn(StatusCode, &Value) -> Option<LoginOutcome> + Send + Sync + 'static,
    ) -> Self {
        self.reader.evaluate(evaluate);
        self
    }

    pub(crate) fn with_scope(self, scope: impl Into<String>) -> Self {
        Self { scope: Some(scope.into()), ..self }
    }

    pub(super) fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.parameters.push(("audience".to_owned(), audience.into().into()));
        self
    }

    pub(super) fn with_header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        self.endpoint.header("header", name, value)?;
        Ok(self)
    }

    pub(super) fn with_parameter(mut self, name: &str, value: impl Into<String>) -> Result<Self, Error> {
        if RESERVED.contains(&name) {
            return Err(Error::invalid("parameter", format!("{name} is sent by the grant or by a setting of its own")));
        }
        require_non_empty("parameter", name)?;
        let value = Secret::from(value.into());
        // Shorter ones are no keys, and would take single letters out of an error.
        self.secrets.extend(Some(&value).filter(|value| value.expose().len() >= 8).cloned());
        self.parameters.push((name.to_owned(), value));
        Ok(self)
    }

    /// RFC 8707 section 2: an absolute URI without a fragment.
    pub(super) fn with_resource(mut self, resource: &str) -> Result<Self, Error> {
        let scheme = resource.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !is_scheme || !resource.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(Error::invalid("resource", "not an absolute URI without a fragment"));
        }
        self.parameters.push(("resource".to_owned(), resource.into()));
        Ok(self)
    }

    /// Asks with the refresh token. An answer that was lost, or is long in coming, is asked for again at once, with the
    /// same refresh token: the server may have rotated it already, and most give the pair once more. An answer without a
    /// refresh token leaves the old one valid (RFC 6749 section 6).
    pub(super) async fn refresh(&self, context: &FetchContext, refresh_token: &Secret) -> Result<Token, Error> {
        let (form, secret_params) = ([("grant_type", "refresh_token")], [("refresh_token", refresh_token.clone())]);
        let first_attempt = context.deadline().mul_f64(FIRST_ATTEMPT);
        let ask = || self.ask(context, &form, &secret_params, false);
        let mut answer = self.endpoint.within(first_attempt, ask()).await;
        if answer.as_ref().is_err_and(Error::is_ambiguous) {
            answer = self.endpoint.within(context.response_timeout() - first_attempt, ask()).await;
        }
        let token = self.reader.read(answer?, Call::Refresh(context))?;
        Ok(if token.refresh_token().is_some() { token } else { token.with_refresh_token(refresh_token.clone()) })
    }

    /// Asks with the refresh token where there is one; logs in where there is none, or where it ended.
    pub(super) async fn renew(
        &self,
        context: &FetchContext,
        login: impl Future<Output = Result<Token, Error>>,
    ) -> Result<Token, Error> {
        if let Some(refresh_token) = context.refresh_token() {
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
        let ask = self.ask(context, form, secrets, true);
        self.reader.read(self.endpoint.within(context.response_timeout(), ask).await?, Call::Grant(context))
    }

    async fn ask(
        &self,
        context: &FetchContext,
        form: &Form<'_>,
        secret_params: &[(&str, Secret)],
        with_scope: bool,
    ) -> Result<TokenResponse, Error> {
        let mut secrets = self.secrets.clone();
        secrets.extend(answer::replaced_secrets(context));
        self.send(&self.endpoint, context.clock(), form, secret_params, with_scope, secrets).await
    }

    /// One call outside a fetch, with a deadline of its own.
    pub(super) async fn call(
        &self,
        endpoint: &Endpoint,
        form: &Form<'_>,
        secret_params: &[(&str, Secret)],
        with_scope: bool,
    ) -> Result<TokenResponse, Error> {
        endpoint
            .in_time(self.send(endpoint, &Clock::System, form, secret_params, with_scope, self.secrets.clone()))
            .await
    }

    /// Asks for a token outside a fetch.
    pub(super) async fn login(&self, form: &Form<'_>, secret_params: &[(&str, Secret)]) -> Result<Token, Error> {
        let asked = Clock::System.now();
        let answer = self.call(&self.endpoint, form, secret_params, false).await?;
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
        with_scope: bool,
        mut secrets: Vec<Secret>,
    ) -> Result<TokenResponse, Error> {
        secrets.extend(secret_params.iter().map(|(_, secret)| secret.clone()));
        let now = clock.now().system_time();
        let proof = self.auth.authenticate(self.id.as_deref(), self.endpoint.name(), now, &mut secrets).await?;
        let body = {
            let mut body = form_urlencoded::Serializer::new(String::new());
            body.extend_pairs(form);
            body.extend_pairs(secret_params.iter().chain(&proof.form).map(|(name, secret)| (name, secret.expose())));
            self.settings(&mut body, with_scope);
            body.finish()
        };
        endpoint.post(clock, "application/x-www-form-urlencoded", proof.header, body.into(), secrets).await
    }

    /// What settings add to a form, or to the query of an authorization request.
    pub(super) fn settings<T: form_urlencoded::Target>(
        &self,
        form: &mut form_urlencoded::Serializer<'_, T>,
        with_scope: bool,
    ) {
        if let Some(scope) = self.scope.as_ref().filter(|scope| with_scope && !scope.is_empty()) {
            form.append_pair("scope", scope);
        }
        form.extend_pairs(self.parameters.iter().map(|(name, value)| (name, value.expose())));
    }

    /// The error that an answer to another call is.
    pub(crate) fn failure(&self, answer: &TokenResponse) -> Error {
        self.reader.failure(answer)
    }
}

/// Whether the login is asked again after a rejected refresh: after every denial and every 400, but not where the client
/// itself was denied, as its login would be too.
fn ends_session(error: &Error) -> bool {
    let rejected = error.is_denied() || error.status() == Some(StatusCode::BAD_REQUEST);
    rejected && error.code() != Some(INVALID_CLIENT)
}

#[cfg(test)]
mod tests;
