//! A login on another device.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use crate::clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::decode;
use crate::source::answer::lifetime::seconds;
use crate::source::issuer::{DEVICE_AUTHORIZATION_ENDPOINT, Issuer, TOKEN_ENDPOINT};
use crate::source::oauth2::client::{Client, again_if_broken};
use crate::source::oauth2::refresh::RefreshTokenGrant;
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::transport::TokenResponse;
use crate::token::Token;

/// The device code grant (RFC 8628): a person enters a code on another device.
///
/// The other device has a browser. The grant is for command lines, televisions and machines without a screen.
///
/// A login is not a source: no refresh runs it. It returns a token, with which a session starts:
///
/// ```no_run
/// # async fn f() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{DeviceCodeLogin, Issuer};
///
/// let issuer = Issuer::discover(http, "https://auth.example.com");
/// let login = DeviceCodeLogin::builder(&issuer, "my-cli").scope("openid offline_access").build()?;
/// let code = login.begin().await?;
/// println!("Open {} and enter {}", code.verification_uri(), code.user_code());
/// let token = code.finish().await?;
/// let cache = TokenCache::new(login.session(token));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DeviceCodeLogin {
    client: Client,
}

/// The settings of a [`DeviceCodeLogin`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct DeviceCodeLoginBuilder {
    client: Client,
}

/// A login that waits until the person enters the code (RFC 8628 section 3.2).
#[must_use = "show the code, then wait for `finish`"]
pub struct DeviceAuthorization {
    client: Client,
    device_code: Secret,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: Duration,
    end: Instant,
    interval: Duration,
}

/// The polling interval if the server names none (RFC 8628 section 3.2).
const INTERVAL: Duration = Duration::from_secs(5);
/// What each `slow_down` adds to the interval (section 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// The longest interval that doubling reaches while no answer comes.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// The lifetime of a code if the server omits it, although it must not, and the longest lifetime.
const EXPIRES_IN: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(24 * 3600));

client_settings!(DeviceCodeLoginBuilder, client);
client_auth!(DeviceCodeLoginBuilder, client);

// === impl DeviceCodeLogin ===

impl DeviceCodeLogin {
    /// Starts a builder for the login of a public client.
    ///
    /// A confidential client adds [`client_auth`](DeviceCodeLoginBuilder::client_auth).
    pub fn builder(issuer: &Issuer, client_id: impl Into<String>) -> DeviceCodeLoginBuilder {
        DeviceCodeLoginBuilder { client: Client::new(issuer, client_id) }
    }

    /// Gets a code to show to the person.
    ///
    /// # Errors
    /// Returns an error if
    /// - no answer comes within 30 s;
    /// - the server denies the request;
    /// - the answer holds no code.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request. A code that was not shown expires.
    pub async fn begin(&self) -> Result<DeviceAuthorization, Error> {
        let authorization = self.client.endpoint.sibling(DEVICE_AUTHORIZATION_ENDPOINT);
        let answer = again_if_broken(|| self.client.call(&authorization, &[], &[], self.client.scope())).await?;
        // Some servers return errors with a 200.
        let body = decode::answer(&answer.body).unwrap_or_default();
        if !answer.status.is_success() || body.get("error").is_some() && body.get("device_code").is_none() {
            return Err(self.client.failure(&answer));
        }
        DeviceAuthorization::read(self.client.clone(), &answer)
    }

    /// Returns the session that this login started.
    ///
    /// The session uses the login's token until it nears its end, then the refresh token. Most servers return a refresh
    /// token only for the scope `offline_access`. Without one the session ends with the token.
    pub fn session(&self, token: Token) -> RefreshTokenGrant {
        RefreshTokenGrant::of_login(self.client.clone(), token)
    }
}

// === impl DeviceCodeLoginBuilder ===

impl DeviceCodeLoginBuilder {
    /// Checks the settings and the issuer's URLs, and builds the login.
    ///
    /// # Errors
    /// Returns an error that names the field if a setting or a URL is invalid, or if the issuer has no endpoint for it.
    pub fn build(self) -> Result<DeviceCodeLogin, Error> {
        Ok(DeviceCodeLogin { client: self.client.build(&[TOKEN_ENDPOINT, DEVICE_AUTHORIZATION_ENDPOINT])? })
    }
}

