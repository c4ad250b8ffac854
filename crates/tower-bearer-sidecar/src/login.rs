//! Where the token comes from, as the command line says it.

use std::error::Error as _;
use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use tower_bearer::exec::TokenCommand;
use tower_bearer::file::TokenFile;
use tower_bearer::mesh_connect::MeshConnect;
use tower_bearer::meshydb::{MeshyDb, TenantLayer};
use tower_bearer::oauth2::{
    ClientAuth, ClientCredentials, DeviceCode, Issuer, JwtBearer, Password, RefreshToken, TokenExchange,
};
use tower_bearer::{Error, FetchContext, RotatedToken, Token, TokenCache, TokenCacheBuilder, TokenSource};

use crate::Wrong;
use crate::cli::{Auth, Grant, Login, Preset};
use crate::device::{self, DeviceLogin, NotLoggedIn};
use crate::problem::chain;
use crate::secrets::{self, Given};
use crate::upstream::Connector;

/// The client that carries the token calls.
pub(crate) type TokenClient = Client<Connector, Full<Bytes>>;

/// What a login comes to.
pub(crate) struct Session {
    pub(crate) cache: TokenCacheBuilder,
    /// The upstream of the provider, where it is known.
    pub(crate) upstream: Option<&'static str>,
    /// What each call says besides the token.
    pub(crate) tenant: Option<TenantLayer>,
    /// The person's part, where there is one.
    pub(crate) device: Option<DeviceLogin>,
}

/// A source that logs what lies beneath a failure. The library's own events leave that out: it cannot know what the error
/// of a user's client shows, a key in a URL perhaps. Those of ours are known: hosts, files and reasons.
pub(crate) struct Explained<S>(pub(crate) S);

/// Where the token endpoint is.
enum Place {
    Issuer(Issuer),
    Url(String),
}

/// Builds a grant at either place; the rest of the arguments are the same.
macro_rules! at {
    ($grant:ident, $place:expr, $http:expr $(, $argument:expr)*) => {
        match $place {
            Place::Issuer(issuer) => $grant::at(&issuer $(, $argument)*),
            Place::Url(url) => $grant::new($http, &url $(, $argument)*),
        }
    };
}

/// The settings that all grants have.
macro_rules! settings {
    ($login:expr, $source:expr) => {{
        let mut source = $source.map_err(named)?;
        if let Some(scope) = $login.scope.take() {
            source = source.scope(scope);
        }
        for audience in std::mem::take(&mut $login.audience) {
            source = source.audience(audience);
        }
        for resource in std::mem::take(&mut $login.resource) {
            source = source.resource(&resource).map_err(named)?;
        }
        source
    }};
}

/// Makes the cache. Nothing is fetched yet.
pub(crate) fn session(mut login: Login, http: TokenClient) -> Result<Session, Wrong> {
    let login = &mut login;
    // clap has seen to it that there is one at most.
    let (session, name) = match (login.token_file.take(), login.token_command.take(), login.preset, login.grant) {
        (Some(path), ..) => (plain(TokenFile::new(path)), "--token-file"),
        (_, Some(command), ..) => (plain(printed(login, &command)?), "--token-command"),
        (_, _, Some(Preset::Meshydb), _) => (meshydb(login, http)?, "--preset meshydb"),
        (_, _, Some(Preset::MeshConnect), _) => (mesh_connect(login, http)?, "--preset mesh-connect"),
        (_, _, _, Some(grant)) => granted(login, grant, http)?,
        (None, None, None, None) => {
            return Err(Wrong::new(
                "--grant",
                "nobody knows how to get a token; say --grant client-credentials or another, --preset, --token-file, or \
                 --token-command",
            ));
        }
    };
    nothing_left(login, name)?;
    Ok(session)
}

