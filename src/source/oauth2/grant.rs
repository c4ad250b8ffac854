//! What the grants share: a session that starts with a login, a refresh token, or both.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::issuer::TOKEN_ENDPOINT;
use crate::source::oauth2::client::{Client, again_if_broken};
use crate::source::secret::SecretProvider;
use crate::source::{FetchContext, Reason, require_non_empty};
use crate::token::Token;

/// A client, the login that starts its session, and the refresh token that it resumes from.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(super) client: Client,
    login: Option<Login>,
    initial: Option<Initial>,
    /// The last exchange of a login that is [bound to its secrets](Login::bound_to_secrets).
    last_exchange: Arc<Mutex<Option<Exchange>>>,
}

/// The tokens that were exchanged, and the refresh token that the server returned for them.
#[derive(Debug, PartialEq)]
struct Exchange {
    tokens: Vec<Secret>,
    refresh_token: Option<Secret>,
}

/// What the client sends to start a session.
#[derive(Clone, Debug)]
pub(super) struct Login {
    form: Vec<(&'static str, String)>,
    secrets: Vec<SecretParameter>,
    /// Whether a fetch uses the refresh token first, if there is one.
    refreshes: bool,
    /// Whether its refresh token is used only while the secrets stay the same.
    bound_to_secrets: bool,
    /// Whether a fetch sends it only once, even if the connection breaks.
    once: bool,
}

#[derive(Clone, Debug)]
struct SecretParameter {
    name: Cow<'static, str>,
    /// Its name in errors.
    field: &'static str,
    value: SecretProvider,
}

#[derive(Clone, Debug)]
enum Initial {
    Saved(SecretProvider),
    /// The token of a person's login: used until it nears its end, then refreshed if it has a refresh token.
    Login(Token),
}

/// The parameters that settings of the client send with any grant.
const CLIENT_PARAMETERS: [&str; 6] =
    ["grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope"];

// === impl Grant ===

impl Grant {
    /// A session that starts with this login.
    pub(super) fn of(client: Client, login: Login) -> Self {
        let client = login.secrets.iter().fold(client, |client, secret| client.redacting(&secret.value));
        Self { client, login: Some(login), initial: None, last_exchange: Arc::default() }
    }

    /// A session without a login, which resumes from this refresh token.
    pub(super) fn of_refresh_token(client: Client, refresh_token: SecretProvider) -> Self {
        Self { client: client.without_login(), login: None, initial: None, last_exchange: Arc::default() }
            .resuming(refresh_token)
    }

    /// The session that a person's login started.
    pub(super) fn of_login(client: Client, token: Token) -> Self {
        let initial = Some(Initial::Login(token));
        Self { client: client.without_login(), login: None, initial, last_exchange: Arc::default() }
    }

    /// Makes the session resume from this refresh token.
    pub(super) fn resuming(self, refresh_token: SecretProvider) -> Self {
        let client = self.client.redacting(&refresh_token);
        Self { client, initial: Some(Initial::Saved(refresh_token)), ..self }
    }

    /// Sets a parameter of the login. It replaces one of the same name.
    pub(super) fn with_form(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Some(login) = &mut self.login {
            login.form.retain(|(other, _)| *other != name);
            login.form.push((name, value.into()));
        }
        self
    }

    /// Sets a secret parameter of the login. It replaces one of the same name.
    pub(super) fn with_secret(self, name: impl Into<Cow<'static, str>>, secret: SecretProvider) -> Self {
        let client = self.client.redacting(&secret);
        let login = self.login.map(|login| login.secret(name, secret));
        Self { client, login, ..self }
    }

