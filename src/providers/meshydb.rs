//! MeshyDB: OAuth 2 grants at an account's URLs, with a tenant header and rotating refresh tokens.
//!
//! It is a thin wrapper of [`oauth2`](crate::oauth2). The URLs and parameters are those of MeshyDB's documentation
//! ("Generating Token" and "Refreshing Token") and of its own clients.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::cache::TokenCache;
use crate::error::Error;
use crate::providers::meshydb::problem::{REGISTRATION, REVOCATION, TOKEN};
use crate::source::endpoint::{self, Endpoint};
use crate::source::issuer::Issuer;
use crate::source::oauth2::{Client, PasswordGrant, PasswordGrantBuilder};
use crate::source::oauth2::{RefreshTokenGrant, RefreshTokenGrantBuilder, Revocation};
use crate::source::require_non_empty;
use crate::source::secret::SecretSource;
use crate::source::transport::{self, EndpointUrl, HttpClient, HttpSend};

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
/// use tower_bearer::{BearerLayer, TokenCache, providers::meshydb::MeshyDb};
///
/// let meshy = MeshyDb::builder(http.clone(), "my-account", "my-public-key").tenant("acme").build()?;
/// let cache = TokenCache::new(meshy.login_with_password("me", "my password").build()?);
/// let api = ServiceBuilder::new()
///     .layer(BearerLayer::new(cache, ["https://api.meshydb.com"])?)
///     .layer(meshy.tenant_layer())
///     .service(http);
/// # Ok(()) }
/// ```
///
/// `RetrievePersistanceToken` of MeshyDB's documentation is [`Token::refresh_token`](crate::Token::refresh_token).
/// [`TokenCacheBuilder::on_rotation`](crate::TokenCacheBuilder::on_rotation) gets each new one. [`Problem`] says what
/// an error means.
#[derive(Clone, Debug)]
pub struct MeshyDb {
    issuer: Issuer,
    registration: Endpoint,
    public_key: String,
    tenant: Option<HeaderValue>,
    scope: String,
}

/// The settings of an account of [`MeshyDb`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MeshyDbBuilder {
    http: Arc<dyn HttpSend>,
    account: String,
    public_key: String,
    tenant: String,
    auth_base: String,
    api_base: String,
    allows_insecure: bool,
    scope: String,
}

/// The password of every anonymous user.
const ANONYMOUS: &str = "nopassword";
/// All characters but the unreserved ones of RFC 3986 are percent-encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

// === impl MeshyDb ===

impl MeshyDb {
    /// Starts a builder for the account of this name.
    ///
    /// The public key is that of the application. The account is at `https://auth.meshydb.com`.
    #[doc(alias("Initialize", "initialize", "MeshyClient"))]
    pub fn builder<B: 'static>(http: impl HttpClient<B>, account_name: &str, public_key: &str) -> MeshyDbBuilder {
        MeshyDbBuilder {
            http: transport::sync_client(http),
            account: account_name.trim().to_owned(),
            public_key: public_key.trim().to_owned(),
            tenant: String::new(),
            auth_base: "https://auth.meshydb.com".to_owned(),
            api_base: "https://api.meshydb.com".to_owned(),
            allows_insecure: false,
            scope: "meshy.api offline_access".to_owned(),
        }
    }

    /// Starts a builder for a session with user name and password.
    ///
    /// The session refreshes with the refresh token, and logs in again if that is denied.
    /// [`resume`](PasswordGrantBuilder::resume) continues a saved session.
    #[doc(alias("LoginWithPassword", "LoginWithPasswordAsync", "login"))]
    pub fn login_with_password<M>(&self, username: &str, password: impl SecretSource<M>) -> PasswordGrantBuilder {
        PasswordGrant::of(self.client().with_scope(self.scope.clone()), username, password)
    }

    /// Registers an anonymous user with this name.
    ///
    /// The user can then log in with [`login_anonymously`](MeshyDb::login_anonymously).
    ///
    /// # Errors
    /// Returns an error if
    /// - the name is taken, or anonymous registration is off: a 400, and an error that [is denied](Error::is_denied);
    /// - the name is empty;
    /// - no answer comes within 30 s, or the answer is any other failure.
    ///
    /// # Cancel safety
    /// Dropping the future drops the call, which may have reached the server.
    #[doc(alias("RegisterAnonymousUser", "RegisterAnonymousUserAsync", "registerAnonymousUser"))]
    pub async fn register_anonymous(&self, username: &str) -> Result<(), Error> {
        require_non_empty("username", username)?;
        let body = Bytes::from(json!({ "username": username }).to_string());
        let answer = self.registration.call("application/json", body).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.client().failure(&answer)) }
    }

    /// Starts a builder for a session of an anonymous user.
    ///
    /// The user was [registered](MeshyDb::register_anonymous) with this name.
    #[doc(alias("LoginAnonymously", "LoginAnonymouslyAsync", "loginAnonymously"))]
    pub fn login_anonymously(&self, username: &str) -> PasswordGrantBuilder {
        self.login_with_password(username, ANONYMOUS)
    }

    /// Starts a builder for a session that resumes from a saved refresh token.
    ///
    /// The session cannot log in again. If the refresh token is denied, the error [says so](Error::is_denied).
    #[doc(alias("LoginWithPersistance", "LoginWithPersistanceAsync", "loginWithPersistance", "loginWithPersistence"))]
    #[doc(alias("LoginWithRefresh", "LoginWithRefreshAsync", "loginWithRefresh"))]
    pub fn login_with_refresh_token<M>(&self, refresh_token: impl SecretSource<M>) -> RefreshTokenGrantBuilder {
        RefreshTokenGrant::of(self.client(), refresh_token)
    }

    /// Ends the session of this cache, as [`TokenCache::sign_out`] does.
    ///
    /// This waits for a fetch in flight, revokes the newest refresh token, and forgets the session, even if the call
    /// fails. After that requests fail with an [`is_signed_out`](Error::is_signed_out) error, until another login is
    /// passed to [`TokenCache::set_source`].
    ///
    /// # Errors
    /// Returns an error as [`TokenCache::sign_out`] does: the session has ended here, but its refresh token was not
    /// revoked.
    ///
    /// # Cancel safety
    /// It has the cancel safety of [`TokenCache::sign_out`].
    #[doc(alias("Signout", "SignoutAsync", "signout"))]
    pub async fn sign_out(&self, cache: &TokenCache) -> Result<(), Error> {
        let revocation = self.revocation()?;
        cache.sign_out(async |refresh_token| revocation.revoke_refresh_token(&refresh_token).await).await
    }

    /// Returns the revocation for a session that [`sign_out`](MeshyDb::sign_out) cannot end.
    ///
    /// Such a session is that of a key of a `KeyedTokenCache`.
    ///
    /// # Errors
    /// Returns no error, because the account's `build` has checked the settings.
    pub fn revocation(&self) -> Result<Revocation, Error> {
        Revocation::of(self.client()).build()
    }

    /// Returns a layer that adds the tenant, if there is one, to requests to the API.
    pub fn tenant_layer(&self) -> TenantLayer {
        TenantLayer::new(self.tenant.clone())
    }

    /// The client of this account. Each 400 denies, because MeshyDB documents what a 400 means and not its body.
    fn client(&self) -> Client {
        let client = Client::new(&self.issuer, &*self.public_key).with_denying_bad_request();
        client.with_plain_header(tenant::NAME, self.tenant.clone())
    }
}

