//! Makes the cache and its source from the options.

use std::error::Error as _;
use std::path::PathBuf;

use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use tower_bearer::exec::TokenCommand;
use tower_bearer::file::TokenFile;
use tower_bearer::oauth2::{
    ClientAuth, ClientCredentialsGrant, DeviceCodeLogin, Issuer, JwtBearerGrant, PasswordGrant, RefreshTokenGrant,
    TokenExchangeGrant,
};
use tower_bearer::providers::mesh_connect::MeshConnect;
use tower_bearer::providers::meshydb::{MeshyDb, TenantLayer};
use tower_bearer::{Error, FetchContext, RotatedToken, Secret, Token, TokenCache, TokenCacheBuilder, TokenSource};

use crate::ConfigError;
use crate::cli::{Auth, Grant, Login, Preset};
use crate::device::{self, DeviceLogin, NotLoggedIn, not_logged_in};
use crate::problem::chain;
use crate::secrets::{self, SecretInput};
use crate::store::{self, StoreSettings};
use crate::upstream::Connector;

/// The client that sends the token calls.
pub(crate) type TokenClient = Client<Connector, Full<Bytes>>;

const TOKEN_FILE: &str = "--token-file";

/// What the options of a login configure.
pub(crate) struct Session {
    pub(crate) cache: TokenCacheBuilder,
    /// The provider's upstream, if the preset knows it.
    pub(crate) upstream: Option<&'static str>,
    /// Adds the tenant to each call.
    pub(crate) tenant: Option<TenantLayer>,
    /// The login by a person, if the grant needs one.
    pub(crate) device: Option<DeviceLogin>,
    /// The store in which sidecars share the session.
    pub(crate) shared: Option<StoreSettings>,
}

/// A source that logs the causes of a failure.
///
/// The library's events leave the causes out, because the error of a user's client may show a secret, such as a key in
/// a URL. The sidecar's clients show only hosts, files and reasons.
pub(crate) struct LogCauses<S>(pub(crate) S);

/// The settings that all grants have.
macro_rules! settings {
    ($login:expr, $builder:expr) => {{
        let mut builder = $builder;
        if let Some(scope) = $login.scope.take() {
            builder = builder.scope(scope);
        }
        for audience in std::mem::take(&mut $login.audience) {
            builder = builder.audience(audience);
        }
        for resource in std::mem::take(&mut $login.resource) {
            builder = builder.resource(resource);
        }
        builder
    }};
}

/// Makes the cache, without fetching a token.
pub(crate) fn session(mut login: Login, http: TokenClient) -> Result<Session, ConfigError> {
    let login = &mut login;
    let key = name_of(login);
    // clap rejects more than one of them.
    let (mut session, name) = match (login.token_file.take(), login.token_command.take(), login.preset, login.grant) {
        (Some(path), ..) => (plain(TokenFile::new(path)), TOKEN_FILE),
        (_, Some(command), ..) => (plain(token_command(login, &command)?), "--token-command"),
        (_, _, Some(Preset::Meshydb), _) => (meshydb(login, http)?, "--preset meshydb"),
        (_, _, Some(Preset::MeshConnect), _) => (mesh_connect(login, http)?, "--preset mesh-connect"),
        (_, _, _, Some(grant)) => from_grant(login, grant, http)?,
        (None, None, None, None) => {
            return Err(ConfigError::new(
                "--grant",
                "no option says how to get a token; say --grant client-credentials or another, --preset, --token-file, \
                 or --token-command",
            ));
        }
    };
    if name != TOKEN_FILE {
        session.shared = store::settings(login, key)?;
    }
    reject_unused(login, name, session.shared.is_some())?;
    Ok(session)
}

/// A readable name for the session of this login, which differs from that of other logins.
fn name_of(login: &Login) -> String {
    let grant = login.grant.and_then(|grant| grant.to_possible_value());
    let preset = login.preset.and_then(|preset| preset.to_possible_value());
    let names = [grant, preset].into_iter().flatten().map(|value| value.get_name().to_owned());
    let Login { token_command, issuer, token_url, account, client_id, username, tenant, scope, .. } = login;
    // A query could hold a secret.
    let token_url = token_url.as_deref().and_then(|url| url.split('?').next()).map(str::to_owned);
    let options = [token_command, issuer, &token_url, account, client_id, username, tenant, scope];
    names.chain(options.into_iter().flatten().cloned()).collect::<Vec<_>>().join(" ")
}

