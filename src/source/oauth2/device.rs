//! A login on another device.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::clock;
use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer;
use crate::source::endpoint::{Endpoint, TOKEN_ENDPOINT};
use crate::source::issuer::Issuer;
use crate::source::oauth2::client::{Client, again_if_broken};
use crate::source::oauth2::refresh::RefreshToken;
use crate::source::oauth2::settings::{client_auth, client_settings};
use crate::source::transport::{HttpClient, TokenResponse};
use crate::token::Token;

/// The device code grant (RFC 8628): a person enters a code in a browser on another device. For command lines,
/// televisions and machines without a screen.
///
/// A login is no source: it never runs unasked inside a refresh. It brings a token, with which a session starts:
///
/// ```no_run
/// # async fn f() -> Result<(), tower_bearer::Error> {
/// # use http_body_util::Full; use bytes::Bytes;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// use tower_bearer::TokenCache;
/// use tower_bearer::oauth2::{DeviceCode, Issuer};
///
/// let issuer = Issuer::new(http, "https://auth.example.com")?;
/// let login = DeviceCode::at(&issuer, "my-cli")?.scope("openid offline_access");
/// let code = login.begin().await?;
/// println!("Open {} and enter {}", code.verification_uri(), code.user_code());
/// let token = code.finish().await?;
/// let cache = TokenCache::new(login.session(token));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DeviceCode {
    client: Client,
    authorization: Endpoint,
}

/// A login that waits for its person (RFC 8628 section 3.2).
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

/// RFC 8628 section 3.2: where the server names none.
const INTERVAL: Duration = Duration::from_secs(5);
/// Section 3.5: what each `slow_down` adds.
const SLOWER: Duration = Duration::from_secs(5);
/// What the interval doubles to, at most, while no answer comes.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// What is taken where the server does not say how long its code lives, as it must; and what that is cut at.
const EXPIRES_IN: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(24 * 3600));

client_settings!(DeviceCode);
client_auth!(DeviceCode);

// === impl DeviceCode ===

impl DeviceCode {
    /// A public client at these endpoints; a confidential one adds [`client_auth`](DeviceCode::client_auth).
    ///
    /// # Errors
    /// A URL that is none, or is plain `http://` beyond loopback; an empty client id.
    pub fn new<B: 'static>(
        http: impl HttpClient<B>,
        device_authorization_url: &str,
        token_url: &str,
        client_id: impl Into<String>,
    ) -> Result<Self, Error> {
        let endpoint = Endpoint::new(http, "token_url", token_url)?;
        let authorization = endpoint.at("device_authorization_url", device_authorization_url)?;
        Ok(Self { client: Client::new(endpoint, client_id)?, authorization })
    }

    /// The same at an issuer, whose metadata says where its endpoints are.
    ///
    /// # Errors
    /// An empty client id.
    pub fn at(issuer: &Issuer, client_id: impl Into<String>) -> Result<Self, Error> {
        let authorization = Endpoint::of(issuer, "device_authorization_endpoint");
        Ok(Self { client: Client::new(Endpoint::of(issuer, TOKEN_ENDPOINT), client_id)?, authorization })
    }

    /// Asks for a code to show to the person.
    ///
    /// # Errors
    /// No answer within 30 s, a denial, or an answer without a code.
    ///
    /// # Cancel safety
    /// Dropping the future drops the question; a code nobody was shown ends by itself.
    pub async fn begin(&self) -> Result<DeviceAuthorization, Error> {
        let authorization = self.client.endpoint.with_location_of(&self.authorization);
        let answer = again_if_broken(|| self.client.call(&authorization, &[], &[], true)).await?;
        // Some servers say no with a 200.
        let body = serde_json::from_slice::<Map<String, Value>>(&answer.body).unwrap_or_default();
        if !answer.status.is_success() || body.contains_key("error") && !body.contains_key("device_code") {
            return Err(self.client.failure(&answer));
        }
        DeviceAuthorization::read(self.client.clone(), &answer)
    }

    /// The session this login began: it sends the login's token as long as that lives, then uses its refresh token. Most
    /// servers want the scope `offline_access` for one; without it the session ends with the token.
    pub fn session(&self, token: Token) -> RefreshToken {
        RefreshToken::of_login(self.client.clone(), token)
    }
}

// === impl DeviceAuthorization ===

impl DeviceAuthorization {
    fn read(client: Client, answer: &TokenResponse) -> Result<Self, Error> {
        let body: Map<String, Value> =
            serde_json::from_slice(&answer.body).map_err(|_| answer.unusable("it is not a JSON object"))?;
        // Shown to a person, on a terminal perhaps: nothing that moves its cursor.
        let text = |name| {
            let text = body.get(name)?.as_str()?;
            (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
        };
        // Google calls it so.
        let uri = text("verification_uri").or_else(|| text("verification_url"));
        let (Some(device_code), Some(user_code), Some(verification_uri)) =
            (text("device_code"), text("user_code"), uri)
        else {
            return Err(answer.unusable("it lacks device_code, user_code or verification_uri"));
        };
        let expires_in = answer::lifetime(body.get("expires_in"), EXPIRES_IN.0).min(EXPIRES_IN.1);
        Ok(Self {
            client: client.redacting_text(&user_code),
            device_code: device_code.into(),
            user_code,
            verification_uri,
            verification_uri_complete: text("verification_uri_complete"),
            expires_in,
            end: clock::from_now(expires_in),
            interval: answer::lifetime(body.get("interval"), INTERVAL),
        })
    }

    /// What the person enters.
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Where the person enters it.
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }

    /// The same place with the code filled in, for a QR code, where the server has one.
    pub fn verification_uri_complete(&self) -> Option<&str> {
        self.verification_uri_complete.as_deref()
    }

    /// How long the code can be entered, from when it came.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// Waits until the person has entered the code and agreed.
    ///
    /// Asks as often as the server wants, less often if it says so, and half as often (once a minute at least) each
    /// time no answer comes. RFC 8628 section 3.5: after `authorization_pending` and `slow_down`, a limit (429), an outage
    /// (5xx) or a broken connection it asks again; any other answer ends the login.
    ///
    /// # Errors
    /// Returns an error if
    /// - the person declined (`access_denied`), or the server answered with another error, which
    ///   [`code`](Error::code) names;
    /// - the code expired before it was entered. The text tells the last failure.
    ///
    /// # Cancel safety
    /// Dropping the future ends the login. A token the server is just handing out is lost, and ends by itself.
    pub async fn finish(self) -> Result<Token, Error> {
        let mut interval = self.interval.max(Duration::from_secs(1));
        let mut wait = interval;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:device_code")];
        let code = [("device_code", self.device_code)];
        let mut last_failure = None;
        loop {
            // No code lives longer, whatever the server says.
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

/// Whether the server is asked again after this answer: a limit, an outage, or none.
fn may_pass(error: &Error) -> bool {
    let is_outage = |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    error.is_ambiguous() || error.status().is_some_and(is_outage)
}

/// The code was not entered in time; the server may have been down.
fn expired(last_failure: Option<&Error>) -> Error {
    let problem = "nobody entered the code before it ended; begin again";
    match last_failure {
        None => Error::login(problem),
        Some(error) => Error::login(format!("{problem} (the last question failed: {error})")),
    }
}

/// Whoever sees the user code can be the one who enters it.
impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization").field("verification_uri", &self.verification_uri).finish_non_exhaustive()
    }
}
