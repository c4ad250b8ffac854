//! A person logs in with a browser on any machine (RFC 8628), before the sidecar serves.

use std::error::Error as StdError;
use std::time::Duration;

use tower_bearer::oauth2::DeviceCodeLogin;
use tower_bearer::{Error, FetchContext, Token, TokenCache, TokenSource};

use crate::ConfigError;
use crate::login::LogCauses;
use crate::problem::chain;

pub(crate) const NAME: &str = "--grant device-code";

/// How long to wait before another attempt to load the session from a store that failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// A login, or a saved session that may continue.
pub(crate) struct DeviceLogin {
    pub(crate) login: DeviceCodeLogin,
    /// Whether the cache has a saved session.
    pub(crate) resumes: bool,
    /// Whether the session will be saved.
    pub(crate) saves: bool,
}

/// The source before the login.
pub(crate) struct NotLoggedIn;

// === impl DeviceLogin ===

impl DeviceLogin {
    /// Shows the URL and the code, waits for the login, and puts the session into the cache.
    pub(crate) async fn log_in(self, cache: &TokenCache) -> Result<(), ConfigError> {
        if self.resumes {
            let mut found = cache.get().await;
            while let (Err(_), Some(error)) = (&found, cache.status().store.and_then(|store| store.error)) {
                tracing::warn!(error = chain(&error), "whether there is a session is not known");
                tokio::time::sleep(STORE_PAUSE).await;
                found = cache.refresh().await;
            }
            // Any error other than a denial may be temporary, and the session may continue after it.
            if !found.is_err_and(|error| error.is_denied() || error.is_signed_out()) {
                return Ok(());
            }
        }
        let failed = |error: Error| ConfigError::new(NAME, chain(&error as &(dyn StdError + 'static)));
        let code = self.login.begin().await.map_err(failed)?;
        eprintln!(
            "Log in within {}: open {} and enter {}",
            in_words(code.expires_in()),
            code.verification_uri(),
            code.user_code()
        );
        if let Some(complete) = code.verification_uri_complete() {
            eprintln!("or open {complete}");
        }
        let token = code.finish().await.map_err(failed)?;
        match (token.refresh_token(), self.saves) {
            (None, _) => eprintln!(
                "Logged in until the token ends, in {}: the issuer gave no refresh token (most want --scope offline_access)",
                in_words(token.lifetime())
            ),
            (_, true) => eprintln!("Logged in."),
            (_, false) => eprintln!("Logged in until the sidecar ends (--refresh-token-file saves the session)."),
        }
        cache.sign_in(LogCauses(self.login.session(token)));
        Ok(())
    }
}

/// The time in words.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}

impl TokenSource for NotLoggedIn {
    async fn fetch(&self, _: FetchContext) -> Result<Token, Error> {
        Err(not_logged_in())
    }
}

pub(crate) fn not_logged_in() -> Error {
    Error::denied("no person has logged in yet")
}