fn from_grant(login: &mut Login, grant: Grant, http: TokenClient) -> Result<(Session, &'static str), ConfigError> {
    if matches!(grant, Grant::DeviceCode) {
        return Ok((device_code(login, http)?, device::NAME));
    }
    let issuer = issuer(login, &http)?;
    Ok(match grant {
        Grant::DeviceCode => unreachable!("handled above"),
        Grant::ClientCredentials => {
            let name = "--grant client-credentials";
            let id = need(&mut login.client_id, "--client-id", name)?;
            let secret = secrets::CLIENT_SECRET.need(login.client_secret_file.take(), name)?;
            let auth = auth(login, &secret);
            let grant = settings!(login, ClientCredentialsGrant::builder(&issuer, id, auth));
            (plain(grant.build().map_err(named)?), name)
        }
        Grant::Password => {
            let name = "--grant password";
            let id = need(&mut login.client_id, "--client-id", name)?;
            let user = need(&mut login.username, "--username", name)?;
            let password = secrets::PASSWORD.need(login.password_file.take(), name)?;
            let mut grant = settings!(login, PasswordGrant::builder(&issuer, id, user, password.provider()));
            if let Some(secret) = secrets::CLIENT_SECRET.find(login.client_secret_file.take())? {
                grant = grant.client_auth(auth(login, &secret));
            }
            let saved = saved_refresh_token(login)?;
            if let Some(saved) = &saved {
                grant = grant.resume(saved.provider());
            }
            (
                with_saved_rotations(login, plain(grant.build().map_err(named)?), saved.and_then(|saved| saved.file())),
                name,
            )
        }
        Grant::RefreshToken => {
            let name = "--grant refresh-token";
            let id = need(&mut login.client_id, "--client-id", name)?;
            let saved = secrets::REFRESH_TOKEN.need(login.refresh_token_file.take(), name)?;
            let mut grant = settings!(login, RefreshTokenGrant::builder(&issuer, id, saved.provider()));
            if let Some(secret) = secrets::CLIENT_SECRET.find(login.client_secret_file.take())? {
                grant = grant.client_auth(auth(login, &secret));
            }
            (with_saved_rotations(login, plain(grant.build().map_err(named)?), saved.file()), name)
        }
        Grant::TokenExchange => {
            let name = "--grant token-exchange";
            let subject = secrets::SUBJECT_TOKEN.need(login.subject_token_file.take(), name)?;
            let mut grant = settings!(login, TokenExchangeGrant::builder(&issuer, subject.provider()));
            if let Some(identifier) = login.subject_token_type.take() {
                grant = grant.subject_token_type(identifier);
            }
            if let Some((id, auth)) = client(login)? {
                grant = grant.client_id(id).client_auth(auth);
            }
            (plain(grant.build().map_err(named)?), name)
        }
        Grant::JwtBearer => {
            let name = "--grant jwt-bearer";
            let assertion = secrets::ASSERTION.need(login.assertion_file.take(), name)?;
            let mut grant = settings!(login, JwtBearerGrant::builder(&issuer, assertion.provider()));
            if let Some((id, auth)) = client(login)? {
                grant = grant.client_id(id).client_auth(auth);
            }
            (plain(grant.build().map_err(named)?), name)
        }
    })
}

/// A login that a person makes before the sidecar serves, or the session that an earlier run saved.
fn device_code(login: &mut Login, http: TokenClient) -> Result<Session, ConfigError> {
    let id = need(&mut login.client_id, "--client-id", device::NAME)?;
    let shared = login.store.is_some();
    let file = login.refresh_token_file.take_if(|_| !shared);
    let is_kept = file.as_ref().map_or(Ok(false), |path| secrets::REFRESH_TOKEN.is_saved_in(path))?;
    let secret = secrets::CLIENT_SECRET.find(login.client_secret_file.take())?;
    let auth = secret.map(|secret| auth(login, &secret)).unwrap_or(ClientAuth::none());
    let device_url = login.device_authorization_url.take();
    let at_issuer = login.issuer.is_some();
    let issuer = match (issuer(login, &http)?, device_url) {
        (issuer, None) if at_issuer => issuer,
        (_, Some(_)) if at_issuer => {
            let problem = "the issuer's metadata says it; leave it out, or name --token-url in place of --issuer";
            return Err(ConfigError::new("--device-authorization-url", problem));
        }
        (issuer, Some(url)) => issuer.device_authorization_endpoint(&url),
        (_, None) => {
            let problem = format_args!("{} with --token-url needs it", device::NAME);
            return Err(ConfigError::new("--device-authorization-url", problem));
        }
    };
    // The saved session needs the same settings as the login.
    let again = &mut login.clone();
    let device = settings!(login, DeviceCodeLogin::builder(&issuer, &*id)).client_auth(auth.clone());
    let saved = match &file {
        Some(path) if is_kept => {
            let refresh_token = SecretInput::File(path.clone()).provider();
            let grant = settings!(again, RefreshTokenGrant::builder(&issuer, id, refresh_token));
            Some(grant.client_auth(auth).build().map_err(named)?)
        }
        // If there is a session, it is in the store.
        _ if shared => {
            let grant =
                settings!(again, RefreshTokenGrant::builder(&issuer, id, async || Err::<Secret, _>(not_logged_in())));
            Some(grant.client_auth(auth).build().map_err(named)?)
        }
        _ => None,
    };
    let saves = shared || file.is_some();
    let device = DeviceLogin { login: device.build().map_err(named)?, resumes: saved.is_some(), saves };
    let session = match saved {
        Some(saved) => plain(saved),
        None => plain(NotLoggedIn),
    };
    Ok(Session { device: Some(device), ..with_saved_rotations(login, session, file) })
}