fn granted(login: &mut Login, grant: Grant, http: TokenClient) -> Result<(Session, &'static str), Wrong> {
    if matches!(grant, Grant::DeviceCode) {
        return Ok((device_code(login, http)?, device::NAME));
    }
    let place = place(login, &http)?;
    Ok(match grant {
        Grant::DeviceCode => unreachable!("it has a place of its own"),
        Grant::ClientCredentials => {
            let name = "--grant client-credentials";
            let id = need(&mut login.client_id, "--client-id", name)?;
            let secret = secrets::CLIENT_SECRET.need(login.client_secret_file.take(), name)?;
            let auth = auth(login, &secret);
            (plain(settings!(login, at!(ClientCredentials, place, http, id, auth))), name)
        }
        Grant::Password => {
            let name = "--grant password";
            let id = need(&mut login.client_id, "--client-id", name)?;
            let user = need(&mut login.username, "--username", name)?;
            let password = secrets::PASSWORD.need(login.password_file.take(), name)?;
            let mut source = settings!(login, at!(Password, place, http, id, user, password.supply()));
            if let Some(secret) = secrets::CLIENT_SECRET.find(login.client_secret_file.take())? {
                source = source.client_auth(auth(login, &secret)).map_err(named)?;
            }
            (plain(source), name)
        }
        Grant::RefreshToken => {
            let name = "--grant refresh-token";
            let id = need(&mut login.client_id, "--client-id", name)?;
            let saved = secrets::REFRESH_TOKEN.need(login.refresh_token_file.take(), name)?;
            let mut source = settings!(login, at!(RefreshToken, place, http, id, saved.supply()));
            if let Some(secret) = secrets::CLIENT_SECRET.find(login.client_secret_file.take())? {
                source = source.client_auth(auth(login, &secret)).map_err(named)?;
            }
            (saving(plain(source), saved.file()), name)
        }
        Grant::TokenExchange => {
            let name = "--grant token-exchange";
            let subject = secrets::SUBJECT_TOKEN.need(login.subject_token_file.take(), name)?;
            let mut source = settings!(login, at!(TokenExchange, place, http, subject.supply()));
            if let Some(identifier) = login.subject_token_type.take() {
                source = source.subject_token_type(identifier).map_err(named)?;
            }
            if let Some((id, auth)) = client(login)? {
                source = source.client(id, auth).map_err(named)?;
            }
            (plain(source), name)
        }
        Grant::JwtBearer => {
            let name = "--grant jwt-bearer";
            let assertion = secrets::ASSERTION.need(login.assertion_file.take(), name)?;
            let mut source = settings!(login, at!(JwtBearer, place, http, assertion.supply()));
            if let Some((id, auth)) = client(login)? {
                source = source.client(id, auth).map_err(named)?;
            }
            (plain(source), name)
        }
    })
}

/// A login that is made before the sidecar serves, or that was saved by an earlier start.
fn device_code(login: &mut Login, http: TokenClient) -> Result<Session, Wrong> {
    let id = need(&mut login.client_id, "--client-id", device::NAME)?;
    let file = login.refresh_token_file.take();
    let secret = secrets::CLIENT_SECRET.find(login.client_secret_file.take())?;
    let auth = secret.map(|secret| auth(login, &secret));
    // The saved session asks for the same as the login did.
    let again = &mut login.clone();
    let mut saved = match &file {
        Some(path) if secrets::REFRESH_TOKEN.is_kept_in(path)? => {
            let refresh_token = Given::File(path.clone()).supply();
            let place = place(again, &http)?;
            Some(settings!(again, at!(RefreshToken, place, http.clone(), &*id, refresh_token)))
        }
        _ => None,
    };
    let device_url = login.device_authorization_url.take();
    let source = match (place(login, &http)?, device_url) {
        (Place::Issuer(issuer), None) => DeviceCode::at(&issuer, id),
        (Place::Issuer(_), Some(_)) => {
            let problem = "the issuer's metadata says it; leave it out, or name --token-url in place of --issuer";
            return Err(Wrong::new("--device-authorization-url", problem));
        }
        (Place::Url(token_url), Some(url)) => DeviceCode::new(http, &url, &token_url, id),
        (Place::Url(_), None) => {
            let problem = format_args!("{} with --token-url needs it", device::NAME);
            return Err(Wrong::new("--device-authorization-url", problem));
        }
    };
    let mut source = settings!(login, source);
    if let Some(auth) = auth {
        source = source.client_auth(auth.clone()).map_err(named)?;
        saved = saved.map(|saved| saved.client_auth(auth)).transpose().map_err(named)?;
    }
    let device = DeviceLogin { login: source, resumes: saved.is_some(), saves: file.is_some() };
    let session = match saved {
        Some(saved) => plain(saved),
        None => plain(NotLoggedIn),
    };
    Ok(Session { device: Some(device), ..saving(session, file) })
}

fn meshydb(login: &mut Login, http: TokenClient) -> Result<Session, Wrong> {
    let name = "--preset meshydb";
    let account = need(&mut login.account, "--account", name)?;
    let public_key = need(&mut login.public_key, "--public-key", name)?;
    let tenant = login.tenant.take().unwrap_or_default();
    let mut meshy = MeshyDb::new(http, &account, &public_key).and_then(|meshy| meshy.tenant(&tenant)).map_err(named)?;
    if let Some(base) = login.issuer.take() {
        meshy = meshy.auth_base(&base).map_err(named)?;
    }
    if let Some(scope) = login.scope.take() {
        meshy = meshy.scope(scope);
    }
    let saved = secrets::REFRESH_TOKEN.find(login.refresh_token_file.take())?;
    let mut session = match saved {
        Some(saved) => saving(plain(meshy.login_with_refresh_token(saved.supply()).map_err(named)?), saved.file()),
        None => {
            let user = need(&mut login.username, "--username", "--preset meshydb without a refresh token")?;
            let password = secrets::PASSWORD.need(login.password_file.take(), name)?;
            plain(meshy.login_with_password(&user, password.supply()).map_err(named)?)
        }
    };
    session.upstream = Some("https://api.meshydb.com");
    session.tenant = Some(meshy.tenant_layer());
    Ok(session)
}

