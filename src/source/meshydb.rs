//! MeshyDB: form-encoded grants behind an account's paths, a tenant header, rotating refresh tokens.
//!
//! A few lines over [`oauth2`](crate::oauth2); the addresses and parameters are those of MeshyDB's documentation of
//! "Generating Token" and "Refreshing Token".

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::Error;
use crate::source::endpoint::{self, Endpoint, HttpClient};
use crate::source::filled;
use crate::source::oauth2::{Client, Password, RefreshToken};
use crate::token::Secret;

/// An account of MeshyDB, from which sessions are started.
///
/// ```
/// # fn main() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::{TokenCache, meshydb::MeshyDb};
///
/// let meshy = MeshyDb::new(http, "my-account", "my-public-key")?.tenant("acme")?;
/// let cache = TokenCache::new(meshy.login_with_password("me", "my password")?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MeshyDb {
    endpoint: Endpoint,
    account: String,
    public_key: String,
    scope: String,
}

/// What anonymous users have for a password.
const ANONYMOUS: &str = "nopassword";
/// The unreserved characters of RFC 3986 stay as they are.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

// === impl MeshyDb ===

impl MeshyDb {
    /// The account of this name, for the application with this public key, at `https://auth.meshydb.com`.
    ///
    /// # Errors
    /// An empty account name or public key.
    #[doc(alias = "Initialize")]
    pub fn new<B: 'static>(http: impl HttpClient<B>, account_name: &str, public_key: &str) -> Result<Self, Error> {
        let (account, public_key) = (account_name.trim(), public_key.trim());
        filled("account_name", account)?;
        filled("public_key", public_key)?;
        if account.bytes().all(|byte| byte == b'.') {
            return Err(Error::invalid("account_name", "dots only would be another path"));
        }
        let account = utf8_percent_encode(account, SEGMENT).to_string();
        let endpoint = Endpoint::new(http, "auth_base", &token_url("https://auth.meshydb.com", &account)?)?;
        Ok(Self { endpoint, account, public_key: public_key.to_owned(), scope: "meshy.api offline_access".to_owned() })
    }

    /// The tenant whose users log in. Without one, or with an empty one, it is the account's default tenant.
    ///
    /// # Errors
    /// A tenant that no header may carry.
    #[doc(alias = "InitializeWithTenant")]
    pub fn tenant(mut self, tenant: &str) -> Result<Self, Error> {
        self.endpoint.plain_header("tenant", "tenant", tenant.trim())?;
        Ok(self)
    }

    /// Another place than `https://auth.meshydb.com` to log in at, without the account: for tests and on-premise.
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback.
    pub fn auth_base(self, base: &str) -> Result<Self, Error> {
        let endpoint = self.endpoint.at("auth_base", &token_url(base, &self.account)?)?;
        Ok(Self { endpoint, ..self })
    }

    /// Another scope than `meshy.api offline_access`. Without `offline_access` there is no refresh token, and every
    /// fetch logs in.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        Self { scope: scope.into(), ..self }
    }

    /// A session that begins with user name and password. It goes on with the refresh token, and logs in again where
    /// that is refused.
    ///
    /// # Errors
    /// An empty user name or password.
    #[doc(alias = "LoginWithPassword")]
    pub fn login_with_password(&self, username: &str, password: impl Into<Secret>) -> Result<Password, Error> {
        Password::of(self.client()?.with_scope(self.scope.clone()), username, password)
    }

    /// A session of an anonymous user that was registered under this name.
    ///
    /// # Errors
    /// An empty user name.
    #[doc(alias = "LoginAnonymously")]
    pub fn login_anonymously(&self, username: &str) -> Result<Password, Error> {
        self.login_with_password(username, ANONYMOUS)
    }

    /// A session that goes on from a saved refresh token. Where that is refused there is no login to fall back to, and
    /// the error [says so](Error::is_denied).
    ///
    /// # Errors
    /// An empty refresh token.
    #[doc(alias = "LoginWithPersistance")]
    #[doc(alias = "LoginWithRefresh")]
    pub fn login_with_refresh_token(&self, refresh_token: impl Into<Secret>) -> Result<RefreshToken, Error> {
        RefreshToken::of(self.client()?, refresh_token)
    }

    /// MeshyDB documents what its 400 means, and not how its body looks.
    fn client(&self) -> Result<Client, Error> {
        Ok(Client::new(self.endpoint.clone(), &*self.public_key)?.with_denying_bad_request())
    }
}

fn token_url(base: &str, account: &str) -> Result<String, Error> {
    endpoint::below("auth_base", base, &format!("{account}/connect/token"))
}