fn meshydb(login: &mut Login, http: TokenClient) -> Result<Session, ConfigError> {
    let name = "--preset meshydb";
    let account = need(&mut login.account, "--account", name)?;
    let public_key = need(&mut login.public_key, "--public-key", name)?;
    let tenant = login.tenant.take().unwrap_or_default();
    let mut meshy = MeshyDb::builder(http, &account, &public_key).tenant(&tenant);
    if let Some(base) = login.issuer.take() {
        meshy = meshy.auth_base(&base);
    }
    if let Some(scope) = login.scope.take() {
        meshy = meshy.scope(scope);
    }
    if std::mem::take(&mut login.allow_plain_http) {
        meshy = meshy.allow_insecure();
    }
    let meshy = meshy.build().map_err(named)?;
    let mut session = if let Some(user) = login.username.take() {
        let password = secrets::PASSWORD.need(login.password_file.take(), name)?;
        let mut grant = meshy.login_with_password(&user, password.provider());
        let saved = saved_refresh_token(login)?;
        if let Some(saved) = &saved {
            grant = grant.resume(saved.provider());
        }
        with_saved_rotations(login, plain(grant.build().map_err(named)?), saved.and_then(|saved| saved.file()))
    } else if let Some(saved) = secrets::REFRESH_TOKEN.find(login.refresh_token_file.take())? {
        with_saved_rotations(
            login,
            plain(meshy.login_with_refresh_token(saved.provider()).build().map_err(named)?),
            saved.file(),
        )
    } else {
        return Err(ConfigError::new("--username", "--preset meshydb without a refresh token needs it"));
    };
    session.upstream = Some("https://api.meshydb.com");
    session.tenant = Some(meshy.tenant_layer());
    Ok(session)
}

fn mesh_connect(login: &mut Login, http: TokenClient) -> Result<Session, ConfigError> {
    let name = "--preset mesh-connect";
    let id = need(&mut login.client_id, "--client-id", name)?;
    let secret = secrets::CLIENT_SECRET.need(login.client_secret_file.take(), name)?;
    let mut source = MeshConnect::builder(http, &id, secret.provider());
    if let Some(base) = login.issuer.take() {
        source = source.base(&base);
    }
    if std::mem::take(&mut login.allow_plain_http) {
        source = source.allow_insecure();
    }
    let source = source.build().map_err(named)?;
    Ok(Session { upstream: Some("https://admin-api.meshconnect.com"), ..plain(source) })
}

fn token_command(login: &mut Login, command: &str) -> Result<TokenCommand, ConfigError> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| ConfigError::new("--token-command", "it is empty; name a program"))?;
    let mut source = TokenCommand::builder(program).args(words);
    if let Some(pointer) = login.token_at.take() {
        source = source.token_at(pointer);
    }
    if let Some(pointer) = login.expires_at.take() {
        source = source.expires_at(pointer);
    }
    source.build().map_err(named)
}

fn plain(source: impl TokenSource) -> Session {
    let cache = TokenCache::builder(LogCauses(source));
    Session { cache, upstream: None, tenant: None, device: None, shared: None }
}

/// Saves each new refresh token to the file, because a rotation uses up the one in it.
///
/// With a store, the session saves it there. The file stays as it is, because another refresh token in the file means
/// another login.
fn with_saved_rotations(login: &Login, mut session: Session, file: Option<PathBuf>) -> Session {
    if let Some(path) = file.filter(|_| login.store.is_none()) {
        session.cache = session.cache.on_rotation(move |rotated: RotatedToken| {
            let path = path.clone();
            async move {
                secrets::rewrite(path.clone(), rotated.refresh_token().clone()).await.inspect_err(|error| {
                    tracing::error!(file = %path.display(), %error, "the new refresh token was not written");
                })
            }
        });
    }
    session
}

