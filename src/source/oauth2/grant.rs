//! What the grants share: a login, a refresh token that goes before it, or both.

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

/// A client, the login that its session begins with, and the refresh token that it resumes from.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(super) client: Client,
    login: Option<Login>,
    initial: Option<Initial>,
    /// What the refresh token of a login [of its secrets](Login::of_its_secrets) came from.
    exchanged: Arc<Mutex<Option<Exchanged>>>,
}

/// The tokens of the last exchange, and the refresh token that came of it.
#[derive(Debug, PartialEq)]
struct Exchanged {
    tokens: Vec<Secret>,
    refresh_token: Option<Secret>,
}

/// What the client sends to begin a session.
#[derive(Clone, Debug)]
pub(super) struct Login {
    form: Vec<(&'static str, String)>,
    secrets: Vec<SecretParameter>,
    /// Whether a refresh token goes before it.
    refreshes: bool,
    /// Whether its refresh token goes on only as long as the secrets stay what they were.
    of_its_secrets: bool,
    /// Whether it is sent once in a fetch, also if the connection breaks.
    once: bool,
}

#[derive(Clone, Debug)]
struct SecretParameter {
    name: Cow<'static, str>,
    /// What an error calls it.
    field: &'static str,
    value: SecretProvider,
}

#[derive(Clone, Debug)]
enum Initial {
    Saved(SecretProvider),
    /// What a person's login brought: sent as long as it lives, and refreshed if it can be.
    Login(Token),
}

/// What the client sends beside the parameters of any grant.
const CLIENT_PARAMETERS: [&str; 6] =
    ["grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope"];

// === impl Grant ===

impl Grant {
    /// A session that begins with this login.
    pub(super) fn of(client: Client, login: Login) -> Self {
        let client = login.secrets.iter().fold(client, |client, secret| client.redacting(&secret.value));
        Self { client, login: Some(login), initial: None, exchanged: Arc::default() }
    }

    /// A session without a login, which goes on from this refresh token.
    pub(super) fn of_refresh_token(client: Client, refresh_token: SecretProvider) -> Self {
        Self { client: client.without_login(), login: None, initial: None, exchanged: Arc::default() }
            .resuming(refresh_token)
    }

    /// The session that a person's login began.
    pub(super) fn of_login(client: Client, token: Token) -> Self {
        let initial = Some(Initial::Login(token));
        Self { client: client.without_login(), login: None, initial, exchanged: Arc::default() }
    }

    /// The same session, which goes on from this refresh token.
    pub(super) fn resuming(self, refresh_token: SecretProvider) -> Self {
        let client = self.client.redacting(&refresh_token);
        Self { client, initial: Some(Initial::Saved(refresh_token)), ..self }
    }

    /// Adds a parameter to the login, in the place of one of this name.
    pub(super) fn with_form(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Some(login) = &mut self.login {
            login.form.retain(|(other, _)| *other != name);
            login.form.push((name, value.into()));
        }
        self
    }

    /// Adds a secret to the login.
    pub(super) fn with_secret(self, name: impl Into<Cow<'static, str>>, secret: SecretProvider) -> Self {
        let client = self.client.redacting(&secret);
        let login = self.login.map(|login| login.secret(name, secret));
        Self { client, login, ..self }
    }

    /// The grant, if its settings are valid.
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
                    Error::denied("the login brought no refresh token (most servers want the scope offline_access for it): log in again")
                })?,
            };
            return self.client.refresh(&context, &refresh_token).await;
        };
        let refresh_token = match context.refresh_token() {
            Some(newest) => Some(newest).filter(|_| login.refreshes || self.initial.is_some()),
            // A saved one that was denied does not come back once the login has brought a token. If it cannot be read, the
            // login helps.
            None if context.replaced().is_none() => self.initial_refresh_token(context.now()).await.ok().flatten(),
            None => None,
        };
        let tokens = if login.of_its_secrets { Some(login.secrets(context.now()).await?) } else { None };
        let ask = || async {
            let secrets = match &tokens {
                Some(tokens) => tokens.clone(),
                // Asked for anew for a second attempt, because a server takes most assertions once.
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
        let mut exchange = Exchanged { tokens, refresh_token: context.refresh_token() };
        let is_another = context.refresh_token().is_some() && self.exchanged().as_ref() != Some(&exchange);
        let token = self.client.renew(&context, refresh_token.filter(|_| !is_another), ask).await?;
        exchange.refresh_token = token.refresh_token();
        *self.exchanged() = Some(exchange);
        Ok(token)
    }

    fn exchanged(&self) -> MutexGuard<'_, Option<Exchanged>> {
        self.exchanged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What shapes the tokens: the issuer, the client, and the login without its secrets.
    pub(super) fn identity(&self) -> Vec<String> {
        let form = self.login.iter().flat_map(|login| &login.form);
        let form: Vec<_> = form.map(|(name, value)| format!("{name}={value}")).collect();
        self.client.identity(&form)
    }

    /// The refresh token that the session begins with.
    pub(super) async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        // Outside a fetch.
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

/// A login's token with what is left of its life, where that is worth it or all there is.
fn with_remaining_lifetime(token: &Token, now: SystemTime) -> Option<Token> {
    // A clock that was set back makes no token live longer.
    let left = token.expires_at()?.duration_since(now).ok()?.min(token.lifetime());
    let gone = token.lifetime() - left;
    let rest = token.clone().with_lifetime(left);
    let rest = match token.refresh_in() {
        Some(refresh_in) => rest.with_refresh_in(refresh_in.saturating_sub(gone)),
        None => rest,
    };
    (left > token.lifetime() / 5 || token.refresh_token().is_none()).then_some(rest)
}

// === impl Login ===

impl Login {
    /// A login with this grant type.
    pub(super) fn new(grant_type: impl Into<String>) -> Self {
        Self {
            form: vec![("grant_type", grant_type.into())],
            secrets: Vec::new(),
            refreshes: true,
            of_its_secrets: false,
            once: false,
        }
    }

    /// A login whose session belongs to its secrets: with other ones it begins again.
    pub(super) fn of_its_secrets(self) -> Self {
        Self { of_its_secrets: true, ..self }
    }

    /// A login that is sent once in a fetch, also if the connection breaks: a person's password, which a server counts.
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

    /// Logs in each time, also if the server hands out refresh tokens.
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

/// What every grant is: a source, and a builder that ends in `build`.
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

/// What grants with a login can say.
macro_rules! resume {
    ($builder:ident) => {
        impl $builder {
            /// Goes on from a saved refresh token, and logs in if that is denied or cannot be read.
            ///
            /// Each newer refresh token is handed to [`on_rotation`](crate::TokenCacheBuilder::on_rotation) for saving.
            pub fn resume<M>(mut self, refresh_token: impl $crate::source::secret::SecretSource<M>) -> Self {
                self.grant = self.grant.resuming(refresh_token.into_provider());
                self
            }
        }
    };
}

pub(crate) use {grant, resume};