// === impl DeviceAuthorization ===

impl DeviceAuthorization {
    fn read(client: Client, answer: &TokenResponse) -> Result<Self, Error> {
        let Some(Value::Object(body)) = decode::answer(&answer.body) else {
            return Err(answer.unreadable("it is not a JSON object"));
        };
        // The text may be shown on a terminal, where a control character could move the cursor.
        let text = |name| {
            let text = body.get(name)?.as_str()?;
            (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
        };
        // Google's name for it.
        let uri = text("verification_uri").or_else(|| text("verification_url"));
        let (Some(device_code), Some(user_code), Some(verification_uri)) =
            (text("device_code"), text("user_code"), uri)
        else {
            return Err(answer.unusable("it lacks device_code, user_code or verification_uri"));
        };
        let expires_in = body.get("expires_in").and_then(seconds).unwrap_or(EXPIRES_IN.0).min(EXPIRES_IN.1);
        Ok(Self {
            client: client.redacting_text(&user_code),
            device_code: device_code.into(),
            user_code,
            verification_uri,
            verification_uri_complete: text("verification_uri_complete"),
            expires_in,
            end: clock::from_now(expires_in),
            interval: body.get("interval").and_then(seconds).unwrap_or(INTERVAL),
        })
    }

    /// Returns the code that the person enters.
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Returns the URL at which the person enters the code.
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }

    /// Returns the URL with the code filled in, for a QR code, if the server has one.
    pub fn verification_uri_complete(&self) -> Option<&str> {
        self.verification_uri_complete.as_deref()
    }

    /// Returns how long the code is valid, counted from its answer.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// Waits until the person has entered the code and agreed.
    ///
    /// Polls at the server's interval while the answer is `authorization_pending`. `slow_down` lengthens the interval;
    /// a rate limit (429), an outage (5xx) or a broken connection doubles it, up to a minute (RFC 8628 section 3.5).
    /// Any other answer ends the login.
    ///
    /// # Errors
    /// Returns an error if
    /// - the person declined (`access_denied`), or the server answered with another error, which
    ///   [`code`](Error::code) names;
    /// - the code expired before it was entered. The error text includes the last failure.
    ///
    /// # Cancel safety
    /// Dropping the future ends the login. A token that the server is just returning is lost, and expires.
    pub async fn finish(self) -> Result<Token, Error> {
        let mut interval = self.interval.max(Duration::from_secs(1));
        let mut wait = interval;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:device_code")];
        let code = [("device_code", self.device_code)];
        let mut last_failure = None;
        loop {
            // No code is valid for longer, whatever `Retry-After` says.
            let next = clock::from_now(wait.min(EXPIRES_IN.1));
            if next > self.end {
                return Err(expired(last_failure.as_ref()));
            }
            tokio::time::sleep_until(next).await;
            let error = match self.client.login(&form, &code).await {
                Ok(token) => return Ok(token),
                Err(error) => error,
            };
            interval = match error.code() {
                Some("authorization_pending") => interval,
                Some("slow_down") => interval + SLOWER,
                _ if may_pass(&error) => (interval * 2).min(LONGEST_INTERVAL.max(interval)),
                _ => return Err(error),
            };
            wait = interval.max(error.retry_after().unwrap_or_default());
            last_failure = Some(error).filter(may_pass);
        }
    }
}

/// Whether polling goes on after this error: a rate limit, an outage, or no answer.
fn may_pass(error: &Error) -> bool {
    let is_outage = |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    error.is_ambiguous() || error.status().is_some_and(is_outage)
}

/// The error of a code that expired, with the last failure, because the server may have been down.
fn expired(last_failure: Option<&Error>) -> Error {
    let problem = "the device code expired before it was entered; start a new login";
    match last_failure {
        None => Error::login(problem),
        Some(error) => Error::login(format!("{problem} (the last poll failed: {error})")),
    }
}

/// Leaves out the user code, because anyone who reads it can enter it.
impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization").field("verification_uri", &self.verification_uri).finish_non_exhaustive()
    }
}