/// The refresh token of the session that a login with a password continues. Its file need not exist yet.
fn saved_refresh_token(login: &mut Login) -> Result<Option<SecretInput>, ConfigError> {
    let shared = login.store.is_some();
    match login.refresh_token_file.take_if(|_| !shared) {
        Some(path) => {
            secrets::REFRESH_TOKEN.is_saved_in(&path)?;
            Ok(Some(SecretInput::File(path)))
        }
        None => secrets::REFRESH_TOKEN.find(None),
    }
}

fn issuer(login: &mut Login, http: &TokenClient) -> Result<Issuer, ConfigError> {
    let issuer = match (login.issuer.take(), login.token_url.take()) {
        (Some(id), _) => Issuer::discover(http.clone(), &id),
        (None, Some(url)) => Issuer::new(http.clone()).token_endpoint(&url),
        (None, None) => {
            return Err(ConfigError::new(
                "--issuer",
                "a grant needs an issuer; name it, or name the token endpoint with --token-url",
            ));
        }
    };
    Ok(if std::mem::take(&mut login.allow_plain_http) { issuer.allow_insecure() } else { issuer })
}

/// The client, for a grant that does not need one.
fn client(login: &mut Login) -> Result<Option<(String, ClientAuth)>, ConfigError> {
    let secret = secrets::CLIENT_SECRET.find(login.client_secret_file.take())?;
    match (login.client_id.take(), secret) {
        (Some(id), Some(secret)) => Ok(Some((id, auth(login, &secret)))),
        (Some(id), None) => Ok(Some((id, ClientAuth::none()))),
        (None, Some(_)) => Err(ConfigError::new("--client-id", "there is a client secret; say whose it is")),
        (None, None) => Ok(None),
    }
}

fn auth(login: &mut Login, secret: &SecretInput) -> ClientAuth {
    match login.client_auth.take().unwrap_or(Auth::Basic) {
        Auth::Basic => ClientAuth::basic(secret.provider()),
        Auth::Post => ClientAuth::post(secret.provider()),
    }
}

fn need(value: &mut Option<String>, option: &str, login: &str) -> Result<String, ConfigError> {
    value.take().ok_or_else(|| ConfigError::new(option, format_args!("{login} needs it")))
}

/// Rejects options that the login does not use. The user expects an effect that they do not have.
fn reject_unused(login: &Login, name: &str, shared: bool) -> Result<(), ConfigError> {
    let left = [
        ("--token-at", login.token_at.is_some()),
        ("--expires-at", login.expires_at.is_some()),
        ("--issuer", login.issuer.is_some()),
        ("--token-url", login.token_url.is_some()),
        ("--allow-plain-http", login.allow_plain_http),
        ("--device-authorization-url", login.device_authorization_url.is_some()),
        ("--client-id", login.client_id.is_some()),
        ("--client-secret-file", login.client_secret_file.is_some()),
        ("--client-auth", login.client_auth.is_some()),
        ("--username", login.username.is_some()),
        ("--password-file", login.password_file.is_some()),
        ("--refresh-token-file", login.refresh_token_file.is_some()),
        ("--store", login.store.is_some()),
        ("--subject-token-file", login.subject_token_file.is_some()),
        ("--subject-token-type", login.subject_token_type.is_some()),
        ("--assertion-file", login.assertion_file.is_some()),
        ("--scope", login.scope.is_some()),
        ("--audience", !login.audience.is_empty()),
        ("--resource", !login.resource.is_empty()),
        ("--account", login.account.is_some()),
        ("--public-key", login.public_key.is_some()),
        ("--tenant", login.tenant.is_some()),
    ];
    match left.iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            let with = if shared { " with --store" } else { "" };
            Err(ConfigError::new(option, format_args!("{name}{with} does not use it; leave it out")))
        }
        None => Ok(()),
    }
}

/// The library's error under the name of the option.
pub(crate) fn named(error: Error) -> ConfigError {
    let (Some(field), Some(problem)) = (error.field(), error.problem()) else { return ConfigError(error.to_string()) };
    let option = match field {
        "account_name" => "account",
        "key" => "store-key",
        "base" | "auth_base" => "issuer",
        "token_endpoint" => "token-url",
        "device_authorization_endpoint" => "device-authorization-url",
        field => field,
    };
    let problem = problem.replace("call `allow_insecure`", "say --allow-plain-http");
    ConfigError::new(&format!("--{}", option.replace('_', "-")), problem)
}

// === impl LogCauses ===

impl<S: TokenSource> TokenSource for LogCauses<S> {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.0.fetch(context).await.inspect_err(|error| {
            if error.source().is_some() {
                tracing::warn!(error = chain(error), "no token");
            }
        })
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        self.0.refresh_token().await
    }

    fn identity(&self) -> Vec<String> {
        self.0.identity()
    }
}
