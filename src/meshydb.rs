//! MeshyDB: form-encoded grants behind an account's paths, a tenant header, rotating refresh tokens.
//!
//! A few lines over [`oauth2`](crate::oauth2); the addresses and parameters are those of MeshyDB's documentation of
//! "Generating Token" and "Refreshing Token", and of its own clients.

use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::cache::TokenCache;
use crate::error::Error;
use crate::source::endpoint::{self, Endpoint};
use crate::source::oauth2::{Client, Password, RefreshToken, Revocation};
use crate::source::require_non_empty;
use crate::source::secret::SecretSource;
use crate::source::transport::{self, HttpClient};

mod problem;
mod tenant;

pub use problem::Problem;
pub use tenant::{Tenant, TenantLayer};

/// An account of MeshyDB, from which sessions are started.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower::ServiceBuilder;
/// use tower_bearer::{BearerLayer, TokenCache, meshydb::MeshyDb};
///
/// let meshy = MeshyDb::new(http.clone(), "my-account", "my-public-key")?.tenant("acme")?;
/// let cache = TokenCache::new(meshy.login_with_password("me", "my password")?);
/// let api = ServiceBuilder::new()
///     .layer(BearerLayer::new(cache, ["https://api.meshydb.com"])?)
///     .layer(meshy.tenant_layer())
///     .service(http);
/// # Ok(()) }
/// ```
///
/// What the documentation calls `RetrievePersistanceToken` is [`Token::refresh_token`](crate::Token::refresh_token);
/// each new one is handed to [`TokenCache::on_rotation`] as it comes. What its errors mean tells [`Problem`].
#[derive(Clone, Debug)]
pub struct MeshyDb {
    token: Endpoint,
    revocation: Endpoint,
    registration: Endpoint,
    account: String,
    public_key: String,
    tenant: Option<HeaderValue>,
    scope: String,
}

/// What anonymous users have for a password.
const ANONYMOUS: &str = "nopassword";
const TOKEN: &str = "connect/token";
const REVOCATION: &str = "connect/revocation";
const REGISTRATION: &str = "users/register/anonymous";
/// The unreserved characters of RFC 3986 stay as they are.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

// === impl MeshyDb ===