// === impl MeshyDbBuilder ===

impl MeshyDbBuilder {
    /// Sets the tenant whose users log in.
    ///
    /// Without one, or with an empty one, it is the account's default tenant.
    #[doc(alias("InitializeWithTenant", "initializeWithTenant"))]
    pub fn tenant(self, tenant: &str) -> Self {
        Self { tenant: tenant.trim().to_owned(), ..self }
    }

    /// Replaces the base URL of logins, without the account.
    ///
    /// It is for tests and on-premise servers. Default: `https://auth.meshydb.com`.
    pub fn auth_base(self, base: &str) -> Self {
        Self { auth_base: base.to_owned(), ..self }
    }

    /// Replaces the base URL of registrations, without the account.
    ///
    /// It is for tests and on-premise servers. Default: `https://api.meshydb.com`.
    pub fn api_base(self, base: &str) -> Self {
        Self { api_base: base.to_owned(), ..self }
    }

    /// Allows plain `http://` beyond loopback for both base URLs.
    ///
    /// Call it only if the network itself is trusted.
    pub fn allow_insecure(self) -> Self {
        Self { allows_insecure: true, ..self }
    }

    /// Replaces the scope. Default: `meshy.api offline_access`.
    ///
    /// Without `offline_access` there is no refresh token, and every fetch logs in.
    pub fn scope(self, scope: impl Into<String>) -> Self {
        Self { scope: scope.into(), ..self }
    }

    /// Checks the settings, and builds the account.
    ///
    /// # Errors
    /// Returns an error that names the field if
    /// - the account name or the public key is empty;
    /// - the tenant is not a valid header value;
    /// - a base is not a URL, or is plain `http://` that is not allowed.
    pub fn build(self) -> Result<MeshyDb, Error> {
        require_non_empty("account_name", &self.account)?;
        require_non_empty("public_key", &self.public_key)?;
        if self.account.bytes().all(|byte| byte == b'.') {
            return Err(Error::invalid("account_name", "it consists of dots, which would change the path"));
        }
        let tenant = Some(&*self.tenant).filter(|tenant| !tenant.is_empty());
        let tenant = tenant.map(|tenant| endpoint::header_value("tenant", tenant)).transpose()?;
        let account = utf8_percent_encode(&self.account, SEGMENT);
        // Check the URLs here, so that an error names the setting and not the issuer's endpoint.
        let url = |field, base: &str, path| {
            let url = transport::join_path(field, base, &format!("{account}/{path}"))?;
            let endpoint_url = EndpointUrl::checked(field, &url, self.allows_insecure)?;
            Ok::<_, Error>((url, endpoint_url))
        };
        let (token, _) = url("auth_base", &self.auth_base, TOKEN)?;
        let (revocation, _) = url("auth_base", &self.auth_base, REVOCATION)?;
        let (_, registration) = url("api_base", &self.api_base, REGISTRATION)?;
        let issuer = Issuer::over(Arc::clone(&self.http)).token_endpoint(&token).revocation_endpoint(&revocation);
        let issuer = if self.allows_insecure { issuer.allow_insecure() } else { issuer };
        let mut registration = Endpoint::at(self.http, registration);
        registration.plain_header(tenant::NAME, tenant.clone());
        Ok(MeshyDb { issuer, registration, public_key: self.public_key, tenant, scope: self.scope })
    }
}

impl fmt::Debug for MeshyDbBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshyDbBuilder").field("account", &self.account).finish_non_exhaustive()
    }
}