    /// Returns the grant if its settings are valid.
    pub(super) fn build(self) -> Result<Self, Error> {
        for (name, value) in self.login.iter().flat_map(|login| &login.form) {
            require_non_empty(name, value)?;
        }
        for SecretParameter { name, field, value } in self.login.iter().flat_map(|login| &login.secrets) {
            if matches!(name, Cow::Owned(_)) {
                require_non_empty(field, name)?;
                if CLIENT_PARAMETERS.contains(&&**name) {
                    return Err(Error::invalid(field, format!("{name} is sent by a setting of its own")));
                }
            }
            value.check(field)?;
        }
        if let Some(Initial::Saved(refresh_token)) = &self.initial {
            refresh_token.check("refresh_token")?;
        }
        Ok(Self { client: self.client.build(&[TOKEN_ENDPOINT])?, ..self })
    }

    pub(super) async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        if let Some(Initial::Login(token)) = &self.initial
            && context.replaced().is_none()
            && context.reason() != Reason::Asked
            && let Some(token) = with_remaining_lifetime(token, context.now())
        {
            return Ok(token);
        }
        let Some(login) = &self.login else {
            let refresh_token = match context.refresh_token() {
                Some(newest) => newest,
                None => self.initial_refresh_token(context.now()).await?.ok_or_else(|| {
                    Error::denied("the login returned no refresh token; log in again, at most servers with the scope offline_access")
                })?,
            };
            return self.client.refresh(&context, &refresh_token).await;
        };
        let refresh_token = match context.refresh_token() {
            Some(newest) => Some(newest).filter(|_| login.refreshes || self.initial.is_some()),
            // Only the first fetch uses the saved refresh token: after a login, it would be the old session's. If it
            // cannot be read, the fetch logs in.
            None if context.replaced().is_none() => self.initial_refresh_token(context.now()).await.ok().flatten(),
            None => None,
        };
        let tokens = if login.bound_to_secrets { Some(login.secrets(context.now()).await?) } else { None };
        let ask = || async {
            let secrets = match &tokens {
                Some(tokens) => tokens.clone(),
                // A second attempt needs new secrets, because a server accepts most assertions only once.
                None => login.secrets(context.now()).await?,
            };
            let form: Vec<_> = login.form.iter().map(|(name, value)| (*name, &**value)).collect();
            self.client.grant(&context, &form, &secrets).await
        };
        let ask = async { if login.once { ask().await } else { again_if_broken(ask).await } };
        let Some(tokens) = &tokens else {
            return self.client.renew(&context, refresh_token, ask).await;
        };
        let tokens = tokens.iter().map(|(_, token)| token.clone()).collect();
        let mut exchange = Exchange { tokens, refresh_token: context.refresh_token() };
        let tokens_changed = context.refresh_token().is_some() && self.last_exchange().as_ref() != Some(&exchange);
        let token = self.client.renew(&context, refresh_token.filter(|_| !tokens_changed), ask).await?;
        exchange.refresh_token = token.refresh_token();
        *self.last_exchange() = Some(exchange);
        Ok(token)
    }

    fn last_exchange(&self) -> MutexGuard<'_, Option<Exchange>> {
        self.last_exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What determines the tokens: the issuer, the client, and the login without its secrets.
    pub(super) fn identity(&self) -> Vec<String> {
        let form = self.login.iter().flat_map(|login| &login.form);
        let form: Vec<_> = form.map(|(name, value)| format!("{name}={value}")).collect();
        self.client.identity(&form)
    }

    /// The refresh token that the session starts with.
    pub(super) async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        // A call outside a fetch has no clock of a cache.
        self.initial_refresh_token(Clock::System.now().system_time()).await
    }

    async fn initial_refresh_token(&self, now: SystemTime) -> Result<Option<Secret>, Error> {
        match &self.initial {
            Some(Initial::Saved(refresh_token)) => refresh_token.get("refresh_token", now).await.map(Some),
            Some(Initial::Login(token)) => Ok(token.refresh_token()),
            None => Ok(None),
        }
    }
}