impl MeshyDb {
    /// The account of this name, for the application with this public key, at `https://auth.meshydb.com`.
    ///
    /// # Errors
    /// An empty account name or public key.
    #[doc(alias("Initialize", "initialize", "MeshyClient"))]
    pub fn new<B: 'static>(http: impl HttpClient<B>, account_name: &str, public_key: &str) -> Result<Self, Error> {
        let (account, public_key) = (account_name.trim(), public_key.trim());
        require_non_empty("account_name", account)?;
        require_non_empty("public_key", public_key)?;
        if account.bytes().all(|byte| byte == b'.') {
            return Err(Error::invalid("account_name", "dots only would be another path"));
        }
        let account = utf8_percent_encode(account, SEGMENT).to_string();
        let (auth, api) = ("https://auth.meshydb.com", "https://api.meshydb.com");
        let token = Endpoint::new(http, "auth_base", &url("auth_base", auth, &account, TOKEN)?)?;
        Ok(Self {
            revocation: token.at("auth_base", &url("auth_base", auth, &account, REVOCATION)?)?,
            registration: token.at("api_base", &url("api_base", api, &account, REGISTRATION)?)?,
            token,
            account,
            public_key: public_key.to_owned(),
            tenant: None,
            scope: "meshy.api offline_access".to_owned(),
        })
    }

    /// The tenant whose users log in. Without one, or with an empty one, it is the account's default tenant.
    ///
    /// # Errors
    /// A tenant that no header may carry.
    #[doc(alias("InitializeWithTenant", "initializeWithTenant"))]
    pub fn tenant(mut self, tenant: &str) -> Result<Self, Error> {
        let tenant = Some(tenant.trim()).filter(|tenant| !tenant.is_empty());
        self.tenant = tenant.map(|tenant| endpoint::header_value("tenant", tenant)).transpose()?;
        for endpoint in [&mut self.token, &mut self.revocation, &mut self.registration] {
            endpoint.plain_header(tenant::NAME, self.tenant.clone());
        }
        Ok(self)
    }

    /// Another place than `https://auth.meshydb.com` to log in at, without the account: for tests and on-premise.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn auth_base(self, base: &str) -> Result<Self, Error> {
        let token = self.token.at("auth_base", &url("auth_base", base, &self.account, TOKEN)?)?;
        let revocation = self.token.at("auth_base", &url("auth_base", base, &self.account, REVOCATION)?)?;
        Ok(Self { token, revocation, ..self })
    }

    /// Another place than `https://api.meshydb.com` to register users at, without the account: for tests and
    /// on-premise.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn api_base(self, base: &str) -> Result<Self, Error> {
        let registration = self.registration.at("api_base", &url("api_base", base, &self.account, REGISTRATION)?)?;
        Ok(Self { registration, ..self })
    }

    /// Another scope than `meshy.api offline_access`. Without `offline_access` there is no refresh token, and every
    /// fetch logs in.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        Self { scope: scope.into(), ..self }
    }

    /// A session that begins with user name and password. It goes on with the refresh token, and logs in again where
    /// that is rejected.
    ///
    /// # Errors
    /// An empty user name or password.
    #[doc(alias("LoginWithPassword", "LoginWithPasswordAsync", "login"))]
    pub fn login_with_password<M>(&self, username: &str, password: impl SecretSource<M>) -> Result<Password, Error> {
        Password::of(self.client(&self.token)?.with_scope(self.scope.clone()), username, password)
    }

    /// Makes an anonymous user of this name, who can then log in with
    /// [`login_anonymously`](MeshyDb::login_anonymously).
    ///
    /// # Errors
    /// The name is taken, or anonymous registration is off: a 400 in both cases, and an error that
    /// [is denied](Error::is_denied). An empty name; no answer within 30 s; any other answer.
    ///
    /// # Cancel safety
    /// Dropping the future drops the call, which may have reached the server.
    #[doc(alias("RegisterAnonymousUser", "RegisterAnonymousUserAsync", "registerAnonymousUser"))]
    pub async fn register_anonymous(&self, username: &str) -> Result<(), Error> {
        require_non_empty("username", username)?;
        let body = Bytes::from(json!({ "username": username }).to_string());
        let answer = self.registration.call("application/json", body).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.client(&self.registration)?.failure(&answer)) }
    }

    /// A session of an anonymous user that was [registered](MeshyDb::register_anonymous) under this name.
    ///
    /// # Errors
    /// An empty user name.
    #[doc(alias("LoginAnonymously", "LoginAnonymouslyAsync", "loginAnonymously"))]
    pub fn login_anonymously(&self, username: &str) -> Result<Password, Error> {
        self.login_with_password(username, ANONYMOUS)
    }

    /// A session that goes on from a saved refresh token. Where that is rejected there is no login to fall back to, and
    /// the error [says so](Error::is_denied).
    ///
    /// # Errors
    /// An empty refresh token.
    #[doc(alias("LoginWithPersistance", "LoginWithPersistanceAsync", "loginWithPersistance", "loginWithPersistence"))]
    #[doc(alias("LoginWithRefresh", "LoginWithRefreshAsync", "loginWithRefresh"))]
    pub fn login_with_refresh_token<M>(&self, refresh_token: impl SecretSource<M>) -> Result<RefreshToken, Error> {
        RefreshToken::of(self.client(&self.token)?, refresh_token)
    }

    /// Ends the session of this cache, as [`TokenCache::sign_out`] does: waits for a fetch under way, revokes the newest
    /// refresh token, and forgets all of it, also where the call fails. After that requests fail with an error that
    /// [says so](Error::is_signed_out), until another login goes into [`TokenCache::set_source`].
    ///
    /// # Errors
    /// As [`TokenCache::sign_out`]: the session has ended here, and its refresh token could not be revoked.
    ///
    /// # Cancel safety
    /// As [`TokenCache::sign_out`]'s.
    #[doc(alias("Signout", "SignoutAsync", "signout"))]
    pub async fn sign_out(&self, cache: &TokenCache) -> Result<(), Error> {
        let revocation = Revocation::of(self.client(&self.revocation)?);
        cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await
    }

    /// A layer that puts the tenant on requests to the API, where there is one.
    pub fn tenant_layer(&self) -> TenantLayer {
        TenantLayer::new(self.tenant.clone())
    }

    /// MeshyDB documents what its 400 means, and not how its body looks.
    fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        Ok(Client::new(endpoint.clone(), &*self.public_key)?.with_denying_bad_request())
    }
}

/// The address of a path below the account.
fn url(field: &'static str, base: &str, account: &str, path: &str) -> Result<String, Error> {
    transport::join_path(field, base, &format!("{account}/{path}"))
}