fn mesh_connect(login: &mut Login, http: TokenClient) -> Result<Session, Wrong> {
    let name = "--preset mesh-connect";
    let id = need(&mut login.client_id, "--client-id", name)?;
    let secret = secrets::CLIENT_SECRET.need(login.client_secret_file.take(), name)?;
    let mut source = MeshConnect::new(http, &id, secret.supply()).map_err(named)?;
    if let Some(base) = login.issuer.take() {
        source = source.base(&base).map_err(named)?;
    }
    Ok(Session { upstream: Some("https://admin-api.meshconnect.com"), ..plain(source) })
}

fn printed(login: &mut Login, command: &str) -> Result<TokenCommand, Wrong> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| Wrong::new("--token-command", "it is empty; name a program"))?;
    let mut source = TokenCommand::new(program).args(words);
    if let Some(pointer) = login.token_at.take() {
        source = source.token_at(pointer).map_err(named)?;
    }
    if let Some(pointer) = login.expires_at.take() {
        source = source.expires_at(pointer).map_err(named)?;
    }
    Ok(source)
}

fn plain(source: impl TokenSource) -> Session {
    Session { cache: TokenCache::builder(Explained(source)), upstream: None, tenant: None, device: None }
}

/// A session whose refresh tokens go back to the file they came from: the one in it is spent with the first rotation.
fn saving(mut session: Session, file: Option<PathBuf>) -> Session {
    if let Some(path) = file {
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

fn place(login: &mut Login, http: &TokenClient) -> Result<Place, Wrong> {
    match (login.issuer.take(), login.token_url.take()) {
        (Some(id), _) => Ok(Place::Issuer(Issuer::new(http.clone(), &id).map_err(named)?)),
        (None, Some(url)) => Ok(Place::Url(url)),
        (None, None) => Err(Wrong::new(
            "--issuer",
            "a grant needs a place to ask; name the issuer, or the token endpoint with --token-url",
        )),
    }
}

/// The client of a grant that can do without one.
fn client(login: &mut Login) -> Result<Option<(String, ClientAuth)>, Wrong> {
    let secret = secrets::CLIENT_SECRET.find(login.client_secret_file.take())?;
    match (login.client_id.take(), secret) {
        (Some(id), Some(secret)) => Ok(Some((id, auth(login, &secret)))),
        (Some(id), None) => Ok(Some((id, ClientAuth::none()))),
        (None, Some(_)) => Err(Wrong::new("--client-id", "there is a client secret; say whose it is")),
        (None, None) => Ok(None),
    }
}

fn auth(login: &mut Login, secret: &Given) -> ClientAuth {
    match login.client_auth.take().unwrap_or(Auth::Basic) {
        Auth::Basic => ClientAuth::basic(secret.supply()),
        Auth::Post => ClientAuth::post(secret.supply()),
    }
}

fn need(value: &mut Option<String>, option: &str, login: &str) -> Result<String, Wrong> {
    value.take().ok_or_else(|| Wrong::new(option, format_args!("{login} needs it")))
}

/// An option that nothing reads is a mistake of who gave it: it was taken to matter.
fn nothing_left(login: &Login, name: &str) -> Result<(), Wrong> {
    let left = [
        ("--token-at", login.token_at.is_some()),
        ("--expires-at", login.expires_at.is_some()),
        ("--issuer", login.issuer.is_some()),
        ("--token-url", login.token_url.is_some()),
        ("--device-authorization-url", login.device_authorization_url.is_some()),
        ("--client-id", login.client_id.is_some()),
        ("--client-secret-file", login.client_secret_file.is_some()),
        ("--client-auth", login.client_auth.is_some()),
        ("--username", login.username.is_some()),
        ("--password-file", login.password_file.is_some()),
        ("--refresh-token-file", login.refresh_token_file.is_some()),
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
        Some((option, _)) => Err(Wrong::new(option, format_args!("{name} does not use it; leave it out"))),
        None => Ok(()),
    }
}

/// The library's words under the name of the option.
fn named(error: Error) -> Wrong {
    let (Some(field), Some(problem)) = (error.field(), error.problem()) else { return Wrong(error.to_string()) };
    let option = match field {
        "account_name" => "account",
        "base" | "auth_base" => "issuer",
        field => field,
    };
    Wrong::new(&format!("--{}", option.replace('_', "-")), problem)
}

// === impl Explained ===

impl<S: TokenSource> TokenSource for Explained<S> {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        self.0.fetch(context).await.inspect_err(|error| {
            if error.source().is_some() {
                tracing::warn!(error = chain(error), "no token");
            }
        })
    }
}