/// Returns a login's token with its remaining lifetime. Returns `None` if little remains and it can be refreshed.
fn with_remaining_lifetime(token: &Token, now: SystemTime) -> Option<Token> {
    // A clock that was set back must not lengthen the lifetime.
    let remaining = token.expires_at()?.duration_since(now).ok()?.min(token.lifetime());
    let elapsed = token.lifetime() - remaining;
    let mut shortened = token.clone().with_lifetime(remaining);
    if let Some(refresh_in) = token.refresh_in() {
        shortened = shortened.with_refresh_in(refresh_in.saturating_sub(elapsed));
    }
    (remaining > token.lifetime() / 5 || token.refresh_token().is_none()).then_some(shortened)
}

// === impl Login ===

impl Login {
    /// A login with this grant type.
    pub(super) fn new(grant_type: impl Into<String>) -> Self {
        Self {
            form: vec![("grant_type", grant_type.into())],
            secrets: Vec::new(),
            refreshes: true,
            bound_to_secrets: false,
            once: false,
        }
    }

    /// Makes a change of the secrets start a new session.
    pub(super) fn bound_to_secrets(self) -> Self {
        Self { bound_to_secrets: true, ..self }
    }

    /// Makes a fetch send the login only once, even if the connection breaks. Servers count attempts with a password.
    pub(super) fn once(self) -> Self {
        Self { once: true, ..self }
    }

    async fn secrets(&self, now: SystemTime) -> Result<Vec<(&str, Secret)>, Error> {
        let mut secrets = Vec::new();
        for SecretParameter { name, field, value } in &self.secrets {
            secrets.push((&**name, value.get(field, now).await?));
        }
        Ok(secrets)
    }

    /// Makes each fetch log in, even if the server returns refresh tokens.
    pub(super) fn without_refresh(self) -> Self {
        Self { refreshes: false, ..self }
    }

    pub(super) fn form(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.form.push((name, value.into()));
        self
    }

    pub(super) fn secret(mut self, name: impl Into<Cow<'static, str>>, value: SecretProvider) -> Self {
        let name = name.into();
        let field = match name {
            Cow::Borrowed(name) => name,
            Cow::Owned(_) => "grant_parameter",
        };
        self.secrets.retain(|other| other.name != name);
        self.secrets.push(SecretParameter { name, field, value });
        self
    }
}

// === macros ===

/// Implements `TokenSource` for a grant, and `build` for its builder.
macro_rules! grant {
    ($grant:ident, $builder:ident) => {
        client_settings!($builder, grant.client);

        impl $builder {
            /// Checks the settings and the issuer's URLs, and builds the grant.
            ///
            /// # Errors
            /// Returns an error that names the field if a setting or a URL is invalid, or if the issuer has no token
            /// endpoint.
            pub fn build(self) -> Result<$grant, $crate::error::Error> {
                Ok($grant { grant: self.grant.build()? })
            }
        }

        impl $crate::source::TokenSource for $grant {
            async fn fetch(
                &self,
                context: $crate::source::FetchContext,
            ) -> Result<$crate::token::Token, $crate::error::Error> {
                self.grant.fetch(context).await
            }

            async fn refresh_token(&self) -> Result<Option<$crate::secret::Secret>, $crate::error::Error> {
                self.grant.refresh_token().await
            }

            fn identity(&self) -> Vec<String> {
                self.grant.identity()
            }
        }
    };
}

/// Adds `resume` to the builder of a grant with a login.
macro_rules! resume {
    ($builder:ident) => {
        impl $builder {
            /// Resumes from a saved refresh token. Logs in if it is denied or cannot be read.
            ///
            /// [`on_rotation`](crate::TokenCacheBuilder::on_rotation) gets each newer refresh token, to save it.
            pub fn resume<M>(mut self, refresh_token: impl $crate::source::secret::SecretSource<M>) -> Self {
                self.grant = self.grant.resuming(refresh_token.into_provider());
                self
            }
        }
    };
}

pub(crate) use {grant, resume};
